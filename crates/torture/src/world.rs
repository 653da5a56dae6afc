//! A store, templates, the real program, and eyes of our own on what it left.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use testkit::{TinyOptions, fsck_clean, tiny_guest};

/// A folder with a base, a store and templates. Everything in it goes with it.
pub struct World {
    binary: PathBuf,
    folder: tempfile::TempDir,
    /// Where store and artifacts are; within `folder` unless a campaign has its own disk.
    pub place: PathBuf,
    base: PathBuf,
}

/// What a run of the program said.
pub struct Ran {
    pub code: Option<i32>,
    pub events: Vec<Value>,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    pub fn new(binary: &Path) -> World {
        assert!(binary.is_file(), "{} is not there; build it first", binary.display());
        let folder = tempfile::tempdir().expect("a temporary folder");
        // The saved machine of engine `vm` is made once for all.
        let shared = testkit::cache_dir().join("vm");
        fs::create_dir_all(&shared).expect("the cache can be written");
        fs::create_dir_all(folder.path().join("xdg/virt-maker")).expect("the folder is ours");
        std::os::unix::fs::symlink(shared, folder.path().join("xdg/virt-maker/vm")).expect("the folder is ours");
        let binary = &binary.canonicalize().expect("it is there");
        testkit::know_kvm(binary, &folder.path().join("xdg"));
        let (place, base) = (folder.path().to_owned(), tiny_guest(&TinyOptions::default()));
        World { binary: binary.to_owned(), folder, place, base }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The guest that templates begin with.
    pub fn base(&self) -> &Path {
        &self.base
    }

    pub fn store(&self) -> PathBuf {
        self.place.join("store")
    }

    /// Writes a template with `run` steps, and a raw artifact where it is named. JSON is YAML.
    pub fn template(&self, name: &str, steps: &[String], artifact: Option<&str>) -> PathBuf {
        let steps: Vec<Value> = steps.iter().map(|script| json!({ "run": script })).collect();
        let mut spec = json!({ "import": { "download": { "url": self.base } }, "steps": steps });
        if let Some(artifact) = artifact {
            spec["export"] = json!({ "raw": { "path": self.place.join(artifact) } });
        }
        let path = self.path(name);
        fs::write(&path, json!({ "format": 2, "spec": spec }).to_string()).expect("the folder is ours");
        path
    }

    /// The program with the store of this world.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("VIRT_MAKER_STORE", self.store()).env("XDG_CACHE_HOME", self.path("xdg"));
        // Its own user, who lets templates write to the disk of the campaign.
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_CONFIG_HOME", self.path("config"));
        let settings = self.path("config/virt-maker");
        fs::create_dir_all(&settings).expect("the folder is ours");
        let allow = format!("allow = ['write={}']\n", self.place.display());
        // Once, for others may be reading it.
        let settings = settings.join("config.toml");
        if fs::read(&settings).ok().as_deref() != Some(allow.as_bytes()) {
            fs::write(settings, allow).expect("the folder is ours");
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().expect("the program starts"))
    }

    /// Arguments of a build with events.
    pub fn build_arguments<'a>(engine: &'a str, templates: &'a [&Path]) -> Vec<&'a str> {
        let mut arguments = vec!["build", "--engine", engine, "--progress", "json"];
        arguments.extend(templates.iter().map(|path| path.to_str().expect("paths of ours are text")));
        arguments
    }

    pub fn build(&self, engine: &str, templates: &[&Path]) -> Ran {
        self.run(&World::build_arguments(engine, templates))
    }

    /// Starts the program and lets it run.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    /// Looks at every layer: its record can be read, its image has the digest that the record says, its backing file is
    /// a layer's image. With `checkers`, each file system is checked by its own program too, which takes longer.
    /// Returns how many there are.
    pub fn whole_store(&self, checkers: bool) -> usize {
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(self.store().join("layers")).into_iter().flatten() {
            let folder = entry.expect("the store can be read").path();
            let text =
                fs::read(folder.join("layer.json")).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let record: Value =
                serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            records.insert(record["key"].as_str().expect("a record has a key").to_owned(), record);
        }
        for (key, record) in &records {
            let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            let image = self.store().join("images").join(format!("{key}-{}.{}", text("id"), text("format")));
            let (found, flat) = (sha256(&image), record["flat"]["digest"].as_str());
            assert!(
                found == text("digest") || Some(&*found) == flat,
                "layer {key}: its bytes are neither what was sealed nor what was flattened"
            );
            if let Some(parent) = record["material"]["parent"].as_str() {
                assert!(records.contains_key(parent), "layer {key} has no parent in the store");
            }
            if checkers {
                fsck_clean(&image, &text("format"));
            }
        }
        records.len()
    }

    /// How many layers were flattened.
    pub fn flat_layers(&self) -> usize {
        let folders = fs::read_dir(self.store().join("layers")).into_iter().flatten().flatten();
        let texts = folders.filter_map(|folder| fs::read_to_string(folder.path().join("layer.json")).ok());
        texts.filter(|text| text.contains("\"flat\": {")).count()
    }

    /// What is in the store besides layers, records and caches: work, locks, and images that no layer has.
    pub fn left_in_store(&self) -> Vec<String> {
        let names = |part: &str| {
            let entries = fs::read_dir(self.store().join(part)).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let layers = names("layers");
        let stray = names("images").into_iter().filter(|image| !layers.iter().any(|key| image.starts_with(key)));
        names("tmp").into_iter().chain(names("locks")).chain(stray).collect()
    }
}

impl Ran {
    pub fn from(output: Output) -> Ran {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let events = stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ran { code: output.status.code(), events, stdout, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        self
    }

    pub fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |event| event["type"] == kind)
    }
}

/// SHA-256 of a file in hexadecimal digits.
pub fn sha256(path: &Path) -> String {
    let mut file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut sum, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            0 => break,
            count => sum.update(&buffer[..count]),
        }
    }
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
