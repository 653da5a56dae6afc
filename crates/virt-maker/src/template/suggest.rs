//! "Did you mean": the known word that is closest to one that is not known, or that other tools call so.

/// Words of shells and of other tools, each with what it is called here: in a place where that is known.
const OTHERS: &[(&[&str], &[&str])] = &[
    (&["apt", "apt-get", "apk", "dnf", "package", "packages", "pacman", "yum", "zypper"], &["install"]),
    (&["chgrp", "chmod", "chown", "curl", "echo", "git", "sed", "wget"], &["run"]),
    (&["bash", "cmd", "command", "commands", "exec", "script", "sh", "shell"], &["run"]),
    (&["cp", "upload"], &["copy"]),
    (&["write", "write_file", "write_files", "touch"], &["file"]),
    (&["adduser", "useradd", "users"], &["user"]),
    (&["rm", "unlink"], &["delete"]),
    (&["mv", "rename"], &["move"]),
    (&["ln", "symlink"], &["link"]),
    (&["extract", "unarchive"], &["unpack"]),
    (&["enable", "services", "systemctl", "systemd"], &["service"]),
    (&["passwd", "password", "root_password"], &["rootpass", "password_hash"]),
    (&["authorized_keys", "ssh_keys"], &["ssh_key", "ssh_keys"]),
    (&["dist-upgrade", "upgrade"], &["update"]),
    (&["lineinfile"], &["append_line"]),
    (&["mode", "permissions", "perms"], &["chmod"]),
    (&["owner"], &["chown"]),
    (&["src"], &["source"]),
    (&["destination", "dst"], &["dest", "path"]),
    (&["file", "filename", "output", "target"], &["path"]),
    (&["environment", "vars"], &["env"]),
    (&["condition", "if"], &["when"]),
    (&["retry"], &["retries"]),
];

/// What a word of another tool is called here, in any place.
pub(super) fn others(word: &str) -> impl Iterator<Item = &'static str> {
    OTHERS.iter().filter(move |(words, _)| words.contains(&word)).flat_map(|(_, here)| here.iter().copied())
}

/// The closest of `known`, if it is close enough to have been meant.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&word, known);
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(here) = others(&word).find_map(|here| known.iter().find(|known| **known == here)) {
        return Some(here);
    }
    let best = known.into_iter().min_by_key(|known| distance(known))?;
    (distance(best) <= (best.len().max(word.len()) / 3).max(1)).then_some(best)
}

/// A hint made of [`closest`], or else a list of what is known.
pub(crate) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match closest(word, known.clone()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known are: {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_close_words_are_suggested() {
        let known = ["run", "copy", "hostname", "install"];
        assert_eq!(closest("rum", known), Some("run"));
        assert_eq!(closest("instal", known), Some("install"));
        assert_eq!(closest("Hostnam", known), Some("hostname"));
        assert_eq!(closest("selinux", known), None);
    }

    #[test]
    fn words_of_other_tools_are_known_where_what_they_mean_is() {
        let known = ["run", "copy", "hostname", "install"];
        assert_eq!(closest("apt-get", known), Some("install"));
        assert_eq!(closest("shell", known), Some("run"));
        assert_eq!(closest("mode", known), None);
        assert_eq!(closest("mode", ["dest", "source", "chmod"]), Some("chmod"));
    }
}
