//! What makes a Fedora, a Rocky Linux, an AlmaLinux or a CentOS Stream bootable: where its packages come from, which keys
//! they are signed with, and which ones it takes.

use std::path::PathBuf;

use crate::host::url_path;

/// Who makes a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Fedora,
    Rocky,
    AlmaLinux,
    /// CentOS Stream.
    CentOs,
}

/// A release of a distribution, known by its suite: `fedora43`, `rocky9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) family: Family,
    pub(super) number: u16,
}

const FAMILIES: [(&str, Family); 4] = [
    ("fedora", Family::Fedora),
    ("rocky", Family::Rocky),
    ("almalinux", Family::AlmaLinux),
    ("centos", Family::CentOs),
];
/// Older ones have their database of packages elsewhere, and are on no mirror any more.
const FEDORA_MIN: u16 = 36;
const FEDORA_MAX: u16 = 99;

/// What the suites are called, for messages.
pub(super) const SUITES: &str =
    "`fedora` with a number, `rocky8` to `rocky10`, `almalinux8` to `almalinux10`, `centos9`, `centos10`";

/// Beginnings of what somebody calls a distribution that is made of RPM packages.
const NAMES: [&str; 9] = ["fedora", "rocky", "alma", "centos", "rhel", "el8", "el9", "el10", "opensuse"];

/// Packages of every guest, by names that all of these distributions have. Each is there for a reason:
/// the kernel's initrd is for any machine (`dracut-config-generic`) and not for the host that makes it; NetworkManager
/// is the one service for networks that all have, and takes DHCP where nothing is set up; a minimal language pack keeps
/// all the others out; the policy is there because these distributions enforce one everywhere else.
const BASE: [&str; 18] = [
    "systemd",
    "systemd-udev",
    "dracut",
    "dracut-config-generic",
    "dnf",
    "NetworkManager",
    "chrony",
    "bash",
    "coreutils",
    "util-linux",
    "shadow-utils",
    "/usr/bin/passwd",
    "e2fsprogs",
    "kmod",
    "iproute",
    "glibc-minimal-langpack",
    "selinux-policy-targeted",
    "policycoreutils",
];

/// Parts of names of packages that begin like that of a kernel, and that are none.
const NO_KERNELS: [&str; 7] = ["abi", "devel", "doc", "headers", "macros", "modules", "tools"];

