//! Builds that boot guests are ended at random moments, by SIGKILL, and by signals that ask for it: nothing is left on the host, qemu and
//! the TPM included, no bad layer is taken for good, and the next build succeeds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::{HostState, SMALL_GUEST_STEP, read_file_from_image, small_guest, small_import};

use crate::Options;
use crate::random::Random;
use crate::world::World;

/// Rounds of the whole campaign and of its short form.
const ROUNDS: [u64; 2] = [50, 4];
/// A build is run to its end after so many.
const EACH: u64 = 5;
/// How long a build may take that was asked to end.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(options: &Options, random: &mut Random) -> String {
    // One machine at a time, as elsewhere in tests.
    let _turn = testkit::appliance_lock();
    let world = World::new(&options.binary);
    let before = HostState::capture();
    let guest = small_guest(&options.binary.with_file_name("virt-maker-agent"));
    let text = format!(
        "spec:\n  import: {{download: {{url: '{}'}}}}\n  steps: [{{run: '{SMALL_GUEST_STEP}'}}]\n  export: {{tar: {{path: '{}'}}}}\n",
        guest.display(),
        world.path("tree.tar").display()
    );
    fs::write(world.path("tree.yml"), text).expect("the folder is ours");
    world.build("chroot", &[&world.path("tree.yml")]).exits(0);

    let machine = "memory: 192M, cpus: 1, timeout: 5m";
    let template = |round: u64| -> PathBuf {
        let import = small_import(world.path("tree.tar").to_str().expect("a path of ours is text"));
        // Each second one has steps in a machine, with a TPM beside it; the others have tests.
        let body = match round % 2 {
            0 => format!(
                "  steps:\n    - run: echo {round}.0 >>/steps\n    - boot: {{{machine}, tpm: true, steps: [{{run: 'echo {round}.1 >>/steps'}}, \
                 {{run: 'dd if=/dev/zero of=/blob bs=64k count=64 2>/dev/null'}}, {{run: 'echo {round}.2 >>/steps'}}]}}\n"
            ),
            _ => format!(
                "  steps:\n    - run: 'for number in 0 1 2; do echo {round}.$number; done >>/steps'\n  tests:\n    \
                 - {{name: it boots, boot: {{{machine}}}, steps: [{{run: 'echo bad >>/steps'}}, {{expect: {{file: {{path: /steps}}}}}}]}}\n"
            ),
        };
        let artifact = world.path("out.raw");
        let text = format!("spec:\n  import: {import}\n{body}  export: {{raw: {{path: '{}'}}}}\n", artifact.display());
        let path = world.path("t.yml");
        fs::write(&path, text).expect("the folder is ours");
        path
    };
    let cache = format!("read={}", testkit::cache_dir().display());
    let allowed = ["--allow", "read=/boot", "--allow", &cache];
    let arguments = |template: &Path| -> Vec<String> {
        let build = World::build_arguments("chroot", &[template]).into_iter().map(str::to_owned).collect::<Vec<_>>();
        build.into_iter().chain(allowed.map(str::to_owned)).collect()
    };
    let whole_build = |round: u64| {
        let arguments = arguments(&template(round));
        let ran = world.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).exits(0);
        assert_eq!(ran.of("warning").count(), 0, "{:?}", ran.of("warning").collect::<Vec<_>>());
        let text = read_file_from_image(&world.path("out.raw"), "/steps");
        assert_eq!(String::from_utf8_lossy(&text), format!("{round}.0\n{round}.1\n{round}.2\n"));
        assert_eq!(world.left_in_store(), Vec::<String>::new());
    };
    let took = [0, 1].map(|round| {
        let begin = Instant::now();
        whole_build(round);
        begin.elapsed().as_micros() as u64
    });
    let (mut hits, mut builds) = (0, 0);
    let rounds = ROUNDS[usize::from(options.short)];
    for round in 2..rounds + 2 {
        let arguments = arguments(&template(round));
        let mut build = world.start(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_micros(random.below(took[(round % 2) as usize])));
        let running = build.try_wait().ok().flatten().is_none();
        hits += u64::from(running);
        let asked = match round % 6 {
            2 => Some(Signal::INT),
            5 => Some(Signal::TERM),
            _ => None,
        };
        let _ = kill_process(Pid::from_child(&build), asked.unwrap_or(Signal::KILL));
        let begin = Instant::now();
        let ended = build.wait().expect("it was started");
        if let Some(asked) = asked.filter(|_| running) {
            assert!(begin.elapsed() < PATIENCE, "{:?} after {asked:?}", begin.elapsed());
            // It may have been done at that very moment.
            assert!(matches!(ended.code(), Some(130 | 0)), "{ended} after {asked:?}");
            assert_eq!(world.left_in_store(), Vec::<String>::new(), "after {asked:?}");
        }
        before.assert_nothing_left();
        world.whole_store(false);
        if round % EACH == 0 || round == rounds + 1 {
            whole_build(round);
            builds += 1;
        }
    }
    world.whole_store(true);
    before.assert_nothing_left();
    format!(
        "{rounds} builds with machines ended, {hits} of them while they were under way, {builds} builds after them, nothing damaged and nothing left"
    )
}
