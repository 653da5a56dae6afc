//! Steps: what is done to a guest, one file per kind.
//!
//! To add one, write `step/NAME.rs` like its neighbours (arguments as a type, how they are keyed, how they run) and
//! add its name to the table below. Nothing else in the tree knows a step by name.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::guest::running::Running;
use crate::guest::{Exit, Guest, Run};
use crate::host::checksum::Checksum;
use crate::host::{Cancel, Output};
use crate::key::HostInput;
use crate::template::RunnerKind;

/// The table: declares the module of each kind and lists what it is.
macro_rules! steps {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*
        /// Every kind of step.
        pub static KINDS: &[&StepKind] = &[$(&$name::KIND),*];
    };
}

mod support;

pub use boot::{Boot, FirmwareArgument, WaitFor};
pub use support::seed::Seed;

steps! {
    ansible,
    boot,
    click,
    copy,
    delete,
    download_to,
    edit,
    expect,
    file,
    firstboot,
    grub_append,
    hostname,
    inject_qemu_ga,
    inject_virtio_win,
    install,
    keys,
    link,
    local_run,
    mkdir,
    r#move,
    reboot,
    remove,
    repo,
    rootpass,
    run,
    screenshot,
    selinux,
    service,
    ssh_keygen,
    sysprep,
    r#type,
    unpack,
    update,
    user,
    wait_for,
}

/// A kind of step.
pub type StepKind = RunnerKind<dyn Step>;

/// One step of a spec: how it is keyed, and how it runs.
pub trait Step: Send + Sync {
    /// One line for people, without secrets: the text of the template, shortened.
    fn summary(&self) -> String;

    /// What it does, for who tries it by hand after it failed: the script as the template has it, or the summary.
    fn commands(&self) -> String {
        self.summary()
    }

    /// Has a shell, with its options, run its script (`shell`); false where the step has none.
    fn set_shell(&mut self, _shell: &str) -> bool {
        false
    }

    /// The arguments in normal form and digests of all bytes that it takes from the host.
    fn key_inputs(&self) -> Result<StepKey>;

    /// Texts among its arguments that let somebody in: passwords and their hashes. They are left out of what goes along with an
    /// image.
    fn confidential(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether it runs a program that the template brings on the host. The loader refuses it unless the user allowed
    /// that.
    fn runs_on_host(&self) -> bool {
        false
    }

    /// Where it does what it does.
    fn action(&self) -> Action<'_>;
}

/// Where a step does what it does.
#[derive(Clone, Copy)]
pub enum Action<'a> {
    /// In a guest that is open.
    InGuest(&'a dyn InGuest),
    /// On the disk itself, while no session has the guest open.
    OnDisk(&'a dyn OnDisk),
    /// In a machine that the guest has booted in, with the steps within it.
    Boot(&'a boot::Boot),
    /// To a machine that runs: only within a step that boots one.
    OnMachine(&'a dyn OnMachine),
}

/// A step that is done to a machine that runs.
pub trait OnMachine {
    /// Whether it asks the guest itself, and so needs an agent in it. What is done by screen, keyboard and pointer does not.
    fn asks_the_guest(&self) -> bool {
        true
    }

    /// Does it.
    fn run(&self, machine: &mut dyn Running, context: &StepContext<'_>) -> Result<()>;
}

/// A step that works in a guest.
pub trait InGuest {
    /// Does it. Uses only bytes from the host whose digest is that in `key`; anything else is an error. A program of
    /// the guest that fails is an error made with [`run_checked`].
    fn run(&self, key: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()>;
}

/// A step that works on the disk itself, with a program of the host.
pub trait OnDisk {
    /// Does it on the qcow2 overlay at `disk`, whose header names its backing file.
    fn run_on_disk(&self, key: &StepKey, disk: &Path, context: &StepContext<'_>) -> Result<()>;
}

/// What a step may use besides the guest.
pub struct StepContext<'a> {
    /// The log of the step.
    pub output: Output,
    /// Asked regularly.
    pub cancel: &'a Cancel,
    /// A private folder on the host.
    pub scratch: &'a Path,
    /// Fetches a URL whose bytes have to have this checksum; the file is open at its start, and gone when it is closed.
    pub fetch: &'a dyn Fn(&str, &Checksum) -> Result<File>,
    /// Tells a person something that does not end the build, with the step's place before it. What the guest says is escaped.
    pub warn: &'a dyn Fn(&str),
    /// Whether no step follows in the template that it is run for.
    pub last: bool,
    /// Names of the caches that its commands use (`mounts`).
    pub caches: &'a [String],
}

/// What enters the key of a step besides its kind and its parent.
#[derive(Debug, Clone, PartialEq)]
pub struct StepKey {
    /// Arguments after rendering.
    pub arguments: serde_json::Value,
    /// Bytes from the host.
    pub inputs: Vec<HostInput>,
}

impl StepKey {
    /// Adds the keys of steps within the step: what they are, and what each takes from the host.
    pub fn with_steps(mut self, steps: Vec<serde_json::Value>, inputs: Vec<HostInput>) -> StepKey {
        self.arguments["steps"] = serde_json::Value::Array(steps);
        self.inputs.extend(inputs);
        self
    }

    /// Keyed by all that `arguments` holds: an argument that is new enters by being there. Where one must not, or not as it is,
    /// the runner takes its arguments apart, each by name.
    pub fn of(arguments: &impl serde::Serialize) -> Result<StepKey> {
        let arguments = serde_json::to_value(arguments).map_err(|error| {
            Error::new(ErrorKind::Internal, format!("the arguments of a step cannot be keyed: {error}"))
        })?;
        Ok(StepKey { arguments, inputs: Vec::new() })
    }
}

/// Runs a program of the guest that has to succeed; `what` names it in the error.
pub fn run_checked(guest: &mut dyn Guest, run: &Run, what: &str) -> Result<()> {
    match guest.run(run)? {
        Exit::Status(0) => Ok(()),
        Exit::Status(status) => Err(Error::new(ErrorKind::Step, format!("{what} ended with exit status {status}"))),
        Exit::Signal(signal) => Err(Error::new(ErrorKind::Step, format!("{what} was killed by signal {signal}"))),
    }
}

/// The first line of a text that says something, shortened, without control characters.
pub(crate) fn first_line(text: &str) -> String {
    const LONGEST: usize = 60;
    let says = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let mut lines = text.lines().map(str::trim).filter(says);
    let first = lines.next().unwrap_or_default();
    let more = lines.next().is_some() || first.chars().count() > LONGEST;
    let shown: String = first.chars().take(LONGEST).filter(|character| !character.is_control()).collect();
    if more { format!("{shown} …") } else { shown }
}