impl Release {
    /// The release that a suite is called by.
    pub(super) fn of_suite(suite: &str) -> Option<Release> {
        let (name, family) = FAMILIES.into_iter().find(|(name, _)| suite.starts_with(name))?;
        let digits = &suite[name.len()..];
        let plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| plain)?;
        let there = match family {
            Family::Fedora => FEDORA_MIN..=FEDORA_MAX,
            Family::Rocky | Family::AlmaLinux => 8..=10,
            Family::CentOs => 9..=10,
        };
        there.contains(&number).then_some(Release { family, number })
    }

    /// What to do about a suite that is none, where it looks as if one of these was meant.
    pub(super) fn hint(suite: &str) -> Option<String> {
        let lower = suite.to_lowercase();
        if !NAMES.iter().any(|name| lower.starts_with(name)) {
            return None;
        }
        let word: String = lower.chars().filter(char::is_ascii_alphanumeric).collect();
        let word = word.replace("almalinux", "alma").replace("alma", "almalinux").replace("stream", "");
        let word = word.replace("rockylinux", "rocky").replace("fedoralinux", "fedora");
        Some(match Release::of_suite(&word) {
            Some(_) => format!("did you mean `{word}`?"),
            None => format!(
                "known are {SUITES}; for others take the cloud image by `download`, with `checksums`"
            ),
        })
    }

    /// Whether it is made of Red Hat's sources, with all that follows from it.
    fn is_enterprise(self) -> bool {
        self.family != Family::Fedora
    }

    /// Its repositories: name, and base URL with dnf's variables. The first is the one that changes with the release, so a
    /// lock file looks at it: Fedora's updates, since what was released stays as it was.
    fn repositories(self) -> [(&'static str, &'static str); 2] {
        match self.family {
            Family::Fedora => [
                ("updates", "https://dl.fedoraproject.org/pub/fedora/linux/updates/$releasever/Everything/$basearch/"),
                ("fedora", "https://dl.fedoraproject.org/pub/fedora/linux/releases/$releasever/Everything/$basearch/os/"),
            ],
            Family::Rocky => [
                ("baseos", "https://dl.rockylinux.org/pub/rocky/$releasever/BaseOS/$basearch/os/"),
                ("appstream", "https://dl.rockylinux.org/pub/rocky/$releasever/AppStream/$basearch/os/"),
            ],
            Family::AlmaLinux => [
                ("baseos", "https://repo.almalinux.org/almalinux/$releasever/BaseOS/$basearch/os/"),
                ("appstream", "https://repo.almalinux.org/almalinux/$releasever/AppStream/$basearch/os/"),
            ],
            Family::CentOs => [
                ("baseos", "https://mirror.stream.centos.org/$releasever-stream/BaseOS/$basearch/os/"),
                ("appstream", "https://mirror.stream.centos.org/$releasever-stream/AppStream/$basearch/os/"),
            ],
        }
    }

    /// Files of the host that may hold the keys of its packages, the likeliest first: from the package
    /// `distribution-gpg-keys`, and those of a host of the same family.
    pub(super) fn keyrings(self) -> [PathBuf; 2] {
        let Release { family, number } = self;
        let (folder, name, own) = match family {
            Family::Fedora => {
                let name = format!("RPM-GPG-KEY-fedora-{number}-primary");
                ("fedora", name.clone(), name)
            }
            Family::Rocky if number == 8 => ("rocky", "RPM-GPG-KEY-Rocky-8".into(), "RPM-GPG-KEY-rockyofficial".into()),
            Family::Rocky => {
                let name = format!("RPM-GPG-KEY-Rocky-{number}");
                ("rocky", name.clone(), name)
            }
            Family::AlmaLinux if number == 8 => {
                ("alma", "RPM-GPG-KEY-AlmaLinux-8".into(), "RPM-GPG-KEY-AlmaLinux".into())
            }
            Family::AlmaLinux => {
                let name = format!("RPM-GPG-KEY-AlmaLinux-{number}");
                ("alma", name.clone(), name)
            }
            Family::CentOs if number == 9 => {
                ("centos", "RPM-GPG-KEY-CentOS-Official".into(), "RPM-GPG-KEY-centosofficial".into())
            }
            Family::CentOs => {
                ("centos", "RPM-GPG-KEY-CentOS-Official-SHA256".into(), "RPM-GPG-KEY-centosofficial-SHA256".into())
            }
        };
        [
            PathBuf::from(format!("/usr/share/distribution-gpg-keys/{folder}/{name}")),
            PathBuf::from(format!("/etc/pki/rpm-gpg/{own}")),
        ]
    }

    /// The folder in the guest where its rpm keeps the database of packages.
    pub(super) fn rpmdb(self) -> &'static str {
        if self.is_enterprise() && self.number < 10 { "/var/lib/rpm" } else { "/usr/lib/sysimage/rpm" }
    }

    /// The package that makes a guest one of this distribution, and brings its repositories and keys.
    fn package(self) -> &'static str {
        match self.family {
            Family::Fedora => "fedora-release",
            Family::Rocky => "rocky-release",
            Family::AlmaLinux => "almalinux-release",
            Family::CentOs => "centos-stream-release",
        }
    }

    /// What modules of packages ask for.
    fn platform(self) -> String {
        format!("platform:{}{}", if self.is_enterprise() { "el" } else { "f" }, self.number)
    }
}

/// A complete description of a bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) release: Release,
    pub(super) suite: String,
    /// Base URLs of the template, in which dnf's variables may stand. Empty for the distribution's own.
    pub(super) mirrors: Vec<String>,
    /// Files with the keys that packages may be signed with. Empty for the distribution's own keys.
    pub(super) keys: Vec<PathBuf>,
    /// Whether packages have to be signed.
    pub(super) signed: bool,
    /// Packages of the template, in its order.
    pub(super) packages: Vec<String>,
    /// Size of the disk in bytes.
    pub(super) size: u64,
}

impl Recipe {
    /// Name and base URL of each repository.
    fn repositories(&self) -> Vec<(String, String)> {
        if self.mirrors.is_empty() {
            return self.release.repositories().map(|(name, url)| (name.to_owned(), url.to_owned())).into();
        }
        let named = |(index, url): (usize, &String)| (format!("mirror{}", index + 1), full(url));
        self.mirrors.iter().enumerate().map(named).collect()
    }

    /// The file whose digest stands for the release in a lock file: it names all others of the first repository.
    pub(super) fn metadata(&self) -> Option<String> {
        let (_, url) = self.repositories().into_iter().next()?;
        let number = self.release.number.to_string();
        let url = variables(url.trim_end_matches('/'), &number);
        Some(format!("{url}/repodata/repomd.xml"))
    }

    /// dnf's configuration, which is all that it reads of the host. `keys` is the URL of a file with keys.
    pub(super) fn config(&self, keys: Option<&str>) -> String {
        let main = format!(
            "[main]\ngpgcheck=1\nbest=1\nplugins=0\nreposdir=/dev/null\nvarsdir=/dev/null\nskip_if_unavailable=0\n\
             install_weak_deps=0\nmodule_platform_id={}\n",
            self.release.platform()
        );
        main + &self.sections(keys)
    }

