//! What this host can do: every tool and kernel feature that an engine or a runner needs, tried where that is cheap.

use std::fs;
use std::path::Path;

use serde::Serialize;
use virt_maker_agent::groups;

use super::select::{EngineChoice, Selector};
use super::vm::{self, VmOptions};
use super::{chroot, kvm, libguestfs};
use crate::error::{Context, ErrorKind, Result, chain};
use crate::host::{Cancel, Tool, find_program, random};

/// What was found.
#[derive(Debug, Serialize)]
pub struct Examination {
    /// Tools and features, one by one.
    pub checks: Vec<Check>,
    /// Whether each engine can work here.
    pub engines: Vec<EngineState>,
    /// What `auto` takes; none where no engine works.
    pub auto: Option<Auto>,
}

/// One tool or feature.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What it is: `qemu-img`, `KVM`, `file system ext4`.
    pub name: String,
    /// Whether it is there and works.
    pub state: State,
    /// Its version, or what is wrong.
    pub detail: String,
    /// The Debian package that brings it, where one does.
    pub package: Option<&'static str>,
}

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is there, and was tried where it can be.
    Works,
    /// It is not there, or does not work.
    Missing,
}

/// Whether an engine can work here.
#[derive(Debug, Serialize)]
pub struct EngineState {
    /// Its name.
    pub name: &'static str,
    /// Whether it can.
    pub works: bool,
    /// Why not, or what it needs.
    pub detail: String,
}

/// What `auto` takes.
#[derive(Debug, Serialize)]
pub struct Auto {
    /// Name of the engine.
    pub engine: &'static str,
    /// Why.
    pub reason: String,
}

/// Programs: name, how to ask for the version, package, what it is for.
const TOOLS: [(&str, &[&str], &str, &str); 15] = [
    ("qemu-img", &["--version"], "qemu-utils", "exports"),
    ("qemu-storage-daemon", &["--version"], "qemu-system-common", "engine chroot"),
    ("qemu-system-x86_64", &["--version"], "qemu-system-x86", "engines vm and libguestfs"),
    ("bwrap", &["--version"], "bubblewrap", "engines chroot and vm"),
    ("slirp4netns", &["--version"], "slirp4netns", "engine chroot: the network of commands"),
    ("mmdebstrap", &["--version"], "mmdebstrap", "import bootstrap of Debian and Ubuntu"),
    ("dnf", &["--version"], "dnf", "import bootstrap of Fedora, Rocky Linux, AlmaLinux and CentOS Stream"),
    ("grub-mkimage", &["--version"], "grub-common", "import bootstrap"),
    ("mke2fs", &["-V"], "e2fsprogs", "import bootstrap"),
    ("sfdisk", &["--version"], "fdisk", "tests"),
    ("tesseract", &["--version"], "tesseract-ocr", "machines: screens in graphics mode"),
    ("xorriso", &["-version"], "xorriso", "import isoboot: files on a CD"),
    ("mformat", &["--version"], "mtools", "import isoboot: files on a floppy"),
    ("supermin", &["--version"], "supermin", "engine libguestfs"),
    ("guestfish", &["--version"], "guestfs-tools", "looking into kept guests"),
];
/// File systems that guests use.
const FILE_SYSTEMS: [&str; 5] = ["ext4", "xfs", "btrfs", "vfat", "iso9660"];

