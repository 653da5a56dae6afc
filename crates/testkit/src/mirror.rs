//! A mirror of Debian that has a few packages and all else: for guests in emulated machines, which take most of a minute to read
//! what the real one lists. The packages are Debian's own, fetched and verified by the host's apt.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::cache::fixture;
use crate::command::run;
use crate::web::{Web, serve};
use crate::{debian_guest, read_file_from_image};

/// Raise it when what it has changes.
const RECIPE: u32 = 1;
/// What the tests install in [`debian_guest`], without what these recommend.
const PACKAGES: [&str; 5] = ["openssh-client", "sudo", "tini", "tree", "uuid-runtime"];

/// The mirror, as a proxy that answers for `deb.debian.org`. Its threads end with the process.
pub struct Mirror {
    /// For the variable `http_proxy`.
    pub proxy: String,
    _folder: TempDir,
}

impl Mirror {
    /// What a guest does before it takes it: nobody signs what has parts left out, and apt takes nothing unsigned where it had
    /// something signed.
    pub const TRUST: &str = "set -e; rm -rf /var/lib/apt/lists/*; \
        sed -i 's/^deb http/deb [trusted=yes] http/' /etc/apt/sources.list; grep trusted /etc/apt/sources.list";

    /// Serves it.
    pub fn start() -> Mirror {
        let folder = tempfile::tempdir().expect("a temporary folder");
        run(Command::new("tar").arg("-xf").arg(packed()).arg("-C").arg(folder.path()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let proxy = format!("http://{}", listener.local_addr().expect("a socket of ours"));
        serve(listener, Web::Proxy(folder.path().to_owned()));
        Mirror { proxy, _folder: folder }
    }
}

/// Its folder in an archive. Takes the network when it is made.
fn packed() -> PathBuf {
    let guest = debian_guest();
    let recipe = format!("mirror {RECIPE} {PACKAGES:?} for {}", guest.file_name().expect("a fixture").display());
    fixture("debian-mirror", "tar", recipe.as_bytes(), |target, scratch| {
        fs::write(scratch.join("status"), read_file_from_image(&guest, "/var/lib/dpkg/status")).expect("an own file");
        run(apt("apt-get", scratch).args(["-q", "update"]));
        let mut install = apt("apt-get", scratch);
        run(install.args(["-q", "-y", "--download-only", "--no-install-recommends", "install"]).args(PACKAGES));
        let mut index = String::new();
        for deb in fs::read_dir(scratch.join("archives")).expect("apt made it") {
            let deb = deb.expect("it can be read").path();
            if deb.extension().is_none_or(|extension| extension != "deb") {
                continue;
            }
            let name = run(Command::new("dpkg-deb").arg("--field").arg(&deb).arg("Package")).stdout;
            let name = String::from_utf8(name).expect("a name");
            let shown = run(apt("apt-cache", scratch).args(["show", "--no-all-versions", name.trim()])).stdout;
            let shown = String::from_utf8(shown).expect("what apt knows is text").trim_end().to_owned();
            let place = shown.lines().find_map(|line| line.strip_prefix("Filename: ")).expect("where a mirror has it");
            let place = scratch.join("debian").join(place);
            fs::create_dir_all(place.parent().expect("a folder above")).expect("an own folder");
            fs::rename(&deb, place).expect("an own file");
            index += &format!("{shown}\n\n");
        }
        let suite = scratch.join("debian/dists/bookworm");
        fs::create_dir_all(suite.join("main/binary-amd64")).expect("an own folder");
        let packages = suite.join("main/binary-amd64/Packages");
        fs::write(&packages, &index).expect("an own file");
        let sum = run(Command::new("sha256sum").arg(&packages)).stdout;
        let sum = String::from_utf8(sum).expect("a digest");
        let release = format!(
            "Origin: Debian\nSuite: oldstable\nCodename: bookworm\nComponents: main\nArchitectures: amd64\n\
             Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {} {} main/binary-amd64/Packages\n",
            &sum[..64],
            index.len()
        );
        fs::write(suite.join("Release"), release).expect("an own file");
        run(Command::new("tar").arg("-cf").arg(target).arg("-C").arg(scratch).arg("debian"));
    })
}

/// A program of the host's apt that knows bookworm and the guest, and nothing of the host but its proxies.
fn apt(program: &str, scratch: &Path) -> Command {
    let sources = scratch.join("sources.list");
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    fs::write(&sources, format!("deb [signed-by={keys}] http://deb.debian.org/debian bookworm main\n"))
        .expect("an own file");
    for folder in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(scratch.join(folder)).expect("an own folder");
    }
    let mut command = Command::new(program);
    for (setting, file) in [
        ("Dir::Etc::SourceList", "sources.list"),
        ("Dir::State::status", "status"),
        ("Dir::State::lists", "lists"),
        ("Dir::Cache::archives", "archives"),
        ("Dir::Cache::pkgcache", "pkgcache"),
        ("Dir::Cache::srcpkgcache", "srcpkgcache"),
    ] {
        command.arg("-o").arg(format!("{setting}={}", scratch.join(file).display()));
    }
    for setting in [
        "Dir::Etc::SourceParts=/dev/null",
        "Dir::Etc::Preferences=/dev/null",
        "Dir::Etc::PreferencesParts=/dev/null",
        "APT::Architecture=amd64",
        "APT::Architectures=amd64",
        "APT::Sandbox::User=root",
        "Acquire::Languages=none",
    ] {
        command.args(["-o", setting]);
    }
    command
}