    /// Folders of the host that are repositories. Only what is there.
    pub(super) fn local(&self) -> Vec<PathBuf> {
        let number = self.release.number.to_string();
        let urls = self.repositories().into_iter().map(|(_, url)| variables(&url, &number));
        let paths = urls.filter_map(|url| url_path(url.strip_prefix("file://")?).map(PathBuf::from));
        paths.filter(|path| path.exists()).collect()
    }

    /// The file with the template's repositories in the guest, where there are some. `keys` as for [`Recipe::config`].
    pub(super) fn guest_file(&self, keys: Option<&str>) -> Option<String> {
        (!self.mirrors.is_empty()).then(|| self.sections(keys))
    }

    fn sections(&self, keys: Option<&str>) -> String {
        let check = match keys {
            Some(url) => format!("gpgcheck=1\ngpgkey={url}\n"),
            None => format!("gpgcheck={}\n", u8::from(self.signed)),
        };
        let section = |(name, url): (String, String)| {
            format!("[{name}]\nname={name}\nbaseurl={url}\nenabled=1\n{check}")
        };
        self.repositories().into_iter().map(section).collect()
    }

    /// The packages to install: those of every guest, a kernel, and the template's own. A kernel of the template takes
    /// the place of the default one.
    pub(super) fn include(&self) -> Vec<&str> {
        let mut packages = vec![self.release.package()];
        packages.extend(BASE);
        if !self.packages.iter().any(|package| is_kernel(package)) {
            packages.push("kernel-core");
        }
        packages.extend(self.packages.iter().map(String::as_str));
        packages
    }
}

/// The name of a file with keys, in the inputs of a base's key.
pub(super) fn input(index: usize) -> String {
    format!("gpg/{index}")
}

/// A URL with dnf's variables filled in.
fn variables(url: &str, release: &str) -> String {
    let mut url = url.to_owned();
    for (name, value) in [("releasever", release), ("basearch", "x86_64")] {
        url = url.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
    }
    url
}

/// `file:/x` and `file:///x` mean the same, and not everybody knows the first.
fn full(url: &str) -> String {
    match url.strip_prefix("file:/") {
        Some(path) if !path.starts_with('/') => format!("file:///{path}"),
        _ => url.to_owned(),
    }
}

fn is_kernel(package: &str) -> bool {
    match package.strip_prefix("kernel") {
        Some("") => true,
        Some(rest) => match rest.strip_prefix('-') {
            Some(kind) => !kind.split('-').any(|part| NO_KERNELS.contains(&part)),
            None => false,
        },
        None => false,
    }
}

/// Whether a base URL can stand in a line of dnf's configuration and means itself there.
pub(super) fn is_mirror(url: &str) -> bool {
    let scheme = ["http://", "https://", "file:/"].iter().any(|scheme| url.starts_with(scheme));
    let plain = url.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/@%+=&?!${}".contains(&byte));
    let mut rest = url;
    while let Some((_, behind)) = rest.split_once('$') {
        let known = ["releasever", "basearch", "{releasever}", "{basearch}"];
        match known.iter().find_map(|name| behind.strip_prefix(name)) {
            // The name of a variable ends where no letter follows.
            Some(next) if !next.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') || behind.starts_with('{') => {
                rest = next;
            }
            _ => return false,
        }
    }
    scheme && plain
}

