//! `user`: an account of the guest: made where it is missing, changed where it is there.
//!
//! Made by the guest's own `useradd` (or busybox's `adduser`), which know its ranges of numbers and its skeleton of a
//! home folder. A password hash goes straight into `/etc/shadow`, and never into the arguments of a program.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::support::{accounts, paths, texts, words};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind, run_checked};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Attributes, FileKind, Guest, Run};
use crate::template::{Node, OneOrMany, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "user",
    about: "Makes or changes an account of the guest: groups, shell, password hash, sudo, SSH keys.",
    arguments: arguments::<Arguments>,
    example: "user: {name: admin, groups: [adm], shell: /bin/sh, sudo: true}",
    needs: &[],
    // 2: a group of its name is its own; a home that is there is given to it; other files keep what they had.
    version: 2,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// Its name: lower-case letters, digits, `-` and `_`.
    name: String,
    /// Groups that it is in besides its own; they have to be there.
    #[schemars(with = "Option<OneOrMany>")]
    #[expect(dead_code, reason = "read from the node: one text, or a list")]
    groups: Option<serde::de::IgnoredAny>,
    /// Its primary group, which has to be there. Without it, the group of the user's own name, which is made where it is missing.
    group: Option<String>,
    /// Its login shell, an absolute path.
    shell: Option<String>,
    /// Its number; the next free one by default.
    uid: Option<u32>,
    /// Its home folder; `/home/NAME` by default. It is made.
    home: Option<String>,
    /// An account for a service: a low number, no home folder.
    #[serde(default)]
    system: bool,
    /// Its password as a hash of `crypt`, such as `openssl passwd -6` makes; without it, it has none and cannot use one.
    password_hash: Option<String>,
    /// May run every command as root, without a password.
    #[serde(default)]
    sudo: bool,
    /// Public SSH keys that may log in as it.
    #[schemars(with = "Option<OneOrMany>")]
    #[expect(dead_code, reason = "read from the node: one text, or a list")]
    ssh_keys: Option<serde::de::IgnoredAny>,
}

#[derive(Serialize)]
struct UserStep {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    groups: Vec<String>,
    shell: Option<String>,
    uid: Option<u32>,
    home: Option<String>,
    system: bool,
    password_hash: Option<String>,
    sudo: bool,
    ssh_keys: Vec<String>,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    if let Err(message) = words::login(&arguments.name) {
        problems.push(at("name").diagnostic(message));
    }
    if let Some(Err(message)) = arguments.group.as_deref().map(words::login) {
        problems.push(at("group").diagnostic(message));
    }
    let mut list = |name: &str, check: fn(&str) -> Result<(), String>| {
        let read = node.get(name).map_or(Ok(Vec::new()), |node| words::texts(node, check));
        read.unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        })
    };
    let groups = list("groups", words::login);
    let ssh_keys = list("ssh_keys", ssh_key);
    let mut path = |name: &str, text: Option<String>| {
        let checked = text.map(|text| {
            let path = paths::guest_path(&text, at(name))?;
            // They stand in a line of `/etc/passwd`.
            match path.contains(|letter: char| letter == ':' || letter.is_control()) {
                true => Err(at(name).diagnostic("a path with `:` or a line break cannot be in /etc/passwd")),
                false => Ok(path),
            }
        });
        super::support::owner::keep(checked, &mut problems)
    };
    let shell = path("shell", arguments.shell);
    let home = path("home", arguments.home);
    if arguments.password_hash.as_ref().is_some_and(|hash| !is_hash(hash)) {
        let mut problem = at("password_hash").diagnostic("expected a hash as `crypt` makes it, such as `$6$...`");
        problem.hint = Some("`openssl passwd -6` makes one; for a password in plain text there is `rootpass`".into());
        // The line may hold a password.
        problem.source_line = None;
        problems.push(problem);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let Arguments { name, group, uid, system, password_hash, sudo, .. } = arguments;
    Ok(Box::new(UserStep { name, group, groups, shell, uid, home, system, password_hash, sudo, ssh_keys }))
}

fn is_hash(text: &str) -> bool {
    let fields = text.split('$').count();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"$./=,-_".contains(&byte);
    text.starts_with('$') && (4..=6).contains(&fields) && text.bytes().all(allowed)
}

fn ssh_key(text: &str) -> Result<(), String> {
    let mut fields = text.split_whitespace();
    let (kind, key) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let known = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|prefix| kind.starts_with(prefix));
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if known && key.starts_with("AAAA") && key.bytes().all(base64) && text.trim().lines().count() == 1 {
        return Ok(());
    }
    Err("expected one line with a public SSH key, such as `ssh-ed25519 AAAA... comment`".to_owned())
}