/// Looks at the host. `agent`, `cache_dir` and `kernel` as for [`Selector::new`].
pub fn examine(agent: &Path, cache_dir: &Path, kernel: Option<&Path>) -> Result<Examination> {
    let cancel = Cancel::default();
    fs::create_dir_all(cache_dir).context(ErrorKind::Host, || format!("cannot make {}", cache_dir.display()))?;
    let mut checks = check_tools(cache_dir, &cancel)?;
    let kvm = kvm::probe(cache_dir, cache_dir);
    let kvm = match vm::find_kernel(kernel) {
        Ok((image, _)) => kvm.with(&kvm::kernel_id(&image)),
        Err(_) => kvm,
    };
    let vm_is = match kvm.works {
        true => "isolates the guest, needs no root; fast with KVM",
        false => "isolates the guest, needs no root; its processor is emulated here, for want of KVM",
    };
    let detail = match kvm.works {
        true => kvm.detail,
        false => format!("{}; machines are emulated, which is slower", kvm.detail),
    };
    checks.push(check("KVM", kvm.works, detail, None));
    checks.push(check_fuse_export(&cancel));
    for device in ["/dev/fuse", "/dev/loop-control", "/dev/net/tun"] {
        let opened = fs::File::options().read(true).write(true).open(device);
        let detail = opened.as_ref().map_or_else(|error| error.to_string(), |_| "it opens".into());
        checks.push(check(device, opened.is_ok(), detail, None));
    }
    checks.push(check_limits());
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for name in FILE_SYSTEMS {
        let (works, detail) = if known.split_whitespace().any(|word| word == name) {
            (true, "the kernel has it")
        } else if module_exists(name) {
            (true, "the kernel has a module for it")
        } else {
            (false, "this kernel cannot mount it; engines vm and libguestfs can")
        };
        checks.push(check(&format!("file system {name}"), works, detail.into(), None));
    }
    let grub = Path::new("/usr/lib/grub/i386-pc/boot.img").exists();
    let detail = if grub { "its files are there" } else { "import bootstrap needs its files" };
    checks.push(check("GRUB for BIOS", grub, detail.into(), Some("grub-pc-bin")));
    let (works, detail) = match libguestfs::detect() {
        Ok(info) => (true, format!("version {}", info.version)),
        Err(error) => (false, chain(&error)),
    };
    checks.push(check("libguestfs", works, detail, Some("libguestfs0")));
    checks.push(check_kernel(kernel));
    checks.push(check_lvm(kernel));

    let state = |name, checked: Result<()>, fine: &str| match checked {
        Ok(()) => EngineState { name, works: true, detail: fine.into() },
        Err(error) => EngineState { name, works: false, detail: chain(&error) },
    };
    let engines = vec![
        state("chroot", chroot::check(agent), "fast; the host's kernel reads the guest's file systems"),
        state("vm", vm::check(kernel, agent), vm_is),
        state("libguestfs", libguestfs::check().map(drop), "starts in seconds; isolates the guest, reaches furthest"),
    ];
    let selector =
        Selector::new(EngineChoice::Auto, agent.to_owned(), cache_dir.to_owned(), kernel.map(Path::to_owned));
    if vm::check(kernel, agent).is_ok() {
        checks.push(check_appliance(&selector.vm_options()?));
    }
    let auto = selector.candidates().ok().and_then(|found| found.first().cloned());
    let auto = auto.map(|first| Auto { engine: first.engine.name(), reason: first.reason.clone() });
    Ok(Examination { checks, engines, auto })
}

fn check(name: &str, works: bool, detail: String, package: Option<&'static str>) -> Check {
    let state = if works { State::Works } else { State::Missing };
    Check { name: name.into(), state, detail, package }
}

/// Programs have a home that goes again: dnf makes a database of packages there when it is asked for its version.
fn check_tools(cache_dir: &Path, cancel: &Cancel) -> Result<Vec<Check>> {
    let id = random::id()?;
    let home = cache_dir.join(format!("doctor-{id}"));
    fs::create_dir_all(&home).context(ErrorKind::Host, || format!("cannot make {}", home.display()))?;
    let checks = TOOLS.iter().map(|tool| check_tool(*tool, &home, cancel)).collect();
    let _ = fs::remove_dir_all(&home);
    Ok(checks)
}

fn check_tool(
    (name, arguments, package, used_by): (&str, &[&str], &'static str, &str),
    home: &Path,
    cancel: &Cancel,
) -> Check {
    let Some(path) = find_program(name) else {
        return check(name, false, format!("needed by: {used_by}"), Some(package));
    };
    // Some print their version to standard error; that it runs is what counts.
    match Tool::new(&path, package).args(arguments).env("HOME", home).run(cancel) {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output);
            let first = text.lines().next().unwrap_or_default().trim();
            let detail = if first.is_empty() { path.display().to_string() } else { first.to_owned() };
            check(name, true, detail, Some(package))
        }
        Err(error) => check(name, false, chain(&error), Some(package)),
    }
}

