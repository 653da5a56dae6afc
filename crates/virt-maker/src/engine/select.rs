//! Which engine: what the user asked for, or what `auto` takes.
//!
//! `auto` prefers the engine that is fastest on this host and falls back, per guest, on one with a wider reach. It
//! looks only when an engine is needed: a build where all is cached asks nobody.

use std::path::PathBuf;

use super::chroot::{self, ChrootEngine};
use super::libguestfs::{self, LibguestfsEngine, LibguestfsOptions};
use super::{Engine, kvm};
use crate::error::{Context, Error, ErrorKind, Result};

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The best that this host and this guest allow.
    #[default]
    Auto,
    /// [`super::chroot`].
    Chroot,
    /// [`super::libguestfs`].
    Libguestfs,
}

/// An engine that may be tried.
pub struct Candidate {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// Why it is taken, in one line.
    pub reason: String,
}

/// Finds engines, once for a build.
pub struct Selector {
    choice: EngineChoice,
    agent: PathBuf,
    cache_dir: PathBuf,
    found: Vec<Candidate>,
}

impl Selector {
    /// A selector that has looked at nothing yet. `agent` is the path of the agent, `cache_dir` a folder for what
    /// engines keep.
    pub fn new(choice: EngineChoice, agent: PathBuf, cache_dir: PathBuf) -> Selector {
        Selector { choice, agent, cache_dir, found: Vec::new() }
    }

    /// The engines to try, the best first; never empty. With `auto`, the next one is tried where one says that it
    /// cannot open a guest. An error says what each engine lacks on this host.
    pub fn candidates(&mut self) -> Result<&[Candidate]> {
        if self.found.is_empty() {
            self.found = self.find()?;
        }
        Ok(&self.found)
    }

    fn find(&self) -> Result<Vec<Candidate>> {
        match self.choice {
            EngineChoice::Chroot => {
                let engine = self.chroot()?;
                Ok(vec![Candidate { engine, reason: "asked for".into() }])
            }
            EngineChoice::Libguestfs => {
                let (engine, reason) = self.libguestfs()?;
                Ok(vec![Candidate { engine, reason: format!("asked for; {reason}") }])
            }
            EngineChoice::Auto => {
                let chroot = self.chroot();
                let libguestfs = self.libguestfs();
                let mut lacks = Vec::new();
                let mut found = Vec::new();
                match chroot {
                    Ok(engine) => {
                        let reason =
                            "running as root, and it needs no virtual machine; the host's kernel reads the guest";
                        found.push(Candidate { engine, reason: reason.into() });
                    }
                    Err(error) => lacks.push(format!("chroot: {}", crate::error::chain(&error))),
                }
                match libguestfs {
                    Ok((engine, reason)) => found.push(Candidate { engine, reason }),
                    Err(error) => lacks.push(format!("libguestfs: {}", crate::error::chain(&error))),
                }
                if found.is_empty() {
                    let message = format!("no engine works on this host ({})", lacks.join("; "));
                    return Err(Error::new(ErrorKind::Host, message)
                        .with_hint("`virt-maker doctor` says what is missing and which package brings it"));
                }
                Ok(found)
            }
        }
    }

    fn chroot(&self) -> Result<Box<dyn Engine>> {
        chroot::check(&self.agent)?;
        Ok(Box::new(ChrootEngine { agent: self.agent.clone() }))
    }

    /// Loading the library costs a moment, starting its appliance seconds, so KVM is tried only on `open`.
    fn libguestfs(&self) -> Result<(Box<dyn Engine>, String)> {
        libguestfs::check()?;
        let engine = Probing { cache_dir: self.cache_dir.clone() };
        Ok((Box::new(engine), "it opens whatever libguestfs can inspect, behind a virtual machine".into()))
    }
}

/// Engine `libguestfs` that tries KVM when it is first opened.
struct Probing {
    cache_dir: PathBuf,
}

impl Engine for Probing {
    fn name(&self) -> &'static str {
        "libguestfs"
    }

    fn open(&self, request: super::OpenRequest<'_>) -> Result<Box<dyn super::Session>> {
        let kvm = kvm::probe(&self.cache_dir, request.work_dir);
        if !kvm.works {
            let message = format!("the appliance is emulated, which is slower: {}", kvm.detail.escape_debug());
            request.events.send(crate::event::Event::Trace { source: "libguestfs", message });
        }
        let appliance = self.cache_dir.join("appliance");
        std::fs::create_dir_all(&appliance)
            .context(ErrorKind::Host, || format!("cannot make {}", appliance.display()))?;
        let options =
            LibguestfsOptions { force_tcg: !kvm.works, cache_dir: Some(appliance), ..LibguestfsOptions::default() };
        LibguestfsEngine::new(options).open(request)
    }
}
