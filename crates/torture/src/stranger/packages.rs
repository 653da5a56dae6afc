//! Packages and their mirrors: scripts that reach for the host, mirrors that nobody vouches for, mirrors on the host, and
//! redirects that lead there.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;

use serde_json::{Value, json};
use testkit::{Attack, Elsewhere, Targets, Web, read_file_from_image, rpm_repository, serve, tar};

use super::Project;
use crate::world::Ran;

pub(super) fn packages(project: &Project<'_>) -> usize {
    let files = [(b'0', "etc/os-release", "ID=debian\n"), (b'0', "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")];
    fs::write(project.folder.join("root.tar"), tar(&files)).expect("the folder is ours");
    unverified(project) + on_the_host(project) + led_to_the_host(project) + scripts(project)
}

fn bootstrap(more: Value) -> Value {
    let mut arguments = json!({ "suite": "bookworm", "size": "512M" });
    for (name, value) in more.as_object().expect("a mapping") {
        arguments[name] = value.clone();
    }
    json!({ "import": { "bootstrap": arguments } })
}

/// The kernel of a packed tree, from such a mirror.
fn kernel(mirror: &str) -> Value {
    json!({ "import": { "rootfs": { "source": "root.tar", "size": "512M", "kernel": { "package": "linux", "mirror": mirror } } } })
}

/// What only the project itself vouches for.
fn unverified(project: &Project<'_>) -> usize {
    project.write("key.asc", "");
    let key = project.folder.join("key.asc");
    let lines = [
        json!({ "mirror": "deb [trusted=yes] http://mirror.example ./" }),
        json!({ "mirror": "deb [allow-insecure=yes] http://mirror.example bookworm main" }),
        json!({ "mirror": format!("deb [signed-by={}] http://mirror.example bookworm main", key.display()) }),
        json!({ "suite": "rocky9", "mirror": "http://mirror.example", "signed": false }),
        json!({ "suite": "rocky9", "mirror": "http://mirror.example", "gpg": "key.asc" }),
    ];
    let count = lines.len();
    for line in lines {
        project.spec(&bootstrap(line.clone()));
        project.refused(&line.to_string(), &project.build(), false, 1, "--allow unverified");
    }
    count
}

/// Mirrors that are the host's own services.
fn on_the_host(project: &Project<'_>) -> usize {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port is free");
    listener.set_nonblocking(true).expect("a socket of ours");
    let port = listener.local_addr().expect("a socket of ours").port();
    let mut members = 0;
    for address in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "[fd00:ec2::254]", "2130706433"] {
        let mirror = format!("http://{address}:{port}/debian");
        for spec in [
            bootstrap(json!({ "mirror": mirror })),
            bootstrap(json!({ "mirror": format!("deb {mirror} bookworm main") })),
            bootstrap(json!({ "suite": "rocky9", "mirror": mirror, "signed": false })),
            kernel(&mirror),
            json!({ "import": { "download": { "url": mirror } } }),
        ] {
            project.builds(address, &spec, &["--allow", "unverified"], &[1, 5]);
            members += 1;
        }
    }
    assert_eq!(listener.accept().expect_err("nobody came").kind(), ErrorKind::WouldBlock);
    members
}

/// Mirrors of others that lead whoever fetches to the host.
fn led_to_the_host(project: &Project<'_>) -> usize {
    let network = Elsewhere::new();
    let own = network.listen("0.0.0.0", 0);
    own.set_nonblocking(true).expect("a socket of ours");
    let port = own.local_addr().expect("a socket of ours").port();
    let mut members = 0;
    for target in
        [format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}"), "http://169.254.169.254".into()]
    {
        let listener = network.listen_there();
        let mirror = format!("http://{}/debian", listener.local_addr().expect("a socket of ours"));
        let asked = serve(listener, Web::Leads(target.clone()));
        for spec in [
            bootstrap(json!({ "mirror": mirror })),
            bootstrap(json!({ "suite": "rocky9", "mirror": mirror, "signed": false })),
            kernel(&mirror),
            json!({ "import": { "download": { "url": format!("{mirror}/image") } } }),
        ] {
            asked.lock().expect("nobody panicked").clear();
            project.spec(&spec);
            let arguments = [&project.build()[..], &["--allow", "unverified"]].concat();
            let mut command = network.command(&project.command(&arguments, false));
            let what = format!("{spec} led to {target}");
            let ran = Ran::from(command.output().expect("the program starts"));
            project.field.ended(&what, ran, &[1, 5]);
            assert!(!asked.lock().expect("nobody panicked").is_empty(), "{what}: the mirror was asked");
            members += 1;
        }
    }
    assert_eq!(own.accept().expect_err("nobody came").kind(), ErrorKind::WouldBlock);
    members
}

/// Scripts of packages that the user took, though nobody vouches for them.
fn scripts(project: &Project<'_>) -> usize {
    // The tests of bootstraps have them one by one.
    if project.short {
        return 0;
    }
    let mut targets = Targets::new();
    let scratch = project.field.world.path("packages");
    fs::create_dir(&scratch).expect("the folder is ours");
    let (deb, rpm) = (project.folder.join("deb"), project.folder.join("rpm"));
    targets.attack().deb_repository(&deb, &scratch);
    targets.attack().rpm_repository(&rpm, &scratch);
    rpm_repository(&project.folder.join("system"));
    let line = format!("deb [trusted=yes] copy:{} own main", deb.display());
    let repositories =
        [format!("file:{}", project.folder.join("system/repository").display()), format!("file:{}", rpm.display())];
    let imports = [
        bootstrap(json!({ "suite": "own", "mirror": line, "packages": ["attack"] })),
        bootstrap(
            json!({ "suite": "rocky9", "size": "1G", "mirror": repositories, "signed": false, "packages": ["attack"] }),
        ),
    ];
    let count = imports.len();
    for mut spec in imports {
        let what = spec.to_string();
        spec["steps"] = json!([{ "copy": { "dest": "/etc/made", "content": "on the engine" } }]);
        spec["export"] = json!({ "raw": { "path": "guest.img" } });
        project.builds(&what, &spec, &["--allow", "unverified", "--force-export"], &[0]);
        let report = read_file_from_image(&project.folder.join("guest.img"), Attack::REPORT);
        assert_eq!(String::from_utf8_lossy(&report), "done\n", "{what}");
        targets.assert_missed(&what);
    }
    fs::remove_file(project.folder.join("guest.img")).expect("it was made");
    count
}
