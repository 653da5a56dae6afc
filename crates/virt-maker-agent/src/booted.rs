//! What host and agent agree on about a machine that has booted. The port is that of [`crate::appliance`].

/// The argument that tells the agent that it is a service of a machine that has booted.
pub const ARGUMENT: &str = "--booted";
