//! What can be said on the command line.

pub mod layers;
pub mod store;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use virt_maker::build::OnFailure;
use virt_maker::disk::ImageFormat;
use virt_maker::engine::select::EngineChoice;
use virt_maker::host::permit::Permission;

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
    /// Run the tests of templates, and export nothing: makes what is missing, boots it, looks at it.
    Test(Test),
    /// Show what templates ask for when everything in them is resolved.
    Render(Render),
    /// Check templates: everything that can be checked without a guest, all errors at once.
    Validate(Validate),
    /// Show what a build would do: the tree of layers, which are there, and why the others are not.
    Plan(Plan),
    /// Show the forking tree of layers in the store.
    Tree(Tree),
    /// Show what the step said that made a layer.
    Log(layers::Log),
    /// List files in a layer.
    Ls(layers::Ls),
    /// Show a file in a layer.
    Cat(layers::Cat),
    /// Copy a file or a folder out of a layer.
    Cp(layers::Cp),
    /// Show what differs between two layers: files added (A), changed (C), removed (D).
    Diff(layers::Diff),
    /// Open a shell in a layer; what is changed there is thrown away, or kept as a layer of its own.
    Shell(layers::Shell),
    /// Boot a layer or an image in a machine that is thrown away; its serial console is on this terminal, and Ctrl-] leaves it.
    Run(layers::Run),
    /// Show the files of a layer in a folder, for reading, until Ctrl-C or `umount`.
    Mount(layers::Mount),
    /// Unmounts when the process that serves `mount` is gone; started by it.
    #[command(hide = true)]
    UnmountAfter(layers::Unmount),
    /// Prints what a layer may be called here; for completions.
    #[command(hide = true)]
    Names {
        /// Only steps, as `--force-from` takes them.
        #[arg(long)]
        steps: bool,
    },
    /// Give a layer a name, list names, or take one away.
    Tag(store::Tag),
    /// Look after the store: list, measure, collect, keep.
    Cache(store::Cache),
    /// List what can stand in a template: importers, steps, exporters, with their arguments.
    Runners(Runners),
    /// Print the JSON Schema of templates, for editors.
    Schema,
    /// Write a first template, with comments.
    Init(Init),
    /// Turn an older template, or one of the 2015 format (.vbp), into one of today's that means the same.
    Migrate(Migrate),
    /// Make, show or remove the saved machine of engine vm.
    Appliance(Appliance),
    /// Look into a disk image for what an image for many machines should not carry: identity, keys, traces of use.
    Check(Check),
    /// Look again at the sources in a lock file, and write down what they have now.
    Update(Update),
    /// Show the settings, and where each comes from.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print what a shell needs to complete arguments.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write manual pages into a folder.
    Man {
        /// The folder, which is made where it is missing.
        folder: PathBuf,
    },
    /// Say what this host can do, and which engine `auto` takes.
    Doctor(Doctor),
}

#[derive(Debug, Args)]
pub struct Templates {
    /// Templates.
    #[arg(value_name = "TEMPLATE", required_unless_present = "file")]
    templates: Vec<PathBuf>,
    /// Another way to name templates.
    #[arg(short, long, value_name = "TEMPLATE", num_args = 1..)]
    file: Vec<PathBuf>,
    #[command(flatten)]
    given: Given,
}

/// What the user gives to templates.
#[derive(Debug, Args)]
pub struct Given {
    /// Set a parameter; a VALUE that is JSON is taken as such, so a list is `-p 'packages=["nginx", "curl"]'`.
    #[arg(short, long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    param: Vec<(String, String)>,
    /// Allow what templates may not do by themselves: `read=DIR`, `write=DIR` (files outside the template's folder),
    /// `env=NAME` (a variable, for a secret), `host-exec` (start programs of this host), `net` (downloads by expressions),
    /// `host-network` (reach the host's own addresses), `unverified` (packages that no distribution's key vouches for).
    #[arg(long, value_name = "WHAT", value_parser = Permission::parse)]
    allow: Vec<Permission>,
}

impl Templates {
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.file.iter().chain(&self.templates)
    }

    pub fn given(&self) -> &Given {
        &self.given
    }

    pub fn allowed(&self) -> &[Permission] {
        self.given.allowed()
    }

    pub fn parameters(&self) -> &[(String, String)] {
        self.given.parameters()
    }
}

