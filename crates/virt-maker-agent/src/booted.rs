//! What host and agent agree on about a machine that has booted. The port is that of [`crate::appliance`].

/// The agent's place in the guest, for the time of a boot.
pub const AGENT: &str = "/etc/.virt-maker/agent";
/// The argument that tells the agent that it is a service of a machine that has booted.
pub const ARGUMENT: &str = "--booted";
/// The argument that tells it the same, and that its host is at its standard input and output.
pub const OVER_STDIO: &str = "--booted-over-stdio";
