//! `ssh_keygen`: an RSA key pair without passphrase for a user of the guest.
//!
//! The pair is made once, with the layer: every image that is made from that layer has the same one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::support::{accounts, paths, words};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind, run_checked};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Attributes, FileKind, Guest, Run};
use crate::template::{Kind, Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "ssh_keygen",
    about: "Makes an RSA key pair without passphrase in a user's `~/.ssh`, unless one is there.",
    arguments: arguments::<User>,
    example: "ssh_keygen: root",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

/// The name of a user of the guest; nothing means root.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct User(Option<String>);

#[derive(Serialize)]
struct SshKeygenStep {
    user: String,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let user = match &node.kind {
        Kind::String(text) if text.is_empty() => "root".to_owned(),
        _ => from_node::<User>(node)?.0.unwrap_or_else(|| "root".to_owned()),
    };
    words::name(&user).map_err(|message| vec![node.diagnostic(message)])?;
    Ok(Box::new(SshKeygenStep { user }))
}

impl Step for SshKeygenStep {
    fn summary(&self) -> String {
        self.user.clone()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for SshKeygenStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        paths::require(guest, "ssh-keygen", "install the package with it before: openssh-client, openssh or openssh-keygen")?;
        let account = accounts::account(guest, &self.user)?;
        let home = paths::follow(guest, &account.home)?;
        if guest.stat(&home)?.is_none_or(|stat| stat.kind != FileKind::Directory) {
            let message = format!("the home folder of `{}` is not there: {}", self.user, home.escape_debug());
            return Err(Error::new(ErrorKind::Step, message));
        }
        let owned = |mode| Attributes { mode: Some(mode), uid: Some(account.uid), gid: Some(account.gid) };
        let folder = format!("{}/.ssh", home.trim_end_matches('/'));
        guest.mkdir(&folder, owned(0o700), false)?;
        let path = format!("{folder}/id_rsa");
        if guest.stat(&path)?.is_some() {
            return Ok(());
        }
        let argv = ["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-C", &self.user, "-f", &path].map(str::to_owned);
        run_checked(guest, &Run { argv: argv.to_vec(), ..Run::default() }, "`ssh-keygen`")?;
        guest.set_attributes(&path, owned(0o600))?;
        guest.set_attributes(&format!("{path}.pub"), owned(0o644))
    }
}
