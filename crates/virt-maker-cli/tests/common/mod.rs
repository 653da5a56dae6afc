//! A workbench for tests of the whole program: a folder with a guest, a store, templates, and the real binary.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// One test's own world.
pub struct Bench {
    pub folder: TempDir,
    pub base: PathBuf,
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
        Bench { folder: tempfile::tempdir().unwrap(), base }
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

    /// The program with this bench's store.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virt-maker"));
        command
            .args(arguments)
            .env("VIRT_MAKER_STORE", self.store())
            .env("XDG_CACHE_HOME", self.path("xdg-cache"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
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
        entries
            .map(|entry| {
                let folder = entry.unwrap().path();
                let image = ["layer.qcow2", "layer.raw"].map(|name| folder.join(name));
                let image = image.into_iter().find(|path| path.exists()).unwrap();
                (folder.file_name().unwrap().to_str().unwrap().to_owned(), image)
            })
            .collect()
    }

    /// What is in the store besides layers, records and caches.
    pub fn left_in_store(&self) -> Vec<String> {
        ["tmp", "locks"]
            .iter()
            .flat_map(|part| fs::read_dir(self.store().join(part)).into_iter().flatten())
            .map(|entry| entry.unwrap().path().display().to_string())
            .collect()
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

    /// The numbers (from 1; 0 is the import) of the steps that events of one type speak of.
    pub fn steps(&self, kind: &str) -> Vec<u64> {
        self.of(kind).iter().map(|event| event["index"].as_u64().unwrap()).collect()
    }

    /// Keys in the order in which layers were sealed.
    pub fn sealed(&self) -> Vec<String> {
        self.of("layer_sealed").iter().map(|event| event["key"].as_str().unwrap().to_owned()).collect()
    }
}

/// A step that runs a one-line script.
pub fn run(script: &str) -> String {
    format!("run: {}", serde_json::to_string(script).unwrap())
}
