//! What may stand beside a step's runner: when it runs, how, and for how long its layer is good.
//!
//! An option is one field of one of the groups below: its name, its type, what it is for, and its form, which says the rest.
//! Where it stands says whether it shapes the layer. All of [`Shaping`] enters keys, and a form that does not say how does not
//! compile there.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::{Map, Value};

use super::expression::{Engine, is_expression, whole_expression};
use super::mounts::{CacheMount, MountOption};
use super::node::{Kind, Node};
use super::option_forms::{self as form, Cache, KeyContext, OnOff, Validity};
use super::plain::wrong;
use super::schema::OneOrMany;
use super::scope::Scope;
use super::truth::{says, text_holds, value_holds};
use crate::diagnostic::Diagnostic;

/// Declares a group of options. A field without a name for templates is set by the program.
macro_rules! group {
    (
        $(#[$about:meta])*
        $group:ident {
            $($(#[$field_about:meta])* $field:ident: $type:ty = $form:tt $(as $name:literal)?,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq, JsonSchema)]
        pub struct $group {
            $($(#[$field_about])* pub $field: $type,)*
        }

        impl $group {
            const NAMES: &[&str] = &[$($($name,)?)*];

            /// These options where a step within sets none of its own.
            fn around(&self, inner: $group) -> $group {
                $group { $($field: ($form.around)(&self.$field, inner.$field),)* }
            }

            /// Adds those that are set, as they stand beside a runner.
            fn write(&self, members: &mut Vec<(&'static str, Value)>) {
                $($(members.extend(($form.written)(&self.$field).map(|value| ($name, value)));)?)*
            }

            /// Reads an option of the group; `None` where it has none of this name.
            fn read(&mut self, name: &str, node: &Node) -> Option<Result<(), Diagnostic>> {
                match name {
                    $($($name => {
                        let value = ($form.read)(std::mem::take(&mut self.$field), node);
                        Some(value.map(|value| self.$field = value))
                    })?)*
                    _ => None,
                }
            }
        }
    };
}

/// The same for a group that enters keys.
macro_rules! keyed_group {
    (
        $(#[$about:meta])*
        $group:ident { $($(#[$field_about:meta])* $field:ident: $type:ty = $form:ident $(as $name:literal)?,)* }
    ) => {
        group! {
            $(#[$about])*
            $group { $($(#[$field_about])* $field: $type = (form::$form.form) $(as $name)?,)* }
        }

        impl $group {
            /// All of them that are not as if they were not there, as they enter a key.
            pub fn keyed(&self, context: &KeyContext<'_>) -> Map<String, Value> {
                let mut keyed = Map::new();
                $(keyed.extend((form::$form.key)(&self.$field, context).map(|key| (stringify!($field).to_owned(), key)));)*
                keyed
            }
        }
    };
}

keyed_group! {
    /// What shapes a layer, and so enters its key. The table in `docs/cache-keys.md` says why each does.
    Shaping {
        /// Variables for the commands of the step.
        #[schemars(with = "Option<BTreeMap<String, String>>")]
        env: BTreeMap<String, String> = VARIABLES as "env",
        /// Whether its commands have the network: `on` or `off`. Without it, `run` and what installs packages have it.
        #[schemars(with = "Option<OnOff>")]
        network: Option<bool> = NETWORK as "network",
        /// With `on`, its commands have all rights in a machine of their own, which is engine `vm`: they may mount, and make containers.
        #[schemars(with = "Option<OnOff>")]
        privileged: Option<bool> = RIGHT as "privileged",
        /// Text that enters its key and does nothing else; or a list.
        #[schemars(with = "Option<OneOrMany>")]
        cache_key: Vec<String> = TEXTS as "cache_key",
        /// Names of secrets that its commands find in `/run/secrets`.
        #[schemars(with = "Option<OneOrMany>")]
        secrets: Vec<String> = SECRETS as "secrets",
        /// Caches that its commands use, outside of layers: `{cache: apt}` for a package manager, or `{cache: NAME, target: PATH}`.
        #[schemars(with = "Option<Vec<MountOption>>")]
        mounts: Vec<CacheMount> = MOUNTS as "mounts",
        /// Digests of the programs that made it, by the names of their steps.
        #[schemars(skip)]
        made_by: BTreeMap<String, String> = VARIABLES,
    }
}

group! {
    /// How a step runs, whatever its layer is.
    Running {
        /// What people call it, in place of its arguments.
        name: Option<String> = (form::NAME) as "name",
        /// How long it may take: seconds, or a time such as `90s`, `10m`, `2h`.
        #[schemars(with = "Option<String>")]
        timeout: Option<u64> = (form::TIME) as "timeout",
        /// How often it is tried again after it failed, from 0 to 100. The guest is as the failed attempt left it.
        retries: Option<u32> = (form::ATTEMPTS) as "retries",
        /// What runs a script without a `#!` line, such as `/bin/bash -euo pipefail`. Without it, `/bin/sh`, which ends at the first command that fails; in a pipe only if it knows `pipefail`.
        // The runner has it, and keys it with its script.
        shell: Option<String> = (form::SHELL) as "shell",
    }
}

group! {
    /// For how long a layer is good.
    Caching {
        /// For how long its layer is good: `always-run`, or `{ttl: 7d}`.
        #[schemars(with = "Option<Cache>")]
        cache: Validity = (form::VALIDITY) as "cache",
    }
}

/// What stands beside a runner, by what it does to the step's layer.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema)]
pub struct StepOptions {
    /// How the step runs.
    #[schemars(flatten)]
    pub running: Running,
    /// What shapes the layer.
    #[schemars(flatten)]
    pub shaping: Shaping,
    /// For how long the layer is good.
    #[schemars(flatten)]
    pub caching: Caching,
}

/// The names of all options, as they stand beside a runner.
pub const OPTIONS: [&str; 1 + Running::NAMES.len() + Shaping::NAMES.len() + Caching::NAMES.len()] = {
    // What is not overwritten is this one, which is no option of the step but decides whether there is one.
    let mut names = ["when"; 1 + Running::NAMES.len() + Shaping::NAMES.len() + Caching::NAMES.len()];
    let (groups, mut group, mut count) = ([Running::NAMES, Shaping::NAMES, Caching::NAMES], 0, 0);
    while group < groups.len() {
        let mut place = 0;
        while place < groups[group].len() {
            names[count] = groups[group][place];
            (place, count) = (place + 1, count + 1);
        }
        group += 1;
    }
    names
};
/// Those that `defaults` may set for a whole template.
pub const DEFAULTS: [&str; 6] = ["env", "network", "timeout", "cache", "retries", "shell"];

impl StepOptions {
    /// Whether its commands have all rights, in a machine of their own.
    pub fn has_all_rights(&self) -> bool {
        self.shaping.privileged.unwrap_or(false)
    }

    /// These options where a step within sets none of its own.
    pub(super) fn around(&self, inner: StepOptions) -> StepOptions {
        StepOptions {
            running: self.running.around(inner.running),
            shaping: self.shaping.around(inner.shaping),
            caching: self.caching.around(inner.caching),
        }
    }

    /// The options as they stand beside a runner.
    pub(super) fn members(&self) -> Vec<(&'static str, Value)> {
        let mut members = Vec::new();
        self.running.write(&mut members);
        self.shaping.write(&mut members);
        self.caching.write(&mut members);
        members
    }

    /// Reads one option from its rendered value; `when` is not read here.
    pub(super) fn set(&mut self, name: &str, node: &Node) -> Result<(), Diagnostic> {
        let read = self.running.read(name, node);
        let read = read.or_else(|| self.shaping.read(name, node));
        read.or_else(|| self.caching.read(name, node)).unwrap_or(Ok(()))
    }
}

/// Whether a step with this `when` is in the chain. `data` is a node that was rendered already.
pub(super) fn holds(node: &Node, data: bool, engine: &Engine, scope: &Scope, problems: &mut Vec<Diagnostic>) -> bool {
    let told = |problem: Option<Box<Diagnostic>>, problems: &mut Vec<Diagnostic>| problems.extend(problem.map(|p| *p));
    match &node.kind {
        Kind::Bool(value) => *value,
        Kind::String(text) if !data && is_expression(text, node) && whole_expression(text).is_none() => {
            match engine.string(text, node, scope) {
                Ok(rendered) => truth(&rendered),
                Err(problem) => {
                    told(problem, problems);
                    false
                }
            }
        }
        // `when: no` is what YAML's booleans look like to whoever writes it; a parameter of that name is another thing.
        Kind::String(text) if says(text).is_some() && scope.variable(text.trim()).is_none() => says(text) == Some(true),
        Kind::String(text) if !data && !text.trim().is_empty() => {
            match engine.bare(whole_expression(text).unwrap_or(text), node, scope) {
                Ok(value) => value_holds(&value),
                Err(problem) => {
                    told(problem, problems);
                    false
                }
            }
        }
        Kind::Integer { value, .. } => *value != 0,
        Kind::String(_) if data && node.origin.is_some() => truth(node),
        _ => {
            problems.push(wrong(node, "an expression or a boolean"));
            false
        }
    }
}

fn truth(node: &Node) -> bool {
    match &node.kind {
        Kind::Null => false,
        Kind::Bool(value) => *value,
        Kind::Integer { value, .. } => *value != 0,
        Kind::Float { value, .. } => *value != 0.0,
        // Never true where it says no: it may come from the command line, or from YAML, which knows `no` as a text.
        Kind::String(text) => text_holds(text),
        Kind::List(items) => !items.is_empty(),
        Kind::Map(members) => !members.is_empty(),
    }
}
