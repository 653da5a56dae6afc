//! What several imports read of texts: sizes.

/// Bytes, in full MiB: a number with `M`, `G` or `T`, perhaps followed by `iB` or `B`; all are powers of 1024.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let text = text.strip_suffix('B').unwrap_or(text);
    let text = text.strip_suffix('i').unwrap_or(text);
    let shift = match text.as_bytes().last()? {
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        _ => return None,
    };
    let number = &text[..text.len() - 1];
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}
