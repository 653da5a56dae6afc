//! `virt-maker update`: looks again at the sources in a lock file, and writes down what they have now.

use std::path::{Path, PathBuf};

use virt_maker::error::{Error, ErrorKind};
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::import::{ImportContext, look_again};

use super::loading;
use crate::arguments;
use crate::error::Failure;
use crate::lock::{self, Lock};
use crate::settings;
use crate::signals;
use crate::text::harmless;

/// Runs it.
pub fn run(arguments: &arguments::Update) -> Result<(), Failure> {
    let path = arguments.lock_file.clone().unwrap_or_else(|| PathBuf::from(lock::NAME));
    if !Path::new(&path).exists() {
        let error = Error::new(ErrorKind::Template, format!("there is no {}", path.display()));
        return Err(error.with_hint("`virt-maker build --lock` writes one beside the template").into());
    }
    let mut lock = Lock::read(&path)?;
    let wanted = |source: &String| arguments.name.as_ref().is_none_or(|name| source.contains(name.as_str()));
    let sources: Vec<String> = lock.sources.keys().filter(|source| wanted(source)).cloned().collect();
    if let (Some(name), []) = (&arguments.name, &sources[..]) {
        return Err(Failure::Usage(format!("no source in {} has `{}` in it", path.display(), harmless(name))));
    }
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let store = settings::open_store(arguments.store.store.clone())?;
    let (cache_dir, env) = (store.cache_dir(), settings::proxies());
    let events = Events::new(crate::report::warnings_only);
    let host_network = loading::host_network(&arguments.allow)?;
    let context = ImportContext { cache_dir: &cache_dir, events: &events, cancel: &cancel, env: &env, host_network };
    for source in sources {
        let now = lock::shown(look_again(&source, &context)?);
        match lock.sources.insert(source.clone(), now.clone()) {
            Some(old) if old == now => println!("{}: as it was", harmless(&source)),
            Some(old) => println!("{}: {old} is now {now}", harmless(&source)),
            None => println!("{}: {now}", harmless(&source)),
        }
        // What was learned so far is kept if a later one fails.
        lock.write(&path)?;
    }
    Ok(())
}
