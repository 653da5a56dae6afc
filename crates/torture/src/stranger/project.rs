//! What lies in the folder of a cloned project: a store, settings, and templates that name files and places of the host.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;
use testkit::{HOST_FILE_WAYS, host_file_way, looks_for_an_image};

use super::Project;

/// A store that came with the project: links in it that lead to somebody's files, and layers that nobody of this host made.
pub(super) fn stores(project: &Project<'_>) -> usize {
    project.write("virt-maker.toml", "store = 'cache'\n");
    let import = json!({ "download": { "url": project.field.world.base() } });
    project.write("t.yml", &json!({ "spec": { "import": import, "steps": [{ "run": "true" }] } }).to_string());
    let cache = project.folder.join("cache");
    let parts = [
        "locks", "images", "tmp", "layers", "leases", "tags", "pins", "builds", "tests", "exports", "logs", "kept",
        "cache",
    ];
    let mut members = 0;
    for part in parts {
        for marked in [true, false] {
            let _ = fs::remove_dir_all(&cache);
            fs::create_dir(&cache).expect("the folder is ours");
            for other in parts.iter().filter(|other| **other != part) {
                fs::create_dir(cache.join(other)).expect("the folder is ours");
            }
            symlink(project.field.victim(), cache.join(part)).expect("the folder is ours");
            if marked {
                fs::write(cache.join("store.json"), "{\"format\": 4}\n").expect("the folder is ours");
            }
            for arguments in [&["tree"][..], &project.build(), &["cache", "gc"], &["cache", "usage"]] {
                let ran = project.run(arguments, true);
                assert_eq!(ran.code, Some(6), "{part} as a link, {arguments:?}: {}", ran.stderr);
                project.field.untouched(part, &ran);
                members += 1;
            }
        }
    }
    // A whole store, as another user's program made it.
    let _ = fs::remove_dir_all(&cache);
    let made = project
        .field
        .world
        .command(&project.build())
        .current_dir(&project.folder)
        .env("XDG_STATE_HOME", project.field.world.path("other"))
        .env("VIRT_MAKER_STORE", &cache)
        .output();
    assert!(made.expect("the program starts").status.success(), "the other user's build");
    for arguments in [&["tree"][..], &project.build(), &["cache", "gc"]] {
        project.refused("a store of somebody else's", arguments, true, 6, "store");
        members += 1;
    }
    fs::remove_file(project.folder.join("virt-maker.toml")).expect("it is there");
    members
}

pub(super) fn inputs(project: &Project<'_>) -> usize {
    let ways = [project.secret(), format!("{}/link/secret", project.folder.display())];
    let mut members = 0;
    for (what, text) in HOST_FILE_WAYS {
        for path in &ways {
            project.write("t.yml", &host_file_way(text, project.field.world.base(), path));
            let ran = project.run(&[&project.build()[..], &["--allow", "host-exec"]].concat(), false).exits(1);
            if looks_for_an_image(text) {
                project.field.forget();
            }
            project.field.untouched(what, &ran);
            members += 1;
        }
    }
    members
}

pub(super) fn outputs(project: &Project<'_>) -> usize {
    let paths = [
        format!("{}/out", project.field.victim()),
        project.secret(),
        "link/out".into(),
        "../out".into(),
        ".git/hooks/post-checkout".into(),
        ".bashrc".into(),
    ];
    let mut members = 0;
    for path in &paths {
        for kind in ["raw", "qcow2", "tar", "dir", "ova"] {
            let spec = json!({ "import": { "download": { "url": project.field.world.base() } }, "export": { kind: { "path": path, "create_dir": true } } });
            project.write("t.yml", &json!({ "spec": spec }).to_string());
            let arguments = [&project.build()[..], &["--force-export"]].concat();
            project.refused(&format!("{kind} to {path}"), &arguments, false, 1, "may not write");
            members += 1;
        }
    }
    assert!(!project.field.world.path("out").exists());
    members
}

/// What a project's own file says for itself.
pub(super) fn settings(project: &Project<'_>) -> usize {
    let text = format!(
        "allow = ['read={0}', 'write={0}', 'env=HOME', 'host-exec', 'net', 'host-network', 'unverified']\nengine = 'chroot'\n\
         store = '{0}'\nkernel = '{0}/secret'\n",
        project.field.victim()
    );
    project.write("virt-maker.toml", &text);
    let spec = json!({ "import": { "download": { "url": project.field.world.base() } }, "steps": [{ "local_run": format!("cat {}", project.secret()) }] });
    project.write("t.yml", &json!({ "spec": spec }).to_string());
    project.refused("settings", &project.build(), false, 1, "a project cannot decide this by itself");
    fs::remove_file(project.folder.join("virt-maker.toml")).expect("it is there");
    1
}
