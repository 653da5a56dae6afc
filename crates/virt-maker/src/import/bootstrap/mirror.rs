//! The mirror that the host itself uses: near, perhaps the only one that can be reached, perhaps a cache.
//!
//! Packages are taken from it where the template names none. It must not shape the guest, since it is not in the key:
//! the last hook puts the distribution's own address back into the guest's `sources.list`.

use std::path::{Component, Path, PathBuf};

use super::is_mirror;
use super::recipe::{DEBIAN_MIRROR, Distribution, Recipe};
use crate::error::Result;
use crate::host::{Tool, url_path};
use crate::host::subordinate::SYSTEM_PATH;
use crate::import::ImportContext;

/// A mirror of the host that has what `recipe` needs: for a Debian without a mirror of its own, on a Debian.
/// None where there is none besides the one that would be used anyway; only a cancellation is an error.
pub(super) fn of_host(recipe: &Recipe, context: &ImportContext<'_>) -> Result<Option<String>> {
    if recipe.distribution != Distribution::Debian || !recipe.mirrors.is_empty() {
        return Ok(None);
    }
    // apt knows labels of sources whose lists the host has. In most containers it has none; all the same apt tells the
    // sources then, if it is asked for files that are not there and for nothing from a Release file.
    let without_lists = ["--no-release-info", "--option", "APT::Get::IndexTargets=false"];
    for options in [&[][..], &without_lists] {
        let mut apt = Tool::new("apt-get", "apt").env("PATH", SYSTEM_PATH);
        for (name, value) in context.env {
            apt = apt.env(name, value);
        }
        let format = "$(SITE)|$(RELEASE)|$(LABEL)";
        let apt = apt.args(["indextargets", "--format", format]).args(options).arg("Created-By: Packages");
        let listed = apt.run(context.cancel);
        context.cancel.check()?;
        // A host without apt, or one whose sources apt does not understand, has no mirror to offer.
        let listed = listed.unwrap_or_default();
        if let Some(mirror) = choose(&String::from_utf8_lossy(&listed), &recipe.suite) {
            return Ok((mirror != DEBIAN_MIRROR).then_some(mirror));
        }
    }
    Ok(None)
}

/// Folders and files with keys that whoever runs this host has put there: those of distributions, and of others whom they
/// trust. A key from anywhere else vouches for nobody but the author of the template.
const KEYS_OF_HOST: [&str; 6] = [
    "/usr/share/keyrings",
    "/etc/apt/keyrings",
    "/etc/apt/trusted.gpg",
    "/etc/apt/trusted.gpg.d",
    "/usr/share/distribution-gpg-keys",
    "/etc/pki/rpm-gpg",
];

/// Whether a file with keys is one of the host's own.
pub(super) fn is_of_host(keys: &Path) -> bool {
    let plain = keys.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    plain && KEYS_OF_HOST.iter().any(|place| keys.starts_with(place))
}

/// Whether packages by a URL, or by a line of a `sources.list`, have to be signed with a key of the host's. Of options of a
/// line only those count as harmless that are known to be, in the plainest spelling.
pub(super) fn is_vouched_for(line: &str) -> bool {
    let Some(options) = line.strip_prefix("deb ").map(str::trim_start).and_then(|rest| rest.strip_prefix('[')) else {
        return true;
    };
    let options = options.split(']').next().unwrap_or_default();
    options.split_whitespace().all(|option| match option.split_once('=') {
        Some(("arch" | "lang" | "target", _)) => true,
        Some(("signed-by", keys)) => keys.split(',').all(|keys| is_of_host(Path::new(keys))),
        _ => false,
    })
}

