//! The work that everybody does: five small steps on one base, then an uncompressed qcow2 export.

use std::path::Path;

use serde_json::{Value, json};

use crate::measure::Failure;

/// One thing that is done to the guest. Each tool gets it in its own words.
pub enum Operation {
    /// A line of shell.
    Run(String),
    /// A host name.
    Hostname(String),
    /// A file with its content.
    Copy {
        /// Where, in the guest.
        dest: &'static str,
        /// What.
        content: String,
    },
}

/// The five steps. A `salt` that was not used before makes all of them new to the cache.
pub fn five_steps(salt: &str) -> Vec<Operation> {
    vec![
        Operation::Run(format!("echo {salt} > /root/one")),
        Operation::Run("mkdir -p /srv/data && cp /etc/os-release /srv/data/".to_owned()),
        Operation::Run("sed -i s/^#Port.*/Port\\ 2222/ /etc/ssh/sshd_config".to_owned()),
        Operation::Hostname("bench".to_owned()),
        Operation::Copy { dest: "/etc/motd", content: format!("Measured. {salt}\n") },
    ]
}

/// `count` one-line steps that no build did before.
pub fn one_line_steps(count: usize, salt: &str) -> Vec<Operation> {
    (1..=count).map(|index| Operation::Run(format!("echo {salt}.{index} > /root/step"))).collect()
}

/// A template for virt-maker. JSON is YAML, so nothing has to be quoted by hand.
pub fn template(base: &Path, operations: &[Operation], export: Option<&Path>) -> Value {
    let steps: Vec<_> = operations
        .iter()
        .map(|operation| match operation {
            Operation::Run(script) => json!({ "run": script }),
            Operation::Hostname(name) => json!({ "hostname": name }),
            Operation::Copy { dest, content } => json!({ "copy": { "dest": dest, "content": content } }),
        })
        .collect();
    let mut spec = json!({ "import": { "download": { "url": format!("file://{}", base.display()) } }, "steps": steps });
    if let Some(path) = export {
        spec["export"] = json!({ "qcow2": { "path": path } });
    }
    json!({ "spec": spec })
}

/// Writes a template where virt-maker is told to read it.
pub fn write(path: &Path, template: &Value) -> Result<(), Failure> {
    std::fs::write(path, format!("{template:#}")).map_err(|error| format!("{}: {error}", path.display()))
}