fn check_fuse_export(cancel: &Cancel) -> Check {
    let help = Tool::new("qemu-storage-daemon", "qemu-system-common").arg("--help").run(cancel).unwrap_or_default();
    let works = String::from_utf8_lossy(&help).contains("fuse,id=");
    let detail = if works {
        "qemu-storage-daemon was built with it"
    } else {
        "engine chroot needs a qemu-storage-daemon with it"
    };
    check("FUSE export", works, detail.into(), None)
}

/// What bounds the steps of engine `chroot`. None of it is needed to work.
fn check_limits() -> Check {
    let (works, detail) = match groups::place() {
        Some(place) => (true, format!("processes and memory, by a group in {}", place.display())),
        None => {
            let why = "no cgroup v2 with the controllers memory and pids that a group can be made in";
            let numbers = match groups::process_numbers_have_bounds() {
                true => "only the number of processes is bounded",
                false => "nothing bounds processes",
            };
            (false, format!("{why}: {numbers}, and a step that eats all memory is killed before other programs"))
        }
    };
    check("limits of steps on engine chroot", works, detail, None)
}

fn module_exists(name: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let list = fs::read_to_string(format!("/lib/modules/{}/modules.dep", release.trim())).unwrap_or_default();
    list.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&format!("/{name}.ko"))))
}

/// A kernel that an appliance can be made of.
fn check_kernel(kernel: Option<&Path>) -> Check {
    const NAME: &str = "kernel for an appliance";
    const PACKAGE: &str = "linux-image-cloud-amd64";
    match vm::find_kernel(kernel) {
        Ok((image, version)) => check(NAME, true, format!("{}, with its modules ({version})", image.display()), None),
        Err(error) => {
            let hint = error.hint().map_or(String::new(), |hint| format!("; {hint}"));
            check(NAME, false, format!("{}{hint}", chain(&error)), Some(PACKAGE))
        }
    }
}

/// What engine `vm` opens guests on LVM with.
fn check_lvm(kernel: Option<&Path>) -> Check {
    let (works, detail) = match vm::check_lvm(kernel) {
        Ok(lvm) => (true, format!("{}: engine vm opens guests on LVM", lvm.display())),
        Err(error) => (false, format!("{}; guests on LVM are for engine libguestfs", chain(&error))),
    };
    check("lvm", works, detail, Some("lvm2"))
}

/// The saved state of engine `vm`: that it is missing is no fault.
fn check_appliance(options: &VmOptions) -> Check {
    let (states, current) = vm::info(options);
    let found = states.iter().find(|state| Some(&state.folder) == current.as_ref());
    let detail = match found {
        Some(state) => format!("saved, {} MiB on the disk; it took {:.1} s to make", state.bytes >> 20, state.seconds),
        None if states.is_empty() => {
            "not made yet; the first build with engine vm makes it, or `virt-maker appliance build`".into()
        }
        // As after an update of the kernel, of qemu or of this program.
        None => format!(
            "{} saved, and none fits this host as it is now (kernel, qemu, agent, KVM or number of CPUs are others); the next \
             build with engine vm makes one, and `virt-maker appliance info` shows them",
            states.len()
        ),
    };
    check("appliance of engine vm", true, detail, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_appliance_that_does_not_fit_is_not_called_missing() {
        let folder = tempfile::tempdir().unwrap();
        let options = VmOptions::new("/nonexistent/agent".into(), folder.path().to_owned(), false);
        assert!(check_appliance(&options).detail.starts_with("not made yet"));
        let state = options.cache_dir.join("0123456789abcdef0123456789abcdef");
        fs::create_dir_all(&state).unwrap();
        fs::File::create(state.join("memory")).unwrap().set_len(1 << 20).unwrap();
        fs::write(state.join("devices"), "x").unwrap();
        let info = vm::Info {
            folder: state.clone(),
            kernel: "/boot/vmlinuz".into(),
            kernel_version: "6.1".into(),
            initramfs: crate::key::Digest::of(b"x"),
            qemu: "QEMU".into(),
            kvm: true,
            cpus: 2,
            memory_mib: 1,
            boot_seconds: 1.0,
            seconds: 2.0,
            made: 1,
            bytes: 1,
        };
        fs::write(state.join("record.json"), serde_json::to_vec(&info).unwrap()).unwrap();
        let detail = check_appliance(&options).detail;
        assert!(detail.starts_with("1 saved, and none fits this host as it is now"), "{detail}");
    }
}
