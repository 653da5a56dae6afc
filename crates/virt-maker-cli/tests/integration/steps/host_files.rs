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
    onto(&folder);
    testkit::run(Command::new("python3").args(["-c", DETAILS]).arg(folder.join("details.tar")));
    fs::write(folder.join("motd.j2"), "Hello {{ who }}: {{ list | join(',') }}\n").unwrap();
    fs::write(folder.join("payload"), "payload\n").unwrap();
    fs::write(folder.join("key.asc"), "-----BEGIN PGP PUBLIC KEY BLOCK-----\nx\n").unwrap();
    fs::write(folder.join("password"), "another one 4711\n").unwrap();
    [("host", folder.display().to_string()), ("payload", super::sha256(b"payload\n"))]
}

/// A tar with what a guest's own files have: times, attributes, capabilities, a second name, holes, links to anywhere in it, and a
/// name as systemd makes them.
const DETAILS: &str = r"
import io, sys, tarfile
t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)
def add(name, data=b'x\n', kind=tarfile.REGTYPE, link='', **records):
    i = tarfile.TarInfo(name)
    i.type, i.linkname, i.mtime, i.size, i.pax_headers = kind, link, 1000000000, len(data), records
    t.addfile(i, io.BytesIO(data))
add('opt/u', b'', tarfile.DIRTYPE)
add('opt/u/srv-my\\x2ddata.mount')
rights = '\x01\x00\x00\x02\x00\x20' + '\x00' * 14
marks = {'user.note': 'x', 'security.capability': rights, 'security.selinux': 'l'}
add('opt/u/marked', **{'SCHILY.xattr.' + name: value for name, value in marks.items()})
add('opt/u/twin', b'', tarfile.LNKTYPE, 'opt/u/marked')
add('opt/u/null', b'', tarfile.SYMTYPE, '/dev/null')
add('opt/u/hosts', b'', tarfile.SYMTYPE, '/etc/hosts')
sparse = {'major': '1', 'minor': '0', 'name': 'opt/u/sparse', 'realsize': '100000'}
stored = b'1\n99990\n10\n'.ljust(512, b'\0') + b'0123456789'
add('opt/u/GNUSparseFile.0/sparse', stored, **{'GNU.sparse.' + name: value for name, value in sparse.items()})
t.close()
";

/// Folders, and an archive with folders, that a guest has already, with other modes and owners; some of them are links there.
fn onto(folder: &Path) {
    let tree = folder.join("onto");
    for file in [
        "var/run/a",
        "var/late/b",
        "var/tmp/c",
        "home/tiny/new/d",
        "tar/etc/private/e",
        "tar/lib/f",
        "tar/tmp/g",
        "whole/tmp/h",
        "whole/new/i",
    ] {
        let path = tree.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x\n").unwrap();
    }
    for name in ["tar/etc", "tar/tmp", "tar/lib"] {
        testkit::run(Command::new("chmod").arg("0750").arg(tree.join(name)));
    }
    let mut tar = Command::new("tar");
    testkit::run(tar.arg("-C").arg(tree.join("tar")).arg("-cf").arg(folder.join("onto.tar")).arg("."));
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
