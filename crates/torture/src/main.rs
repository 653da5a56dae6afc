//! `make torture`: a campaign against the store.
//!
//! Builds are killed, the power is cut under them, disks are filled, bits are flipped, a crowd works on one store, and
//! what means harm is fed to it, each with real engines on real guests. After every blow the store is looked at by other
//! means than virt-maker's own: each record against the bytes of its image, each file system by its own checker.
//! One campaign is no blow: what takes too long for a test, new kernels on each engine and boots into them.
//! `docs/reliability.md` has the figures.
//!
//! Everything random comes from one seed, which is printed; `--seed` runs it again.

mod boots;
mod crowd;
mod disk;
mod field;
mod full;
mod hostile;
mod kernels;
mod kill;
mod power;
mod random;
mod rot;
mod stranger;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use random::Random;

const USAGE: &str = "usage: torture [--short] [--seed N] [--virt-maker FILE] [--engine NAME[,NAME]]
               [--part NAME] [CAMPAIGN]...
CAMPAIGN: kill boots power full rot crowd hostile stranger kernels";

/// How a campaign is run.
pub struct Options {
    /// A part of it only: some minutes in all.
    pub short: bool,
    /// The program.
    pub binary: PathBuf,
    /// For campaigns that run on each engine: only on this one, or on these, with commas between them.
    pub engine: Option<String>,
    /// For `stranger`: only the part of this name.
    pub part: Option<String>,
}

/// A campaign: its name, and what says in one line what it did. It panics at the first thing that must not be.
type Campaign = (&'static str, fn(&Options, &mut Random) -> String);

const CAMPAIGNS: &[Campaign] = &[
    ("kill", kill::run),
    ("boots", boots::run),
    ("power", power::run),
    ("full", full::run),
    ("rot", rot::run),
    ("crowd", crowd::run),
    ("hostile", hostile::run),
    ("stranger", stranger::run),
    ("kernels", kernels::run),
];

fn main() -> ExitCode {
    let mut options = Options { short: false, binary: beside("virt-maker"), engine: None, part: None };
    let (mut seed, mut wanted) = (None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--short" => options.short = true,
            "--seed" => match arguments.next().and_then(|text| text.parse().ok()) {
                Some(number) => seed = Some(number),
                None => return usage("--seed needs a number"),
            },
            "--virt-maker" => match arguments.next() {
                Some(path) => options.binary = path.into(),
                None => return usage("--virt-maker needs a file"),
            },
            "--engine" => match arguments.next() {
                Some(name) => options.engine = Some(name),
                None => return usage("--engine needs a name"),
            },
            "--part" => match arguments.next() {
                Some(name) => options.part = Some(name),
                None => return usage("--part needs a name"),
            },
            name => match CAMPAIGNS.iter().find(|(known, _)| *known == name) {
                Some(campaign) => wanted.push(campaign),
                None => return usage(&format!("there is no campaign `{name}`")),
            },
        }
    }
    if wanted.is_empty() {
        wanted = CAMPAIGNS.iter().collect();
    }
    disk::own_mounts();
    let seed = seed.unwrap_or_else(random::new_seed);
    println!("seed {seed}");
    for (name, run) in wanted {
        let begin = Instant::now();
        // Each has its own numbers, so that one alone can be run again.
        let said = run(&options, &mut Random::new(seed, name));
        println!("{name}: {said} ({:.0} s)", begin.elapsed().as_secs_f64());
    }
    ExitCode::SUCCESS
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("torture: {problem}\n{USAGE}");
    ExitCode::from(2)
}

fn beside(name: &str) -> PathBuf {
    std::env::current_exe().expect("a program has a path").with_file_name(name)
}
