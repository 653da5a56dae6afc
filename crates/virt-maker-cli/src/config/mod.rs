//! Settings: from the command line, the environment, the project's file, the user's file; the first that says something
//! wins, and it is known which one did.
//!
//! A project's file comes with whatever somebody downloads, so it is not obeyed in what could harm the user who runs a
//! build in it: what templates may do, programs and file systems that this host's own kernel gets to see, stores
//! elsewhere. What it says of these holds only where the user trusts its folder; else it is told and left out.
//! `docs/settings.md` has the rules.

mod read;

use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use clap::ValueEnum;
use virt_maker::diagnostic::{Diagnostic, Position};
use virt_maker::host::permit::Permission;
use virt_maker::store::Depth;

use crate::arguments::Engine;
use crate::diagnostic::print_warning;
use crate::environment;
use crate::error::Failure;
use read::{File, Located};

/// The name of a project's file.
pub const PROJECT: &str = "virt-maker.toml";

/// Where a value comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// The command line.
    Argument,
    /// A variable of the environment.
    Variable(&'static str),
    /// The project's file.
    Project(Position),
    /// The user's file.
    User(Position),
    /// Nobody said anything.
    Default,
}

/// A value and who said it.
#[derive(Debug, Clone)]
pub struct Value<T> {
    pub value: T,
    pub origin: Origin,
}

/// For how much and how long the store keeps layers; `None` is no limit.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes that the store may have.
    pub max_size: Value<Option<u64>>,
    /// Bytes that should stay free on its file system.
    pub min_free: Value<Option<u64>>,
    /// How long a layer that nobody uses is kept.
    pub max_age: Value<Option<Duration>>,
    /// Images that a chain may have before a layer is flattened.
    pub max_depth: Value<usize>,
}

/// Both files, as far as they are obeyed.
pub struct Files {
    pub user_path: Option<PathBuf>,
    pub project_path: Option<PathBuf>,
    /// The user trusts the project's folder.
    pub trusted: bool,
    /// What the project's file says and what does not hold.
    pub refused: Vec<Diagnostic>,
    user: File,
    project: File,
}

/// Reads both files, once; what is refused is told then.
pub fn files() -> Result<&'static Files, Failure> {
    static FILES: OnceLock<Files> = OnceLock::new();
    if let Some(files) = FILES.get() {
        return Ok(files);
    }
    let files = Files::load(environment::config_file(), environment::working_dir())?;
    files.refused.iter().for_each(print_warning);
    Ok(FILES.get_or_init(|| files))
}

impl Files {
    fn load(user_path: Option<PathBuf>, working_dir: Option<PathBuf>) -> Result<Files, Failure> {
        let user = user_path.as_deref().map(|path| read::read(path, true)).transpose()?.unwrap_or_default();
        let project_path = working_dir.and_then(|folder| {
            // The nearest one counts, and no other.
            folder.ancestors().map(|folder| folder.join(PROJECT)).find(|path| path.symlink_metadata().is_ok())
        });
        let project = project_path.as_deref().map(|path| read::read(path, false)).transpose()?.unwrap_or_default();
        let mut files = Files { user_path, project_path, trusted: false, refused: Vec::new(), user, project };
        if let Some(folder) = files.project_path.clone().as_deref().and_then(Path::parent) {
            files.trusted = files.user.trust.iter().any(|trusted| within(folder, &trusted.value));
            if !files.trusted {
                files.refuse(folder);
            }
        }
        Ok(files)
    }

    /// Takes out of the project's file what it may not decide.
    fn refuse(&mut self, folder: &Path) {
        let project = &mut self.project;
        let mut refused = Vec::new();
        let mut refuse = |node: &virt_maker::template::Node, what: String| {
            let mut problem = node.diagnostic(format!("a project cannot decide this by itself: {what}"));
            problem.hint = Some(format!(
                "say it on the command line, or trust the folder in your own settings: trust = [\"{}\"]",
                folder.display()
            ));
            refused.push(problem);
        };
        for asked in std::mem::take(&mut project.allow) {
            // Templates of a project may read what came with the project; whoever wrote the one wrote the other.
            if matches!(&asked.value, Permission::Read(read) if within(read, folder)) {
                project.allow.push(asked);
            } else if self.user.allow.iter().all(|allowed| allowed.value != asked.value) {
                refuse(&asked.node, format!("what templates may do ({})", asked.value));
            }
        }
        if let Some(kernel) = project.kernel.take() {
            refuse(&kernel.node, "the kernel of the appliance".into());
        }
        if let Some(file) = project.certificates.take() {
            refuse(&file.node, "whom downloads believe".into());
        }
        if let Some(engine) = project.engine.take_if(|engine| matches!(engine.value, Engine::Chroot)) {
            refuse(&engine.node, "that this host's kernel mounts what is in a guest (engine chroot)".into());
        }
        if let Some(store) = project.store.take_if(|store| !within(&store.value, folder)) {
            refuse(&store.node, "a store outside of its own folder".into());
        }
        if project.store.is_none() {
            let limits = [
                project.max_size.take().map(|limit| limit.node),
                project.min_free.take().map(|limit| limit.node),
                project.max_age.take().map(|limit| limit.node),
                project.max_depth.take().map(|limit| limit.node),
            ];
            for node in limits.iter().flatten() {
                refuse(node, "what a store that is not its own drops or takes".into());
            }
        }
        self.refused = refused;
    }
}