impl Given {
    pub fn allowed(&self) -> &[Permission] {
        &self.allow
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
    /// Where layers are kept [default: $VIRT_MAKER_STORE, or what the settings say, or virt-maker/store in the user's cache folder].
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct KernelArgument {
    /// Kernel of the appliance of engine vm [default: $VIRT_MAKER_KERNEL, or what the settings say, or the host's newest that can be read].
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Build {
    #[command(flatten)]
    pub templates: Templates,
    #[command(flatten)]
    pub store: StoreArgument,
    /// Give `now()`, `random_word()` and the like the values of the last build of these templates.
    #[arg(long)]
    pub freeze: bool,
    /// Write what URLs without a checksum, and suites, have to virt-maker.lock beside the template.
    #[arg(long, conflicts_with = "locked")]
    pub lock: bool,
    /// Refuse to build where a URL, or the suite of a base to make, has something else than virt-maker.lock says.
    #[arg(long)]
    pub locked: bool,
    /// Look again at what URLs without a checksum, and suites, have.
    #[arg(long)]
    pub pull: bool,
    /// Run every step again and replace its layer.
    #[arg(short = 'F', long)]
    pub force: bool,
    /// Run this step again and all that lie on it: by number (0 is the base), name or kind, or as TEMPLATE:STEP; several times.
    #[arg(long, visible_alias = "refresh", value_name = "STEP", conflicts_with = "force")]
    pub force_from: Vec<String>,
    /// Write every artifact again.
    #[arg(short = 'X', long)]
    pub force_export: bool,
    /// Leave out the tests of the templates, which says which those are.
    #[arg(long)]
    pub no_tests: bool,
    /// How many images are worked on at once [default: $VIRT_MAKER_JOBS, or what the settings say, or the number of CPUs, and of sessions as many as suit the engine].
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Stop everything at the first failure, instead of building the images that do not need what failed.
    #[arg(long)]
    pub fail_fast: bool,
    /// How steps are run in the guest [default: $VIRT_MAKER_ENGINE, or what the settings say, or auto].
    #[arg(long, value_enum)]
    pub engine: Option<Engine>,
    #[command(flatten)]
    pub kernel: KernelArgument,
    #[command(flatten, next_help_heading = "Limits of the store, after the build")]
    pub limits: store::LimitArguments,
    #[command(flatten, next_help_heading = None)]
    pub depth: store::DepthArgument,
    /// What is shown while it builds.
    #[arg(long, value_enum, default_value_t)]
    pub progress: Progress,
    /// Write a page with the timeline of the build: what ran, what was cached, where time went.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// What becomes of a guest whose step failed.
    #[arg(long, value_enum, default_value_t)]
    pub on_failure: Failed,
    /// Say more: output of steps, and with -vv what engines do [also: $VERBOSE].
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Args)]
pub struct Test {
    #[command(flatten)]
    pub build: Build,
    /// Write the verdicts as JUnit XML, for CI.
    #[arg(long, value_name = "FILE.xml")]
    pub junit: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Render {
    #[command(flatten)]
    pub templates: Templates,
    /// Print one JSON document, errors included.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Validate {
    #[command(flatten)]
    pub templates: Templates,
    /// Print one JSON document, errors included.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    pub templates: Templates,
    #[command(flatten)]
    pub store: StoreArgument,
    /// Give `now()`, `random_word()` and the like the values of the last build of these templates.
    #[arg(long)]
    pub freeze: bool,
    /// Plan as if this step ran again, and all that lie on it: what that would cost.
    #[arg(long, visible_alias = "refresh", value_name = "STEP")]
    pub force_from: Vec<String>,
    /// Say of each layer that is missing what changed, with old and new values.
    #[arg(long)]
    pub explain: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Tree {
    #[command(flatten)]
    pub opening: layers::Opening,
    /// Write a page that draws the tree: size, time, age, exports, failures, and of each layer its step and its log.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub html: Option<PathBuf>,
    /// Put on the page what files differ between each layer and its parent; opens them all, which takes a while.
    #[arg(long, requires = "html")]
    pub diffs: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Runners {
    /// Only these.
    #[arg(value_enum)]
    pub role: Option<RunnerRole>,
    /// All about this one.
    pub name: Option<String>,
    /// Also list the steps that this template defines or uses.
    #[arg(short, long, value_name = "TEMPLATE")]
    pub file: Option<PathBuf>,
    /// Show how a step that is made of others is defined.
    #[arg(long, requires = "name")]
    pub source: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    /// Arguments, examples and needs of each.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RunnerRole {
    /// What is done to a guest.
    Steps,
    /// Where bases come from.
    Importers,
    /// What is made of the result.
    Exporters,
}

#[derive(Debug, Args)]
pub struct Init {
    /// The folder for it [default: this one].
    pub folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Migrate {
    /// A template without `format: 2`, or one of the 2015 format.
    pub file: PathBuf,
    /// Change the file, instead of printing what it would be.
    #[arg(long, short)]
    pub write: bool,
    #[command(flatten)]
    pub given: Given,
}

#[derive(Debug, Args)]
pub struct Appliance {
    #[command(subcommand)]
    pub command: ApplianceCommand,
}

#[derive(Debug, Subcommand)]
pub enum ApplianceCommand {
    /// Boot and save it now, where it is missing; a build does so by itself.
    Build {
        #[command(flatten)]
        kernel: KernelArgument,
        /// Make it again although it is there.
        #[arg(short = 'F', long)]
        force: bool,
    },
    /// Show what is saved.
    Info {
        #[command(flatten)]
        kernel: KernelArgument,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Remove all that is saved.
    Clean,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show the value of every setting, and who said it.
    Show {
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
}

/// Shells that can complete arguments.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    /// For `/usr/share/bash-completion/completions/virt-maker`.
    Bash,
    /// For `_virt-maker` in a folder of `$fpath`.
    Zsh,
    /// For `~/.config/fish/completions/virt-maker.fish`.
    Fish,
}

#[derive(Debug, Args)]
pub struct Update {
    /// Only sources with this in their URL.
    pub name: Option<String>,
    /// The lock file [default: virt-maker.lock in this folder].
    #[arg(long, value_name = "FILE")]
    pub lock_file: Option<PathBuf>,
    /// As for `build`; `host-network` is what matters here.
    #[arg(long, value_name = "WHAT", value_parser = Permission::parse)]
    pub allow: Vec<Permission>,
    #[command(flatten)]
    pub store: StoreArgument,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Restore the machine of engine vm and say how long that takes.
    #[arg(long)]
    pub measure: bool,
    #[command(flatten)]
    pub kernel: KernelArgument,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The image: qcow2 or raw, plain or compressed (gzip, bzip2, xz, zstd, lz4). It is only read; a compressed one is
    /// unpacked into the store meanwhile.
    pub image: PathBuf,
    /// Its format, where it should not be told by the first bytes.
    #[arg(long, value_enum)]
    pub format: Option<DiskFormat>,
    /// Its root file system, where there are several: as an fstab names it, `LABEL=system` or `/dev/sda3`.
    #[arg(long, value_name = "DEVICE")]
    pub root: Option<String>,
    /// Of a btrfs, the path of the subvolume that is the root.
    #[arg(long, value_name = "PATH", requires = "root")]
    pub subvolume: Option<String>,
    #[command(flatten)]
    pub store: StoreArgument,
    /// How the guest is opened [default: $VIRT_MAKER_ENGINE, or what the settings say, or auto].
    #[arg(long, value_enum)]
    pub engine: Option<Engine>,
    #[command(flatten)]
    pub kernel: KernelArgument,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Formats of a disk image.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DiskFormat {
    /// With its own header.
    Qcow2,
    /// The bytes of the disk.
    Raw,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Engine {
    /// The best that this host and this guest allow.
    #[default]
    Auto,
    /// The guest's file systems mounted on this host; needs root.
    Chroot,
    /// In a small virtual machine of virt-maker's own; needs no root.
    Vm,
    /// In the appliance of libguestfs.
    Libguestfs,
}

impl From<DiskFormat> for ImageFormat {
    fn from(format: DiskFormat) -> ImageFormat {
        match format {
            DiskFormat::Qcow2 => ImageFormat::Qcow2,
            DiskFormat::Raw => ImageFormat::Raw,
        }
    }
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> EngineChoice {
        match engine {
            Engine::Auto => EngineChoice::Auto,
            Engine::Chroot => EngineChoice::Chroot,
            Engine::Vm => EngineChoice::Vm,
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
