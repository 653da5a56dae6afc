//! Which label a file is to have, by the guest's own `file_contexts`.
//!
//! The format and the order are those of libselinux (file_contexts(5)): a line is a regular expression over whole paths, perhaps
//! a kind of file, and a label. Lines come from `file_contexts`, then `.homedirs`, then `.local`; of those that match, one
//! without special characters wins over one with, and then the last. Aliases of paths (`.subs`, then `.subs_dist`) are put
//! in place before.
//!
//! What a guest wrote is data: sizes are bounded, expressions take linear time, and one that cannot be read is counted and left
//! out. A path that is not UTF-8 is looked up with U+FFFD in the place of what is none.

use std::collections::HashMap;

use regex_lite::{Regex, RegexBuilder};

/// Lines that are taken; policies have about 6,000.
const LINES_MAX: usize = 200_000;
/// Lines that need an expression; policies have about 2,000.
const EXPRESSIONS_MAX: usize = 10_000;
/// What one expression may take when it is compiled, in bytes.
const EXPRESSION_MAX: usize = 64 << 10;

/// All rules of a guest.
pub(super) struct Contexts {
    rules: Vec<Rule>,
    /// Rules by the folder that all their paths lie in; within a folder the one that wins comes first.
    by_folder: HashMap<String, Vec<usize>>,
    aliases: [Vec<(String, String)>; 2],
    /// Lines that could not be read.
    pub(super) unreadable: usize,
}

struct Rule {
    pattern: Pattern,
    /// As `find` calls it; none for every kind.
    kind: Option<u8>,
    /// None where files are to be left alone (`<<none>>`).
    label: Option<String>,
}

/// Most rules need no expression.
enum Pattern {
    /// This path.
    Exact(String),
    /// `TEXT(/.*)?`: the path and all below it.
    Tree(String),
    /// `TEXT/.*`: all below the path.
    Below(String),
    /// With what all paths that match begin with.
    Expression(String, Regex),
}

impl Contexts {
    /// Reads the texts of `file_contexts` and its companions, in their order, and of the two files of aliases.
    pub(super) fn new(texts: &[String], aliases: [&str; 2]) -> Contexts {
        let mut rules = Vec::new();
        let mut unreadable = 0;
        let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim);
        let mut expressions = 0;
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')).take(LINES_MAX) {
            let rule = rule(line);
            expressions +=
                usize::from(rule.as_ref().is_some_and(|rule| matches!(rule.pattern, Pattern::Expression(..))));
            match rule {
                Some(rule) if expressions <= EXPRESSIONS_MAX => rules.push(rule),
                _ => unreadable += 1,
            }
        }
        // Those without special characters come last, and the last one wins.
        let (exact, mut sorted): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|rule| matches!(rule.pattern, Pattern::Exact(_)));
        sorted.extend(exact);
        let mut by_folder: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, rule) in sorted.iter().enumerate().rev() {
            by_folder.entry(folder(rule.pattern.literal()).to_owned()).or_default().push(index);
        }
        let aliases = aliases.map(|text| {
            let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
            let pairs = lines.filter_map(|line| line.split_once(char::is_whitespace));
            pairs.map(|(from, to)| (from.to_owned(), to.trim().trim_end_matches('/').to_owned())).collect()
        });
        Contexts { rules: sorted, by_folder, aliases, unreadable }
    }

    /// The label of a file of this kind; `None` where no rule says one.
    pub(super) fn label(&self, path: &str, kind: u8) -> Option<&str> {
        let mut path = path.to_owned();
        for aliases in &self.aliases {
            let found = aliases.iter().find_map(|(from, to)| {
                let rest = path.strip_prefix(from.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then(|| format!("{to}{rest}"))
            });
            path = found.unwrap_or(path);
        }
        let mut best: Option<usize> = None;
        // The root's own folder is that of a rule whose literal part is empty, or `/`.
        let ends = path.match_indices('/').map(|(at, _)| at + 1);
        for end in std::iter::once(0).chain(ends) {
            for index in self.by_folder.get(&path[..end]).into_iter().flatten() {
                if best.is_some_and(|best| best > *index) {
                    break;
                }
                let rule = &self.rules[*index];
                if rule.kind.is_none_or(|wanted| wanted == kind) && rule.pattern.matches(&path) {
                    best = Some(*index);
                    break;
                }
            }
        }
        best.and_then(|best| self.rules[best].label.as_deref())
    }
}

impl Pattern {
    /// What every path that matches begins with.
    fn literal(&self) -> &str {
        match self {
            Pattern::Exact(text) | Pattern::Tree(text) | Pattern::Below(text) | Pattern::Expression(text, _) => text,
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Pattern::Exact(text) => path == text,
            Pattern::Tree(text) => {
                path.strip_prefix(text.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Pattern::Below(text) => path.strip_prefix(text.as_str()).is_some_and(|rest| rest.starts_with('/')),
            Pattern::Expression(_, regex) => regex.is_match(path),
        }
    }
}

/// The part of a path up to its last `/`, with it.
fn folder(literal: &str) -> &str {
    &literal[..literal.rfind('/').map_or(0, |at| at + 1)]
}

fn is_special(character: char) -> bool {
    r".^$?*+|[({\".contains(character)
}

/// A text without special characters: `\.` is one that is none.
fn plain(expression: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = expression.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.push(characters.next().filter(char::is_ascii_punctuation)?),
            character if is_special(character) => return None,
            character => text.push(character),
        }
    }
    Some(text)
}

