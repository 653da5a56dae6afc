//! An ordinary user: `nobody`, who owns nothing but a home with the program in it, and is in no group that may use KVM.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Bench;

/// Its number.
pub const USER: u32 = 65534;

/// A home in the bench's folder with the program, its agent, and the bench's base image as `base.img` where there is one. It
/// is the user's once it is [given](give).
pub fn home(bench: &Bench) -> PathBuf {
    let home = bench.path("home");
    fs::create_dir(&home).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_virt-maker"));
    for (from, name) in [(program, "virt-maker"), (&program.with_file_name("virt-maker-agent"), "virt-maker-agent")] {
        fs::copy(from, home.join(name)).unwrap();
    }
    put_base(&home, &bench.base);
    fs::set_permissions(bench.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    home
}

/// A base in the place of the one that is there.
pub fn put_base(home: &Path, base: &Path) {
    if base.exists() {
        testkit::run(Command::new("cp").args(["-f", "--sparse=always"]).arg(base).arg(home.join("base.img")));
    }
}

/// All that is in it is the user's own.
pub fn give(home: &Path) {
    testkit::run(Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(home));
}

/// What runs, as this user, the program whose name and arguments follow; by these options of `setpriv` besides.
pub fn as_user(rights: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".into()]);
    command.arg("--inh-caps=-all").args(rights);
    command
}

/// The options of a user who can gain no right by any program.
pub const WITHOUT_RIGHTS: [&str; 2] = ["--no-new-privs", "--bounding-set=-all"];
