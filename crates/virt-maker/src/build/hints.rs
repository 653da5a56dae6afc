//! What helps where a program of the guest fails for a reason that lies in how steps run: there is no init system, nobody to ask,
//! and no way to more rights. The programs say so in words that tell nobody what to do.

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result, chain};
use crate::guest::{Guest, OsRelease};

/// What a program says (any of these), a word of the script that has to be there, and what helps. The first that fits counts.
const HINTS: &[(&[&str], &str, &str)] = &[
    (
        &["end of file on stdin at conffile prompt"],
        "",
        "dpkg asks about a configuration file, and nobody answers: say `apt-get -o Dpkg::Options::=--force-confdef -o \
         Dpkg::Options::=--force-confold` (the steps `install` and `update` do)",
    ),
    (
        &[
            "Unable to locate package linux-",
            "No match for argument: kernel-",
            "Unable to find a match: kernel-",
            "No package kernel-",
            "No provider of 'kernel-",
        ],
        "uname -r",
        OTHER_KERNEL,
    ),
    (
        &[
            "could not open directory /lib/modules/",
            "not found in directory /lib/modules/",
            "missing /lib/modules/",
            "Cannot find module directory /lib/modules/",
            "Your kernel headers for kernel",
            "for the currently running kernel",
        ],
        "",
        OTHER_KERNEL,
    ),
    (NO_INIT, "hostnamectl", "nothing of the guest runs while it is built: use the step `hostname`"),
    (NO_INIT, "timedatectl", "nothing of the guest runs while it is built: use the step `timezone`"),
    (NO_INIT, "localectl", "nothing of the guest runs while it is built: use the step `locale`"),
    (
        NO_INIT,
        "systemctl",
        "no service runs while a guest is built: `systemctl enable` without `--now`, or the step `service`, has it start at the \
         boot; `firstboot` is for what needs it to run",
    ),
    (
        NO_INIT,
        "",
        "nothing of the guest runs while it is built: what needs its services belongs into a `firstboot` step",
    ),
    (
        &[
            "effective uid is not 0",
            "\"no new privileges\" flag is set",
            "must be owned by uid 0 and have the setuid bit set",
            "must be suid to work properly",
            "must be setuid root",
        ],
        "",
        "a step runs as root, and no program in it gets more rights than who starts it: do as root what needs root, and go to \
         another user with `su USER -c ...` or `runuser`, without `sudo` behind it",
    ),
    (
        &["cannot clone: Operation not permitted", "cannot re-exec process", "unshare failed: Operation not permitted"],
        "",
        MACHINE,
    ),
    (&["mount: permission denied", ": permission denied.", "must be superuser"], "mount ", MACHINE),
];
/// What helps where a program needs rights that reach a machine.
const MACHINE: &str = "a step may not mount or make containers; with `privileged: on` beside it, it may, in a machine of its own (engine `vm`)";
/// What helps where a program looks for what belongs to the kernel that runs.
const OTHER_KERNEL: &str = "`uname -r` tells the release of the kernel that builds, which is none of the guest's; the guest's own newest is in \
                            `$GUEST_KERNEL`, as in `linux-headers-$GUEST_KERNEL` or `depmod $GUEST_KERNEL`";
