//! The forms that options may have: how one is read, what it is around another one, how it stands in a template, and what of
//! it enters a key.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::{Value, json};

use super::mounts::CacheMount;
use super::node::{Kind, Node};
use super::plain::{on_or_off, seconds, text, wrong};
use super::{shell, suggest};
use crate::diagnostic::Diagnostic;

/// What a value of this type is as an option.
pub(super) struct Form<T> {
    /// Reads it from its rendered value, on top of what was read before.
    pub read: fn(T, &Node) -> Result<T, Diagnostic>,
    /// What is so for a step that sets the second one, within steps that set the first.
    pub around: fn(&T, T) -> T,
    /// As it stands beside a runner; `None` where it is not set.
    pub written: fn(&T) -> Option<Value>,
}

/// The form of an option that shapes a layer.
pub(super) struct KeyedForm<T> {
    pub form: Form<T>,
    /// As it enters a key. `None` where it says what is so without it: no key changes when an option is new.
    pub key: fn(&T, &KeyContext<'_>) -> Option<Value>,
}

/// What an option may mean more than it says.
pub struct KeyContext<'a> {
    /// Whether the commands of such a step have a network where nobody says anything.
    pub network: bool,
    /// The versions of secrets by their names; their values enter no key.
    pub version: &'a dyn Fn(&str) -> Option<String>,
}

/// What people call a step.
pub(super) const NAME: Form<Option<String>> = Form {
    read: |_, node| Ok(Some(text(node, "a text")?)),
    around: |outer, inner| match (outer, inner) {
        (Some(outer), Some(inner)) => Some(format!("{outer}: {inner}")),
        (outer, inner) => inner.or_else(|| outer.clone()),
    },
    written: |name| name.as_deref().map(Value::from),
};

/// A time.
pub(super) const TIME: Form<Option<u64>> = Form {
    read: |_, node| Ok(Some(seconds(node)?)),
    around: |outer, inner| inner.or(*outer),
    written: |time| time.map(Value::from),
};

/// A number of attempts.
pub(super) const ATTEMPTS: Form<Option<u32>> = Form {
    read: |_, node| match node.integer() {
        Some(value @ 0..=100) => Ok(Some(value as u32)),
        _ => Err(wrong(node, "a number from 0 to 100")),
    },
    around: |outer, inner| inner.or(*outer),
    written: |attempts| attempts.map(Value::from),
};

/// The path of a shell, with its options.
pub(super) const SHELL: Form<Option<String>> = Form {
    read: |_, node| {
        let path = text(node, "the path of a shell")?.trim().to_owned();
        if !path.starts_with('/') || path.contains(['\n', '\0']) {
            return Err(wrong(node, "the path of a shell, such as `/bin/bash -eu`"));
        }
        if let Some(problem) = shell::wrong_options(&path) {
            return Err(node.diagnostic(problem));
        }
        if node.source.format() >= 2
            && let Some(strict) = shell::strict_instead(&path)
        {
            let mut note = node.diagnostic("with this shell, a command that fails does not end a script");
            note.hint = Some(format!("say `shell: {strict}`; `/bin/sh` alone goes on without this note"));
            node.note(note);
        }
        Ok(Some(path))
    },
    around: |outer, inner| inner.or_else(|| outer.clone()),
    written: |shell| shell.as_deref().map(Value::from),
};

/// For how long a layer is good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Validity {
    /// Seconds after it was made.
    pub ttl: Option<u64>,
    /// It is never taken from the store.
    pub always_run: bool,
}

pub(super) const VALIDITY: Form<Validity> = Form {
    read: |mut validity, node| match &node.kind {
        Kind::Map(members) => {
            for (key, value) in members {
                match key.text() {
                    Some("ttl") => validity.ttl = Some(seconds(value)?),
                    other => {
                        let other = other.unwrap_or_default();
                        let mut problem = key.diagnostic(format!("unknown key `{other}`"));
                        problem.hint = Some(suggest::hint(other, ["ttl"]));
                        return Err(problem);
                    }
                }
            }
            Ok(validity)
        }
        _ if node.text() == Some("always-run") => Ok(Validity { always_run: true, ..validity }),
        _ => Err(wrong(node, "`always-run` or `{ttl: 7d}`")),
    },
    around: |outer, inner| Validity { ttl: inner.ttl.or(outer.ttl), always_run: inner.always_run || outer.always_run },
    written: |validity| match validity.ttl {
        _ if validity.always_run => Some("always-run".into()),
        ttl => ttl.map(|ttl| json!({ "ttl": ttl })),
    },
};

