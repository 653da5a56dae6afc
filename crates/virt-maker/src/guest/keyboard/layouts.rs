//! Which keys give which signs, by layout.
//!
//! The signs are those of the layouts `us`, `de`, `fr` and `gb` of X and of Linux's console. A layout is a text for the keys alone, one
//! for the keys with Shift, both in the order of [`KEYS`], and what they give with AltGr. A key that gives nothing is a NUL.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Keys that give signs, by QEMU's names, row by row; those names are of the keys' places on a keyboard for `us`.
pub(super) const KEYS: [&str; 48] = [
    "grave_accent",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "0",
    "minus",
    "equal",
    "q",
    "w",
    "e",
    "r",
    "t",
    "y",
    "u",
    "i",
    "o",
    "p",
    "bracket_left",
    "bracket_right",
    "a",
    "s",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "semicolon",
    "apostrophe",
    "backslash",
    "less",
    "z",
    "x",
    "c",
    "v",
    "b",
    "n",
    "m",
    "comma",
    "dot",
    "slash",
];

/// What the guest takes the keyboard for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// American.
    #[default]
    Us,
    /// German.
    De,
    /// French.
    Fr,
    /// British.
    Gb,
}

/// What the keys of a layout give.
pub(super) struct Signs {
    pub(super) plain: &'static str,
    pub(super) shift: &'static str,
    /// Keys with what they give with AltGr.
    pub(super) altgr: &'static [(&'static str, char)],
    /// Signs whose keys wait for the next one: a blank after them gives the sign itself.
    pub(super) dead: &'static [char],
}

impl Layout {
    /// Its name in templates.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Us => "us",
            Layout::De => "de",
            Layout::Fr => "fr",
            Layout::Gb => "gb",
        }
    }

    pub(super) fn signs(self) -> Signs {
        match self {
            Layout::Us => Signs {
                plain: "`1234567890-=qwertyuiop[]asdfghjkl;'\\\0zxcvbnm,./",
                shift: "~!@#$%^&*()_+QWERTYUIOP{}ASDFGHJKL:\"|\0ZXCVBNM<>?",
                altgr: &[],
                dead: &[],
            },
            Layout::Gb => Signs {
                plain: "`1234567890-=qwertyuiop[]asdfghjkl;'#\\zxcvbnm,./",
                shift: "¬!\"£$%^&*()_+QWERTYUIOP{}ASDFGHJKL:@~|ZXCVBNM<>?",
                altgr: &[("4", '€')],
                dead: &[],
            },
            Layout::De => Signs {
                plain: "^1234567890ß´qwertzuiopü+asdfghjklöä#<yxcvbnm,.-",
                shift: "°!\"§$%&/()=?`QWERTZUIOPÜ*ASDFGHJKLÖÄ'>YXCVBNM;:_",
                altgr: &[
                    ("2", '²'),
                    ("3", '³'),
                    ("7", '{'),
                    ("8", '['),
                    ("9", ']'),
                    ("0", '}'),
                    ("minus", '\\'),
                    ("q", '@'),
                    ("e", '€'),
                    ("bracket_right", '~'),
                    ("less", '|'),
                    ("m", 'µ'),
                ],
                dead: &['^', '´', '`'],
            },
            Layout::Fr => Signs {
                plain: "²&é\"'(-è_çà)=azertyuiop\0$qsdfghjklmù*<wxcvbn,;:!",
                shift: "\u{0}1234567890°+AZERTYUIOP\0£QSDFGHJKLM%µ>WXCVBN?./§",
                altgr: &[
                    ("2", '~'),
                    ("3", '#'),
                    ("4", '{'),
                    ("5", '['),
                    ("6", '|'),
                    ("7", '`'),
                    ("8", '\\'),
                    ("9", '^'),
                    ("0", '@'),
                    ("minus", ']'),
                    ("equal", '}'),
                    ("e", '€'),
                ],
                dead: &[],
            },
        }
    }
}
