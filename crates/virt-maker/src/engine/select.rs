//! Which engine: what the user asked for, or what `auto` takes.
//!
//! `auto` prefers the engine that is fastest on this host and falls back, per guest, on one with a wider reach. It
//! looks only when an engine is needed: a build where all is cached asks nobody.
//!
//! What must hold: what is in a guest never brings it nearer to the host. Where an engine that isolates was tried, none is
//! tried after it that does not ([`next`]); everybody who opens a guest does it through [`super::Opener`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::chroot::{self, ChrootEngine};
use super::libguestfs::{self, LibguestfsEngine, LibguestfsOptions};
use super::vm::{self, VmEngine, VmOptions};
use super::{Engine, kvm};
use crate::error::{Context, Error, ErrorKind, Result, chain};
use crate::event::Events;
use crate::host::Cancel;

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

    /// What `attempt` makes of the best engine that can open a guest, of those that have commands with all rights where
    /// `all_rights` says so. Where one says that it cannot (an error of the kind `Unsupported`), and [`next`] knows another one, a
    /// warning says so and that is tried.
    pub(super) fn first_that_opens<T>(
        &self,
        all_rights: bool,
        events: &Events,
        attempt: impl FnMut(&Candidate) -> Result<T>,
    ) -> Result<T> {
        let candidates = if all_rights { self.with_all_rights() } else { self.candidates() };
        first_of(&candidates?, events, attempt)
    }

    /// The engines to try for commands with all rights; never empty.
    pub fn with_all_rights(&self) -> Result<Vec<Arc<Candidate>>> {
        let mut found = self.candidates()?;
        found.retain(|candidate| candidate.engine.has_privileged());
        if found.is_empty() {
            let message = "a step is `privileged`, and only engine `vm` has that";
            return Err(Error::new(ErrorKind::Unsupported, message).with_hint("take --engine vm"));
        }
        Ok(found)
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

    /// Whether machines run with KVM here; else they are emulated. Where a virtual CPU runs, a kernel is tried.
    pub fn kernels_run(&self, events: &Events, cancel: &Cancel) -> Result<bool> {
        let kvm = self.kvm()?;
        match vm::check(self.kernel.as_deref(), &self.agent) {
            Ok(()) => vm::kernels_run(&self.options(&kvm), events, cancel),
            // There is no kernel to try.
            Err(_) => Ok(kvm.works),
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

/// See [`Selector::first_that_opens`].
fn first_of<T>(
    candidates: &[Arc<Candidate>],
    events: &Events,
    mut attempt: impl FnMut(&Candidate) -> Result<T>,
) -> Result<T> {
    let isolates: Vec<bool> = candidates.iter().map(|candidate| candidate.engine.isolates()).collect();
    let mut place = 0;
    loop {
        let candidate =
            candidates.get(place).ok_or_else(|| Error::new(ErrorKind::Internal, "no engine was given to try"))?;
        let error = match attempt(candidate) {
            Err(error) if error.kind() == ErrorKind::Unsupported => error,
            done => return done,
        };
        let engine = candidate.engine.name();
        match next(&isolates, place) {
            Some(found) => {
                events.warn(format!("engine `{engine}` cannot open this guest: {}", chain(&error)));
                place = found;
            }
            // Somebody has to say that the host's kernel may read it.
            None if left_out(&isolates) => {
                let message = "no engine that isolates the guest can open it";
                return Err(Error::new(ErrorKind::Unsupported, message).with_source(error).with_hint(
                    "`--engine chroot` may be able to; the host's kernel then reads the guest's file systems, so only for \
                     a guest that you trust",
                ));
            }
            None => return Err(error),
        }
    }
}

/// Whether [`next`] would leave one out, if all are tried.
fn left_out(isolates: &[bool]) -> bool {
    let first = isolates.iter().position(|isolates| *isolates).unwrap_or(isolates.len());
    isolates[first..].contains(&false)
}

/// The candidate to try when that at `tried` cannot open a guest; all before it were tried or left out. Each isolates the
/// guest or not.
fn next(isolates: &[bool], tried: usize) -> Option<usize> {
    let isolated = isolates[..=tried].contains(&true);
    (tried + 1..isolates.len()).find(|place| isolates[*place] || !isolated)
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

    fn isolates(&self) -> bool {
        true
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{OpenRequest, Session};

    /// An engine that says whether it isolates, and nothing else.
    struct Fake(&'static str);

    impl Engine for Fake {
        fn name(&self) -> &'static str {
            self.0
        }

        fn isolates(&self) -> bool {
            self.0 != "chroot"
        }

        fn memory(&self) -> u64 {
            0
        }

        fn open(&self, _: OpenRequest<'_>) -> Result<Box<dyn Session>> {
            unreachable!("the attempt is the test's")
        }
    }

    /// Every order of every choice of engines, where none can open the guest: who is tried, and what is said at the end.
    #[test]
    fn after_one_that_isolates_none_is_tried_that_does_not() {
        let names = ["vm", "chroot", "libguestfs"];
        let places = 0..names.len();
        let mut orders: Vec<Vec<usize>> = places.clone().map(|one| vec![one]).collect();
        for length in 2..=names.len() {
            let longer: Vec<_> = orders.iter().filter(|order| order.len() == length - 1).cloned().collect();
            for order in longer {
                let more = places.clone().filter(|place| !order.contains(place));
                orders.extend(more.map(|place| [order.clone(), vec![place]].concat()));
            }
        }
        assert_eq!(orders.len(), 15);
        for order in orders {
            let order: Vec<&'static str> = order.into_iter().map(|place| names[place]).collect();
            let candidates: Vec<_> = order
                .iter()
                .map(|name| Arc::new(Candidate { engine: Box::new(Fake(name)), reason: String::new() }))
                .collect();
            let mut tried = Vec::new();
            let error = first_of(&candidates, &Events::none(), |candidate| -> Result<()> {
                tried.push(candidate.engine.name());
                Err(Error::new(ErrorKind::Unsupported, "a guest of another kind"))
            })
            .unwrap_err();
            let first = order.iter().position(|name| *name != "chroot").unwrap_or(order.len());
            let wanted: Vec<_> = order
                .iter()
                .enumerate()
                .filter(|(at, name)| **name != "chroot" || *at < first)
                .map(|(_, name)| *name)
                .collect();
            assert_eq!(tried, wanted, "{order:?}");
            let left_out = wanted.len() < order.len();
            assert_eq!(error.hint().is_some_and(|hint| hint.contains("--engine chroot")), left_out, "{order:?}");
            assert!(chain(&error).contains("a guest of another kind"), "{order:?}: {error}");
        }
    }

    #[test]
    fn only_a_guest_that_cannot_be_opened_is_tried_again() {
        let candidates: Vec<_> = ["vm", "libguestfs"]
            .map(|name| Arc::new(Candidate { engine: Box::new(Fake(name)), reason: String::new() }))
            .into();
        let mut count = 0;
        let error = first_of(&candidates, &Events::none(), |_| -> Result<()> {
            count += 1;
            Err(Error::new(ErrorKind::Guest, "broken"))
        });
        assert_eq!((error.unwrap_err().kind(), count), (ErrorKind::Guest, 1));
    }
}
