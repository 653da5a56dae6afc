//! What the host's `virt-customize` puts into a Windows guest. It works on the disk itself, so no session has it open.

use std::path::Path;

use serde_json::json;

use super::super::{Action, OnDisk, Step, StepContext, StepKey};
use super::host_file;
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Tool;
use crate::host::guestfs_settings;
use crate::host::permit::HostPath;
use crate::template::{Node, from_node};

/// The version of virt-customize that can.
const SINCE: (u32, u32) = (1, 50);

/// Where the drivers come from.
enum Method {
    /// The database of libosinfo says.
    Osinfo,
    /// An ISO of the host.
    Iso(HostPath),
}

pub(in crate::step) struct Inject {
    /// The name of the step, and of the option.
    step: &'static str,
    option: &'static str,
    method: Method,
}

impl Inject {
    pub(in crate::step) fn parse(
        node: &Node,
        step: &'static str,
        option: &'static str,
    ) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
        let text: String = from_node(node)?;
        let method = match text.as_str() {
            "osinfo" => Method::Osinfo,
            _ => {
                let path = node.host_path(&text).map_err(|problem| vec![problem])?;
                if !path.is_file() {
                    let message = format!("{} is not a file of the host", path.display());
                    let mut problem = node.diagnostic(message);
                    problem.hint = Some("expected the path of an ISO, or `osinfo`".into());
                    return Err(vec![problem]);
                }
                Method::Iso(path)
            }
        };
        Ok(Box::new(Inject { step, option, method }))
    }
}

impl Step for Inject {
    fn summary(&self) -> String {
        match &self.method {
            Method::Osinfo => "osinfo".to_owned(),
            Method::Iso(path) => path.name(),
        }
    }

    fn key_inputs(&self) -> Result<StepKey> {
        // The step is the kind, and says the option.
        let Inject { step: _, option: _, method } = self;
        let (osinfo, inputs) = match method {
            Method::Osinfo => (true, Vec::new()),
            Method::Iso(path) => (false, vec![host_file::input(path, "iso", 0)?]),
        };
        Ok(StepKey { arguments: json!({ "osinfo": osinfo }), inputs })
    }

    fn action(&self) -> Action<'_> {
        Action::OnDisk(self)
    }
}

impl OnDisk for Inject {
    fn run_on_disk(&self, key: &StepKey, disk: &Path, context: &StepContext<'_>) -> Result<()> {
        self.check_version(context)?;
        for settings in guestfs_settings() {
            let mut tool = Tool::new("virt-customize", "guestfs-tools")
                .env("LIBGUESTFS_BACKEND", "direct")
                .env("LIBGUESTFS_BACKEND_SETTINGS", *settings)
                .args(["--format", "qcow2", "-a"])
                .arg(disk)
                .arg(self.option);
            tool = match &self.method {
                Method::Osinfo => tool.arg("osinfo"),
                Method::Iso(path) => tool.arg(path.real()),
            };
            let output = context.output.clone();
            match tool.each_error_line(move |line| output(line.as_bytes())).run(context.cancel) {
                Ok(said) => {
                    (context.output)(&said);
                    break;
                }
                // There are hosts whose KVM starts nothing; only an error without it counts.
                Err(error) if settings.is_empty() && error.kind() == ErrorKind::Host && error.hint().is_none() => {}
                Err(error) if error.kind() == ErrorKind::Host && error.hint().is_none() => {
                    return Err(Error::new(ErrorKind::Step, "virt-customize failed").with_source(error));
                }
                Err(error) => return Err(error),
            }
        }
        match &self.method {
            Method::Iso(path) if host_file::input(path, "iso", 0)? != key.inputs[0] => Err(host_file::changed(path)),
            _ => Ok(()),
        }
    }
}

impl Inject {
    /// Older ones do not know the option.
    fn check_version(&self, context: &StepContext<'_>) -> Result<()> {
        let said = Tool::new("virt-customize", "guestfs-tools").arg("--version").run(context.cancel)?;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        let version = said.split_whitespace().last().unwrap_or_default();
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= SINCE {
            return Ok(());
        }
        let (major, minor) = SINCE;
        let message = format!(
            "`{}` needs virt-customize {major}.{minor} or newer, and this host has {}",
            self.step,
            version.escape_debug()
        );
        Err(Error::new(ErrorKind::Host, message)
            .with_hint("a newer release of the distribution has it, in the package `guestfs-tools`"))
    }
}