fn expressed(expression: &str) -> Option<Pattern> {
    let mut builder = RegexBuilder::new(&format!("^(?:{expression})$"));
    let regex = builder.dot_matches_new_line(true).size_limit(EXPRESSION_MAX).build().ok()?;
    // What stands before the first special character; the last one before `?`, `*` or `{` may be missing.
    let plain = &expression[..expression.find(is_special).unwrap_or(expression.len())];
    // An alternative at the top has paths of another beginning.
    let mut depth = 0;
    let open = expression.bytes().any(|byte| {
        depth += i32::from(byte == b'(') - i32::from(byte == b')');
        byte == b'|' && depth <= 0
    });
    let begin = if open { "" } else { plain };
    let last = begin.char_indices().next_back().map_or(0, |(at, _)| at);
    Some(Pattern::Expression(begin[..last].to_owned(), regex))
}

fn rule(line: &str) -> Option<Rule> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (expression, kind, label) = match words[..] {
        [expression, label] => (expression, None, label),
        [expression, kind, label] => {
            let kind = match kind {
                "--" => b'f',
                "-d" | "-l" | "-c" | "-b" | "-p" | "-s" => kind.as_bytes()[1],
                _ => return None,
            };
            (expression, Some(kind), label)
        }
        _ => return None,
    };
    let label = (label != "<<none>>").then(|| label.to_owned());
    if label.as_ref().is_some_and(|label| label.split(':').count() < 3) {
        return None;
    }
    let tree = expression.strip_suffix("(/.*)?").and_then(plain).map(Pattern::Tree);
    let below = || expression.strip_suffix("/.*").and_then(plain).map(Pattern::Below);
    let exact = || plain(expression).map(Pattern::Exact);
    let pattern = tree.or_else(below).or_else(exact);
    let pattern = pattern.or_else(|| expressed(expression))?;
    Some(Rule { pattern, kind, label })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r"
# a comment
/.*                     system_u:object_r:default_t:s0
/[^/]+          --      system_u:object_r:etc_runtime_t:s0
/               -d      system_u:object_r:root_t:s0
/etc/.*                 system_u:object_r:etc_t:s0
/etc/\.fstab\.hal\..+ --        system_u:object_r:fstab_t:s0
/etc/shadow.*   --      system_u:object_r:shadow_t:s0
/usr(/.*)?              system_u:object_r:usr_t:s0
/usr/lib/python.*/site  system_u:object_r:python_t:s0
/usr/(s)?bin/a\+b       system_u:object_r:ab_t:s0
/usr/lib(64)?(/.*)?     system_u:object_r:lib_t:s0
/usr/lib/exact          system_u:object_r:exact_t:s0
/usr/lib/exac.          system_u:object_r:inexact_t:s0
/proc           -d      <<none>>
/proc/.*                <<none>>
/wrong/(                system_u:object_r:wrong_t:s0
/top|/level.            system_u:object_r:top_t:s0
/three x words          system_u:object_r:wrong_t:s0
/nolabel                etc_t
";

    #[test]
    fn the_rule_that_libselinux_takes_is_taken() {
        let local = "/usr/lib/local-.* system_u:object_r:local_t:s0\n".to_owned();
        let contexts =
            Contexts::new(&[TEXT.to_owned(), local], ["/mine /usr/lib\n", "# x\n/run /var/run\n/lib /usr/lib\n"]);
        assert_eq!(contexts.unreadable, 3);
        for (path, kind, expected) in [
            ("/", b'd', Some("root_t")),
            ("/x", b'd', Some("default_t")),
            ("/x", b'f', Some("etc_runtime_t")),
            ("/etc", b'd', Some("default_t")),
            ("/etc/x/y", b'f', Some("etc_t")),
            ("/etc/shadow-", b'f', Some("shadow_t")),
            ("/etc/shadow", b'l', Some("etc_t")),
            ("/etc/.fstab.hal.1", b'f', Some("fstab_t")),
            ("/usr", b'd', Some("usr_t")),
            ("/usrx", b'd', Some("default_t")),
            ("/usr/bin/a+b", b'f', Some("ab_t")),
            ("/usr/bin/aab", b'f', Some("usr_t")),
            ("/usr/lib64/x\ny", b'f', Some("lib_t")),
            // The later one wins although the earlier one says more.
            ("/usr/lib/python3/site", b'd', Some("lib_t")),
            ("/usr/lib/exact", b'f', Some("exact_t")),
            ("/usr/lib/exace", b'f', Some("inexact_t")),
            ("/usr/lib/local-x", b'f', Some("local_t")),
            ("/mine/local-x", b'f', Some("local_t")),
            ("/lib/exact", b'f', Some("exact_t")),
            ("/library", b'd', Some("default_t")),
            ("/top", b'd', Some("top_t")),
            ("/level1", b'd', Some("top_t")),
            ("/proc/1", b'd', None),
            ("/proc", b'd', None),
        ] {
            let expected = expected.map(|name| format!("system_u:object_r:{name}:s0"));
            assert_eq!(contexts.label(path, kind), expected.as_deref(), "{path} {}", kind as char);
        }
    }

    #[test]
    fn hostile_rules_end() {
        let text = format!("/(a*)*{} u:o:t\n/(a*)*b(c{{0,900}}){{900}} u:o:t\n/(x u:o:t\n", "(a|b)*".repeat(20));
        let contexts = Contexts::new(&[text], ["", ""]);
        assert_eq!(contexts.unreadable, 2);
        assert_eq!(contexts.label(&format!("/{}!", "ab".repeat(500)), b'f'), None);
        assert_eq!(contexts.label("/abab", b'f'), Some("u:o:t"));
    }
}
