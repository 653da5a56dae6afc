//! Settings as commands take them: what the command line, the environment and the files of settings say together.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use virt_maker::engine::select::EngineChoice;
use virt_maker::host::{Cancel, Certificates};
use virt_maker::store::{Limits, Owner, Store};

use crate::arguments::Engine;
use crate::arguments::store::LimitArguments;
use crate::config;
use crate::environment::{self, cache_dir, home, path};
use crate::error::Failure;

/// Where layers are kept.
pub fn store(argument: Option<PathBuf>) -> Result<PathBuf, Failure> {
    Ok(config::store(argument)?.value)
}

/// The store that `argument` means, open. It is one of this user, or an error.
pub fn open_store(argument: Option<PathBuf>) -> Result<Store, Failure> {
    Ok(Store::open(&store(argument)?, &owner()?)?.waiting(crate::report::waits(&Cancel::default())))
}

/// Who this user is, where stores are opened: the secret by which the user's own ones are known is
/// `virt-maker/secret` in `$XDG_STATE_HOME`, else in `~/.local/state`.
pub fn owner() -> Result<Owner, Failure> {
    let base = path("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let base = base.or_else(|| home().map(|home| home.join(".local/state")));
    match base {
        Some(base) => {
            Ok(Owner::new(base.join("virt-maker/secret"), cache_dir().ok().map(|folder| folder.join("store"))))
        }
        None => Err(Failure::Usage(
            "this user has no home, and neither HOME nor XDG_STATE_HOME is set: there is no place for the secret by \
             which your own stores are known"
                .into(),
        )),
    }
}

/// A kernel for the appliance.
pub fn kernel(argument: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    Ok(config::kernel(argument)?.value)
}

/// How steps are run.
pub fn engine(argument: Option<Engine>) -> Result<EngineChoice, Failure> {
    Ok(config::engine(argument)?.value.into())
}

/// The limits of the store that `store` means.
pub fn limits(given: &LimitArguments, store: Option<PathBuf>) -> Result<Limits, Failure> {
    let (given, said) = (given.limits(), config::limits(&config::store(store)?)?);
    Ok(Limits {
        max_size: given.max_size.or(said.max_size.value),
        min_free: given.min_free.or(said.min_free.value),
        max_age: given.max_age.or(said.max_age.value),
    })
}

/// How many images a chain may have before a layer is flattened, in the store that `store` means.
pub fn max_depth(given: Option<usize>, store: Option<PathBuf>) -> Result<usize, Failure> {
    let said = config::limits(&config::store(store)?)?;
    Ok(given.unwrap_or(said.max_depth.value))
}

/// How many images are worked on at once.
pub fn jobs(argument: Option<NonZeroUsize>) -> Result<Option<NonZeroUsize>, Failure> {
    Ok(config::jobs(argument)?.value)
}

/// Whom downloads believe: what the usual variables name, and what the user's settings do.
pub fn certificates() -> Result<Certificates, Failure> {
    Ok(Certificates { more: config::certificates()?.value, ..environment::certificates() })
}
