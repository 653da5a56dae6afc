//! Words for the appliance's shell.

/// Where the appliance keeps what is ours.
pub(super) const HERE: &str = "/run/virt-maker";

/// One word of the shell, whatever is in it.
pub(super) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_a_real_shell_unchanged() {
        for word in ["", "a b", "it's", "$(touch x); `y`", "new\nline", "\\", "é\"*"] {
            let out =
                std::process::Command::new("/bin/sh").args(["-c", &format!("printf %s {}", quote(word))]).output();
            assert_eq!(String::from_utf8(out.unwrap().stdout).unwrap(), word);
        }
    }
}