/// What scripts of ours say of packages that are missing: this, then the package, then `)`.
const PACKAGE_OF_OURS: &str = " (install ";
/// Programs that guests lack, and the package that has each, in Debian and its kin and in Fedora and its kin.
const PACKAGES: &[(&str, &str, Option<&str>)] = &[
    ("update-grub", "grub2-common", None),
    ("grub-mkconfig", "grub2-common", None),
    ("grub2-mkconfig", "grub2-common", Some("grub2-tools")),
    ("grub-install", "grub2-common", None),
    ("grub2-install", "grub2-common", Some("grub2-tools")),
    ("update-initramfs", "initramfs-tools", None),
    ("dracut", "dracut", Some("dracut")),
    ("locale-gen", "locales", None),
    ("update-ca-certificates", "ca-certificates", None),
    ("update-ca-trust", "p11-kit", Some("ca-certificates")),
    ("add-apt-repository", "software-properties-common", None),
    ("gpg", "gpg", Some("gnupg2")),
    ("curl", "curl", Some("curl")),
    ("wget", "wget", Some("wget")),
    ("sudo", "sudo", Some("sudo")),
    ("git", "git", Some("git")),
];
/// What stands for one of them in Fedora and its kin, where there is no package that has it.
const INSTEAD: &[(&str, &str)] = &[
    ("update-grub", "`grub2-mkconfig -o /boot/grub2/grub.cfg` (package `grub2-tools`)"),
    ("grub-mkconfig", "`grub2-mkconfig` (package `grub2-tools`)"),
    ("grub-install", "`grub2-install` (package `grub2-tools`)"),
    ("update-initramfs", "`dracut --force`"),
    ("locale-gen", "a package `glibc-langpack-...`"),
    ("update-ca-certificates", "`update-ca-trust`"),
];
/// What programs say that look for an init system.
const NO_INIT: &[&str] = &[
    "System has not been booted with systemd",
    "Failed to connect to bus",
    "Failed to connect to system scope bus",
    "Failed to create bus connection",
    "Failed to get D-Bus connection",
    "Could not connect: No such file or directory",
    "sd_bus_open_system",
];
/// What the system says of a program of another processor.
const OTHER_PROCESSOR: &str = "exec format error";
/// Programs that a guest has.
const PROGRAMS: [&str; 4] = ["/bin/sh", "/usr/bin/env", "/bin/busybox", "/usr/bin/true"];
const PROGRAM_MAX: u64 = 32 << 20;

/// The error with what helps, where it is known. `said` are the last lines of the step, and what it ran is among its arguments.
pub(super) fn explain(error: Error, guest: &mut dyn Guest, said: &[String], arguments: &Value) -> Error {
    if !matches!(error.kind(), ErrorKind::Step | ErrorKind::Internal | ErrorKind::Guest) {
        return error;
    }
    let refused = |text: &str| text.to_ascii_lowercase().contains(OTHER_PROCESSOR);
    if refused(&chain(&error)) || said.iter().any(|line| refused(line)) {
        return match processor_of(guest) {
            Ok(Some(guests)) if guests != std::env::consts::ARCH => {
                let here = std::env::consts::ARCH;
                let message = format!("the guest's programs are for {guests}, and this machine is {here}");
                Error::new(ErrorKind::Step, message)
                    .with_source(error)
                    .with_hint(format!("build it on a machine that is {guests}, or take a base for {here}"))
            }
            _ => error,
        };
    }
    if error.kind() != ErrorKind::Step || error.hint().is_some() {
        return error;
    }
    let script = arguments.to_string();
    let fits = |(words, of_script, _): &&(&[&str], &str, &str)| {
        script.contains(of_script) && said.iter().any(|line| words.iter().any(|word| line.contains(word)))
    };
    if let Some((_, _, hint)) = HINTS.iter().find(fits) {
        return error.with_hint(*hint);
    }
    let family = Family::of(guest.os());
    match said.iter().rev().find_map(|line| lacking(line, family)) {
        Some(hint) => error.with_hint(hint),
        None if is_silent(said, arguments["script"].as_str().unwrap_or_default()) => error.with_hint(TRACE),
        None => error,
    }
}

/// What helps where nobody knows which command of a script failed. A trap for it would be a part of the script, and not every
/// shell has one.
const TRACE: &str =
    "nothing says which command failed: begin the script with `set -x`, and each stands in the log before it runs";

/// Whether a script of the shell has several commands, and nothing that was said has the number of a line.
fn is_silent(said: &[String], script: &str) -> bool {
    let (first, rest) = script.split_once('\n').unwrap_or((script, ""));
    let of_shell = !first.starts_with("#!") || first.split_whitespace().any(|word| word.ends_with("sh"));
    let lines = if first.starts_with("#!") { rest } else { script }.lines().map(str::trim);
    let commands = lines.filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("set ")).count();
    let numbered = |line: &String| {
        let Some((_, after)) = line.split_once("/script: ") else { return false };
        after.trim_start_matches("line ").starts_with(|c: char| c.is_ascii_digit())
    };
    of_shell && commands > 1 && !script.contains("set -x") && !said.iter().any(numbered)
}

