//! Bits flip in the files of a store: a miss with a warning or a clear error, never a wrong image.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use testkit::HostState;

use crate::Options;
use crate::random::Random;
use crate::world::{World, sha256};

const ROUNDS: [u64; 2] = [300, 12];

pub fn run(options: &Options, random: &mut Random) -> String {
    let before = HostState::capture();
    let rounds = ROUNDS[usize::from(options.short)];
    let world = World::new(&options.binary);
    let steps: Vec<String> = (0..3).map(|number| format!("echo {number} >> /steps; echo a line in the log")).collect();
    let template = world.template("t.yml", &steps, Some("out.raw"));
    world.build("chroot", &[&template]).exits(0);
    let (mut again, mut refused, mut harmless) = (0, 0, 0);
    for _ in 0..rounds {
        let good = sha256(&world.path("out.raw"));
        let files = files_below(&world.store());
        let file = &files[random.below(files.len() as u64) as usize];
        let bytes = fs::metadata(file).expect("it is there").len();
        let (at, bit) = (random.below(bytes), random.below(8));
        flip(file, at, bit);
        // The artifact is made anew, so that the whole way from the store is gone.
        fs::remove_file(world.path("out.raw")).expect("it was there");
        let ran = world.build("chroot", &[&template]);
        let what = format!("bit {bit} of byte {at} of {}", file.display());
        match ran.code {
            Some(0) => {
                let made = ran.of("layer_sealed").count();
                let warned = ran.of("warning").count() > 0;
                assert!(made == 0 || warned, "{what}: layers were made again without a word");
                // What was made again has other times in it; what was not must be the very same.
                if made == 0 {
                    assert_eq!(sha256(&world.path("out.raw")), good, "{what}: a wrong image");
                    harmless += 1;
                } else {
                    again += 1;
                }
            }
            Some(1 | 5 | 6) if ran.stderr.starts_with("error:") => {
                refused += 1;
                assert!(flip(file, at, bit), "{what}: what is refused stays as it is");
            }
            code => panic!("{what}: {code:?} {}", ran.stderr),
        }
        before.assert_nothing_left();
        world.build("chroot", &[&template]).exits(0);
        world.whole_store(false);
    }
    format!(
        "{rounds} bits flipped: {again} times a layer was made again with a warning, {refused} times an error, {harmless} times the same image"
    )
}

/// Flips a bit. Says whether the file is still there and long enough.
fn flip(file: &Path, at: u64, bit: u64) -> bool {
    let _ = fs::set_permissions(file, fs::Permissions::from_mode(0o600));
    let Ok(open) = OpenOptions::new().read(true).write(true).open(file) else { return false };
    let mut byte = [0];
    open.read_exact_at(&mut byte, at).is_ok() && open.write_all_at(&[byte[0] ^ (1 << bit)], at).is_ok()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            Ok(kind) if kind.is_file() && entry.metadata().is_ok_and(|file| file.len() > 0) => found.push(entry.path()),
            _ => {}
        }
    }
    found.sort();
    found
}
