//! Measures a large store: `cargo run --release -p bench --bin store [-- VIRT_MAKER]`.
//!
//! - `tree`, `cache usage`, `cache ls`, and `plan --explain` of one template whose last step was changed, on a store of
//!   10,000 layers: a base, ten steps that all share, and a thousand branches of ten steps. The layers are sealed as they
//!   would be by a build, with nothing in them: what these commands read of them is the same;
//! - `build` of that template, from the start until it begins to work on the one layer that is missing;
//! - `cache gc --max-size` that drops half of them, once.
//!
//! Each figure is the median of several runs of the whole process, with what it prints thrown away.

#[path = "../fill.rs"]
mod fill;

use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use virt_maker::store::Store;

type Failure = Box<dyn std::error::Error>;

const BRANCHES: usize = 1000;
const RUNS: usize = 7;

fn main() -> Result<(), Failure> {
    let program = std::env::args().nth(1).map_or_else(|| PathBuf::from("target/release/virt-maker"), PathBuf::from);
    let program = fs::canonicalize(program)?;
    let folder = std::env::temp_dir().join(format!("bench-store-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure(&program, &folder);
    fs::remove_dir_all(&folder)?;
    measured
}

fn measure(program: &Path, folder: &Path) -> Result<(), Failure> {
    fs::write(folder.join("base.img"), vec![0; 1 << 20])?;
    write_template(folder, "matrix.yml", &format!("matrix:\n  index: '{{{{ range({BRANCHES}) | list }}}}'\n"), "")?;
    write_template(folder, "one.yml", "params: {index: 7}\n", "and something else")?;
    let records = fill::fill(folder, "store")?;
    println!("a store of {} layers", records.len());
    let reads: [(&str, &[&str]); 5] = [
        ("tree", &["tree"]),
        ("cache usage", &["cache", "usage"]),
        ("cache ls", &["cache", "ls"]),
        ("plan --explain, one template", &["plan", "--explain", "one.yml"]),
        ("cache gc --dry-run", &["cache", "gc", "--max-size", "1", "--dry-run"]),
    ];
    for (what, arguments) in reads {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            times.push(time(program, folder, arguments)?);
        }
        times.sort();
        print(what, times[RUNS / 2]);
    }
    let mut times: Vec<_> = (0..RUNS).map(|_| until_work(program, folder)).collect::<Result<_, _>>()?;
    times.sort();
    print("build with one miss, until its work begins", times[RUNS / 2]);
    let bytes: u64 = records.iter().map(|record| record.bytes).sum();
    let limit = (bytes / 2).to_string();
    print("cache gc of half of them", time(program, folder, &["cache", "gc", "--max-size", &limit])?);
    let left = Store::open(&folder.join("store"), &fill::owner(folder))?.keys()?.len();
    println!("{} layers dropped", records.len() - left);
    Ok(())
}

fn print(what: &str, time: Duration) {
    println!("{what}: {:.0} ms", time.as_secs_f64() * 1000.0);
}

fn time(program: &Path, folder: &Path, arguments: &[&str]) -> Result<Duration, Failure> {
    let begin = Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("VIRT_MAKER_STORE", folder.join("store"))
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("XDG_STATE_HOME", folder.join("state"))
        .stdout(Stdio::null())
        .status()?;
    let time = begin.elapsed();
    if status.success() { Ok(time) } else { Err(format!("{} failed: {status}", arguments.join(" ")).into()) }
}

/// How long a build takes until it begins with the missing layer. There is no guest in it, so that is where it ends.
fn until_work(program: &Path, folder: &Path) -> Result<Duration, Failure> {
    let begin = Instant::now();
    let mut build = Command::new(program)
        .args(["build", "one.yml", "--engine", "chroot", "--progress", "json"])
        .current_dir(folder)
        .env("VIRT_MAKER_STORE", folder.join("store"))
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("XDG_STATE_HOME", folder.join("state"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut time = None;
    for line in BufReader::new(build.stdout.take().ok_or("standard output is a pipe")?).lines() {
        let event: serde_json::Value = serde_json::from_str(&line?)?;
        if event["type"] == "session_started" {
            time.get_or_insert_with(|| begin.elapsed());
        }
    }
    build.wait()?;
    time.ok_or_else(|| "the build did not begin".into())
}

fn write_template(folder: &Path, name: &str, head: &str, last: &str) -> Result<(), Failure> {
    let mut text = format!("{head}spec:\n  import: {{download: {{url: base.img}}}}\n  steps:\n");
    for step in 0..10 {
        let _ = writeln!(text, "    - run: |\n        set -e\n        echo shared {step}\n        test -d /etc");
    }
    for step in 10..20 {
        let more = if step == 19 { last } else { "" };
        let _ = writeln!(
            text,
            "    - run: |\n        set -e\n        echo {{{{ index }}}} of its own {step}\n        echo {more}"
        );
    }
    Ok(fs::write(folder.join(name), text)?)
}