impl Step for UserStep {
    fn summary(&self) -> String {
        self.name.clone()
    }

    fn confidential(&self) -> Vec<String> {
        self.password_hash.iter().cloned().collect()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for UserStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        if let Some(shell) = &self.shell
            && !paths::exists(guest, shell)?
        {
            let message = format!("the guest has no {}, which is to be the shell of `{}`", shell.escape_debug(), self.name);
            return Err(Error::new(ErrorKind::Step, message).with_hint("install it before, or name another shell"));
        }
        for group in self.groups.iter().chain(&self.group) {
            accounts::group(guest, group)?;
        }
        self.number_is_free(guest)?;
        let there = accounts::find(guest, "/etc/passwd", &self.name)?.is_some();
        let hint = "install the package with `useradd` (passwd, shadow-utils, shadow) before";
        if self.sudo {
            paths::require(guest, "sudo", "`install: sudo` before")?;
        }
        let changes = self.shell.is_some() || self.uid.is_some() || self.home.is_some() || !self.groups.is_empty();
        let changes = changes || self.group.is_some();
        let home = if there { None } else { self.home_before(guest)? };
        if there && !changes {
            // Only what files of the guest say of it.
        } else if paths::program(guest, "useradd")?.is_some() {
            self.by_shadow(guest, there)?;
        } else if paths::program(guest, "adduser")?.is_some() {
            self.by_busybox(guest, there)?;
        } else {
            paths::require(guest, "useradd", hint)?;
        }
        if let Some(home) = home {
            self.give_home(guest, &home)?;
        }
        if let Some(hash) = &self.password_hash {
            accounts::set_password(guest, &self.name, |_| hash.clone())?;
        }
        if self.sudo {
            self.allow_sudo(guest)?;
        }
        if self.ssh_keys.is_empty() { Ok(()) } else { self.authorize(guest) }
    }
}

impl UserStep {
    /// An error that names the holder, where another user has the number.
    fn number_is_free(&self, guest: &mut dyn Guest) -> Result<()> {
        let Some(uid) = self.uid else { return Ok(()) };
        match accounts::holder(guest, uid)? {
            Some(holder) if holder != self.name => {
                let message = format!("the number {uid} is taken: `{}` of the guest has it", holder.escape_debug());
                Err(Error::new(ErrorKind::Step, message).with_hint("give another `uid`, or leave it out"))
            }
            _ => Ok(()),
        }
    }

    /// The group that is to be primary: the one that was said, or one of the user's name that is there.
    fn primary(&self, guest: &mut dyn Guest, there: bool) -> Result<Option<String>> {
        match &self.group {
            Some(group) => Ok(Some(group.clone())),
            None if there => Ok(None),
            None => Ok(accounts::find(guest, "/etc/group", &self.name)?.map(|_| self.name.clone())),
        }
    }

    /// Its home folder, where an earlier step made that. One at the top (`/srv`, `/var`) is nobody's alone.
    fn home_before(&self, guest: &mut dyn Guest) -> Result<Option<String>> {
        let home = match &self.home {
            Some(home) => paths::follow(guest, home)?,
            None if self.system => return Ok(None),
            None => paths::follow(guest, &format!("/home/{}", self.name))?,
        };
        let is_folder = guest.stat(&home)?.is_some_and(|stat| stat.kind == FileKind::Directory);
        Ok((is_folder && home.matches('/').count() > 1).then_some(home))
    }

    /// Gives the folder to the user, and what root has in it; of a service's, the folder alone.
    fn give_home(&self, guest: &mut dyn Guest, home: &str) -> Result<()> {
        let account = accounts::account(guest, &self.name)?;
        let owner = Attributes { mode: None, uid: Some(account.uid), gid: Some(account.gid) };
        let depth = if self.system { Some(0) } else { None };
        for entry in guest.walk(home, depth)? {
            let path = String::from_utf8(entry.path).ok().filter(|_| (entry.uid, entry.gid) == (0, 0));
            if let Some(path) = path {
                guest.set_attributes(&path, owner)?;
            }
        }
        Ok(())
    }

