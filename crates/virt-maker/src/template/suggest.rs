//! "Did you mean": the known word that is closest to one that is not known.

/// The closest of `known`, if it is close enough to have been meant.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |known: &str| strsim::damerau_levenshtein(&word.to_lowercase(), known);
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
}