/// Whether dnf takes this for a package, a file that a package has, or a group; never for an option, or for a file or a
/// URL of a package.
pub(super) fn is_package(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || "_/@".contains(c);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._:~^/@".contains(&byte);
    let at = name.rfind('@');
    name.starts_with(first)
        && name.bytes().all(plain)
        && at.is_none_or(|at| at == 0 && name.len() > 1)
        && (name.starts_with('/') || !name.contains('/'))
        && !name.to_ascii_lowercase().ends_with(".rpm")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(suite: &str, mirrors: &[&str]) -> Recipe {
        Recipe {
            release: Release::of_suite(suite).unwrap(),
            suite: suite.to_owned(),
            mirrors: mirrors.iter().map(|mirror| (*mirror).to_owned()).collect(),
            keys: Vec::new(),
            signed: true,
            packages: Vec::new(),
            size: 1 << 32,
        }
    }

    #[test]
    fn suites_are_known_by_name_and_number() {
        for (suite, family, number) in [
            ("fedora42", Family::Fedora, 42),
            ("fedora43", Family::Fedora, 43),
            ("rocky8", Family::Rocky, 8),
            ("almalinux10", Family::AlmaLinux, 10),
            ("centos9", Family::CentOs, 9),
        ] {
            assert_eq!(Release::of_suite(suite), Some(Release { family, number }), "{suite}");
        }
        for suite in ["fedora", "fedora-42", "fedora042", "fedora+42", "fedora7", "rocky7", "rocky11", "centos8", "bookworm", ""] {
            assert_eq!(Release::of_suite(suite), None, "{suite}");
        }
        for (suite, meant) in [
            ("fedora-43", "`fedora43`"),
            ("Rocky 9", "`rocky9`"),
            ("rockylinux9", "`rocky9`"),
            ("alma9", "`almalinux9`"),
            ("centos-stream-10", "`centos10`"),
        ] {
            assert!(Release::hint(suite).unwrap().contains(&format!("did you mean {meant}")), "{suite}");
        }
        assert!(Release::hint("rhel9").unwrap().contains("cloud image"));
        assert_eq!(Release::hint("bookwurm"), None);
    }

    #[test]
    fn mirrors_take_the_place_of_the_distributions_repositories() {
        let config = recipe("rocky9", &[]).config(Some("file:///keys"));
        assert!(config.contains(
            "[baseos]\nname=baseos\nbaseurl=https://dl.rockylinux.org/pub/rocky/$releasever/BaseOS/$basearch/os/\n\
             enabled=1\ngpgcheck=1\ngpgkey=file:///keys\n[appstream]\n"
        ));
        assert!(config.contains("module_platform_id=platform:el9\n"));
        assert_eq!(recipe("rocky9", &[]).guest_file(Some("file:///keys")), None);
        let mirrors = ["https://m.example/$releasever/", "file:/srv/x"];
        let own = recipe("fedora43", &mirrors);
        let config = own.config(None);
        assert!(config.contains("[mirror1]\nname=mirror1\nbaseurl=https://m.example/$releasever/\nenabled=1\ngpgcheck=1\n"));
        assert!(config.contains("[mirror2]\nname=mirror2\nbaseurl=file:///srv/x\n") && !config.contains("fedoraproject"));
        let unsigned = Recipe { signed: false, ..own };
        assert_eq!(unsigned.guest_file(None).unwrap().matches("gpgcheck=0\n").count(), 2);
        assert!(unsigned.config(None).starts_with("[main]\ngpgcheck=1\n"));
    }

    #[test]
    fn the_first_repository_stands_for_the_release() {
        let is = |suite: &str, mirrors: &[&str], url: &str| assert_eq!(recipe(suite, mirrors).metadata().unwrap(), url);
        let fedora = "https://dl.fedoraproject.org/pub/fedora/linux/updates/43/Everything/x86_64/repodata/repomd.xml";
        is("fedora43", &[], fedora);
        is("centos10", &[], "https://mirror.stream.centos.org/10-stream/BaseOS/x86_64/os/repodata/repomd.xml");
        is("rocky9", &["http://m.example/${releasever}/$basearch"], "http://m.example/9/x86_64/repodata/repomd.xml");
        is("rocky9", &["file:/srv/x/", "http://m.example"], "file:///srv/x/repodata/repomd.xml");
    }

    #[test]
    fn a_kernel_of_the_template_replaces_the_default() {
        let with = |package: &str| {
            let recipe = Recipe { packages: vec![package.into()], ..recipe("rocky9", &[]) };
            recipe.include().contains(&"kernel-core")
        };
        for kernel in ["kernel", "kernel-rt-core", "kernel-debug", "kernel-core-6.1.0"] {
            assert_eq!(with(kernel), kernel == "kernel-core", "{kernel}");
        }
        for other in ["kernel-headers", "kernel-tools-libs", "kernel-modules-extra", "kernel-debug-devel", "kernelshark", "nginx"] {
            assert!(with(other), "{other}");
        }
    }

    #[test]
    fn nothing_is_a_second_line_or_a_file_of_the_host() {
        for url in ["http://m.example/$releasever/$basearch/os", "https://u:p@m/${basearch}x", "file:///srv/a%20b"] {
            assert!(is_mirror(url), "{url}");
        }
        for url in [
            "ftp://x",
            "deb http://x",
            "http://x/a b",
            "http://x\ngpgcheck=0",
            "http://x,http://y",
            "http://x/$stream",
            "http://x/$releasever_major",
            "http://x/#$",
            "/srv/x",
        ] {
            assert!(!is_mirror(url), "{url}");
        }
        for name in ["nginx", "NetworkManager-wifi", "gcc-c++", "/usr/bin/vim", "@core", "@^minimal-environment", "x-1:2~rc1-3.x86_64"] {
            assert!(is_package(name), "{name}");
        }
        for name in ["", "-y", "--nogpgcheck", "a b", "/tmp/x.rpm", "x.RPM", "http://m/x", "a/b", "a*", "@", "a@b", "a\n"] {
            assert!(!is_package(name), "{name}");
        }
    }
}
