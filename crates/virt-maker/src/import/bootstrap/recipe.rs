//! What makes a Debian or an Ubuntu bootable: where its packages come from, and which ones it takes.

use super::firmware::Firmware;

/// A family of suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::import) enum Distribution {
    Debian,
    Ubuntu,
}

/// Suites that are older than the package of their own for `systemd-resolved`; it is part of `systemd` there.
const RESOLVED_IN_SYSTEMD: &[&str] = &["buster", "bullseye", "focal", "jammy"];
/// Where Debian's packages are for everybody.
pub(super) const DEBIAN_MIRROR: &str = "http://deb.debian.org/debian";
/// Suites without updates beside them.
const ROLLING: &[&str] = &["sid", "unstable", "experimental"];
const DEBIAN: &[&str] = &[
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "unstable",
    "testing",
    "stable",
    "oldstable",
    "oldoldstable",
];
const UBUNTU: &[&str] = &["focal", "jammy", "noble", "plucky", "questing", "resolute", "devel"];

impl Distribution {
    /// Whose suite this is, where that is known.
    pub(in crate::import) fn of_suite(suite: &str) -> Option<Distribution> {
        if DEBIAN.contains(&suite) {
            Some(Distribution::Debian)
        } else if UBUNTU.contains(&suite) {
            Some(Distribution::Ubuntu)
        } else {
            None
        }
    }

    /// Every suite that is known by name.
    pub(super) fn suites() -> impl Iterator<Item = &'static str> {
        DEBIAN.iter().chain(UBUNTU).copied()
    }

    /// The Debian package with the keys that its packages are signed with.
    pub(super) fn keyring(self) -> &'static str {
        match self {
            Distribution::Debian => "debian-archive-keyring",
            Distribution::Ubuntu => "ubuntu-keyring",
        }
    }
}

/// A complete description of a bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::import) struct Recipe {
    pub(in crate::import) distribution: Distribution,
    pub(in crate::import) suite: String,
    /// Mirrors of the template: URLs, or whole lines of a `sources.list`. Empty for the distribution's own.
    pub(in crate::import) mirrors: Vec<String>,
    /// Packages of the template, in its order.
    pub(in crate::import) packages: Vec<String>,
    /// Size of the disk in bytes.
    pub(in crate::import) size: u64,
    /// What the disk boots under.
    pub(in crate::import) firmware: Firmware,
}

impl Recipe {
    /// The lines of the guest's `sources.list`. A URL stands for the suite and its updates; security updates of Debian
    /// are not on its mirrors, so they always come from where Debian has them. Lines of the template stand as they are.
    pub(super) fn sources(&self) -> Vec<String> {
        let (mirrors, default): (Vec<&str>, _) = match self.distribution {
            _ if !self.mirrors.is_empty() => (self.mirrors.iter().map(String::as_str).collect(), false),
            Distribution::Debian => (vec![DEBIAN_MIRROR], true),
            Distribution::Ubuntu => (vec!["http://archive.ubuntu.com/ubuntu"], true),
        };
        let components = match self.distribution {
            Distribution::Debian => "main",
            Distribution::Ubuntu => "main universe",
        };
        let suite = &self.suite;
        let released = Distribution::of_suite(suite).is_some() && !ROLLING.contains(&suite.as_str());
        let mut lines = Vec::new();
        let mut urls = Vec::new();
        for mirror in mirrors {
            if mirror.starts_with("deb ") {
                lines.push(mirror.to_owned());
                continue;
            }
            urls.push(mirror);
            lines.push(format!("deb {mirror} {suite} {components}"));
            if released {
                lines.push(format!("deb {mirror} {suite}-updates {components}"));
            }
        }
        if released && let Some(url) = urls.first() {
            lines.push(match self.distribution {
                Distribution::Debian if suite == "buster" => {
                    format!("deb http://security.debian.org/debian-security {suite}/updates {components}")
                }
                Distribution::Debian => {
                    format!("deb http://security.debian.org/debian-security {suite}-security {components}")
                }
                Distribution::Ubuntu if default => {
                    format!("deb http://security.ubuntu.com/ubuntu {suite}-security {components}")
                }
                Distribution::Ubuntu => format!("deb {url} {suite}-security {components}"),
            });
        }
        lines
    }

