//! A stranger's project: somebody cloned it and runs virt-maker in it, as root. Whatever it tries, a folder of the host that it
//! aims at is never opened, read or written, nothing of the host changes, and nobody is reached over the host's own network.
//!
//! Each member is a way that was open once, or a neighbour of one. `docs/security.md` has the promises.

mod file_systems;
mod packages;
mod project;
mod secrets;
mod steps;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::Options;
use crate::field::{Field, on_each_engine};
use crate::random::Random;
use crate::world::Ran;

pub fn run(options: &Options, _: &mut Random) -> String {
    let (members, engines) = on_each_engine("stranger", options, |field| {
        let project = Project::new(field, options.short);
        let parts: [Part; 11] = [
            ("stores", project::stores),
            ("inputs", project::inputs),
            ("outputs", project::outputs),
            ("settings", project::settings),
            ("steps", steps::steps),
            ("packages", packages::packages),
            ("tables", file_systems::tables),
            ("file systems", file_systems::broken),
            ("fstab", file_systems::fstab),
            ("caches", file_systems::caches),
            ("secrets", secrets::secrets),
        ];
        let mut members = 0;
        for (name, part) in parts {
            if options.part.as_deref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            let count = part(&project);
            println!("stranger: {count} {name} on {}", field.engine);
            members += count;
        }
        assert!(members > 0, "there is no part `{}`", options.part.as_deref().unwrap_or_default());
        members
    });
    format!("{members} ways on {engines}, and none of them reached the host")
}

/// A part of the campaign: its name, and what returns how many members it has.
type Part = (&'static str, fn(&Project<'_>) -> usize);

struct Project<'a> {
    field: &'a Field<'a>,
    folder: PathBuf,
    short: bool,
}

impl<'a> Project<'a> {
    fn new(field: &'a Field<'a>, short: bool) -> Project<'a> {
        let folder = field.world.path("clone");
        fs::create_dir_all(folder.join("sub")).expect("the folder is ours");
        for name in ["keys", "tree"] {
            fs::write(folder.join(name), "").expect("the folder is ours");
        }
        // It leads to what all of it aims at.
        std::os::unix::fs::symlink(field.victim(), folder.join("link")).expect("the folder is ours");
        Project { field, folder, short }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("the folder is ours");
    }

    /// Writes the template that [`Project::build`] names.
    fn spec(&self, spec: &Value) {
        self.write("t.yml", &serde_json::json!({ "spec": spec }).to_string());
    }

    fn secret(&self) -> String {
        self.field.secret().to_str().expect("a path of ours is text").to_owned()
    }

    /// The program in the project; with its own store only where `own` says so.
    fn command(&self, arguments: &[&str], own: bool) -> Command {
        let mut command = self.field.world.command(arguments);
        command.current_dir(&self.folder);
        if own {
            command.env_remove("VIRT_MAKER_STORE");
        }
        command
    }

    fn run(&self, arguments: &[&str], own: bool) -> Ran {
        Ran::from(self.command(arguments, own).output().expect("the program starts"))
    }

    /// The same, which has to end with this code and to say `words`, and touches nothing of the host.
    #[track_caller]
    fn refused(&self, what: &str, arguments: &[&str], own: bool, code: i32, words: &str) {
        let ran = self.field.ended(what, self.run(arguments, own), &[code]);
        assert!(ran.stderr.contains(words), "{what}: no `{words}` in {}", ran.stderr);
    }

    fn build(&self) -> [&str; 6] {
        ["build", "t.yml", "--engine", self.field.engine, "--progress", "plain"]
    }

    /// Builds a spec with these arguments besides; it ends with one of these codes.
    #[track_caller]
    fn builds(&self, what: &str, spec: &Value, more: &[&str], codes: &[i32]) -> Ran {
        self.spec(spec);
        self.field.ended(what, self.run(&[&self.build()[..], more].concat(), false), codes)
    }
}
