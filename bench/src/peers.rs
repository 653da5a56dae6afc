//! The peers: the same work by the tools that people use today, each as its manual says.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::machine::{MEMORY, Machine, cpus};
use crate::measure::{self, Failure};
use crate::work::Operation;

/// What all peers get.
pub struct Peers<'a> {
    /// The host.
    pub machine: &'a Machine,
    /// The base image, a qcow2.
    pub base: PathBuf,
    /// The private key whose public half is in the base.
    pub key: PathBuf,
    /// A folder of this run's own.
    pub folder: PathBuf,
}

/// How long `virt-customize` took.
pub struct Customized {
    /// For all steps, each with its overlay.
    pub steps: Duration,
    /// With the conversion at the end.
    pub all: Duration,
}

/// On what Packer's machine writes.
#[derive(Clone, Copy, PartialEq)]
pub enum PackerDisk {
    /// A copy of the base, as Packer makes one by itself.
    Copy,
    /// An overlay on it.
    Overlay,
}

impl Peers<'_> {
    /// One overlay and one `virt-customize` for each operation, then `qemu-img convert`.
    pub fn virt_customize(&self, operations: &[Operation]) -> Result<Customized, Failure> {
        let begin = Instant::now();
        let mut top = self.base.clone();
        for (index, operation) in operations.iter().enumerate() {
            top = self.overlay(&top, &format!("customize-{index}.qcow2"))?;
            let mut command = self.guestfs("virt-customize");
            command.args(["--quiet", "--format", "qcow2", "-a"]).arg(&top);
            match operation {
                Operation::Run(script) => command.arg("--run-command").arg(script),
                Operation::Hostname(name) => command.arg("--hostname").arg(name),
                Operation::Copy { dest, content } => command.arg("--write").arg(format!("{dest}:{content}")),
            };
            measure::run(&mut command)?;
        }
        let steps = begin.elapsed();
        let target = self.folder.join("customize.qcow2");
        measure::run(Command::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "qcow2"]).arg(&top).arg(target))?;
        Ok(Customized { steps, all: begin.elapsed() })
    }

    /// Packer with its qemu builder; `None` where it is not installed.
    pub fn packer(&self, operations: &[Operation], salt: &str, disk: PackerDisk) -> Result<Option<Duration>, Failure> {
        let version = Command::new("packer").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !version.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let mut provisioners = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            provisioners.push(match operation {
                Operation::Run(script) => json!({ "type": "shell", "inline": [script] }),
                Operation::Hostname(name) => {
                    json!({ "type": "shell", "inline": [format!("echo {name} > /etc/hostname")] })
                }
                Operation::Copy { dest, content } => {
                    let source = self.folder.join(format!("packer-{index}"));
                    std::fs::write(&source, content).map_err(|error| format!("{}: {error}", source.display()))?;
                    json!({ "type": "file", "source": source, "destination": dest })
                }
            });
        }
        let config = json!({
            "builders": [{
                "type": "qemu",
                "disk_image": true, "iso_url": self.base, "iso_checksum": "none", "format": "qcow2",
                "output_directory": self.folder.join(format!("packer-{salt}")), "vm_name": "packer.qcow2",
                // In its favour: no second pass over the image, no fixed wait for the boot.
                "skip_compaction": true, "boot_wait": "-1s",
                "use_backing_file": disk == PackerDisk::Overlay,
                // It is older than the qemu-img that wants this said.
                "qemu_img_args": if disk == PackerDisk::Overlay { json!({ "create": ["-F", "qcow2"] }) } else { json!({}) },
                "accelerator": self.machine.accelerator(), "headless": true, "memory": MEMORY, "cpus": cpus(),
                "disk_interface": "virtio", "net_device": "virtio-net",
                "communicator": "ssh", "ssh_username": "root", "ssh_private_key_file": self.key,
                "ssh_timeout": "10m", "shutdown_command": "systemctl poweroff",
            }],
            "provisioners": provisioners,
        });
        let file = self.folder.join("packer.json");
        std::fs::write(&file, config.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut command = Command::new("packer");
        command.args(["build", "-color=false"]).arg(&file).env("CHECKPOINT_DISABLE", "1").env("HOME", &self.folder);
        command.env("PACKER_CACHE_DIR", self.folder.join("packer-cache"));
        Ok(Some(measure::run(&mut command)?.wall))
    }

    /// Bare qemu, with the devices of our machines, until the login prompt is on the serial console; on an overlay that is thrown away.
    pub fn login(&self, index: usize) -> Result<Duration, Failure> {
        let overlay = self.overlay(&self.base, &format!("login-{index}.qcow2"))?;
        let (accelerator, cpu) = match self.machine.kvm {
            true => ("kvm", "host"),
            false => ("tcg,thread=multi,tb-size=512", "max"),
        };
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-accel", accelerator]);
        command.args(["-cpu", cpu, "-smp", &cpus().to_string(), "-m", &format!("{MEMORY}M"), "-boot", "strict=on"]);
        for device in ["VGA", "qemu-xhci", "usb-tablet", "virtio-rng-pci", "virtio-scsi-pci"] {
            command.args(["-device", device]);
        }
        command.arg("-drive").arg(format!("if=none,id=disk,format=qcow2,file={}", overlay.display()));
        command.args(["-device", "scsi-hd,drive=disk,bootindex=1", "-netdev", "user,id=net"]);
        command.args(["-device", "virtio-net-pci,netdev=net,romfile=", "-serial", "stdio"]);
        measure::until(&mut command, "login:", Duration::from_secs(600))
    }

    /// How long each of `scripts` takes through `guestfs_sh` in one running appliance, as guestfish's own clock says.
    pub fn guestfs_sh(&self, scripts: &[String]) -> Result<Vec<Duration>, Failure> {
        let overlay = self.overlay(&self.base, "guestfish.qcow2")?;
        let commands = scripts.iter().map(|script| format!("time sh \"{script}\"\n")).collect::<String>();
        let file = self.folder.join("guestfish.commands");
        std::fs::write(&file, commands).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut command = self.guestfs("guestfish");
        command.args(["--format=qcow2", "-i", "-a"]).arg(overlay).arg("--file").arg(file);
        let lines = measure::run(&mut command)?.lines;
        let seconds = |line: &str| line.strip_prefix("elapsed time: ")?.strip_suffix(" seconds")?.parse::<f64>().ok();
        let times: Vec<_> = lines.iter().filter_map(|(_, line)| seconds(line)).map(Duration::from_secs_f64).collect();
        if times.len() == scripts.len() {
            Ok(times)
        } else {
            Err(format!("guestfish gave {} times for {} commands", times.len(), scripts.len()))
        }
    }

    /// `virt-sparsify` of an image into another one.
    pub fn virt_sparsify(&self, from: &Path, to: &Path) -> Result<Duration, Failure> {
        let mut command = self.guestfs("virt-sparsify");
        command.args(["--quiet", "--format", "qcow2", "--convert", "qcow2", "--tmp"]).arg(&self.folder);
        Ok(measure::run(command.arg(from).arg(to))?.wall)
    }

    fn guestfs(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LIBGUESTFS_BACKEND", "direct");
        if !self.machine.kvm {
            command.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
        }
        command
    }

    fn overlay(&self, backing: &Path, name: &str) -> Result<PathBuf, Failure> {
        let overlay = self.folder.join(name);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(backing).arg(&overlay);
        measure::run(&mut command)?;
        Ok(overlay)
    }
}
