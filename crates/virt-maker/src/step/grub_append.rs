//! `grub_append`: arguments for the guest's kernel, in GRUB's settings and in every menu that is there.
//!
//! Settings: a file of its own in `/etc/default/grub.d` where a guest has that folder (Debian's, whose files have the
//! last word), else `GRUB_CMDLINE_LINUX` in `/etc/default/grub`. Menus: this step runs no program of the guest, which may have
//! none (a base without `grub2-common`) or find another kernel first; it adds the arguments to the kernel's line of each entry
//! that is there, and to what the entries of kernels to come are made of. So nothing else of a menu changes, and the next
//! `update-grub` or `grub2-mkconfig` of the guest has the arguments from the settings. Each file that it changes is in its log.

use serde::Serialize;

use super::support::{paths, texts, words};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::Guest;
use crate::template::{Node, OneOrMany, arguments};

pub(super) static KIND: StepKind = StepKind {
    name: "grub_append",
    about: "Adds arguments for the guest's kernel to GRUB's settings and to every menu that is there, without running GRUB's own program.",
    arguments: arguments::<OneOrMany>,
    example: "grub_append: [console=ttyS0, quiet]",
    needs: &[],
    // 2: what else the files have (ACL, extended attributes, other names) stays; kernels to come have the arguments too.
    version: 2,
    network: false,
    parse,
};

const SETTINGS: &str = "/etc/default/grub";
const SETTINGS_FOLDER: &str = "/etc/default/grub.d";
const OWN_SETTINGS: &str = "/etc/default/grub.d/90-virt-maker.cfg";
const VARIABLE: &str = "GRUB_CMDLINE_LINUX";
/// What new kernels get on guests that keep one file for each menu entry.
const KERNEL_CMDLINE: &str = "/etc/kernel/cmdline";
const KERNEL_CMDLINE_OF_PACKAGES: &str = "/usr/lib/kernel/cmdline";
const ENTRIES: [&str; 3] = ["/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries"];
/// Where GRUB's environment is.
const ENVIRONMENTS: [&str; 2] = ["/boot/grub2/grubenv", "/boot/grub/grubenv"];

#[derive(Serialize)]
struct GrubAppendStep {
    arguments: Vec<String>,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments = words::texts(node, |text| {
        let bad = |letter: char| letter.is_whitespace() || letter.is_control() || "\"'`$\\;&|<>(){}#".contains(letter);
        match text.is_empty() || text.contains(bad) {
            true => Err(format!(
                "`{}` is not one argument of a kernel: no blanks, quotes, or signs with a meaning for a shell",
                text.escape_debug()
            )),
            false => Ok(()),
        }
    })?;
    if arguments.is_empty() {
        return Err(vec![node.diagnostic("the list of arguments is empty")]);
    }
    Ok(Box::new(GrubAppendStep { arguments }))
}

impl Step for GrubAppendStep {
    fn summary(&self) -> String {
        self.arguments.join(" ")
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for GrubAppendStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        let settings = self.settings(guest, context)?;
        let menus = self.menus(guest, context)?;
        if settings || menus {
            return Ok(());
        }
        let message = "the guest has no GRUB: neither its settings in /etc/default/grub nor a menu below /boot";
        Err(Error::new(ErrorKind::Step, message).with_hint("install GRUB before, or leave this out"))
    }
}

