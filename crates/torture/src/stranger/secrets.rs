//! Secrets of the user, which steps of a stranger get: said by another step, left in an image, changed since, written down.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{count_in, files_with};

use super::Project;
use crate::world::Ran;

const VALUE: &str = "correct-horse-battery-staple-8816";
const LATER: &str = "another-horse-another-staple-3307";
/// A URL with a password and a token in it.
const URL: &str = "http://user:hunter2@127.0.0.1:1/x?token=tok-abc";

pub(super) fn secrets(project: &Project<'_>) -> usize {
    said(project) + deleted(project) + changed(project) + urls(project) + unasked(project)
}

/// Builds a spec with the secret `token`, whose value is `value`: that is neither in what is said nor in what is written down.
#[track_caller]
fn builds(project: &Project<'_>, what: &str, spec: &Value, value: &str, codes: &[i32]) -> Ran {
    let text = json!({ "secrets": { "token": { "env": "TOKEN" } }, "spec": spec });
    project.write("t.yml", &text.to_string());
    let mut command =
        project.command(&[&project.build()[..], &["-vv", "--force-export", "--allow", "env=TOKEN"]].concat(), false);
    let ran = Ran::from(command.env("TOKEN", value).output().expect("the program starts"));
    let ran = project.field.ended(what, ran, codes);
    for value in [VALUE, LATER, "hunter2"] {
        assert!(!ran.stdout.contains(value) && !ran.stderr.contains(value), "{what}: {}{}", ran.stdout, ran.stderr);
    }
    // What the text of a step itself says, its record and its log have too; they are shown without it.
    let own = spec.to_string().contains("echo 'http");
    written_nowhere(project, what, if own { &[VALUE, LATER] } else { &[VALUE, LATER, "hunter2", "tok-abc"] });
    ran
}

/// Values and passwords are in no record, log, manifest or list of the store, of the project, and of the user's folders.
#[track_caller]
fn written_nowhere(project: &Project<'_>, what: &str, values: &[&str]) {
    let world = &project.field.world;
    for value in values {
        let mut found = Vec::new();
        for folder in [world.store(), project.folder.clone(), world.path("xdg"), world.path("state")] {
            found.extend(files_with(&folder, value));
        }
        // Guests have what their steps wrote, and the template has what its author wrote.
        let images = world.store().join("images");
        found.retain(|path| {
            !path.starts_with(&images) && !path.ends_with("t.yml") && path.extension() != Some("img".as_ref())
        });
        assert_eq!(found, Vec::<std::path::PathBuf>::new(), "{what}: `{value}`");
    }
}

/// Other steps say what one left: as it is, and in what programs make of it.
fn said(project: &Project<'_>) -> usize {
    let spec = |last: &str| {
        json!({ "import": project.field.base(), "steps": [
            { "run": "cp /run/secrets/token /etc/token; cat /run/secrets/token", "secrets": "token" },
            { "run": format!("ls /run/secrets 2>/dev/null; {last}") },
        ] })
    };
    let ways = [
        "cat /etc/token",
        "base64 /etc/token",
        "set -x; : \"$(cat /etc/token)\"",
        "printf 'a\"%s\"' \"$(cat /etc/token)\"",
        "cat /etc/token >&2; exit 3",
        "cat /etc/token /etc/token | tr -d '\\n'; exit 3",
    ];
    for way in ways {
        let ran = builds(project, way, &spec(way), VALUE, &[0, 4]);
        for part in ["horse", "Y29ycmVjdC1ob3JzZS"] {
            assert!(!ran.stdout.contains(part) && !ran.stderr.contains(part), "{way}: {}{}", ran.stdout, ran.stderr);
        }
    }
    ways.len()
}

/// What a step wrote and removed is not in the bytes of an artifact.
fn deleted(project: &Project<'_>) -> usize {
    let write = "for i in $(seq 1 40); do cat /run/secrets/token > /home/f$i; done; sync; rm /home/f*; sync";
    let spec = json!({
        "import": project.field.base(), "steps": [{ "run": write, "secrets": "token" }],
        "export": [{ "raw": { "path": "plain.img" } }, { "raw": { "path": "clean.img", "clean": true } }],
    });
    builds(project, "a deleted secret", &spec, VALUE, &[0]);
    let count = |name: &str| count_in(&project.folder.join(name), VALUE);
    assert!(count("plain.img") > 0, "it was never there");
    assert_eq!(count("clean.img"), 0, "a deleted secret is in the artifact");
    for name in ["plain.img", "clean.img"] {
        fs::remove_file(project.folder.join(name)).expect("it was made");
    }
    1
}

/// The value is another one by now; the layer has the old one, and an artifact that is to be clean does not get it.
fn changed(project: &Project<'_>) -> usize {
    let spec = |last: &str| {
        json!({
            "import": project.field.base(),
            "steps": [{ "run": "cp /run/secrets/token /etc/token", "secrets": "token" }, { "run": last }],
            "export": { "raw": { "path": "clean.img", "clean": true } },
        })
    };
    builds(project, "a value that is in the image", &spec("true"), VALUE, &[1]);
    let ran = builds(project, "a value of before", &spec("echo later"), LATER, &[1]);
    assert!(ran.stderr.contains("a value that the secret `token` had before"), "{}", ran.stderr);
    assert!(!project.folder.join("clean.img").exists(), "it was exported all the same");
    2
}

/// URLs that let somebody in, wherever a template can have one.
fn urls(project: &Project<'_>) -> usize {
    let base = project.field.base();
    let zeros = "0".repeat(64);
    let ways = [
        json!({ "import": { "download": { "url": URL } } }),
        json!({ "import": { "download": { "url": URL, "checksum": format!("sha256:{zeros}") } } }),
        json!({ "import": { "bootstrap": { "suite": "bookworm", "size": "512M", "mirror": URL } } }),
        json!({ "import": base, "steps": [{ "download_to": { "dest": "/a", "url": URL, "checksum": format!("sha256:{zeros}") } }] }),
        json!({ "import": base, "steps": [{ "run": format!("echo '{URL}'; exit 3") }] }),
    ];
    let count = ways.len();
    for spec in ways {
        builds(project, &spec.to_string(), &spec, VALUE, &[1, 4, 5]);
        for arguments in [&["plan", "t.yml", "--explain"][..], &["tree"], &["cache", "ls", "--json"]] {
            let mut command = project.command(arguments, false);
            let ran =
                Ran::from(command.args(["--allow", "env=TOKEN"]).env("TOKEN", VALUE).output().expect("it starts"));
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert!(!said.contains("hunter2") && !said.contains("tok-abc"), "{arguments:?}: {said}");
        }
    }
    count
}

/// Variables and files that the user did not name.
fn unasked(project: &Project<'_>) -> usize {
    let sources = [json!({ "env": "HOME" }), json!({ "env": "PATH" }), json!({ "file": project.secret() })];
    for source in &sources {
        let spec = json!({ "import": project.field.base(), "steps": [{ "run": "true", "secrets": "token" }] });
        project.write("t.yml", &json!({ "secrets": { "token": source }, "spec": spec }).to_string());
        project.refused(&source.to_string(), &project.build(), false, 1, "--allow");
    }
    assert!(Path::new(&project.secret()).is_absolute());
    sources.len()
}
