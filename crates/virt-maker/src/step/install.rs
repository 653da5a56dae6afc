//! `install`: packages, by the guest's own package manager.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::{Step, StepKey, StepKind, run_checked};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Guest, OsRelease, Run};
use crate::template::{Kind, Node, OneOrMany, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "install",
    about: "Installs packages with the guest's own package manager.",
    arguments: arguments::<OneOrMany>,
    example: "install: [nginx, curl]",
    needs: &[],
    version: 1,
    network: true,
    parse,
};

struct InstallStep {
    packages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Package(String);

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let nodes = match &node.kind {
        Kind::List(items) => items.iter().collect(),
        _ => vec![node],
    };
    let mut packages = Vec::new();
    for node in nodes {
        let Package(name) = from_node(node)?;
        // What every package manager takes in a name; never an option, never anything for a shell.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._:~=@/*".contains(&byte);
        if name.is_empty() || name.starts_with('-') || !name.bytes().all(allowed) {
            return Err(vec![node.diagnostic(format!("`{}` is not the name of a package", name.escape_debug()))]);
        }
        packages.push(name);
    }
    if packages.is_empty() {
        return Err(vec![node.diagnostic("the list of packages is empty")]);
    }
    Ok(Box::new(InstallStep { packages }))
}

impl Step for InstallStep {
    fn summary(&self) -> String {
        self.packages.join(" ")
    }

    fn key_inputs(&self) -> Result<StepKey> {
        Ok(StepKey { arguments: json!({ "packages": self.packages }), inputs: Vec::new() })
    }

    fn run(&self, _: &StepKey, guest: &mut dyn Guest) -> Result<()> {
        let commands = commands(guest.os())?;
        let last = commands.len() - 1;
        for (index, command) in commands.iter().enumerate() {
            let mut argv: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            if index == last {
                argv.extend(self.packages.iter().cloned());
            }
            let what = format!("`{} {}`", argv[0], argv[1]);
            let env = BTreeMap::from([("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())]);
            run_checked(guest, &Run { argv, env, network: KIND.network, ..Run::default() }, &what)?;
        }
        Ok(())
    }
}

/// What to run, by what the guest says it is; the packages are added to the last command.
fn commands(os: &OsRelease) -> Result<&'static [&'static [&'static str]]> {
    const APT: &[&[&str]] = &[
        &["apt-get", "-q", "update"],
        // A configuration file that an earlier step changed stays as it is.
        &["apt-get", "-q", "-y", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold", "install", "--"],
    ];
    let names = std::iter::once(&os.id).chain(&os.id_like);
    for name in names {
        return Ok(match name.as_str() {
            "debian" | "ubuntu" => APT,
            "fedora" => &[&["dnf", "-y", "install", "--"]],
            // dnf came with version 8; yum is there on all of them.
            "rhel" | "centos" | "rocky" | "almalinux" | "ol" | "amzn" => &[&["yum", "-y", "install", "--"]],
            "opensuse" | "suse" | "sles" | "opensuse-leap" | "opensuse-tumbleweed" => {
                &[&["zypper", "--non-interactive", "install", "--"]]
            }
            "alpine" => &[&["apk", "add", "--update-cache"]],
            "arch" => &[&["pacman", "-Sy", "--noconfirm", "--needed"]],
            _ => continue,
        });
    }
    let said = if os.id.is_empty() { "nothing" } else { &os.id };
    let message = format!("no package manager is known for this guest: its os-release says `{}`", said.escape_debug());
    Err(Error::new(ErrorKind::Step, message).with_hint("install the packages with a `run` step"))
}
