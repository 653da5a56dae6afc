//! Which engine: what the user asked for, or what `auto` takes.
//!
//! `auto` prefers the engine that is fastest on this host and falls back, per guest, on one with a wider reach. It
//! looks only when an engine is needed: a build where all is cached asks nobody.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::chroot::{self, ChrootEngine};
use super::libguestfs::{self, LibguestfsEngine, LibguestfsOptions};
use super::vm::{self, VmEngine, VmOptions};
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
    /// [`super::vm`].
    Vm,
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

/// Finds engines, once for a build. May be asked from any thread.
pub struct Selector {
    choice: EngineChoice,
    agent: PathBuf,
    cache_dir: PathBuf,
    kernel: Option<PathBuf>,
    found: Mutex<Vec<Arc<Candidate>>>,
}

impl Selector {
    /// A selector that has looked at nothing yet. `agent` is the path of the agent, `cache_dir` a folder for what
    /// engines keep, `kernel` one for engine `vm` in place of the host's newest.
    pub fn new(choice: EngineChoice, agent: PathBuf, cache_dir: PathBuf, kernel: Option<PathBuf>) -> Selector {
        Selector { choice, agent, cache_dir, kernel, found: Mutex::default() }
    }

    /// The engines to try, the best first; never empty. With `auto`, the next one is tried where one says that it
    /// cannot open a guest. An error says what each engine lacks on this host.
    pub fn candidates(&self) -> Result<Vec<Arc<Candidate>>> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_empty() {
            *found = self.find()?.into_iter().map(Arc::new).collect();
        }
        Ok(found.clone())
    }

    fn find(&self) -> Result<Vec<Candidate>> {
        match self.choice {
            EngineChoice::Chroot => {
                let engine = self.chroot()?;
                Ok(vec![Candidate { engine, reason: "asked for".into() }])
            }
            EngineChoice::Vm => {
                vm::check(self.kernel.as_deref(), &self.agent)?;
                let kvm = self.kvm()?;
                let reason = format!("asked for; {}", running(&kvm));
                Ok(vec![Candidate { engine: self.vm(&kvm), reason }])
            }
            EngineChoice::Libguestfs => {
                let (engine, reason) = self.libguestfs()?;
                Ok(vec![Candidate { engine, reason: format!("asked for; {reason}") }])
            }
            EngineChoice::Auto => self.auto(),
        }
    }

    /// `vm` first where KVM works. Where the CPU would be emulated, `chroot` is the faster one for who may use it.
    /// What one cannot open, the next may: `libguestfs` has the widest reach and starts last.
    fn auto(&self) -> Result<Vec<Candidate>> {
        let mut lacks = Vec::new();
        let mut lack = |name: &str, error: &Error| lacks.push(format!("{name}: {}", crate::error::chain(error)));
        let mut vm = match vm::check(self.kernel.as_deref(), &self.agent) {
            Ok(()) => Some(self.kvm()?),
            Err(error) => {
                lack("vm", &error);
                None
            }
        };
        let mut found = Vec::new();
        if let Some(kvm) = vm.take_if(|kvm| kvm.works) {
            let reason = format!("{}, so a virtual machine costs little and isolates the guest", running(&kvm));
            found.push(Candidate { engine: self.vm(&kvm), reason });
        }
        match self.chroot() {
            Ok(engine) => {
                let reason = "running as root, and it needs no virtual machine; the host's kernel reads the guest";
                found.push(Candidate { engine, reason: reason.into() });
            }
            Err(error) => lack("chroot", &error),
        }
        if let Some(kvm) = vm {
            let reason = format!("it isolates the guest and needs no root; {}", running(&kvm));
            found.push(Candidate { engine: self.vm(&kvm), reason });
        }
        match self.libguestfs() {
            Ok((engine, reason)) => found.push(Candidate { engine, reason }),
            Err(error) => lack("libguestfs", &error),
        }
        if found.is_empty() {
            let message = format!("no engine works on this host ({})", lacks.join("; "));
            return Err(Error::new(ErrorKind::Host, message)
                .with_hint("`virt-maker doctor` says what is missing and which package brings it"));
        }
        Ok(found)
    }

    fn kvm(&self) -> Result<kvm::Kvm> {
        std::fs::create_dir_all(&self.cache_dir)
            .context(ErrorKind::Host, || format!("cannot make {}", self.cache_dir.display()))?;
        let kvm = kvm::probe(&self.cache_dir, &self.cache_dir);
        let kernel = vm::find_kernel(self.kernel.as_deref()).map(|(image, _)| kvm::kernel_id(&image));
        Ok(kernel.map_or(kvm.clone(), |kernel| kvm.with(&kernel)))
    }

    fn vm(&self, kvm: &kvm::Kvm) -> Box<dyn Engine> {
        Box::new(VmEngine { options: self.options(kvm) })
    }

    fn options(&self, kvm: &kvm::Kvm) -> VmOptions {
        let mut options = VmOptions::new(self.agent.clone(), self.cache_dir.clone(), kvm.works);
        options.kernel = self.kernel.clone();
        options
    }

    /// The settings with which engine `vm` would be taken.
    pub fn vm_options(&self) -> Result<VmOptions> {
        Ok(self.options(&self.kvm()?))
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

/// How a virtual machine runs here.
fn running(kvm: &kvm::Kvm) -> String {
    match kvm.works {
        true => "KVM works".into(),
        false => "the CPU is emulated".into(),
    }
}

/// Engine `libguestfs` that tries KVM when it is first opened.
struct Probing {
    cache_dir: PathBuf,
}

/// The name of its kernel, which it chooses by itself, where it is noted that it hangs.
const LIBGUESTFS: &str = "libguestfs";

impl Probing {
    fn kvm(&self, work_dir: &std::path::Path) -> kvm::Kvm {
        kvm::probe(&self.cache_dir, work_dir).with(LIBGUESTFS)
    }
}

impl Engine for Probing {
    fn name(&self) -> &'static str {
        "libguestfs"
    }

    /// Emulated appliances take each other's time: one after another they are done sooner.
    fn sessions_at_once(&self, cores: usize) -> usize {
        if self.kvm(&self.cache_dir).works { cores } else { 1 }
    }

    fn memory(&self) -> u64 {
        u64::from(LibguestfsOptions::default().memory_mib) << 20
    }

    fn open(&self, request: super::OpenRequest<'_>) -> Result<Box<dyn super::Session>> {
        let kvm = self.kvm(request.work_dir);
        if !kvm.works {
            let message = format!("the appliance is emulated, which is slower: {}", kvm.detail.escape_debug());
            request.events.send(crate::event::Event::Trace { source: "libguestfs", message });
        }
        let appliance = self.cache_dir.join("appliance");
        std::fs::create_dir_all(&appliance)
            .context(ErrorKind::Host, || format!("cannot make {}", appliance.display()))?;
        let options =
            LibguestfsOptions { force_tcg: !kvm.works, cache_dir: Some(appliance), ..LibguestfsOptions::default() };
        let folder = self.cache_dir.clone();
        let hung = std::sync::Arc::new(move |seen: &str| kvm::note_hang(&folder, LIBGUESTFS, seen));
        let options = LibguestfsOptions { kvm_hung: Some(libguestfs::Hung(hung)), ..options };
        LibguestfsEngine::new(options).open(request)
    }
}
