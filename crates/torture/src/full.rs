//! The disk fills up at every point of a build: an error that says so, a store that is whole, and the same build
//! succeeds after room is made.

use testkit::{HostState, read_file_from_image};

use crate::Options;
use crate::disk::Disk;
use crate::random::Random;
use crate::world::World;

/// How much more room each round has, in bytes: whole campaign, short form.
const STEP: [u64; 2] = [128 << 10, 2500 << 10];

pub fn run(options: &Options, random: &mut Random) -> String {
    let before = HostState::capture();
    let step = STEP[usize::from(options.short)];
    let mut free = random.below(step);
    let (mut full, mut fitted) = (0, 0);
    // Two builds that fit in a row: there is room for all of it.
    while fitted < 2 {
        let mut world = World::new(&options.binary);
        let disk = Disk::new(&world.path(""), 160);
        world.place = disk.at.clone();
        let steps: Vec<String> = (0..3)
            .map(|number| format!("set -e; dd if=/dev/urandom of=/blob{number} bs=64k count=24 2>/dev/null; sync; echo {number} >> /steps"))
            .collect();
        let template = world.template("t.yml", &steps, Some("out.raw"));
        disk.fill(free);
        let ran = world.build("chroot", &[&template]);
        match ran.code {
            Some(0) => fitted += 1,
            Some(5) => {
                assert!(ran.stderr.contains("full"), "with {free} bytes free: {}", ran.stderr);
                full += 1;
                fitted = 0;
            }
            code => panic!("with {free} bytes free the build ended with {code:?}: {}", ran.stderr),
        }
        world.whole_store(true);
        // A collection on a full disk makes room, or at least does no harm; each other time it takes all there is.
        let all = random.below(2) == 0;
        disk.fill(16 << 10);
        let collected = world.run(&["cache", "gc", "--max-size", if all { "0" } else { "1G" }]);
        assert!(matches!(collected.code, Some(0 | 5)), "{}", collected.stderr);
        if all && collected.code == Some(0) {
            assert_eq!(world.whole_store(false), 0, "nothing is left where there is room for nothing");
        } else {
            world.whole_store(true);
        }
        disk.empty();
        world.build("chroot", &[&template]).exits(0);
        let text = read_file_from_image(&disk.at.join("out.raw"), "/steps");
        assert_eq!(String::from_utf8_lossy(&text), "0\n1\n2\n");
        assert_eq!(world.left_in_store(), Vec::<String>::new());
        world.whole_store(false);
        drop(disk);
        before.assert_nothing_left();
        free += step;
    }
    format!(
        "{full} disks filled up, at every {} KiB of a build; each store whole, each build right once there was room",
        step >> 10
    )
}
