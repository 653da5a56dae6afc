//! The table of what is looked for.

use super::Severity::{self, Error, Note, Warning};

/// What is done about a finding. Those that remove come before those that empty.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// Nothing: somebody may have put it there on purpose.
    Report,
    /// It is removed, with all that is in it.
    Remove,
    /// Its content is removed; files that are empty already do not count.
    Empty,
    /// These lines of it are removed.
    Lines(fn(&[u8]) -> bool),
}

impl PartialEq for Action {
    fn eq(&self, other: &Action) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

pub(super) struct Rule {
    pub what: &'static str,
    pub severity: Severity,
    /// Paths; `*` is any text within a name, `**` any number of folders.
    pub patterns: &'static [&'static str],
    /// Of these paths, only those that this likes.
    pub counts: fn(&str) -> bool,
    /// Of these files, only those with a line that this likes.
    pub line: Option<fn(&[u8]) -> bool>,
    pub action: Action,
}

const ALL: fn(&str) -> bool = |_| true;

const fn rule(what: &'static str, severity: Severity, action: Action, patterns: &'static [&'static str]) -> Rule {
    Rule { what, severity, patterns, counts: ALL, line: None, action }
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        // The word that systemd itself writes into an image that has not booted.
        line: Some(|line| !line.is_empty() && line != b"uninitialized"),
        ..rule("machine-id", Error, Action::Empty, &["/etc/machine-id"])
    },
    // Usually a link to the one in `/etc`.
    Rule {
        line: Some(|line| !line.is_empty()),
        ..rule("machine-id of D-Bus", Error, Action::Remove, &["/var/lib/dbus/machine-id"])
    },
    rule(
        "SSH host keys",
        Error,
        Action::Remove,
        &["/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub", "/etc/dropbear/dropbear_*_host_key"],
    ),
    rule(
        "random seed",
        Error,
        Action::Remove,
        &[
            "/var/lib/systemd/random-seed",
            "/var/lib/urandom/random-seed",
            "/var/lib/random-seed",
            "/var/lib/seedrng/*",
            "/boot/efi/loader/random-seed",
            "/boot/loader/random-seed",
        ],
    ),
    rule(
        "state of cloud-init",
        Warning,
        Action::Remove,
        &["/var/lib/cloud/instance", "/var/lib/cloud/instances/*", "/var/lib/cloud/data/*", "/var/lib/cloud/sem/*"],
    ),
    rule(
        "shell history",
        Warning,
        Action::Remove,
        &[
            "/root/.*_history",
            "/root/.lesshst",
            "/root/.viminfo",
            "/home/*/.*_history",
            "/home/*/.lesshst",
            "/home/*/.viminfo",
        ],
    ),
    rule(
        "DHCP lease",
        Warning,
        Action::Remove,
        &[
            "/var/lib/dhcp/*.lease*",
            "/var/lib/dhclient/*",
            "/var/lib/dhcpcd/*.lease*",
            "/var/lib/NetworkManager/*lease",
            "/var/lib/wicked/lease-*",
        ],
    ),
    rule(
        "names of network cards",
        Warning,
        Action::Remove,
        &["/etc/udev/rules.d/70-persistent-net.rules", "/var/lib/NetworkManager/secret_key"],
    ),
    rule(
        "address of a network card",
        Warning,
        Action::Lines(|line| line.trim_ascii_start().starts_with(b"HWADDR=")),
        &["/etc/sysconfig/network-scripts/ifcfg-*"],
    ),
    Rule {
        line: Some(|line| !line.is_empty() && !line.starts_with(b"#")),
        ..rule(
            "keys that may log in",
            Warning,
            Action::Report,
            &["/root/.ssh/authorized_keys", "/home/*/.ssh/authorized_keys"],
        )
    },
    Rule {
        counts: |path| !path.ends_with(".pub"),
        ..rule("private SSH key", Warning, Action::Report, &["/root/.ssh/id_*", "/home/*/.ssh/id_*"])
    },
    Rule {
        line: Some(|line| line.trim_ascii_start().starts_with(b"nameserver")),
        ..rule("name servers of another network", Warning, Action::Report, &["/etc/resolv.conf"])
    },
    rule(
        "package cache",
        Note,
        Action::Remove,
        &[
            "/var/cache/apt/archives/*.deb",
            "/var/cache/apt/*.bin",
            "/var/lib/apt/lists/*_*",
            "/var/cache/dnf/*",
            "/var/cache/libdnf5/*",
            "/var/cache/yum/*",
            "/var/cache/zypp/packages/*",
            "/var/cache/apk/*",
            "/var/cache/pacman/pkg/*",
        ],
    ),
    rule("temporary file", Note, Action::Remove, &["/tmp/*", "/var/tmp/*"]),
    rule("dump of a crash", Note, Action::Remove, &["/var/crash/*", "/var/lib/systemd/coredump/*"]),
    rule("mail", Note, Action::Remove, &["/var/mail/*", "/var/spool/mail/*"]),
    rule(
        "old log",
        Note,
        Action::Remove,
        &[
            "/var/log/journal/*",
            "/var/log/**/*.gz",
            "/var/log/**/*.xz",
            "/var/log/**/*.old",
            "/var/log/**/*.1",
            "/var/log/**/*.2",
        ],
    ),
    rule("log", Note, Action::Empty, &["/var/log/**"]),
];
