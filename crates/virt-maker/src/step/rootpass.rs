//! `rootpass`: the password of root, in the words of `virt-customize --root-password`.
//!
//! The hash is made here and put into the guest's `/etc/shadow`. No program ever has the password among its arguments,
//! and neither the key nor the record of a layer has it: a slow hash stands for it.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::support::{accounts, crypt};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::host::permit::HostPath;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::Guest;
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "rootpass",
    about: "Sets, disables or locks the password of root.",
    arguments: arguments::<Selector>,
    example: "rootpass: disabled",
    needs: &[],
    // 2: what else the file has (ACL, extended attributes, other names) stays.
    version: 2,
    network: false,
    parse,
};

/// `password:TEXT`; `file:PATH`, whose first line is the password; `random`, which is shown once, in the step's log;
/// `disabled`, no password is the right one; `locked`, what is there does not serve; `locked:` before one of the others.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Selector(String);

struct RootpassStep {
    locked: bool,
    password: Password,
}

/// Largest file with a password, in bytes.
const FILE_MAX: u64 = 1 << 20;

enum Password {
    Given(String),
    File(HostPath),
    Random,
    Disabled,
    AsItIs,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let Selector(text) = from_node(node).map_err(without_text)?;
    let (locked, rest) = match text.as_str() {
        "locked" => (true, "as it is"),
        text => text.strip_prefix("locked:").map_or((false, text), |rest| (true, rest)),
    };
    let password = match rest.split_once(':') {
        _ if text == "locked" => Password::AsItIs,
        Some(("password", password)) if !password.is_empty() => Password::Given(password.to_owned()),
        Some(("file", path)) if !path.is_empty() => {
            Password::File(node.host_path(path).map_err(|problem| without_text(vec![problem]))?)
        }
        None if rest == "random" => Password::Random,
        None if rest == "disabled" => Password::Disabled,
        _ => {
            let message = "expected `password:TEXT`, `file:PATH`, `random`, `disabled`, `locked`, or `locked:` and one of these";
            return Err(without_text(vec![node.diagnostic(message)]));
        }
    };
    if let Password::Given(password) = &password
        && !is_password(password)
    {
        return Err(without_text(vec![node.diagnostic("a password is one line without a NUL")]));
    }
    Ok(Box::new(RootpassStep { locked, password }))
}

/// What a template says here is not for terminals and logs.
fn without_text(mut problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
    problems.iter_mut().for_each(|problem| problem.source_line = None);
    problems
}

fn is_password(text: &str) -> bool {
    !text.is_empty() && !text.contains(['\n', '\r', '\0'])
}

impl Step for RootpassStep {
    fn summary(&self) -> String {
        let what = match &self.password {
            Password::Given(_) => "a password",
            Password::File(_) => "a password from a file",
            Password::Random => "a random password",
            Password::Disabled => "disabled",
            Password::AsItIs => return "locked".to_owned(),
        };
        if self.locked { format!("{what}, locked") } else { what.to_owned() }
    }

    fn confidential(&self) -> Vec<String> {
        match &self.password {
            Password::Given(password) => vec![password.clone()],
            _ => Vec::new(),
        }
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let RootpassStep { locked, password } = self;
        let password = match password {
            Password::Random => "random".to_owned(),
            Password::Disabled => "disabled".to_owned(),
            Password::AsItIs => "as it is".to_owned(),
            Password::Given(_) | Password::File(_) => crypt::fingerprint(&self.text()?)?,
        };
        StepKey::of(&json!({ "locked": locked, "password": password }))
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for RootpassStep {
    fn run(&self, key: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        let new = match &self.password {
            Password::Disabled => Some("*".to_owned()),
            Password::AsItIs => None,
            Password::Random => {
                let password = crypt::random_password()?;
                (context.output)(format!("The password of root is {password}\n").as_bytes());
                Some(crypt::hash(&password)?)
            }
            Password::Given(_) | Password::File(_) => {
                let password = self.text()?;
                if key.arguments["password"].as_str() != Some(&crypt::fingerprint(&password)?) {
                    return Err(Error::new(ErrorKind::Template, "the file with the password changed during the build"));
                }
                Some(crypt::hash(&password)?)
            }
        };
        accounts::set_password(guest, "root", |old| {
            let hash = new.as_deref().unwrap_or(old);
            match self.locked {
                true => format!("!{}", hash.trim_start_matches('!')),
                false => hash.to_owned(),
            }
        })
    }
}

impl RootpassStep {
    fn text(&self) -> Result<String> {
        let path = match &self.password {
            Password::File(path) => path,
            Password::Given(password) => return Ok(password.clone()),
            _ => return Ok(String::new()),
        };
        let failed = || format!("cannot read the password of root from {}", path.display());
        let text = path.read_to_string(FILE_MAX).context(ErrorKind::Template, failed)?;
        let line = text.lines().next().unwrap_or_default();
        if is_password(line) {
            return Ok(line.to_owned());
        }
        Err(Error::new(ErrorKind::Template, format!("the first line of {} is no password", path.display())))
    }
}
