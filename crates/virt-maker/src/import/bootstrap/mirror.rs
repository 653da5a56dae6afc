//! The mirror that the host itself uses: near, perhaps the only one that can be reached, perhaps a cache.
//!
//! Packages are taken from it where the template names none. It must not shape the guest, since it is not in the key:
//! the last hook puts the distribution's own address back into the guest's `sources.list`.

use super::recipe::{DEBIAN_MIRROR, Distribution, Recipe};
use super::is_mirror;
use crate::error::Result;
use crate::host::Tool;
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
    use super::choose;

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