/// Variables of the environment.
pub(super) const VARIABLES: KeyedForm<BTreeMap<String, String>> = KeyedForm {
    form: Form {
        read: |mut variables, node| {
            let Kind::Map(members) = &node.kind else { return Err(wrong(node, "a mapping of variables")) };
            for (key, value) in members {
                let name = key.text().unwrap_or_default();
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                if name.is_empty() || !name.bytes().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
                    return Err(key.diagnostic(format!("`{}` is not the name of a variable", name.escape_debug())));
                }
                variables.insert(name.to_owned(), text(value, "a text")?);
            }
            Ok(variables)
        },
        around: |outer, inner| outer.clone().into_iter().chain(inner).collect(),
        written: |variables| (!variables.is_empty()).then(|| json!(variables)),
    },
    key: |variables, _| (!variables.is_empty()).then(|| json!(variables)),
};

const SWITCH: Form<Option<bool>> = Form {
    read: |_, node| Ok(Some(on_or_off(node)?)),
    around: |outer, inner| inner.or(*outer),
    written: |switch| switch.map(|on| if on { "on" } else { "off" }.into()),
};

/// Whether there is a network.
pub(super) const NETWORK: KeyedForm<Option<bool>> =
    KeyedForm { form: SWITCH, key: |on, context| on.filter(|on| *on != context.network).map(Value::from) };

/// Whether there is what is off without it.
pub(super) const RIGHT: KeyedForm<Option<bool>> =
    KeyedForm { form: SWITCH, key: |on, _| on.filter(|on| *on).map(Value::from) };

const WORDS: Form<Vec<String>> = Form {
    read: |mut words, node| {
        match &node.kind {
            Kind::List(items) if node.literal.is_none() => {
                for item in items {
                    words.push(text(item, "a text")?);
                }
            }
            _ => words.push(text(node, "a text")?),
        }
        Ok(words)
    },
    around: |outer, inner| {
        let mut all = outer.clone();
        all.extend(inner.into_iter().filter(|item| !outer.contains(item)));
        all
    },
    written: |words| match &words[..] {
        [] => None,
        [only] => Some(only.as_str().into()),
        several => Some(json!(several)),
    },
};

/// Texts that mean nothing but themselves.
pub(super) const TEXTS: KeyedForm<Vec<String>> =
    KeyedForm { form: WORDS, key: |words, _| (!words.is_empty()).then(|| json!(words)) };

/// Names of secrets.
pub(super) const SECRETS: KeyedForm<Vec<String>> = KeyedForm {
    form: Form {
        read: |mut names, node| {
            for item in one_or_many(node) {
                names.push(text(item, "the name of a secret")?);
            }
            Ok(names)
        },
        written: |names| (!names.is_empty()).then(|| json!(names)),
        ..WORDS
    },
    key: |names, context| {
        let versions: serde_json::Map<_, _> =
            names.iter().map(|name| (name.clone(), json!((context.version)(name)))).collect();
        (!versions.is_empty()).then_some(Value::Object(versions))
    },
};

/// Caches with their places.
pub(super) const MOUNTS: KeyedForm<Vec<CacheMount>> = KeyedForm {
    form: Form {
        read: |mut mounts, node| {
            for item in one_or_many(node) {
                mounts.push(CacheMount::read(item)?);
            }
            Ok(mounts)
        },
        around: |outer, inner| if inner.is_empty() { outer.clone() } else { inner },
        written: |mounts| (!mounts.is_empty()).then(|| json!(mounts)),
    },
    key: |mounts, _| (!mounts.is_empty()).then(|| json!(mounts)),
};

fn one_or_many(node: &Node) -> Vec<&Node> {
    match &node.kind {
        Kind::List(items) => items.iter().collect(),
        _ => vec![node],
    }
}

/// `on`, `off` or a boolean, for the schema.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum OnOff {
    Flag(bool),
    Word(OnOffWord),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum OnOffWord {
    On,
    Off,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum Cache {
    /// `always-run`: its layer is never taken from the store.
    Word(CacheWord),
    /// How long its layer is good.
    Ttl {
        /// A time such as `12h` or `7d`.
        ttl: String,
    },
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum CacheWord {
    AlwaysRun,
}
