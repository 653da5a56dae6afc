//! virt-maker, as its users call it: the command line, with its events as JSON lines.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::measure::{self, Failure, Timed};

/// The program under test and the store it works in.
pub struct Maker {
    /// The binary.
    pub binary: PathBuf,
    /// A store of this run's own.
    pub store: PathBuf,
    /// Whether libguestfs has to be told not to try KVM.
    pub force_tcg: bool,
}

/// A build that went well, with its events in the order in which they came.
pub struct Build {
    /// From the start of the process to its end.
    pub wall: Duration,
    /// Peak memory of the process itself, in bytes.
    pub peak_memory: Option<u64>,
    events: Vec<(Duration, Value)>,
}

impl Maker {
    /// Builds `template` with `engine`.
    pub fn build(&self, template: &Path, engine: &str, more: &[String]) -> Result<Build, Failure> {
        self.build_all(&[template.to_owned()], engine, more)
    }

    /// Builds all `templates` in one call.
    pub fn build_all(&self, templates: &[PathBuf], engine: &str, more: &[String]) -> Result<Build, Failure> {
        self.run("build", templates, engine, more)
    }

    /// Runs the tests of a template.
    pub fn test(&self, template: &Path) -> Result<Build, Failure> {
        self.run("test", &[template.to_owned()], "auto", &[])
    }

    fn run(&self, verb: &str, templates: &[PathBuf], engine: &str, more: &[String]) -> Result<Build, Failure> {
        let mut command = Command::new(&self.binary);
        command.arg(verb).args(templates).args(["--engine", engine, "--progress", "json"]);
        command.arg("--store").arg(&self.store).args(more);
        if self.force_tcg {
            command.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
        }
        let Timed { wall, lines, peak_memory } = measure::run(&mut command)?;
        let parse = |(at, line): (Duration, String)| match serde_json::from_str(&line) {
            Ok(event) => Ok((at, event)),
            Err(error) => Err(format!("virt-maker printed a line that is no JSON ({error}): {line}")),
        };
        let events = lines.into_iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Build { wall, peak_memory, events })
    }
}

impl Build {
    /// The events of a type, with the time since the start at which each came.
    pub fn events(&self, kind: &str) -> impl Iterator<Item = (Duration, &Value)> {
        self.events.iter().filter(move |(_, event)| event["type"] == kind).map(|(at, event)| (*at, event))
    }

    /// How many layers were made; to be sure that a cold build was cold and a cached one cached.
    pub fn layers_made(&self) -> usize {
        self.events("layer_sealed").count()
    }

    /// What each step cost, all in all: from the end of the step before it (or from the open session) to its own end.
    pub fn step_costs(&self) -> Vec<Duration> {
        let ready = self.events("session_ready").map(|(at, _)| at).next().unwrap_or_default();
        let ends: Vec<_> = std::iter::once(ready).chain(self.events("step_finished").map(|(at, _)| at)).collect();
        ends.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect()
    }

    /// From `session_started` to `session_ready`, as virt-maker says.
    pub fn opening(&self) -> Option<Duration> {
        let (_, ready) = self.events("session_ready").next()?;
        ready["elapsed"].as_f64().map(Duration::from_secs_f64)
    }

    /// From `session_started` to the end of the first step.
    pub fn first_command(&self) -> Option<Duration> {
        let (started, _) = self.events("session_started").next()?;
        let (ended, _) = self.events("step_finished").next()?;
        Some(ended.saturating_sub(started))
    }

    /// Bytes of each layer that was made, in the order of sealing.
    pub fn layer_sizes(&self) -> Vec<u64> {
        self.events("layer_sealed").filter_map(|(_, event)| event["bytes"].as_u64()).collect()
    }

    /// All output of the guest's programs.
    pub fn output(&self) -> String {
        self.events("output").filter_map(|(_, event)| event["text"].as_str()).collect()
    }
}