/// Files and folders of the host that a line of a `sources.list` names: a mirror by `file:` or `copy:`, and keys. Only
/// what is there.
pub(super) fn local(line: &str) -> Vec<PathBuf> {
    let words = line.split(|c: char| c.is_whitespace() || "[],".contains(c));
    let named = words.filter_map(|word| {
        if let Some(keys) = word.strip_prefix("signed-by=") {
            return Some(PathBuf::from(keys));
        }
        let path = word.strip_prefix("file:").or_else(|| word.strip_prefix("copy:"))?;
        Some(PathBuf::from(url_path(&format!("/{}", path.trim_start_matches('/')))?))
    });
    named.filter(|path| path.is_absolute() && path.exists()).collect()
}

/// Of lines `site|release|label`, the site of Debian's main archive: one that has the suite for certain, or else any.
fn choose(listed: &str, suite: &str) -> Option<String> {
    let mut others = None;
    for line in listed.lines() {
        let mut fields = line.split('|');
        let (Some(site), Some(release), Some(label)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let site = site.trim_end_matches('/');
        // Without lists apt leaves the placeholder for the label, and the usual path has to tell.
        let debian = label == "Debian" || (label.is_empty() || label.starts_with('$')) && site.ends_with("/debian");
        // Neither names with passwords in them, nor what the hook could not replace as text.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
        if !debian || !site.starts_with("http") || !is_mirror(site) || !site.bytes().all(plain) {
            continue;
        }
        if release == suite {
            return Some(site.to_owned());
        }
        others.get_or_insert(site);
    }
    others.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_the_host_vouch() {
        for line in [
            "http://deb.debian.org/debian",
            "deb http://deb.debian.org/debian bookworm main",
            "deb [ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] http://x trixie main",
        ] {
            assert!(is_vouched_for(line), "{line}");
        }
        for line in [
            "deb [trusted=yes] file:/srv ./",
            "deb  [arch=amd64 trusted=yes] http://x trixie main",
            "deb [ %74rusted=yes ] http://x trixie main",
            "deb [allow-insecure=yes] http://x trixie main",
            "deb [signed-by=/home/clone/key.gpg] http://x trixie main",
            "deb [signed-by=/usr/share/keyrings/../../../home/clone/key.gpg] http://x trixie main",
            "deb [signed-by=/usr/share/keyrings/a.gpg,/home/key.gpg] http://x trixie main",
            "deb [signed-by+=/usr/share/keyrings/a.gpg] http://x trixie main",
        ] {
            assert!(!is_vouched_for(line), "{line}");
        }
    }

    #[test]
    fn what_a_line_names_on_the_host_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b");
        std::fs::create_dir(&path).unwrap();
        let spelled = path.to_str().unwrap().replace(' ', "%20");
        let line = format!("deb [signed-by={}/,/no/such/key trusted=yes] file://{spelled} ./", folder.path().display());
        assert_eq!(local(&line), [folder.path().to_owned(), path]);
        assert_eq!(local("deb http://deb.debian.org/debian bookworm main"), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_main_archive_with_the_suite_comes_first() {
        let listed = "http://security.example/debian-security|bookworm-security|Debian-Security\n\
                      http://old.example/debian|bullseye|Debian\n\
                      http://packages.example/debian|stable|Other\n\
                      https://near.example/debian/|bookworm|Debian\n";
        assert_eq!(choose(listed, "bookworm").as_deref(), Some("https://near.example/debian"));
        assert_eq!(choose(listed, "trixie").as_deref(), Some("http://old.example/debian"));
    }

    #[test]
    fn without_lists_the_path_tells_it() {
        let listed = "http://other.example/apt|bookworm|$(LABEL)\nhttp://near.example/debian|bookworm|$(LABEL)\n";
        assert_eq!(choose(listed, "bookworm").as_deref(), Some("http://near.example/debian"));
    }

    #[test]
    fn what_is_not_plain_http_is_not_taken() {
        for site in ["http://user:secret@near.example/debian", "cdrom:[Debian]/debian", "file:/srv/debian", "http://a&b/debian"]
        {
            assert_eq!(choose(&format!("{site}|bookworm|Debian\n"), "bookworm"), None, "{site}");
        }
        assert_eq!(choose("", "bookworm"), None);
    }
}
