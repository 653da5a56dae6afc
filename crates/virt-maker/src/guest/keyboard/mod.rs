//! Keys of a machine's keyboard: what a template says of them, and what a text is on them.
//!
//! Keys are named by their places, as QEMU does (`QKeyCode` in its `qapi/ui.json`); which sign a place gives is for the guest to say, and
//! for a [`Layout`] to know.

mod layouts;

pub use layouts::Layout;

use layouts::KEYS;

/// Keys that are pressed together: each after the one before it, and let go in the reverse order. By QEMU's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chord(pub Vec<&'static str>);

/// Names of keys in templates, with QEMU's.
const NAMED: [(&str, &str); 84] = [
    ("enter", "ret"),
    ("return", "ret"),
    ("esc", "esc"),
    ("escape", "esc"),
    ("tab", "tab"),
    ("space", "spc"),
    ("backspace", "backspace"),
    ("bs", "backspace"),
    ("delete", "delete"),
    ("del", "delete"),
    ("insert", "insert"),
    ("ins", "insert"),
    ("home", "home"),
    ("end", "end"),
    ("pageup", "pgup"),
    ("pgup", "pgup"),
    ("pagedown", "pgdn"),
    ("pgdn", "pgdn"),
    ("up", "up"),
    ("down", "down"),
    ("left", "left"),
    ("right", "right"),
    ("ctrl", "ctrl"),
    ("control", "ctrl"),
    ("rctrl", "ctrl_r"),
    ("alt", "alt"),
    ("altgr", "alt_r"),
    ("shift", "shift"),
    ("rshift", "shift_r"),
    ("super", "meta_l"),
    ("meta", "meta_l"),
    ("win", "meta_l"),
    ("menu", "menu"),
    ("capslock", "caps_lock"),
    ("numlock", "num_lock"),
    ("scrolllock", "scroll_lock"),
    ("pause", "pause"),
    ("print", "print"),
    ("sysrq", "sysrq"),
    ("minus", "minus"),
    ("f1", "f1"),
    ("f2", "f2"),
    ("f3", "f3"),
    ("f4", "f4"),
    ("f5", "f5"),
    ("f6", "f6"),
    ("f7", "f7"),
    ("f8", "f8"),
    ("f9", "f9"),
    ("f10", "f10"),
    ("f11", "f11"),
    ("f12", "f12"),
    ("kp0", "kp_0"),
    ("kp1", "kp_1"),
    ("kp2", "kp_2"),
    ("kp3", "kp_3"),
    ("kp4", "kp_4"),
    ("kp5", "kp_5"),
    ("kp6", "kp_6"),
    ("kp7", "kp_7"),
    ("kp8", "kp_8"),
    ("kp9", "kp_9"),
    ("kpenter", "kp_enter"),
    ("kpplus", "kp_add"),
    ("kpminus", "kp_subtract"),
    ("kpmultiply", "kp_multiply"),
    ("kpdivide", "kp_divide"),
    ("kpdot", "kp_decimal"),
    ("power", "power"),
    ("sleep", "sleep"),
    ("wake", "wake"),
    ("volumeup", "volumeup"),
    ("volumedown", "volumedown"),
    ("mute", "audiomute"),
    ("help", "help"),
    // What the older tool calls them besides.
    ("bsp", "backspace"),
    ("ret", "ret"),
    ("spacebar", "spc"),
    ("lctrl", "ctrl"),
    ("lalt", "alt"),
    ("ralt", "alt_r"),
    ("lshift", "shift"),
    ("fslash", "slash"),
    ("bslash", "backslash"),
];

/// Names that can be given to a key, for messages.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|(name, _)| *name).chain(["lt", "gt"])
}

/// What is wrong with keys in a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// A `<` without its `>`.
    Open,
    /// There is no key of this name.
    Name(String),
    /// The layout has no key for this sign.
    Sign(char),
}

/// The keys of a text, in which names and combinations stand in angle brackets: `<ctrl-alt-f2>root<enter>`. A line's end is Enter, and
/// `<lt>` the sign `<`.
pub fn keys(text: &str, layout: Layout) -> Result<Vec<Chord>, Wrong> {
    let mut chords = Vec::new();
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        if sign != '<' {
            chords.extend(of_sign(sign, layout)?);
            rest = &rest[sign.len_utf8()..];
            continue;
        }
        let (name, after) = rest[1..].split_once('>').ok_or(Wrong::Open)?;
        chords.extend(named(name, layout)?);
        rest = after;
    }
    Ok(chords)
}

/// The keys that type a text, in which nothing is special but the ends of lines and tabulators, which are keys.
pub fn typed(text: &str, layout: Layout) -> Result<Vec<Chord>, Wrong> {
    let chords: Result<Vec<Vec<Chord>>, Wrong> = text.chars().map(|sign| of_sign(sign, layout)).collect();
    Ok(chords?.concat())
}

/// Whether a word is the name of a key or a combination of some, as the older tool has it in its lists.
pub fn is_name(word: &str) -> bool {
    word.chars().count() > 1 && named(word, Layout::Us).is_ok()
}