/// Whose packages a guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Debian,
    Fedora,
    Other,
}

impl Family {
    fn of(os: &OsRelease) -> Family {
        let is = |names: &[&str]| std::iter::once(&os.id).chain(&os.id_like).any(|id| names.contains(&id.as_str()));
        match (is(&["debian", "ubuntu"]), is(&["fedora", "rhel", "centos"])) {
            (true, _) => Family::Debian,
            (_, true) => Family::Fedora,
            _ => Family::Other,
        }
    }
}

/// What helps where a line says that the guest has no such program, or a script of ours that it has no such package.
fn lacking(line: &str, family: Family) -> Option<String> {
    if let Some((_, rest)) = line.split_once(PACKAGE_OF_OURS) {
        let package = rest.split_once(')')?.0;
        return (!package.contains(char::is_whitespace)).then(|| format!("`install: {package}` in a step before"));
    }
    // dash: `sh: 1: X: not found`; bash: `bash: line 1: X: command not found`; busybox: `/bin/sh: X: not found`.
    let before =
        line.trim_end().strip_suffix(": not found").or_else(|| line.trim_end().strip_suffix(": command not found"))?;
    let program = before.rsplit([' ', '/']).next()?;
    let (name, debian, fedora) = PACKAGES.iter().find(|(name, _, _)| *name == program)?;
    let instead = INSTEAD.iter().find(|(of, _)| of == name).map(|(_, instead)| instead);
    Some(match (family, fedora, instead) {
        (Family::Debian, ..) => format!("the guest has no `{name}`: `install: {debian}` in a step before"),
        (Family::Fedora, Some(package), _) => {
            format!("the guest has no `{name}`: `install: {package}` in a step before")
        }
        (Family::Fedora, None, Some(instead)) => format!("this distribution has {instead} in the place of `{name}`"),
        _ => format!("install what brings `{name}` in a step before; on Debian that is the package `{debian}`"),
    })
}

/// The processor that the guest's programs are for, by the head of one of them.
fn processor_of(guest: &mut dyn Guest) -> Result<Option<&'static str>> {
    for path in PROGRAMS {
        let Ok(bytes) = guest.read(path, PROGRAM_MAX) else { continue };
        if !bytes.starts_with(b"\x7fELF") || bytes.len() < 20 {
            continue;
        }
        let pair = [bytes[18], bytes[19]];
        let machine = if bytes[5] == 2 { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) };
        return Ok(match machine {
            3 => Some("x86"),
            20 => Some("powerpc"),
            21 => Some("powerpc64"),
            22 => Some("s390x"),
            40 => Some("arm"),
            62 => Some("x86_64"),
            183 => Some("aarch64"),
            243 => Some("riscv64"),
            258 => Some("loongarch64"),
            _ => None,
        });
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::{Family, lacking};

    #[test]
    fn a_program_that_is_missing_names_its_package() {
        use Family::{Debian, Fedora, Other};
        for (line, family, hint) in [
            ("/run/x: 3: update-grub: not found", Debian, Some("`install: grub2-common`")),
            ("bash: line 1: update-grub: command not found", Fedora, Some("grub2-mkconfig")),
            ("/bin/sh: update-grub: not found", Other, Some("on Debian that is the package `grub2-common`")),
            ("sh: /usr/sbin/grub-install: not found", Debian, Some("`install: grub2-common`")),
            ("sh: 1: my-own-program: not found", Debian, None),
            ("the guest has no locale de_DE.UTF-8 (install locales)", Debian, Some("`install: locales`")),
            ("the guest has no locale x (install a name that /usr/share/i18n/SUPPORTED has)", Debian, None),
            ("update-grub: done", Debian, None),
        ] {
            let found = lacking(line, family);
            assert_eq!(found.is_some(), hint.is_some(), "{line}: {found:?}");
            assert!(hint.is_none_or(|hint| found.unwrap().contains(hint)), "{line}");
        }
    }
}
