//! `virt-maker update`: looks again at the sources in a lock file, and writes down what they have now.
//!
//! A lock file holds no parameters of URLs. A source with some can be looked at only by its template; that is said when all
//! others are done.

use std::path::{Path, PathBuf};

use virt_maker::error::{Error, ErrorKind};
use virt_maker::event::Events;
use virt_maker::host::{Cancel, url};
use virt_maker::import::{ImportContext, look_again};

use super::loading;
use crate::arguments;
use crate::environment;
use crate::error::Failure;
use crate::lock::{self, Lock};
use crate::settings;
use crate::signals;
use crate::text::harmless;

pub fn run(arguments: &arguments::Update) -> Result<(), Failure> {
    let path = arguments.lock_file.clone().unwrap_or_else(|| PathBuf::from(lock::NAME));
    if !Path::new(&path).exists() {
        let error = Error::new(ErrorKind::Template, format!("there is no {}", path.display()));
        return Err(error.with_hint("`virt-maker build --lock` writes one beside the template").into());
    }
    let mut lock = Lock::read(&path)?;
    let wanted = |source: &String| arguments.name.as_ref().is_none_or(|name| source.contains(name.as_str()));
    let sources: Vec<String> = lock.sources().filter(|source| wanted(source)).cloned().collect();
    if let (Some(name), []) = (&arguments.name, &sources[..]) {
        return Err(Failure::Usage(format!("no source in {} has `{}` in it", path.display(), harmless(name))));
    }
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let store = settings::open_store(arguments.store.store.clone())?.waiting(crate::report::waits(&cancel));
    let (cache_dir, env, certificates) = (store.cache_dir(), environment::proxies(), settings::certificates()?);
    let events = Events::new(crate::report::warnings_only);
    let host_network = loading::host_network(&arguments.allow)?;
    let context = ImportContext {
        cache_dir: &cache_dir,
        events: &events,
        cancel: &cancel,
        env: &env,
        certificates: &certificates,
        host_network,
    };
    let (short, sources): (Vec<_>, Vec<_>) = sources.into_iter().partition(|source| url::is_short(source));
    for source in sources {
        let now = lock::shown(look_again(&source, &context)?);
        let name = harmless(&url::name(&source));
        match lock.put(&source, now.clone()) {
            Some(old) if old == now => println!("{name}: as it was"),
            Some(old) => println!("{name}: {old} is now {now}"),
            None => println!("{name}: {now}"),
        }
        // What was learned so far is kept if a later one fails.
        lock.write(&path)?;
    }
    if let [first, more @ ..] = &short[..] {
        let more = if more.is_empty() { String::new() } else { format!(", and {} more,", more.len()) };
        let message =
            format!("{first}{more}: lock files do not hold parameters of URLs, so the template has to say them");
        let hint = "`virt-maker build --pull --lock` looks again";
        return Err(Error::new(ErrorKind::Base, message).with_hint(hint).into());
    }
    Ok(())
}