/// A combination: keys with `-` between them. Its last one may be a sign, with Shift or AltGr where the layout has it there.
fn named(text: &str, layout: Layout) -> Result<Vec<Chord>, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        "lt" => return of_sign('<', layout),
        "gt" => return of_sign('>', layout),
        _ => {}
    }
    let wrong = || Wrong::Name(text.to_owned());
    let mut keys: Vec<&'static str> = Vec::new();
    for word in text.split('-') {
        let mut signs = word.chars();
        match (signs.next(), signs.next()) {
            (None, _) => return Err(wrong()),
            (Some(sign), None) => {
                let Chord(pressed) = of_sign(sign.to_ascii_lowercase(), layout)?.swap_remove(0);
                pressed.into_iter().for_each(|key| add(&mut keys, key));
            }
            _ => {
                let lower = word.to_ascii_lowercase();
                let (_, key) = NAMED.iter().find(|(name, _)| *name == lower).ok_or_else(wrong)?;
                add(&mut keys, key);
            }
        }
    }
    Ok(vec![Chord(keys)])
}

fn add(keys: &mut Vec<&'static str>, key: &'static str) {
    if !keys.contains(&key) {
        keys.push(key);
    }
}

/// The keys that give a sign.
fn of_sign(sign: char, layout: Layout) -> Result<Vec<Chord>, Wrong> {
    let one = |keys: &[&'static str]| Ok(vec![Chord(keys.to_vec())]);
    match sign {
        '\n' => return one(&["ret"]),
        '\t' => return one(&["tab"]),
        ' ' => return one(&["spc"]),
        '\0' => return Err(Wrong::Sign(sign)),
        _ => {}
    }
    let signs = layout.signs();
    let place = |row: &str| row.chars().position(|known| known == sign).map(|place| KEYS[place]);
    let chord = if let Some(key) = place(signs.plain) {
        vec![key]
    } else if let Some(key) = place(signs.shift) {
        vec!["shift", key]
    } else if let Some((key, _)) = signs.altgr.iter().find(|(_, known)| *known == sign) {
        vec!["alt_r", key]
    } else {
        return Err(Wrong::Sign(sign));
    };
    let mut chords = vec![Chord(chord)];
    if signs.dead.contains(&sign) {
        chords.push(Chord(vec!["spc"]));
    }
    Ok(chords)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(chords: &[Chord]) -> String {
        chords.iter().map(|Chord(keys)| keys.join("+")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_combinations_and_text_are_told_apart() {
        let read = |text: &str| keys(text, Layout::Us).map(|chords| shown(&chords));
        assert_eq!(read("<ctrl-alt-f2>rO<enter>").unwrap(), "ctrl+alt+f2 r shift+o ret");
        assert_eq!(read("<Ctrl-C><lt>a>\n").unwrap(), "ctrl+c shift+comma a shift+dot ret");
        assert_eq!(read("<alt-!>").unwrap(), "alt+shift+1");
        assert_eq!(read("<ctrl").unwrap_err(), Wrong::Open);
        for name in ["", "ctrl-", "ctrl-nonsense", "-"] {
            assert_eq!(read(&format!("<{name}>")).unwrap_err(), Wrong::Name(name.into()));
        }
        assert_eq!(typed("<a>\t", Layout::Us).map(|chords| shown(&chords)).unwrap(), "shift+comma a shift+dot tab");
        assert!(is_name("enter") && is_name("ctrl-x") && !is_name("linux") && !is_name("x"));
    }

    #[test]
    fn layouts_have_their_signs() {
        let of = |text: &str, layout| typed(text, layout).map(|chords| shown(&chords));
        assert_eq!(of("zY-/", Layout::De).unwrap(), "y shift+z slash shift+7");
        assert_eq!(of("@^ß", Layout::De).unwrap(), "alt_r+q grave_accent spc minus");
        assert_eq!(of("aM1@", Layout::Fr).unwrap(), "q shift+semicolon shift+1 alt_r+0");
        assert_eq!(of("\"#£\\", Layout::Gb).unwrap(), "shift+2 backslash shift+3 less");
        assert_eq!(of("ä", Layout::Us).unwrap_err(), Wrong::Sign('ä'));
        assert_eq!(of("€", Layout::Us).unwrap_err(), Wrong::Sign('€'));
        // A combination is of the key that gives the sign.
        assert_eq!(keys("<ctrl-z>", Layout::De).map(|chords| shown(&chords)).unwrap(), "ctrl+y");
        for layout in [Layout::Us, Layout::De, Layout::Fr, Layout::Gb] {
            let signs = layout.signs();
            assert_eq!((signs.plain.chars().count(), signs.shift.chars().count()), (KEYS.len(), KEYS.len()));
            assert!(signs.altgr.iter().all(|(key, _)| KEYS.contains(key)));
            // What a shell needs can be typed on each of them.
            for sign in ' '..='~' {
                assert!(typed(&sign.to_string(), layout).is_ok(), "{sign} on {}", layout.name());
            }
        }
    }
}
