//! Arguments of the verbs that look into layers.

use std::path::PathBuf;

use clap::Args;

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
    #[command(flatten)]
    pub opening: Opening,
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
