//! SIGKILL at random moments: nothing is left on the host, no bad layer is taken for good, the next build succeeds.

use std::path::Path;
use std::time::{Duration, Instant};

use testkit::{HostState, read_file_from_image};

use crate::Options;
use crate::field::turn;
use crate::random::Random;
use crate::world::World;

/// Kills for each engine: whole campaign, short form. libguestfs takes seconds a round, so it gets fewer.
const ROUNDS: [(&str, u64, u64); 3] = [("chroot", 700, 20), ("vm", 250, 4), ("libguestfs", 50, 1)];
/// How much longer a build takes libguestfs than it takes engine `vm`, about.
const LONGER: u64 = 5;
/// A build is run to its end after so many kills.
const EACH: u64 = 10;
/// So few images that flattening has something to do in every build.
const DEPTH: [&str; 2] = ["--max-depth", "3"];

pub fn run(options: &Options, random: &mut Random) -> String {
    let (mut kills, mut builds, mut hits, mut flattened) = (0, 0, 0, 0);
    // Microseconds of a whole build.
    let mut took = 0;
    for (engine, whole, short) in ROUNDS {
        let _turn = turn(engine);
        let rounds = if options.short { short } else { whole };
        let world = World::new(&options.binary);
        let before = HostState::capture();
        let templates = |round: u64| {
            let steps = |name: &str| {
                let write = |number| {
                    format!(
                        "set -e; dd if=/dev/zero of=/blob{number} bs=64k count=16 2>/dev/null; echo {round}.{number} >> /steps"
                    )
                };
                let mut steps: Vec<String> = (0..3).map(write).collect();
                steps.push(format!("echo {name} >> /steps; sleep 60 >/dev/null 2>&1 &"));
                steps
            };
            [
                world.template("one.yml", &steps("one"), Some("one.raw")),
                world.template("two.yml", &steps("two"), Some("two.raw")),
            ]
        };
        let whole_build = |round: u64| {
            let [one, two] = templates(round);
            let both: [&Path; 2] = [&one, &two];
            let ran = world.run(&[&World::build_arguments(engine, &both)[..], &DEPTH].concat()).exits(0);
            assert_eq!(ran.of("warning").count(), 0, "{:?}", ran.of("warning").collect::<Vec<_>>());
            for name in ["one", "two"] {
                let text = read_file_from_image(&world.path(&format!("{name}.raw")), "/steps");
                let expected = format!("{round}.0\n{round}.1\n{round}.2\n{name}\n");
                assert_eq!(String::from_utf8_lossy(&text), expected);
            }
            assert_eq!(world.left_in_store(), Vec::<String>::new());
        };
        // The first one may have to make an appliance; that of libguestfs is there, and takes its seconds each time. So in the short
        // form its one build is the one after the kill, and how long it takes is taken from the engine before.
        if engine == "libguestfs" && options.short {
            took *= LONGER;
        } else {
            if engine != "libguestfs" {
                whole_build(0);
            }
            let begin = Instant::now();
            whole_build(1);
            took = begin.elapsed().as_micros() as u64;
        }
        for round in 2..rounds + 2 {
            let [one, two] = templates(round);
            let mut build = world.start(&[&World::build_arguments(engine, &[&one, &two])[..], &DEPTH].concat());
            std::thread::sleep(Duration::from_micros(random.below(took)));
            // What runs beside the build is hit too: a collection, or flattening.
            let beside: Option<&[&str]> = match round % 3 {
                0 => Some(&["cache", "gc", "--max-size", "40M"]),
                1 => Some(&["cache", "flatten", "--max-depth", "3"]),
                _ => None,
            };
            if let Some(beside) = beside {
                let mut beside = world.start(beside);
                std::thread::sleep(Duration::from_micros(random.below(60_000)));
                let _ = beside.kill();
                let _ = beside.wait();
                kills += 1;
            }
            hits += u64::from(build.try_wait().ok().flatten().is_none());
            let _ = build.kill();
            let _ = build.wait();
            kills += 1;
            before.assert_nothing_left();
            if round % EACH == 0 || round == rounds + 1 {
                whole_build(round);
                builds += 1;
                world.whole_store(false);
            }
        }
        world.whole_store(true);
        before.assert_nothing_left();
        flattened += world.flat_layers();
    }
    assert!(flattened > 0, "no layer was ever flattened");
    format!(
        "{kills} kills, {hits} of them of builds that were under way, {builds} builds after them, {flattened} layers flattened, nothing damaged and nothing left"
    )
}
