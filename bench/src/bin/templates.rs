//! Measures the language of templates: `cargo run --release -p bench --bin templates [-- VIRT_MAKER]`.
//!
//! - `render` of 1,000 templates of 20 steps that each stand on two others, in one call;
//! - `plan` of a matrix of 1,000 specs that share 15 of 20 steps, with an empty store and with one that has every layer.
//!   The layers are sealed as they would be by a build, with nothing in them: what a plan reads of them is the same.
//!
//! Each figure is the median of several runs of the whole process, with what it prints thrown away.

#[path = "../fill.rs"]
mod fill;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

const TEMPLATES: usize = 1000;
const RUNS: usize = 7;

fn main() -> Result<(), Failure> {
    let program = std::env::args().nth(1).map_or_else(|| PathBuf::from("target/release/virt-maker"), PathBuf::from);
    let program = fs::canonicalize(program)?;
    let folder = std::env::temp_dir().join(format!("bench-templates-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure(&program, &folder);
    fs::remove_dir_all(&folder)?;
    measured
}

fn measure(program: &Path, folder: &Path) -> Result<(), Failure> {
    let names = write_templates(folder)?;
    let arguments: Vec<&str> = ["render", "--json"].into_iter().chain(names.iter().map(String::as_str)).collect();
    print("render of 1,000 templates", median(program, folder, "none", &arguments)?);

    write_matrix(folder)?;
    print("plan of 1,000 specs, empty store", median(program, folder, "empty", &["plan", "matrix.yml"])?);
    let layers = fill::fill(folder, "full")?.len();
    print(
        &format!("plan of 1,000 specs, store with {layers} layers"),
        median(program, folder, "full", &["plan", "matrix.yml"])?,
    );
    Ok(())
}

fn print(what: &str, time: Duration) {
    println!("{what}: {:.0} ms", time.as_secs_f64() * 1000.0);
}

fn median(program: &Path, folder: &Path, store: &str, arguments: &[&str]) -> Result<Duration, Failure> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let begin = Instant::now();
        let status = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .env("VIRT_MAKER_STORE", folder.join(store))
            .env("XDG_CACHE_HOME", folder.join("cache"))
            .env("XDG_STATE_HOME", folder.join("state"))
            .stdout(Stdio::null())
            .status()?;
        times.push(begin.elapsed());
        if !status.success() {
            return Err(format!("{} failed: {status}", arguments[0]).into());
        }
    }
    times.sort();
    Ok(times[RUNS / 2])
}

/// Templates of 20 steps in all, on two levels that they share by tens.
fn write_templates(folder: &Path) -> Result<Vec<String>, Failure> {
    fs::write(folder.join("base.img"), vec![0; 1 << 20])?;
    let steps = |from: usize, to: usize| -> String {
        (from..to).fold(String::new(), |mut text, step| {
            let _ = writeln!(text, "    - run: |\n        set -e\n        echo {{{{ name }}}} step {step}\n        test -n '{{{{ role }}}}'");
            text
        })
    };
    let top = "params: {name: top, role: '{{ name }}-role', packages: [vim, curl]}\nspec:\n  import: {download: {url: base.img}}\n  steps:\n";
    fs::write(folder.join("top.yml"), format!("{top}{}", steps(0, 6)))?;
    let mut names = Vec::new();
    for index in 0..TEMPLATES {
        let middle = format!("middle-{}.yml", index / 10);
        if index % 10 == 0 {
            fs::write(
                folder.join(&middle),
                format!("from: top.yml\nspec:\n  steps:\n    - install: '{{{{ packages }}}}'\n{}", steps(6, 12)),
            )?;
        }
        let name = format!("t-{index}.yml");
        let text = format!(
            "from: {middle}\nparams: {{name: web{index}}}\nspec:\n  steps:\n    - hostname: '{{{{ name }}}}'\n{}",
            steps(12, 18)
        );
        fs::write(folder.join(&name), text)?;
        names.push(name);
    }
    Ok(names)
}

fn write_matrix(folder: &Path) -> Result<(), Failure> {
    let mut text = String::from(
        "matrix:\n  index: '{{ range(1000) | list }}'\nspec:\n  import: {download: {url: base.img}}\n  steps:\n",
    );
    for step in 0..15 {
        let _ = writeln!(text, "    - run: echo shared {step}");
    }
    for step in 15..20 {
        let _ = writeln!(text, "    - run: echo {{{{ index }}}} of its own {step}");
    }
    Ok(fs::write(folder.join("matrix.yml"), text)?)
}