    /// Packages besides those that every system of this kind has: a kernel, an init, names and addresses; then the
    /// template's own. A kernel of the template takes the place of the default one.
    pub(super) fn include(&self) -> Vec<&str> {
        let mut packages = vec!["systemd-sysv", "systemd-timesyncd", "udev", "dbus", "kmod", "iproute2"];
        if !RESOLVED_IN_SYSTEMD.contains(&self.suite.as_str()) {
            packages.push("systemd-resolved");
        }
        packages.push("initramfs-tools");
        if !self.packages.iter().any(|package| package.starts_with("linux-image-")) {
            packages.push(match self.distribution {
                Distribution::Debian => "linux-image-cloud-amd64",
                Distribution::Ubuntu => "linux-image-virtual",
            });
        }
        packages.extend(match (self.firmware, self.distribution) {
            (Firmware::Bios, _) => &[][..],
            // It keeps both loaders up to date where they are, as in Debian's own cloud images.
            (Firmware::Both, Distribution::Debian) => &["grub-cloud-amd64"],
            (Firmware::Both, Distribution::Ubuntu) => &["shim-signed", "grub-efi-amd64-signed", "grub-pc-bin"],
            (Firmware::Uefi, _) => &["grub-efi-amd64", "shim-signed", "grub-efi-amd64-signed"],
        });
        packages.extend(self.packages.iter().map(String::as_str));
        packages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(suite: &str, mirrors: &[&str]) -> Recipe {
        Recipe {
            distribution: Distribution::of_suite(suite).unwrap_or(Distribution::Debian),
            suite: suite.to_owned(),
            mirrors: mirrors.iter().map(|mirror| (*mirror).to_owned()).collect(),
            packages: Vec::new(),
            size: 1 << 32,
            firmware: Firmware::Bios,
        }
    }

    #[test]
    fn a_release_has_its_updates_and_security_fixes() {
        assert_eq!(
            recipe("bookworm", &[]).sources(),
            [
                "deb http://deb.debian.org/debian bookworm main",
                "deb http://deb.debian.org/debian bookworm-updates main",
                "deb http://security.debian.org/debian-security bookworm-security main",
            ]
        );
        assert_eq!(
            recipe("noble", &["http://mirror.example/ubuntu"]).sources(),
            [
                "deb http://mirror.example/ubuntu noble main universe",
                "deb http://mirror.example/ubuntu noble-updates main universe",
                "deb http://mirror.example/ubuntu noble-security main universe",
            ]
        );
        assert_eq!(recipe("sid", &[]).sources(), ["deb http://deb.debian.org/debian sid main"]);
    }

    #[test]
    fn whole_lines_stand_as_they_are() {
        let line = "deb [trusted=yes] file:/srv/packages ./";
        assert_eq!(recipe("bookworm", &[line]).sources(), [line]);
        let both = recipe("trixie", &["http://mirror.example/debian", line]).sources();
        assert_eq!(both[2..], [line, "deb http://security.debian.org/debian-security trixie-security main"]);
    }

    #[test]
    fn a_kernel_of_the_template_replaces_the_default() {
        let mut recipe = recipe("bookworm", &[]);
        assert!(recipe.include().contains(&"linux-image-cloud-amd64"));
        recipe.packages = vec!["nginx".into(), "linux-image-amd64".into()];
        let packages = recipe.include();
        assert!(!packages.contains(&"linux-image-cloud-amd64"));
        assert_eq!(packages[packages.len() - 2..], ["nginx", "linux-image-amd64"]);
    }
}