    fn by_shadow(&self, guest: &mut dyn Guest, there: bool) -> Result<()> {
        let primary = self.primary(guest, there)?;
        let program = if there { "usermod" } else { "useradd" };
        let mut argv = vec![program.to_owned()];
        let mut option = |name: &str, value: &str| argv.extend([name.to_owned(), value.to_owned()]);
        if let Some(shell) = &self.shell {
            option("-s", shell);
        }
        if let Some(uid) = self.uid {
            option("-u", &uid.to_string());
        }
        if let Some(home) = &self.home {
            option("-d", home);
        }
        if let Some(group) = &primary {
            option("-g", group);
        }
        if !self.groups.is_empty() {
            option("-G", &self.groups.join(","));
        }
        match (there, self.system) {
            (false, true) => argv.extend(["-r", "-M"].map(str::to_owned)),
            (false, false) => argv.push("-m".to_owned()),
            (true, _) if !self.groups.is_empty() => argv.push("-a".to_owned()),
            _ => {}
        }
        argv.push(self.name.clone());
        run_checked(guest, &Run { argv, ..Run::default() }, &format!("`{program}`"))
    }

    fn by_busybox(&self, guest: &mut dyn Guest, there: bool) -> Result<()> {
        let run = |guest: &mut dyn Guest, argv: Vec<String>| {
            let what = format!("`{}`", argv[0]);
            run_checked(guest, &Run { argv, ..Run::default() }, &what)
        };
        if there && (self.shell.is_some() || self.uid.is_some() || self.home.is_some() || self.group.is_some()) {
            let message = format!("`{}` is there already, and this guest has no `usermod` to change it", self.name);
            return Err(Error::new(ErrorKind::Step, message).with_hint("install the package `shadow` before"));
        }
        if !there {
            let mut argv = vec!["adduser".to_owned(), "-D".to_owned()];
            let mut option = |name: &str, value: String| argv.extend([name.to_owned(), value]);
            option("-s", self.shell.clone().unwrap_or_else(|| "/bin/sh".to_owned()));
            if let Some(uid) = self.uid {
                option("-u", uid.to_string());
            }
            if let Some(home) = &self.home {
                option("-h", home.clone());
            }
            if let Some(group) = self.primary(guest, there)? {
                argv.extend(["-G".to_owned(), group]);
            }
            if self.system {
                argv.extend(["-S", "-H"].map(str::to_owned));
            }
            argv.push(self.name.clone());
            run(guest, argv)?;
        }
        for group in &self.groups {
            run(guest, vec!["addgroup".to_owned(), self.name.clone(), group.clone()])?;
        }
        Ok(())
    }

    fn allow_sudo(&self, guest: &mut dyn Guest) -> Result<()> {
        // Files whose names have a dot are not read.
        let path = format!("/etc/sudoers.d/90-{}", self.name);
        let text = format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", self.name);
        paths::make_parent(guest, &path)?;
        guest.write(&path, &mut text.as_bytes(), Attributes { mode: Some(0o440), uid: Some(0), gid: Some(0) })
    }

    fn authorize(&self, guest: &mut dyn Guest) -> Result<()> {
        let account = accounts::account(guest, &self.name)?;
        let owned = |mode| Attributes { mode: Some(mode), uid: Some(account.uid), gid: Some(account.gid) };
        let home = paths::follow(guest, &account.home)?;
        if guest.stat(&home)?.is_none_or(|stat| stat.kind != FileKind::Directory) {
            let message = format!("the home folder of `{}` is not there: {}", self.name, home.escape_debug());
            return Err(Error::new(ErrorKind::Step, message).with_hint("name another `home`, or leave `ssh_keys` out"));
        }
        let folder = format!("{}/.ssh", home.trim_end_matches('/'));
        guest.mkdir(&folder, owned(0o700), false)?;
        let path = format!("{folder}/authorized_keys");
        let there = texts::read(guest, &path)?;
        let new_file = there.is_none();
        let old = there.unwrap_or_default();
        let mut new = old.clone();
        for key in self.ssh_keys.iter().map(|key| key.trim()) {
            if new.lines().any(|line| line.trim() == key) {
                continue;
            }
            if !new.is_empty() && !new.ends_with('\n') {
                new.push('\n');
            }
            new.push_str(key);
            new.push('\n');
        }
        texts::write(guest, &path, Some(&old), &new)?;
        let path = paths::follow(guest, &path)?;
        // One that is the user's own and that nobody else may write stays as it is: a mode would undo an ACL.
        match guest.stat(&path)? {
            Some(stat) if !new_file && stat.uid == account.uid && stat.mode & 0o022 == 0 => Ok(()),
            _ => guest.set_attributes(&path, owned(0o600)),
        }
    }
}
