//! Arguments of the verbs that look into layers.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Engine, KernelArgument, StoreArgument};

/// How layers are opened.
#[derive(Debug, Args)]
pub struct Opening {
    #[command(flatten)]
    pub store: StoreArgument,
    /// How the guest is opened.
    #[arg(long, value_enum, default_value_t)]
    pub engine: Engine,
    #[command(flatten)]
    pub kernel: KernelArgument,
}

#[derive(Debug, Args)]
pub struct Log {
    /// The layer: a tag, the beginning of a key, or TEMPLATE[:STEP].
    pub layer: String,
    #[command(flatten)]
    pub store: StoreArgument,
}

#[derive(Debug, Args)]
pub struct Ls {
    /// The layer: a tag, the beginning of a key, or TEMPLATE[:STEP].
    pub layer: String,
    /// Absolute path in the guest.
    #[arg(default_value = "/")]
    pub path: String,
    #[command(flatten)]
    pub opening: Opening,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Cat {
    /// The layer: a tag, the beginning of a key, or TEMPLATE[:STEP].
    pub layer: String,
    /// Absolute path of a file in the guest.
    pub path: String,
    #[command(flatten)]
    pub opening: Opening,
}

#[derive(Debug, Args)]
pub struct Cp {
    /// What to copy out of the guest: a file, or a folder with all in it.
    #[arg(value_name = "LAYER:PATH")]
    pub source: String,
    /// Where to: a new name, or a folder that it is put into. Nothing is replaced.
    pub dest: PathBuf,
    #[command(flatten)]
    pub opening: Opening,
}

#[derive(Debug, Args)]
pub struct Diff {
    /// The layer before.
    pub one: String,
    /// The layer after.
    pub two: String,
    /// Show what changed in texts, line by line.
    #[arg(long)]
    pub content: bool,
    #[command(flatten)]
    pub opening: Opening,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Shell {
    /// The layer: a tag, the beginning of a key, or TEMPLATE[:STEP].
    pub layer: String,
    /// Make what was changed a layer of its own, with this name.
    #[arg(long, value_name = "NAME")]
    pub keep_as: Option<String>,
    /// Boot the guest, and open the shell in the running system.
    #[arg(long)]
    pub booted: bool,
    #[command(flatten)]
    pub opening: Opening,
}

#[derive(Debug, Args)]
pub struct Run {
    /// What to boot: a layer (a tag, the beginning of a key, TEMPLATE[:STEP], or a guest that was kept), or a disk image.
    #[arg(value_name = "LAYER|IMAGE")]
    pub what: String,
    /// Lead a port of this host's loopback device to one of the guest, as HOST:GUEST; several times.
    #[arg(short, long, value_name = "HOST:GUEST", value_parser = ports)]
    pub publish: Vec<(u16, u16)>,
    /// Memory of the machine.
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory)]
    pub memory: u32,
    /// How many CPUs it has [default: two, or one where the host has no more].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: Option<u32>,
    /// Give it no network but the ports that are published.
    #[arg(long)]
    pub no_network: bool,
    /// Show its screen, and take keys, by VNC at this socket; nothing may be there yet.
    #[arg(long, value_name = "SOCKET")]
    pub display: Option<PathBuf>,
    /// What boots it; `auto` is a BIOS where the disk boots under one, else UEFI.
    #[arg(long, value_enum, default_value = "auto")]
    pub firmware: Firmware,
    /// Give it a TPM 2.0, a new one.
    #[arg(long)]
    pub tpm: bool,
    /// Give its cloud-init this file as user data, by a CD (NoCloud).
    #[arg(long, value_name = "FILE")]
    pub seed: Option<PathBuf>,
    /// Make what was done in it a layer of its own, with this name; it is shut down then.
    #[arg(long, value_name = "NAME")]
    pub keep_as: Option<String>,
    /// The format of an image, where its bytes do not say it.
    #[arg(long, value_enum)]
    pub format: Option<super::DiskFormat>,
    #[command(flatten)]
    pub opening: Opening,
}

/// What boots a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    Auto,
    Bios,
    Uefi,
    SecureBoot,
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let pair = text.split_once(':').and_then(|(host, guest)| Some((host.parse().ok()?, guest.parse().ok()?)));
    match pair {
        Some((host @ 1.., guest @ 1..)) => Ok((host, guest)),
        _ => Err("expected two ports, such as 8080:80".into()),
    }
}

/// In MiB.
fn memory(text: &str) -> Result<u32, String> {
    match virt_maker::host::units::size(text).map(|bytes| bytes >> 20) {
        Some(mib @ 64..=0x10_0000) => Ok(mib as u32),
        _ => Err("expected a size from 64M on, such as 2G".into()),
    }
}

#[derive(Debug, Args)]
pub struct Mount {
    /// The layer: a tag, the beginning of a key, or TEMPLATE[:STEP].
    pub layer: String,
    /// The folder where its files are to be seen, until Ctrl-C or `umount`.
    pub dir: PathBuf,
    #[command(flatten)]
    pub opening: Opening,
}

#[derive(Debug, Args)]
pub struct Unmount {
    /// The folder.
    pub dir: PathBuf,
}
