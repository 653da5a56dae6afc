//! What can be said on the command line.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use virt_maker::build::OnFailure;
use virt_maker::engine::select::EngineChoice;

/// Builds virtual machine images in layers, so that no step is done twice.
#[derive(Debug, Parser)]
#[command(name = "virt-maker", version, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build images from templates.
    Build(Build),
    /// Show what a build would do: the tree of layers, which are there, and why the others are not.
    Plan(Plan),
    /// Show the forking tree of layers in the store.
    Tree(Tree),
    /// Say what this host can do, and which engine `auto` takes.
    Doctor(Doctor),
}

#[derive(Debug, Args)]
pub struct Templates {
    /// Templates, built in this order.
    #[arg(value_name = "TEMPLATE", required_unless_present = "file")]
    templates: Vec<PathBuf>,
    /// Another way to name templates.
    #[arg(short, long, value_name = "TEMPLATE", num_args = 1..)]
    file: Vec<PathBuf>,
    /// Set a parameter; a VALUE that is JSON is taken as such.
    #[arg(short, long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    param: Vec<(String, String)>,
}

impl Templates {
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.file.iter().chain(&self.templates)
    }

    pub fn parameters(&self) -> &[(String, String)] {
        &self.param
    }
}

fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

#[derive(Debug, Args)]
pub struct StoreArgument {
    /// Where layers are kept [default: $VIRT_MAKER_STORE, or virt-maker in the user's cache folder].
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Build {
    #[command(flatten)]
    pub templates: Templates,
    #[command(flatten)]
    pub store: StoreArgument,
    /// Run every step again and replace its layer.
    #[arg(short = 'F', long)]
    pub force: bool,
    /// Write every artifact again.
    #[arg(short = 'X', long)]
    pub force_export: bool,
    /// How steps are run in the guest.
    #[arg(long, value_enum, default_value_t)]
    pub engine: Engine,
    /// What is shown while it builds.
    #[arg(long, value_enum, default_value_t)]
    pub progress: Progress,
    /// What becomes of a guest whose step failed.
    #[arg(long, value_enum, default_value_t)]
    pub on_failure: Failed,
    /// Allow templates something that they may not do by themselves.
    #[arg(long, value_enum, value_name = "PERMISSION")]
    pub allow: Vec<Permission>,
    /// Say more: output of steps, and with -vv what engines do [also: $VERBOSE].
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    pub templates: Templates,
    #[command(flatten)]
    pub store: StoreArgument,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Tree {
    #[command(flatten)]
    pub store: StoreArgument,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// What a template may do only with its user's consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Permission {
    /// Run scripts of the template on this host: `local_run`, `pre_script`, `post_script`.
    HostExec,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Engine {
    /// The best that this host and this guest allow.
    #[default]
    Auto,
    /// The guest's file systems mounted on this host; needs root.
    Chroot,
    /// In the appliance of libguestfs.
    Libguestfs,
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> EngineChoice {
        match engine {
            Engine::Auto => EngineChoice::Auto,
            Engine::Chroot => EngineChoice::Chroot,
            Engine::Libguestfs => EngineChoice::Libguestfs,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// `tty` on a terminal, else `plain`.
    #[default]
    Auto,
    /// Live lines.
    Tty,
    /// A line for each thing that happens.
    Plain,
    /// One JSON object a line, on standard output.
    Json,
    /// Nothing but errors.
    Quiet,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Failed {
    /// Throw it away.
    #[default]
    Discard,
    /// Keep its overlay, and say where.
    Keep,
    /// Open a shell in it, then throw it away.
    Shell,
}

impl From<Failed> for OnFailure {
    fn from(failed: Failed) -> OnFailure {
        match failed {
            Failed::Discard => OnFailure::Discard,
            Failed::Keep => OnFailure::Keep,
            Failed::Shell => OnFailure::Shell,
        }
    }
}
