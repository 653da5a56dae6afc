//! Arguments of the verbs that look after the store: names of layers, and collecting.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use virt_maker::host::units;
use virt_maker::store::{Depth, Limits};

use super::StoreArgument;

#[derive(Debug, Args)]
pub struct Tag {
    /// The layer: a tag, the beginning of a key, or TEMPLATE[:STEP]. Without it, all tags are listed.
    #[arg(requires = "name")]
    pub layer: Option<String>,
    /// The name that it gets.
    pub name: Option<String>,
    /// Take this name away.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["layer", "name"])]
    pub remove: Option<String>,
    #[command(flatten)]
    pub store: StoreArgument,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Cache {
    #[command(subcommand)]
    pub command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List layers: size, age, last use, and what keeps each.
    Ls {
        #[command(flatten)]
        store: StoreArgument,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Say what takes the space: what is shared, and what each template holds alone.
    Usage {
        /// Sizes in KiB, MiB, GiB instead of bytes.
        #[arg(short = 'H', long = "human-readable")]
        human: bool,
        #[command(flatten)]
        store: StoreArgument,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Remove what can never be used again, and with limits what was not used for the longest time.
    Gc {
        #[command(flatten)]
        limits: LimitArguments,
        /// Only say what would go, and why.
        #[arg(short = 'n', long)]
        dry_run: bool,
        #[command(flatten)]
        store: StoreArgument,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Read every layer: its digest, its chain, and, as root, its file systems.
    Verify {
        /// Remove what is bad, and all that lies on it.
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        store: StoreArgument,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Give layers whose chain of images is too long an image right on their base; keys and contents stay.
    Flatten {
        /// Only these layers, however deep they lie: tags, beginnings of keys, or TEMPLATE[:STEP].
        #[arg(conflicts_with = "max_depth")]
        layers: Vec<String>,
        #[command(flatten)]
        depth: DepthArgument,
        #[command(flatten)]
        store: StoreArgument,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Make a store yours that an older version made, or that was copied: files and headers are checked, layers are believed.
    Adopt {
        /// The store. It has to be said here: what a project's file names may be somebody else's.
        #[arg(long, value_name = "DIR")]
        store: PathBuf,
    },
    /// Remove all layers that are not in use, pinned or tagged, and all that was fetched.
    Clean {
        #[command(flatten)]
        store: StoreArgument,
    },
    /// Keep layers, and all below them, from being collected.
    Pin {
        /// Layers: tags, beginnings of keys, or TEMPLATE[:STEP].
        #[arg(required = true)]
        layers: Vec<String>,
        #[command(flatten)]
        store: StoreArgument,
    },
    /// End a pin.
    Unpin {
        /// Layers: tags, beginnings of keys, or TEMPLATE[:STEP].
        #[arg(required = true)]
        layers: Vec<String>,
        #[command(flatten)]
        store: StoreArgument,
    },
}

/// Limits of the store.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct LimitArguments {
    /// All layers together take at most this, such as 20G; after a build, what was not used for the longest time goes.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// How much stays free on the disk that holds the store.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub min_free: Option<u64>,
    /// Layers that were not used for longer go: 90m, 12h, 30d, 8w.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub max_age: Option<Duration>,
}

impl LimitArguments {
    pub fn limits(&self) -> Limits {
        Limits { max_size: self.max_size, min_free: self.min_free, max_age: self.max_age }
    }
}

/// How deep chains of images may get.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct DepthArgument {
    /// How many images a chain may have before a layer gets one that lies right on the base [default: what the settings say, or 64].
    #[arg(long, value_name = "N", value_parser = depth)]
    pub max_depth: Option<usize>,
}

/// Reads a limit of the depth.
pub fn depth(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(depth) if (Depth::LEAST..=Depth::MOST).contains(&depth) => Ok(depth),
        _ => Err(format!("expected a number of images, {} to {}", Depth::LEAST, Depth::MOST)),
    }
}

/// Reads a size: bytes, or with K, M, G or T in steps of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    units::size(text).ok_or_else(|| "expected a size such as 500M or 20G".to_owned())
}

/// Reads a time: seconds, or with s, m, h, d or w.
pub fn time(text: &str) -> Result<Duration, String> {
    units::time(text).ok_or_else(|| "expected a time such as 12h or 30d".to_owned())
}
