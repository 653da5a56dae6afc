//! What steps of fixtures take from the host.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::Bench;

/// Makes the files, and gives the values of the names that fixtures have for them.
pub fn make(bench: &Bench) -> [(&'static str, String); 2] {
    let folder = bench.path("host");
    fs::create_dir_all(&folder).unwrap();
    archives(&folder);
    fs::write(folder.join("motd.j2"), "Hello {{ who }}: {{ list | join(',') }}\n").unwrap();
    fs::write(folder.join("payload"), "payload\n").unwrap();
    fs::write(folder.join("key.asc"), "-----BEGIN PGP PUBLIC KEY BLOCK-----\nx\n").unwrap();
    fs::write(folder.join("password"), "another one 4711\n").unwrap();
    [("host", folder.display().to_string()), ("payload", super::sha256(b"payload\n"))]
}

/// Archives that a host has, made by its own programs.
fn archives(folder: &Path) {
    let tree = folder.join("tree/top");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/a.txt"), "a\n").unwrap();
    fs::write(tree.join("tool"), "#!/bin/sh\n").unwrap();
    std::os::unix::fs::symlink("sub/a.txt", tree.join("link")).unwrap();
    fs::hard_link(tree.join("sub/a.txt"), tree.join("twin")).unwrap();
    testkit::run(Command::new("chmod").args(["0750"]).arg(tree.join("tool")));
    let mut tar = Command::new("tar");
    testkit::run(
        tar.arg("-C").arg(folder.join("tree")).args(["--owner=77", "-cJf"]).arg(folder.join("a.tar.xz")).arg("top"),
    );
    let script = "import os, sys, zipfile\n\
        z = zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\n\
        z.write(sys.argv[2], 'z/tool')\n\
        i = zipfile.ZipInfo('z/link'); i.external_attr = 0o120777 << 16; z.writestr(i, 'tool')\n";
    testkit::run(Command::new("python3").args(["-c", script]).arg(folder.join("a.zip")).arg(tree.join("tool")));
}
