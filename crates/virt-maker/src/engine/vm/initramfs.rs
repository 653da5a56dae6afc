//! The appliance's files: the agent, bubblewrap and `lvm` with their libraries, kernel modules.
//!
//! Bubblewrap is the host's own, so that a command meets the same walls in here as in engine `chroot`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use virt_maker_agent::appliance;

use super::cpio::Archive;
use super::kernel::Kernel;
use super::modules;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::{Cancel, Tool, find_program};

/// Folders that must be there for the agent to mount on.
const FOLDERS: &[&str] = &["/dev", "/proc", "/sys", "/run", "/tmp", "/var/tmp"];

/// What an appliance is made of, on the host.
#[derive(Debug, Clone)]
pub struct Ingredients {
    /// The kernel.
    pub kernel: Kernel,
    /// The agent, which must be linked statically.
    pub agent: PathBuf,
    /// Bubblewrap.
    pub bubblewrap: PathBuf,
    /// `lvm`, where the host has it; without it guests on LVM are for another engine.
    pub lvm: Option<PathBuf>,
}

impl Ingredients {
    /// Finds them. The error says what is missing.
    pub fn find(kernel: Option<&Path>, agent: &Path) -> Result<Ingredients> {
        let bubblewrap = find_program("bwrap").ok_or_else(|| {
            Error::new(ErrorKind::Host, "engine `vm` needs `bwrap`").with_hint("it comes with the package `bubblewrap`")
        })?;
        if !agent.is_file() {
            let what = format!("the agent is not at {}", agent.display());
            return Err(Error::new(ErrorKind::Host, what)
                .with_hint("it belongs beside the program `virt-maker`; VIRT_MAKER_AGENT may name another place"));
        }
        let kernel = super::kernel::find(kernel)?;
        Ok(Ingredients { kernel, agent: agent.to_owned(), bubblewrap, lvm: find_lvm() })
    }

    /// Files whose change makes another appliance.
    pub fn files(&self) -> Vec<PathBuf> {
        let kernel = [self.kernel.image.clone(), modules::index(&self.kernel)];
        kernel.into_iter().chain([self.agent.clone(), self.bubblewrap.clone()]).chain(self.lvm.clone()).collect()
    }
}

/// `lvm` of the host. It is a program for root, whose folders are often not in the path of others.
pub fn find_lvm() -> Option<PathBuf> {
    find_program("lvm")
        .or_else(|| ["/usr/sbin/lvm", "/sbin/lvm"].into_iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// Makes the archive that the kernel unpacks.
pub fn make(ingredients: &Ingredients, cancel: &Cancel) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).context(ErrorKind::Host, || format!("cannot read {}", path.display()));
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder);
    }
    let agent = read(&ingredients.agent)?;
    let mut libraries = Vec::new();
    if needs_interpreter(&agent) {
        // An agent that was built without the flags of the Makefile: it works, only the appliance is larger.
        libraries.extend(libraries_of(&ingredients.agent, cancel)?);
    }
    archive.file(appliance::AGENT, 0o755, &agent);
    archive.file(appliance::BUBBLEWRAP, 0o755, &read(&ingredients.bubblewrap)?);
    libraries.extend(libraries_of(&ingredients.bubblewrap, cancel)?);
    let mut mapper = None;
    if let Some(lvm) = &ingredients.lvm {
        mapper = modules::collect_lvm(&ingredients.kernel)?;
        if mapper.is_some() {
            archive.file(appliance::LVM, 0o755, &read(lvm)?);
            libraries.extend(libraries_of(lvm, cancel)?);
        }
    }
    libraries.sort();
    libraries.dedup();
    for library in libraries {
        let name = library.to_str().ok_or_else(|| Error::new(ErrorKind::Host, "a library's name is not UTF-8"))?;
        archive.file(name, 0o755, &read(&library)?);
    }
    let mut packed = HashSet::new();
    let lists =
        [(appliance::MODULE_LIST, Some(modules::collect(&ingredients.kernel)?)), (appliance::LVM_MODULE_LIST, mapper)];
    for (place, modules) in lists {
        let Some(modules) = modules else { continue };
        let mut list = String::new();
        for module in modules {
            list.push_str(&module.name);
            list.push('\n');
            // Both lists may need it.
            if packed.insert(module.name.clone()) {
                archive.file(&format!("{}/{}", appliance::MODULES, module.name), 0o644, &module.bytes);
            }
        }
        archive.file(place, 0o644, list.as_bytes());
    }
    Ok(archive.finish())
}

/// The dynamic linker and the libraries of a program, as the linker itself finds them.
fn libraries_of(program: &Path, cancel: &Cancel) -> Result<Vec<PathBuf>> {
    let output = Tool::new("ldd", "libc-bin").arg(program).run(cancel);
    let output = output.context(ErrorKind::Host, || format!("cannot find the libraries of {}", program.display()))?;
    Ok(paths_of(&String::from_utf8_lossy(&output)))
}

/// Whether an ELF file names a dynamic linker.
fn needs_interpreter(program: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3_u32.to_le_bytes();
    // ELF64, little endian: where the program headers are, how many, and how long each is.
    let word = |at: usize| program.get(at..at + 2).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let start = program.get(32..40).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")) as usize);
    let (size, count) = (word(54), word(56));
    (0..count).any(|index| {
        let at = start.saturating_add(index * size);
        program.get(at..at.saturating_add(4)).is_some_and(|kind| kind == PT_INTERP)
    })
}

/// The paths in what `ldd` prints: `NAME => PATH (0x...)` or `PATH (0x...)`.
fn paths_of(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let place = line.rsplit("=>").next().unwrap_or_default().trim();
        place.split(" (").next().filter(|path| path.starts_with('/')).map(PathBuf::from)
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_that_ldd_names() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibnone.so => not found\n\tstatically linked\n";
        assert_eq!(
            paths_of(text),
            [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"), PathBuf::from("/lib64/ld-linux-x86-64.so.2")]
        );
    }

    #[test]
    fn static_programs_are_told_from_dynamic_ones() {
        assert!(needs_interpreter(&fs::read("/usr/bin/env").unwrap()));
        assert!(!needs_interpreter(&fs::read(find_program("busybox").unwrap()).unwrap()));
        assert!(!needs_interpreter(b"short"));
    }
}