/// Whether a path, links followed as far as it is there, is a folder or lies in it.
fn within(path: &Path, folder: &Path) -> bool {
    let existing = path.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    let Some((part, real)) = existing else { return false };
    let rest = path.strip_prefix(part).unwrap_or(Path::new(""));
    let climbs = rest.components().any(|part| part == Component::ParentDir);
    !climbs && folder.canonicalize().is_ok_and(|folder| real.starts_with(folder))
}

/// The first of a project's and a user's value.
fn of_files<T: Clone>(project: Option<&Located<T>>, user: Option<&Located<T>>) -> Option<Value<T>> {
    let project = project.map(|found| Value { value: found.value.clone(), origin: Origin::Project(found.position()) });
    project.or_else(|| user.map(|found| Value { value: found.value.clone(), origin: Origin::User(found.position()) }))
}

fn or_default<T>(found: Option<Value<T>>) -> Value<Option<T>> {
    match found {
        Some(Value { value, origin }) => Value { value: Some(value), origin },
        None => Value { value: None, origin: Origin::Default },
    }
}

fn argument<T>(value: Option<T>) -> Option<Value<T>> {
    value.map(|value| Value { value, origin: Origin::Argument })
}

/// Where layers are kept.
pub fn store(given: Option<PathBuf>) -> Result<Value<PathBuf>, Failure> {
    let variable = || {
        environment::path("VIRT_MAKER_STORE").map(|value| Value { value, origin: Origin::Variable("VIRT_MAKER_STORE") })
    };
    let files = files()?;
    let found =
        argument(given).or_else(variable).or_else(|| of_files(files.project.store.as_ref(), files.user.store.as_ref()));
    match found {
        Some(found) => Ok(found),
        None => Ok(Value { value: environment::cache_dir()?.join("store"), origin: Origin::Default }),
    }
}

/// How steps are run.
pub fn engine(given: Option<Engine>) -> Result<Value<Engine>, Failure> {
    const NAME: &str = "VIRT_MAKER_ENGINE";
    let variable = environment::variable(NAME).map(|text| -> Result<Value<Engine>, Failure> {
        let value = Engine::from_str(&text, false).map_err(|_| {
            Failure::Usage(format!(
                "{NAME}: there is no engine `{}`: auto, chroot, vm, libguestfs",
                text.escape_debug()
            ))
        })?;
        Ok(Value { value, origin: Origin::Variable(NAME) })
    });
    let files = files()?;
    let found = match argument(given) {
        Some(given) => Some(given),
        None => variable.transpose()?,
    };
    let found = found.or_else(|| of_files(files.project.engine.as_ref(), files.user.engine.as_ref()));
    Ok(found.unwrap_or(Value { value: Engine::Auto, origin: Origin::Default }))
}

/// How many images are worked on at once; `None` leaves it to the build.
pub fn jobs(given: Option<NonZeroUsize>) -> Result<Value<Option<NonZeroUsize>>, Failure> {
    const NAME: &str = "VIRT_MAKER_JOBS";
    let variable = environment::variable(NAME).map(|text| match text.parse() {
        Ok(value) => Ok(Value { value, origin: Origin::Variable(NAME) }),
        Err(_) => Err(Failure::Usage(format!("{NAME}: `{}` is no number, at least 1", text.escape_debug()))),
    });
    let files = files()?;
    let found = match argument(given) {
        Some(given) => Some(given),
        None => variable.transpose()?,
    };
    Ok(or_default(found.or_else(|| of_files(files.project.jobs.as_ref(), files.user.jobs.as_ref()))))
}

/// A kernel for the appliance; `None` is one of the host's.
pub fn kernel(given: Option<PathBuf>) -> Result<Value<Option<PathBuf>>, Failure> {
    let variable = || {
        environment::path("VIRT_MAKER_KERNEL")
            .map(|value| Value { value, origin: Origin::Variable("VIRT_MAKER_KERNEL") })
    };
    let files = files()?;
    let found = argument(given)
        .or_else(variable)
        .or_else(|| of_files(files.project.kernel.as_ref(), files.user.kernel.as_ref()));
    Ok(or_default(found))
}

/// A file of certificates that downloads believe besides the host's.
pub fn certificates() -> Result<Value<Option<PathBuf>>, Failure> {
    let files = files()?;
    Ok(or_default(of_files(files.project.certificates.as_ref(), files.user.certificates.as_ref())))
}

/// What templates may do without being asked on the command line: all that a file which is obeyed says.
pub fn allowed() -> Result<Vec<Value<Permission>>, Failure> {
    let files = files()?;
    let project = files.project.allow.iter().map(|found| (found, Origin::Project(found.position())));
    let user = files.user.allow.iter().map(|found| (found, Origin::User(found.position())));
    Ok(project.chain(user).map(|(found, origin)| Value { value: found.value.clone(), origin }).collect())
}

/// The limits of a store, which a build keeps by itself and `cache gc` by default. Those of a project that is not trusted
/// hold for its own store only.
pub fn limits(store: &Value<PathBuf>) -> Result<Limits, Failure> {
    let Files { project, user, trusted, .. } = files()?;
    let (none, own) = (File::default(), matches!(store.origin, Origin::Project(_)));
    let project = if *trusted || own { project } else { &none };
    Ok(Limits {
        max_size: or_default(of_files(project.max_size.as_ref(), user.max_size.as_ref())),
        min_free: or_default(of_files(project.min_free.as_ref(), user.min_free.as_ref())),
        max_age: or_default(of_files(project.max_age.as_ref(), user.max_age.as_ref())),
        max_depth: of_files(project.max_depth.as_ref(), user.max_depth.as_ref())
            .unwrap_or(Value { value: Depth::DEFAULT, origin: Origin::Default }),
    })
}