impl GrubAppendStep {
    fn settings(&self, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<bool> {
        if paths::exists(guest, SETTINGS_FOLDER)? {
            let old = texts::read(guest, OWN_SETTINGS)?;
            let text = old.as_deref().unwrap_or("GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX\"\n");
            let new = in_settings(text, &self.arguments);
            put(context, guest, OWN_SETTINGS, old.as_deref(), &new)?;
            return Ok(true);
        }
        let Some(old) = texts::read(guest, SETTINGS)? else { return Ok(false) };
        put(context, guest, SETTINGS, Some(&old), &in_settings(&old, &self.arguments))?;
        Ok(true)
    }

    fn menus(&self, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<bool> {
        let mut menus: Vec<String> = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"].map(str::to_owned).to_vec();
        for vendor in names(guest, "/boot/efi/EFI")? {
            menus.push(format!("/boot/efi/EFI/{vendor}/grub.cfg"));
        }
        let mut found = false;
        for menu in menus {
            let Some(old) = texts::read(guest, &menu)? else { continue };
            found = true;
            put(context, guest, &menu, Some(&old), &in_menu(&old, &["linux", "linux16", "linuxefi"], 2, &self.arguments))?;
        }
        found |= self.entries(guest, context)?;
        Ok(found)
    }

    /// Guests that keep one file for each entry: those that are there, and what entries of kernels to come are made of.
    fn entries(&self, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<bool> {
        // Some have the arguments of all entries in one variable of GRUB's.
        let variable = self.in_environment(guest, context)?;
        let (mut found, mut newest) = (false, None);
        for folder in ENTRIES {
            for entry in names(guest, folder)?.iter().filter(|name| name.ends_with(".conf")) {
                let path = format!("{folder}/{entry}");
                let Some(old) = texts::read(guest, &path)? else { continue };
                found = true;
                let by_variable = options_of(&old).any(|word| word == "$kernelopts");
                if variable && by_variable {
                    continue;
                }
                let new = in_menu(&old, &["options"], 1, &self.arguments);
                put(context, guest, &path, Some(&old), &new)?;
                if !by_variable && !entry.contains("rescue") {
                    // Names are sorted. What only the boot loader knows is not for others.
                    let own = |word: &&str| !word.starts_with('$') && !word.starts_with("initrd=");
                    newest = Some(options_of(&new).filter(own).collect::<Vec<_>>().join(" "));
                }
            }
        }
        let there = texts::read(guest, KERNEL_CMDLINE)?;
        let new = match (&there, newest) {
            (Some(old), _) => old.trim_end().to_owned(),
            // Without it, the next kernel would have what this machine was booted with.
            (None, Some(newest)) => texts::read(guest, KERNEL_CMDLINE_OF_PACKAGES)?.map_or(newest, |text| text.trim_end().to_owned()),
            (None, None) => return Ok(found),
        };
        let new = format!("{}\n", with(&new, &self.arguments));
        put(context, guest, KERNEL_CMDLINE, there.as_deref(), &new)?;
        Ok(found)
    }

    /// Whether GRUB's environment has the arguments of all entries; they are added there.
    fn in_environment(&self, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<bool> {
        let mut found = false;
        for path in ENVIRONMENTS {
            let Some(old) = texts::read(guest, path)? else { continue };
            if let Some(new) = in_block(&old, &self.arguments) {
                found = true;
                if new.len() != old.len() {
                    let message = format!("{path} has no room for more arguments: it is a block of {} bytes", old.len());
                    return Err(Error::new(ErrorKind::Step, message));
                }
                put(context, guest, path, Some(&old), &new)?;
            }
        }
        Ok(found)
    }
}

/// Writes a file that changed, and says so in the step's log.
fn put(context: &StepContext<'_>, guest: &mut dyn Guest, path: &str, old: Option<&str>, new: &str) -> Result<()> {
    if old != Some(new) {
        (context.output)(format!("{} {}\n", if old.is_some() { "changed" } else { "made" }, path.escape_debug()).as_bytes());
    }
    texts::write(guest, path, old, new)
}

/// The words of the lines of an entry that begin with `options`.
fn options_of(entry: &str) -> impl Iterator<Item = &str> {
    let lines = entry.lines().filter_map(|line| line.trim_start().strip_prefix("options"));
    lines.filter(|rest| rest.starts_with(char::is_whitespace)).flat_map(str::split_whitespace)
}

/// GRUB's environment, a block of fixed size filled with `#`, with the arguments added to `kernelopts`; `None` where it has none.
fn in_block(block: &str, arguments: &[String]) -> Option<String> {
    let is_it = |line: &&str| line.starts_with("kernelopts=");
    let text = block.trim_end_matches('#');
    text.lines().find(is_it)?;
    let lines = text.lines().map(|line| if is_it(&line) { format!("{}\n", with(line, arguments)) } else { format!("{line}\n") });
    let mut new: String = lines.collect();
    while new.len() < block.len() {
        new.push('#');
    }
    Some(new)
}

fn names(guest: &mut dyn Guest, folder: &str) -> Result<Vec<String>> {
    if paths::exists(guest, folder)? { guest.read_dir(folder) } else { Ok(Vec::new()) }
}

/// A line of words with those of `arguments` that it lacks.
fn with(line: &str, arguments: &[String]) -> String {
    let mut line = line.to_owned();
    for argument in arguments {
        if !line.split_whitespace().any(|word| word == argument) {
            if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
            line.push_str(argument);
        }
    }
    line
}

/// Shell assignments, the last one of the variable with the arguments added.
fn in_settings(text: &str, arguments: &[String]) -> String {
    let is_it = |line: &str| line.trim_start().strip_prefix(VARIABLE).is_some_and(|rest| rest.starts_with('='));
    let Some(last) = text.lines().enumerate().filter(|(_, line)| is_it(line)).map(|(number, _)| number).last() else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return format!("{text}{gap}{VARIABLE}=\"{}\"\n", arguments.join(" "));
    };
    let lines = text.lines().enumerate().map(|(number, line)| {
        if number != last {
            return format!("{line}\n");
        }
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let value = value.trim_end();
        let (quote, inner) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) if value.len() > 1 && value.ends_with(quote) => (quote, &value[1..value.len() - 1]),
            _ => ('"', value),
        };
        format!("{name}={quote}{}{quote}\n", with(inner, arguments))
    });
    lines.collect()
}

/// A menu with the arguments added to the lines that begin with one of `commands`; their first words, `fixed` many, are
/// the command and its file.
fn in_menu(text: &str, commands: &[&str], fixed: usize, arguments: &[String]) -> String {
    let lines = text.lines().map(|line| {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        if !commands.contains(&command) || line.split_whitespace().count() < fixed {
            return format!("{line}\n");
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        format!("{indent}{}\n", with(line.trim(), arguments))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_added_once_whatever_the_quotes() {
        let arguments = ["a=1".to_owned(), "quiet".to_owned()];
        for (before, after) in [
            ("GRUB_CMDLINE_LINUX=\"\"\n", "GRUB_CMDLINE_LINUX=\"a=1 quiet\"\n"),
            ("GRUB_CMDLINE_LINUX='quiet x'\n", "GRUB_CMDLINE_LINUX='quiet x a=1'\n"),
            ("X=1\nGRUB_CMDLINE_LINUX=x\nY=2\n", "X=1\nGRUB_CMDLINE_LINUX=\"x a=1 quiet\"\nY=2\n"),
            ("GRUB_CMDLINE_LINUX_DEFAULT=\"x\"", "GRUB_CMDLINE_LINUX_DEFAULT=\"x\"\nGRUB_CMDLINE_LINUX=\"a=1 quiet\"\n"),
        ] {
            let made = in_settings(before, &arguments);
            assert_eq!(made, after);
            assert_eq!(in_settings(&made, &arguments), made);
        }
        let menu = "set default=0\n\tlinux\t/vmlinuz root=UUID=1 ro quiet\n\tinitrd /initrd\n";
        let made = in_menu(menu, &["linux"], 2, &arguments);
        assert_eq!(made, "set default=0\n\tlinux\t/vmlinuz root=UUID=1 ro quiet a=1\n\tinitrd /initrd\n");
        let block = format!("# GRUB Environment Block\nkernelopts=root=x ro \nsaved=1\n{}", "#".repeat(40));
        let made = in_block(&block, &arguments).unwrap();
        assert_eq!(made, format!("# GRUB Environment Block\nkernelopts=root=x ro a=1 quiet\nsaved=1\n{}", "#".repeat(31)));
        assert_eq!(in_block(&made, &arguments).unwrap(), made);
        assert_eq!(in_block("# GRUB Environment Block\n####", &arguments), None);
        assert_eq!(in_menu("options root=x\n", &["options"], 1, &arguments), "options root=x a=1 quiet\n");
    }
}
