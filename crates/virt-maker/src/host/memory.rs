//! The host's memory, from `/proc/meminfo` (proc_meminfo(5)).

/// All memory, in bytes.
pub fn total() -> Option<u64> {
    field("MemTotal")
}

/// Memory that programs can get without swapping, in bytes.
pub fn available() -> Option<u64> {
    field("MemAvailable")
}

fn field(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}
