//! The power is cut right after each sync that a build or flattening makes: what was not synced is gone, and the store is whole.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use testkit::{HostState, read_file_from_image};

use crate::Options;
use crate::disk::Disk;
use crate::random::Random;
use crate::world::World;

/// How long each sync is held up, so that the power goes before what follows it; in microseconds.
const HOLD: u64 = 30_000;
/// In the short form, one of so many sync points is taken.
const SHORT: u64 = 3;

/// So few images that flattening has work on the chain of this campaign.
const DEPTH: [&str; 2] = ["--max-depth", "3"];
/// Layers of the template, its base included.
const LAYERS: usize = 5;

pub fn run(options: &Options, random: &mut Random) -> String {
    let builds = cuts(options, random, false);
    let flattenings = cuts(options, random, true);
    format!(
        "{} cuts of builds, the last after sync {} (the build's end), {} of flattening, the last after sync {}; \
         every store whole, every next build right",
        builds.0, builds.1, flattenings.0, flattenings.1
    )
}

/// Cuts the power at one sync point after the other: of a build, or of flattening what a build made. Returns how many
/// cuts there were, and at which point the work was done.
fn cuts(options: &Options, random: &mut Random, flattening: bool) -> (u64, u64) {
    let before = HostState::capture();
    let (mut cuts, mut flat) = (0, 0);
    // Which points the short form takes is another thing each time.
    let (step, mut point) = if options.short { (SHORT, 1 + random.below(SHORT)) } else { (1, 1) };
    loop {
        let mut world = World::new(&options.binary);
        let disk = Disk::new(&world.path(""), 160);
        world.place = disk.at.clone();
        let steps: Vec<String> = (1..LAYERS)
            .map(|number| {
                format!("dd if=/dev/urandom of=/blob{number} bs=64k count=8 2>/dev/null; echo {number} >> /steps")
            })
            .collect();
        let template = world.template("t.yml", &steps, Some("out.raw"));
        let done = if flattening {
            // Without an export: what is known of artifacts is not synced, as they are not.
            world.build("chroot", &[&world.template("layers.yml", &steps, None)]).exits(0);
            cut_after(&world, &disk, &[&["cache", "flatten"][..], &DEPTH].concat(), point)
        } else {
            cut_after(&world, &disk, &World::build_arguments("chroot", &[&template]), point)
        };
        disk.restart();
        let layers = world.whole_store(true);
        flat += world.flat_layers();
        let ran = world.build("chroot", &[&template]).exits(0);
        assert_eq!(ran.of("warning").count(), 0, "{:?}", ran.of("warning").collect::<Vec<_>>());
        assert_eq!(ran.of("layer_cached").count(), layers, "what is in the store after the cut is used");
        assert!(!flattening || layers == LAYERS, "flattening lost a layer: {layers} are left");
        let text = read_file_from_image(&disk.at.join("out.raw"), "/steps");
        assert_eq!(String::from_utf8_lossy(&text), "1\n2\n3\n4\n");
        assert_eq!(world.left_in_store(), Vec::<String>::new());
        world.whole_store(false);
        drop(disk);
        before.assert_nothing_left();
        cuts += 1;
        if done {
            break;
        }
        point += step;
    }
    assert!(!flattening || flat > 0, "no layer was ever flattened");
    (cuts, point)
}

/// Runs the program and cuts the power after its sync number `point`. Returns whether it ended before that.
fn cut_after(world: &World, disk: &Disk, arguments: &[&str], point: u64) -> bool {
    let inner = world.command(arguments);
    let mut tracer = Command::new("strace");
    // With --seccomp-bpf only the calls that are asked for stop.
    tracer.args(["-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-e", "trace=fsync,fdatasync,syncfs"]);
    tracer.arg("-e").arg(format!("inject=fsync,fdatasync,syncfs:delay_exit={HOLD}"));
    tracer.arg(inner.get_program()).args(inner.get_args());
    tracer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(world.path(""));
    let mut tracer: Child =
        tracer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("strace is installed");
    let mut seen = 0;
    for line in BufReader::new(tracer.stderr.take().expect("it is a pipe")).lines().map_while(Result::ok) {
        // A line that goes on later is counted when it does.
        if line.contains("sync") && line.contains(" = ") {
            seen += 1;
            if seen == point {
                disk.cut();
                break;
            }
        }
    }
    if seen < point {
        assert!(tracer.wait().expect("it is our child").success(), "work whose power was not cut succeeds");
        return true;
    }
    // Whoever has no power does not run.
    kill_children(tracer.id());
    let _ = tracer.kill();
    let _ = tracer.wait();
    false
}

/// Kills the processes that a process has started.
fn kill_children(parent: u32) {
    let _ = Command::new("pkill").args(["-KILL", "-P", &parent.to_string()]).status();
}
