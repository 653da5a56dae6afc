//! A workbench for tests of the whole program: a folder with a guest, a store, templates, and the real binary.

pub mod user;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Makes tests of functions that take the name of an engine: for `chroot`, and for `vm`, whose tests take turns.
macro_rules! on_chroot_and_vm {
    ($($name:ident),+ $(,)?) => {
        mod chroot {
            $(#[test] fn $name() { super::$name("chroot"); })+
        }
        mod appliance {
            $(#[test] fn $name() {
                let _lock = testkit::appliance_lock();
                super::$name("vm");
            })+
        }
    };
}

/// One test's own world.
pub struct Bench {
    pub folder: TempDir,
    pub base: PathBuf,
    /// Where guests find packages, if not at the real mirror.
    pub mirror: Option<testkit::Mirror>,
}

/// What one run of the program said.
pub struct Ran {
    pub status: Option<i32>,
    pub events: Vec<Value>,
    pub stdout: String,
    pub stderr: String,
}

impl Bench {
    /// A bench with a base image; the file is used where it lies.
    pub fn new(base: PathBuf) -> Bench {
        let bench = Bench { folder: tempfile::tempdir().unwrap(), base, mirror: None };
        // The saved machine of engine `vm` is made once for all tests.
        let shared = testkit::cache_dir().join("vm");
        fs::create_dir_all(&shared).unwrap();
        fs::create_dir_all(bench.path("xdg-cache/virt-maker")).unwrap();
        std::os::unix::fs::symlink(shared, bench.path("xdg-cache/virt-maker/vm")).unwrap();
        testkit::know_kvm(Path::new(env!("CARGO_BIN_EXE_virt-maker")), &bench.path("xdg-cache"));
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a template that imports the base and has these lines under `steps:` (each a YAML mapping).
    pub fn template(&self, name: &str, steps: &[String], export: &str) -> PathBuf {
        let mut text = format!("spec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n", self.base.display());
        for step in steps {
            text.push_str(&format!("    - {step}\n"));
        }
        if steps.is_empty() {
            text.push_str("    []\n");
        }
        if !export.is_empty() {
            text.push_str(&format!("  export:\n    {export}\n"));
        }
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Whose its store is, for tests that open it by themselves.
    pub fn owner(&self) -> virt_maker::store::Owner {
        virt_maker::store::Owner::new(self.path("xdg-state/virt-maker/secret"), None)
    }

    /// The program with this bench's store.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virt-maker"));
        command
            .args(arguments)
            .env("VIRT_MAKER_STORE", self.store())
            .env("XDG_CACHE_HOME", self.path("xdg-cache"))
            .env("XDG_CONFIG_HOME", self.path("xdg-config"))
            .env("XDG_STATE_HOME", self.path("xdg-state"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        if let Some(mirror) = &self.mirror {
            command.env("http_proxy", &mirror.proxy);
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }

    /// `build --progress json` with an engine.
    pub fn build(&self, engine: &str, template: &Path, more: &[&str]) -> Ran {
        let template = template.to_str().unwrap();
        let mut arguments = vec!["build", template, "--engine", engine, "--progress", "json"];
        arguments.extend_from_slice(more);
        self.run(&arguments)
    }

    /// Image files of all layers in the store: key, path.
    pub fn layers(&self) -> Vec<(String, PathBuf)> {
        let Ok(entries) = fs::read_dir(self.store().join("layers")) else { return Vec::new() };
        let keys = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        keys.map(|key| (key.clone(), image_of(&self.store(), &key))).collect()
    }

    /// The image file of a layer.
    pub fn image(&self, key: &str) -> PathBuf {
        image_of(&self.store(), key)
    }

    /// What is in the store besides layers, records and caches: work, locks, and images that no layer has.
    pub fn left_in_store(&self) -> Vec<String> {
        let files = |part: &str| {
            let entries = fs::read_dir(self.store().join(part)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        };
        let own: Vec<_> = self.layers().into_iter().map(|(_, image)| image).collect();
        let strays = files("images").into_iter().filter(|image| !own.contains(image));
        let left = files("tmp").into_iter().chain(files("locks")).chain(strays);
        left.map(|path| path.display().to_string()).collect()
    }
}

impl Ran {
    pub fn from(output: Output) -> Ran {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let events = stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ran { status: output.status.code(), events, stdout, stderr }
    }

    /// Fails the test with all that was said unless the exit code is this one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.status, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Events of one type.
    pub fn of(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["type"] == kind).collect()
    }

    /// What the guest's commands wrote.
    pub fn said(&self) -> String {
        self.of("output").iter().map(|event| event["text"].as_str().unwrap()).collect()
    }

    /// The numbers (from 1; 0 is the import) of the steps that events of one type speak of.
    pub fn steps(&self, kind: &str) -> Vec<u64> {
        self.of(kind).iter().map(|event| event["index"].as_u64().unwrap()).collect()
    }

    /// Fails the test unless so many boots were told, each with phases of these names that are about as long as the boot.
    #[track_caller]
    pub fn told_boots(&self, boots: usize, names: &[&str]) {
        let told = self.of("machine_booted");
        assert_eq!(told.len(), boots, "{}", self.stdout);
        for boot in told {
            let phases = boot["phases"].as_array().unwrap();
            let found: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
            assert_eq!(found, names, "{boot}");
            let seconds = |phase: &Value| phase["seconds"].as_f64().unwrap();
            let (sum, elapsed) = (phases.iter().map(seconds).sum::<f64>(), boot["elapsed"].as_f64().unwrap());
            assert!(phases.iter().all(|phase| seconds(phase) > 0.0), "{boot}");
            // That it has booted is seen a little later than it has.
            assert!(sum <= elapsed + 0.001 && sum > elapsed * 0.8, "{boot}");
        }
    }

    /// Keys in the order in which layers were sealed.
    pub fn sealed(&self) -> Vec<String> {
        self.of("layer_sealed").iter().map(|event| event["key"].as_str().unwrap().to_owned()).collect()
    }
}

/// The image file of a layer in a store: the one that its record names, and the only one of its key.
#[track_caller]
pub fn image_of(store: &Path, key: &str) -> PathBuf {
    let images = fs::read_dir(store.join("images")).unwrap().map(|entry| entry.unwrap().path());
    let begins = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{key}-"));
    let found: Vec<_> = images.filter(begins).collect();
    assert_eq!(found.len(), 1, "images of {key}");
    found[0].clone()
}

/// `qcow2` or `raw`, by the name of a layer's image.
pub fn format_of(image: &Path) -> &str {
    image.extension().unwrap().to_str().unwrap()
}

/// A step that runs a one-line script.
pub fn run(script: &str) -> String {
    format!("run: {}", serde_json::to_string(script).unwrap())
}

/// A number generator whose seed is printed, so that a failing run can be run again.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        #[expect(clippy::disallowed_methods, reason = "a switch for developers: the seed of a run that failed")]
        let seed = std::env::var("VIRT_MAKER_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
        });
        println!("VIRT_MAKER_TEST_SEED={seed}");
        Random(seed | 1)
    }

    /// xorshift64
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The qemu that a process has started, if it has one now.
pub fn machine_of(parent: u32) -> Option<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<u32> =
        children.flat_map(|line| line.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pids.into_iter().find(|pid| name(pid).starts_with("qemu-system"))
}
