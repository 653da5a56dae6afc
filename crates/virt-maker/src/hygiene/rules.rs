//! The table of what is looked for, in two groups: what programs made for this one machine is removed, and what it needs of that
//! comes back at its first boot; what people may have put there on purpose is reported and stays.

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
    pub again: Again,
}

/// How what is removed comes back, where the guest needs it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Again {
    /// By itself, or it is not needed.
    Unneeded,
    /// One of these files makes it. A guest that has none of them keeps it, and it is reported.
    By(&'static [&'static str]),
    /// By these commands at the first boot, which need this program. A guest without it, or without systemd, keeps it.
    Commands(&'static str, &'static str),
}

/// Whether a line that is no comment has one of these words.
fn says(line: &[u8], words: &[&[u8]]) -> bool {
    let line = line.trim_ascii_start();
    !line.starts_with(b"#") && words.iter().any(|word| line.windows(word.len()).any(|part| part == *word))
}

const ALL: fn(&str) -> bool = |_| true;

const fn rule(what: &'static str, severity: Severity, action: Action, patterns: &'static [&'static str]) -> Rule {
    Rule { what, severity, patterns, counts: ALL, line: None, action, again: Again::Unneeded }
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
            "/efi/loader/random-seed",
        ],
    ),
    // Credentials that were sealed with it are for this machine alone.
    rule("key of sealed credentials", Error, Action::Remove, &["/var/lib/systemd/credential.secret"]),
    Rule {
        again: Again::Commands(
            "nvme",
            "[ -s /etc/nvme/hostnqn ] || nvme gen-hostnqn >/etc/nvme/hostnqn\n\
             [ -s /etc/nvme/hostid ] || sed -n 's/.*uuid://p' /etc/nvme/hostnqn >/etc/nvme/hostid\n",
        ),
        ..rule("name of an NVMe host", Error, Action::Remove, &["/etc/nvme/hostnqn", "/etc/nvme/hostid"])
    },
    Rule {
        // Packages put a file there that has no name yet.
        line: Some(|line| line.trim_ascii_start().starts_with(b"InitiatorName=")),
        again: Again::Commands(
            "iscsi-iname",
            "[ -s /etc/iscsi/initiatorname.iscsi ] ||\n\
             (umask 077; echo \"InitiatorName=$(iscsi-iname)\" >/etc/iscsi/initiatorname.iscsi)\n",
        ),
        ..rule("name of an iSCSI initiator", Error, Action::Remove, &["/etc/iscsi/initiatorname.iscsi"])
    },
    Rule {
        again: Again::Commands("zgenhostid", "[ -s /etc/hostid ] || zgenhostid\n"),
        ..rule("host id", Error, Action::Remove, &["/etc/hostid"])
    },
    Rule {
        again: Again::Commands(
            "make-ssl-cert",
            "[ -s /etc/ssl/private/ssl-cert-snakeoil.key ] || make-ssl-cert generate-default-snakeoil --force-overwrite\n",
        ),
        ..rule(
            "self-signed certificate",
            Warning,
            Action::Remove,
            &["/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key"],
        )
    },
    rule(
        "registration with a vendor or a network",
        Error,
        Action::Remove,
        &[
            "/etc/pki/consumer/*.pem",
            "/etc/pki/entitlement/*.pem",
            "/var/lib/rhsm/facts/*",
            "/etc/sysconfig/rhn/systemid",
            "/etc/zypp/credentials.d/SCCcredentials",
            "/var/lib/ubuntu-advantage/private/machine-token.json",
            "/var/lib/tailscale/tailscaled.state",
            "/var/lib/whoopsie/whoopsie-id",
        ],
    ),
    rule(
        "keys of an agent of configuration",
        Error,
        Action::Remove,
        &[
            "/etc/salt/pki/minion/minion.pem",
            "/etc/salt/pki/minion/minion.pub",
            "/etc/salt/minion_id",
            "/etc/puppetlabs/puppet/ssl/*",
            "/etc/puppet/ssl/*",
            "/var/lib/puppet/ssl/*",
            "/etc/chef/client.pem",
        ],
    ),
    // LVM looks at all disks where it is not there.
    rule("LVM's list of this machine's disks", Warning, Action::Remove, &["/etc/lvm/devices/system.devices"]),
    Rule {
        again: Again::By(&["/usr/bin/cloud-init", "/usr/local/bin/cloud-init"]),
        ..rule(
            "network that cloud-init wrote",
            Warning,
            Action::Remove,
            &[
                "/etc/netplan/50-cloud-init.yaml",
                "/etc/network/interfaces.d/50-cloud-init*",
                "/etc/NetworkManager/system-connections/cloud-init-*",
                "/etc/systemd/network/10-cloud-init-*",
            ],
        )
    },
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
            "/var/lib/dhcpv6/dhcp6c_duid",
            "/var/lib/dhcpcd/duid",
            "/etc/dhcpcd.duid",
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
    rule(
        "key that stands for this machine or opens others",
        Warning,
        Action::Report,
        &[
            "/etc/krb5.keytab",
            "/etc/*.keytab",
            "/etc/samba/*.keytab",
            "/etc/httpd/conf/*.keytab",
            "/root/*.keytab",
            "/home/*/*.keytab",
            "/etc/wireguard/*",
            "/etc/ipsec.secrets",
            "/etc/ppp/chap-secrets",
            "/etc/ppp/pap-secrets",
            "/etc/munge/munge.key",
            "/etc/corosync/authkey",
        ],
    ),
    Rule {
        counts: |path| !path.ends_with("/ssl-cert-snakeoil.key"),
        ..rule(
            "private key of a certificate",
            Warning,
            Action::Report,
            &["/etc/ssl/private/*", "/etc/pki/tls/private/*.key", "/etc/letsencrypt/live/*/privkey.pem"],
        )
    },
    Rule {
        line: Some(|line| says(line, &[b"PrivateKey=", b"PresharedKey="])),
        ..rule("key of a tunnel", Warning, Action::Report, &["/etc/systemd/network/*.netdev"])
    },
    Rule {
        line: Some(|line| says(line, &[b"psk=", b"password=", b"private_key_passwd=", b"Passphrase="])),
        ..rule(
            "password of a network",
            Warning,
            Action::Report,
            &["/etc/wpa_supplicant/*.conf", "/etc/wpa_supplicant.conf", "/var/lib/iwd/*.psk", "/var/lib/iwd/*.8021x"],
        )
    },
    Rule {
        counts: |path| !path.contains("/cloud-init-"),
        ..rule(
            "profile of a network",
            Warning,
            Action::Report,
            &["/etc/NetworkManager/system-connections/*", "/etc/netplan/90-NM-*"],
        )
    },
    Rule {
        counts: |path| !path.ends_with("/50-cloud-init.yaml"),
        line: Some(|line| says(line, &[b"macaddress:", b"password:", b"key:"])),
        ..rule("network of one machine", Warning, Action::Report, &["/etc/netplan/*.yaml"])
    },
    rule(
        "password or token of a person or a service",
        Warning,
        Action::Report,
        &[
            "/etc/apt/auth.conf",
            "/etc/apt/auth.conf.d/*",
            "/root/.netrc",
            "/home/*/.netrc",
            "/root/.git-credentials",
            "/home/*/.git-credentials",
            "/root/.config/git/credentials",
            "/home/*/.config/git/credentials",
            "/root/.aws/credentials",
            "/home/*/.aws/credentials",
            "/root/.azure/msal_token_cache.*",
            "/home/*/.azure/msal_token_cache.*",
            "/root/.config/gcloud/credentials.db",
            "/home/*/.config/gcloud/credentials.db",
            "/root/.config/gh/hosts.yml",
            "/home/*/.config/gh/hosts.yml",
            "/root/.kube/config",
            "/home/*/.kube/config",
            "/root/.vault-token",
            "/home/*/.vault-token",
            "/root/.pgpass",
            "/home/*/.pgpass",
            "/root/.my.cnf",
            "/home/*/.my.cnf",
            "/root/.pypirc",
            "/home/*/.pypirc",
        ],
    ),
    Rule {
        line: Some(|line| says(line, &[b"\"auth\"", b"\"identitytoken\"", b"_authToken", b"_password"])),
        ..rule(
            "login at a registry",
            Warning,
            Action::Report,
            &[
                "/root/.docker/config.json",
                "/home/*/.docker/config.json",
                "/root/.config/containers/auth.json",
                "/home/*/.config/containers/auth.json",
                "/root/.npmrc",
                "/home/*/.npmrc",
            ],
        )
    },
    rule(
        "private key of GnuPG",
        Warning,
        Action::Report,
        &[
            "/root/.gnupg/private-keys-v1.d/*",
            "/root/.gnupg/secring.gpg",
            "/home/*/.gnupg/private-keys-v1.d/*",
            "/home/*/.gnupg/secring.gpg",
        ],
    ),
    rule("what a machine is said to be", Note, Action::Report, &["/etc/machine-info"]),
    // Without it, no pool is imported at the boot of many guests.
    rule("ZFS's list of pools and their disks", Warning, Action::Report, &["/etc/zfs/zpool.cache"]),
    Rule {
        line: Some(|line| line.trim_ascii_start().starts_with(b"nameserver")),
        ..rule("name servers of another network", Warning, Action::Report, &["/etc/resolv.conf"])
    },
    Rule {
        // Container images have it. One that says something else may be wanted.
        line: Some(|line| line.trim_ascii() == b"exit 101"),
        ..rule("packages do not start their services", Warning, Action::Report, &["/usr/sbin/policy-rc.d"])
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
