//! Fuzzing of what reads templates: `cargo run -p fuzz -- loader 600` (or `expressions`) runs for so many seconds.
//!
//! Inputs are mutations of a corpus (`corpus/`, and the templates of the tests). There are no more than two rules: no
//! input makes the loader panic, and none takes longer than [`SLOW`]. Each input is written to a file before it is tried,
//! so what ends the whole process (a stack overflow) is there to be looked at.

mod mutate;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use virt_maker::event::Events;
use virt_maker::spec::{HostAccess, load_all, load_options};
use virt_maker::template::{LoadOptions, resolve};

use mutate::Mutator;

/// No input may take longer, in a program that was not optimised, on a busy machine.
const SLOW: Duration = Duration::from_secs(30);

/// What is fuzzed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Whole templates.
    Loader,
    /// One expression.
    Expressions,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Loader => "loader",
            Target::Expressions => "expressions",
        }
    }

    /// The template that tries an input.
    fn template(self, input: &[u8]) -> Vec<u8> {
        match self {
            Target::Loader => input.to_vec(),
            Target::Expressions => {
                let text = String::from_utf8_lossy(input);
                let quoted = serde_json::to_string(&text).unwrap_or_default();
                format!(
                    "params: {{n: 3, text: 'a,b', list: [1, b, [c]], map: {{k: v, l: [1]}}, flag: true, none: null}}\n\
                     spec:\n  import: {{download: {{url: x}}}}\n  steps: [{{run: {quoted}}}, {{run: x, when: {quoted}}}]\n"
                )
                .into_bytes()
            }
        }
    }
}

/// A folder with files that templates can take in.
struct Bench {
    folder: tempfile::TempDir,
    options: LoadOptions,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in [
            ("base.yml", "params: {a: 1}\nspec: {import: {download: {url: x}}, steps: [{run: base}]}\n"),
            ("lib.yml", "define: {mine: {params: {x: {type: integer, default: 1}}, steps: [{run: 'echo {{ x }}'}]}}\n"),
            ("steps.yml", "params: {p: 1}\nsteps: [{run: '{{ p }}'}]\n"),
            ("data.yml", "a: [1, {b: c}]\n"),
        ] {
            fs::write(folder.path().join(name), text).expect("the temporary folder can be written");
        }
        let access = HostAccess {
            cache_dir: folder.path().join("cache"),
            permissions: Default::default(),
            homes: Vec::new(),
            env: Default::default(),
            certificates: Default::default(),
            events: Events::none(),
            cancel: Default::default(),
        };
        let options = load_options(&[], Some(folder.path().to_owned()), &access);
        Bench { folder, options }
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("t.yml")
    }

    /// Tries one input; the error says what was wrong with it.
    fn try_one(&self, target: Target, input: &[u8]) -> Result<bool, String> {
        let path = self.input();
        fs::write(&path, target.template(input)).map_err(|error| error.to_string())?;
        let begin = Instant::now();
        let paths = [path];
        let done = catch_unwind(AssertUnwindSafe(|| {
            let rendered = resolve(&paths, &self.options).map(|loaded| {
                loaded.specs.iter().map(|spec| spec.to_json().to_string().len()).sum::<usize>();
            });
            load_all(&paths, &self.options).is_ok() || rendered.is_ok()
        }));
        let time = begin.elapsed();
        match done {
            Err(_) => Err("the loader panicked".into()),
            Ok(_) if time > SLOW => Err(format!("it took {time:?}")),
            Ok(good) => Ok(good),
        }
    }
}

/// The corpus of a target: its own files, and the templates of the tests.
fn corpus(target: Target) -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = here.join("corpus").join(target.name());
    let mut paths: Vec<_> =
        fs::read_dir(own).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let mut all: Vec<Vec<u8>> = paths.iter().filter_map(|path| fs::read(path).ok()).collect();
    if target == Target::Expressions {
        return all.iter().flat_map(|file| file.split(|byte| *byte == b'\n').map(<[u8]>::to_vec)).collect();
    }
    for name in ["corpus/1-shape.txt", "corpus/2-values.txt", "corpus/3-functions.txt", "errors/cases.txt"] {
        let text = fs::read_to_string(here.join("../virt-maker-cli/tests").join(name)).unwrap_or_default();
        for case in text.split("#### ").skip(1) {
            let lines = case
                .lines()
                .skip(1)
                .filter(|line| !["$ ", "== ", "=> ", "!! "].iter().any(|mark| line.starts_with(mark)));
            all.push(lines.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes());
        }
    }
    all
}

/// Tries the corpus and then mutations until the time is over or so many were tried. Gives how many, and how many were
/// good templates.
fn run(target: Target, time: Duration, most: u64, seed: u64) -> Result<(u64, u64), String> {
    let bench = Bench::new();
    let corpus = corpus(target);
    let mut mutator = Mutator::new(seed);
    let (mut tried, mut good) = (0, 0);
    let begin = Instant::now();
    let mut report = Instant::now();
    for input in &corpus {
        good += u64::from(bench.try_one(target, input).map_err(|problem| keep(target, input, &problem))?);
        tried += 1;
    }
    while begin.elapsed() < time && tried < most {
        let input = mutator.mutate(&corpus);
        good += u64::from(bench.try_one(target, &input).map_err(|problem| keep(target, &input, &problem))?);
        tried += 1;
        if report.elapsed() > Duration::from_secs(60) {
            println!("{}: {tried} inputs, {good} of them good", target.name());
            report = Instant::now();
        }
    }
    Ok((tried, good))
}

/// Keeps an input that was too much for the loader.
fn keep(target: Target, input: &[u8], problem: &str) -> String {
    let path = std::env::temp_dir().join(format!("fuzz-{}-{}", target.name(), std::process::id()));
    let kept = fs::write(&path, input).map_or_else(|error| error.to_string(), |()| path.display().to_string());
    format!("{problem}; the input: {kept}")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let target = match arguments.first().map(String::as_str) {
        Some("loader") => Target::Loader,
        Some("expressions") => Target::Expressions,
        _ => {
            eprintln!("usage: fuzz loader|expressions [SECONDS [SEED]]");
            std::process::exit(2);
        }
    };
    let number = |index: usize, usual: u64| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(usual);
    match run(target, Duration::from_secs(number(1, 60)), u64::MAX, number(2, 1)) {
        Ok((tried, good)) => println!("{}: {tried} inputs, {good} of them good, none too much", target.name()),
        Err(problem) => {
            eprintln!("{problem}");
            std::process::exit(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_and_some_mutations_are_not_too_much() {
        for target in [Target::Loader, Target::Expressions] {
            let size = corpus(target).len() as u64;
            let (tried, good) = run(target, Duration::from_secs(600), size + 500, 7).unwrap();
            assert!(tried == size + 500 && good > 20, "{tried} {good}");
        }
    }
}
