//! `make bench`: measures virt-maker and its peers in one run and prints the table.
//!
//! What must hold: every figure comes from a program that ran just now, as its users run it; the peers get the same base
//! and the same work; a build that was to be cold or cached is checked to have been that. How each figure is taken is
//! said at its function below and, for readers of the table, in `bench/README.md`.

mod boots;
mod depth;
mod exports;
mod forks;
mod install;
mod look;
mod machine;
mod maker;
mod measure;
mod peers;
mod report;
mod work;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use machine::Machine;
use maker::{Build, Maker};
use measure::{Failure, median, repeat};
use peers::{PackerDisk, Peers};
use report::Figures;
use work::Operation;

const USAGE: &str = "usage: bench [--quick] [--only NAME]... [--virt-maker FILE] [--base FILE.qcow2 --key FILE]
             [--results FOLDER] [--quote FOLDER]
NAME: cold-chroot cold-vm cold-libguestfs virt-customize packer cached steps-chroot steps-vm steps-libguestfs
      write write-vm appliance import forks many-cached reads diff sparsify compress cache-mount install many-libguestfs
      boots booted-steps verdict";

/// Bytes that the big step writes.
const PAYLOAD: u64 = 200 << 20;

struct Options {
    quick: bool,
    only: Vec<String>,
    binary: PathBuf,
    base: Option<PathBuf>,
    key: Option<PathBuf>,
    results: PathBuf,
    /// The project's folder, whose two pages get the tables.
    quote: Option<PathBuf>,
}

struct Bench {
    quick: bool,
    /// Removed at the end.
    folder: PathBuf,
    base: PathBuf,
    maker: Maker,
}

/// A measure: its name on the command line, and what makes its figures.
type Measure = (&'static str, fn(&Bench, &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure>);

const MEASURES: &[Measure] = &[
    ("import", import),
    ("cold-chroot", |bench, _| cold(bench, "chroot", "cold_chroot")),
    ("cached", |bench, _| cached(bench)),
    ("steps-chroot", |bench, _| steps_chroot(bench)),
    ("write", |bench, _| write(bench, "chroot")),
    ("forks", forks::variants),
    ("many-cached", forks::many_cached),
    ("reads", depth::reads),
    ("diff", look::diff),
    ("appliance", |bench, _| appliance(bench)),
    ("cold-vm", |bench, _| cold(bench, "vm", "cold_vm")),
    ("steps-vm", |bench, _| steps_vm(bench)),
    ("write-vm", |bench, _| write(bench, "vm")),
    ("cold-libguestfs", |bench, _| cold(bench, "libguestfs", "cold_libguestfs")),
    ("steps-libguestfs", steps_libguestfs),
    ("compress", exports::compress),
    ("cache-mount", exports::cache),
    ("install", install::packages),
    ("sparsify", exports::sparsify),
    ("many-libguestfs", exports::many),
    ("booted-steps", boots::booted_steps),
    ("verdict", boots::verdict),
    ("boots", boots::boots),
    ("packer", packer),
    ("virt-customize", virt_customize),
];

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("bench: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, Failure> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?;
    let beside = beside()?;
    let results = root.join("bench/results");
    let mut options =
        Options { quick: false, only: Vec::new(), binary: beside, base: None, key: None, results, quote: None };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--only" => options.only.push(value()?),
            "--virt-maker" => options.binary = value()?.into(),
            "--base" => options.base = Some(value()?.into()),
            "--key" => options.key = Some(value()?.into()),
            "--results" => options.results = value()?.into(),
            "--quote" => options.quote = Some(value()?.into()),
            _ => return Err(format!("unknown argument '{argument}'")),
        }
    }
    if let Some(name) = options.only.iter().find(|name| MEASURES.iter().all(|(known, _)| known != name)) {
        return Err(format!("there is no measure '{name}'"));
    }
    Ok(options)
}

/// The virt-maker that was built with this program.
fn beside() -> Result<PathBuf, Failure> {
    Ok(std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("virt-maker"))
}

fn run(options: &Options) -> Result<(), Failure> {
    let machine = Machine::look(&beside()?)?;
    eprintln!("bench: {}", machine.description);
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/bench");
    let folder = cache.join(format!("run-{}", std::process::id()));
    create(&folder)?;
    let folder = folder.canonicalize().map_err(|error| error.to_string())?;
    let result = measure_all(options, &machine, &cache, &folder);
    let removed = std::fs::remove_dir_all(&folder);
    let (figures, base) = result?;
    removed.map_err(|error| format!("cannot remove {}: {error}", folder.display()))?;

    let table = report::markdown(&machine.description, &base, &figures, report::Rows::All);
    println!("{table}");
    create(&options.results)?;
    let json = format!("{:#}\n", report::json(&machine.description, &base, &figures));
    for (name, text) in [("latest.md", &table), ("latest.json", &json)] {
        let path = options.results.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let Some(project) = &options.quote else { return Ok(()) };
    quote(&project.join("bench/README.md"), &table)?;
    quote(&project.join("README.md"), &report::markdown(&machine.description, &base, &figures, report::Rows::Readme))
}

fn measure_all(
    options: &Options,
    machine: &Machine,
    cache: &Path,
    folder: &Path,
) -> Result<(Figures, String), Failure> {
    let (base, key) = match (&options.base, &options.key) {
        (Some(base), Some(key)) => (base.clone(), key.clone()),
        (None, None) => make_base(options, cache)?,
        _ => return Err("--base and --key go together: the base lets that key in".to_owned()),
    };
    let base = base.canonicalize().map_err(|error| format!("{}: {error}", base.display()))?;
    let key = key.canonicalize().map_err(|error| format!("{}: {error}", key.display()))?;
    let bytes = std::fs::metadata(&base).map_err(|error| error.to_string())?.len();
    let about = format!("Base: Debian with systemd, a kernel and an SSH server, a qcow2 of {} MB.", bytes / 1_000_000);

    let maker = Maker { binary: options.binary.clone(), store: folder.join("store"), force_tcg: !machine.kvm };
    let bench = Bench { quick: options.quick, folder: folder.to_owned(), base: base.clone(), maker };
    let peers = Peers { machine, base, key, folder: folder.to_owned() };
    // "The base is already in the store."
    bench.build_operations("base", &[], None, "auto")?;

    let mut figures = Figures::new();
    for (name, measure) in MEASURES {
        if !options.only.is_empty() && options.only.iter().all(|only| only != name) {
            continue;
        }
        // What the measure before left in the page cache must not be written during this one.
        measure::run(&mut Command::new("sync"))?;
        eprintln!("bench: {name} ...");
        let made = measure(&bench, &peers).map_err(|failure| format!("{name}: {failure}"))?;
        for (figure, value) in made {
            eprintln!("bench:   {figure} = {value:.6}");
            let highest = if figure == "memory" { figures.get(figure).copied().unwrap_or(0.0) } else { 0.0 };
            figures.insert(figure, value.max(highest));
        }
    }
    Ok((figures, about))
}

/// The base with its key, made by virt-maker itself the first time.
fn make_base(options: &Options, cache: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let (base, key) = (cache.join("base.qcow2"), cache.join("key"));
    if !key.exists() {
        let mut command = Command::new("ssh-keygen");
        // RSA: what a Packer of 2020 and an sshd of today both speak.
        measure::run(
            command.args(["-q", "-t", "rsa", "-b", "3072", "-m", "PEM", "-N", "", "-C", "bench", "-f"]).arg(&key),
        )?;
    }
    let public = key.with_extension("pub");
    let public = std::fs::read_to_string(&public).map_err(|error| format!("{}: {error}", public.display()))?;
    eprintln!("bench: the base ...");
    let mut command = Command::new(&options.binary);
    command.arg("build").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("base.yml")).args(["--progress", "json"]);
    // A store of an older format is refused, so each format has one, and one that had no mark yet.
    command.arg("--store").arg(cache.join(format!("store-{}-own", virt_maker::store::FORMAT)));
    command.args(["-p", &format!("authorized_key={}", public.trim()), "-p", &format!("output={}", base.display())]);
    command.args(["--allow", &format!("write={}", cache.display())]);
    measure::run(&mut command)?;
    Ok((base, key))
}

impl Bench {
    /// Writes a template and builds it.
    fn build_operations(
        &self,
        name: &str,
        operations: &[Operation],
        export: Option<&Path>,
        engine: &str,
    ) -> Result<Build, Failure> {
        let template = self.folder.join(format!("{name}.yml"));
        work::write(&template, &work::template(&self.base, operations, export))?;
        self.maker.build(&template, engine, &[])
    }
}

fn expect_layers(build: Build, expected: usize) -> Result<Build, Failure> {
    match build.layers_made() {
        made if made == expected => Ok(build),
        made => Err(format!("{expected} layers were to be made, {made} were")),
    }
}

/// The whole process: five new steps on a base that is there, and the export.
fn cold(bench: &Bench, engine: &'static str, figure: &'static str) -> Result<Vec<(&'static str, f64)>, Failure> {
    let times = match (engine, bench.quick) {
        ("chroot", false) => 7,
        ("chroot", true) => 3,
        (_, false) => 3,
        (_, true) => 1,
    };
    let builds = repeat(times, |index| {
        let steps = work::five_steps(&format!("{engine}-{index}"));
        let target = bench.folder.join(format!("{engine}-{index}.qcow2"));
        let build = bench.build_operations(&format!("{engine}-{index}"), &steps, Some(&target), engine)?;
        expect_layers(build, steps.len())
    })?;
    let mut figures = vec![(figure, median(builds.iter().map(|build| build.wall))?)];
    figures.extend(memory(&builds));
    Ok(figures)
}

fn memory(builds: &[Build]) -> Option<(&'static str, f64)> {
    builds.iter().filter_map(|build| build.peak_memory).max().map(|bytes| ("memory", bytes as f64))
}

/// The whole process, when all is there: the template of a cold build again.
fn cached(bench: &Bench) -> Result<Vec<(&'static str, f64)>, Failure> {
    let steps = work::five_steps("cached");
    let target = bench.folder.join("cached.qcow2");
    let build = || bench.build_operations("cached", &steps, Some(&target), "auto");
    build()?;
    let builds = repeat(if bench.quick { 10 } else { 40 }, |_| expect_layers(build()?, 0))?;
    Ok(vec![("cached", median(builds.iter().map(|build| build.wall))?)])
}

/// A chain of 110 one-line steps in one session: what a step costs at its beginning and at its end, over the same line
/// run by the host's shell. Then two sessions that open on the base and on the end of that chain.
fn steps_chroot(bench: &Bench) -> Result<Vec<(&'static str, f64)>, Failure> {
    let mut steps = work::one_line_steps(110, "deep");
    let build = expect_layers(bench.build_operations("deep", &steps, None, "chroot")?, steps.len())?;
    let costs = build.step_costs();
    let (shallow, deep) = match (costs.get(..10), costs.get(95..105)) {
        (Some(shallow), Some(deep)) => (shallow.to_vec(), deep.to_vec()),
        _ => return Err(format!("{} steps were seen", costs.len())),
    };
    let mut sizes = build.layer_sizes();
    sizes.sort_unstable();
    let small = sizes.get(sizes.len() / 2).copied().ok_or("no layer was sealed")?;

    let file = bench.folder.join("bare");
    let bare = repeat(20, |index| {
        let script = format!("echo deep.{index} > {}", file.display());
        Ok(measure::run(Command::new("/bin/sh").args(["-c", &script]))?.wall)
    })?;
    let opened = |build: Build| build.opening().ok_or_else(|| "no session was opened".to_owned());
    let on_base = bench.build_operations("opened", &work::one_line_steps(1, "opened"), None, "chroot")?;
    steps.extend(work::one_line_steps(1, "deeper"));
    let on_chain = expect_layers(bench.build_operations("deeper", &steps, None, "chroot")?, 1)?;
    let mut figures = vec![
        ("step_chroot_1", median(shallow)?),
        ("step_chroot_100", median(deep)?),
        ("bare_command", median(bare)?),
        ("open_chroot_1", opened(on_base)?.as_secs_f64()),
        ("open_chroot_110", opened(on_chain)?.as_secs_f64()),
        ("layer_small", small as f64),
    ];
    figures.extend(memory(&[build]));
    Ok(figures)
}

/// The saved machine made anew, and restored: what virt-maker itself says.
fn appliance(bench: &Bench) -> Result<Vec<(&'static str, f64)>, Failure> {
    measure::run(Command::new(&bench.maker.binary).args(["appliance", "build", "--force"]))?;
    let lines = measure::run(Command::new(&bench.maker.binary).args(["doctor", "--measure", "--json"]))?.lines;
    let text: String = lines.into_iter().map(|(_, line)| line).collect();
    let found: serde_json::Value = serde_json::from_str(&text).map_err(|error| format!("doctor: {error}"))?;
    let value = |name: &str| found["measured"][name].as_f64().ok_or_else(|| format!("doctor says no `{name}`"));
    Ok(vec![
        ("appliance_made", value("made")?),
        ("appliance_restored", value("restore")?),
        ("memory_vm", value("memory")?),
    ])
}

/// One-line steps in one session of engine `vm`, over the same line run by a shell in there; and how long it is from the
/// start of a session to the end of its first command.
fn steps_vm(bench: &Bench) -> Result<Vec<(&'static str, f64)>, Failure> {
    let steps = work::one_line_steps(if bench.quick { 6 } else { 20 }, "vm");
    let build = expect_layers(bench.build_operations("vm", &steps, None, "vm")?, steps.len())?;
    // The first command also loads what all need.
    let ours = median(build.step_costs().into_iter().skip(1))?;
    const TIMES: u32 = 20;
    let line = "/bin/sh -c 'echo bare > /root/step'";
    let script = format!(
        "{line}; begin=$(date +%s%N); for i in $(seq {TIMES}); do {line}; done; end=$(date +%s%N); \
         echo \"took $((end - begin)) ns\""
    );
    let build = bench.build_operations("vm-bare", &[Operation::Run(script)], None, "vm")?;
    let parse = |line: &str| line.trim().strip_prefix("took ")?.strip_suffix(" ns")?.parse().ok();
    let output = build.output();
    let bare = output.lines().find_map(parse).map(Duration::from_nanos).ok_or("the guest said no time")? / TIMES;
    let firsts = |engine: &str, times| {
        let builds = repeat(times, |index| {
            let step = work::one_line_steps(1, &format!("first-{engine}-{index}"));
            let build = expect_layers(bench.build_operations("first", &step, None, engine)?, 1)?;
            build.first_command().ok_or_else(|| "no session was opened".to_owned())
        })?;
        median(builds)
    };
    Ok(vec![
        ("step_vm", ours),
        ("bare_command_vm", median([bare])?),
        ("first_vm", firsts("vm", if bench.quick { 3 } else { 7 })?),
        ("first_libguestfs", firsts("libguestfs", if bench.quick { 1 } else { 2 })?),
    ])
}

/// The same lines through virt-maker's session and through `guestfs_sh` in a running appliance.
fn steps_libguestfs(bench: &Bench, peers: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let steps = work::one_line_steps(if bench.quick { 6 } else { 12 }, "guestfs");
    let build = expect_layers(bench.build_operations("guestfs", &steps, None, "libguestfs")?, steps.len())?;
    // The first command of an appliance also loads what it needs; on both sides it is left out.
    let ours = median(build.step_costs().into_iter().skip(1))?;
    let scripts: Vec<_> = (0..=steps.len()).map(|index| format!("echo guestfs.{index} > /root/step")).collect();
    let theirs = median(peers.guestfs_sh(&scripts)?.into_iter().skip(1))?;
    Ok(vec![("step_libguestfs", ours), ("guestfs_sh", theirs)])
}

/// 200 MiB of ready data (in memory) written and synced: one script, in the guest and on the host in turn, by its own
/// clock. Also the size of that step's layer.
fn write(bench: &Bench, engine: &str) -> Result<Vec<(&'static str, f64)>, Failure> {
    let script = |from: &str, to: &str| {
        format!(
            "set -e; head -c {PAYLOAD} /dev/urandom > {from}; begin=$(date +%s%N); \
             dd if={from} of={to} bs=1M conv=fsync 2>/dev/null; end=$(date +%s%N); \
             rm {from}; echo \"took $((end - begin)) ns\""
        )
    };
    let took = |output: &str| measure::took(output).ok_or_else(|| format!("no time in: {output}"));
    let (mut guest, mut host, mut layer) = (Vec::new(), Vec::new(), 0);
    for index in 0..if bench.quick { 3 } else { 5 } {
        measure::run(&mut Command::new("sync"))?;
        // A new file each time, as a layer is one, and the older ones stay: memory and blocks that were just let go of
        // are several times faster to write to.
        let from = format!("/dev/shm/bench-{}", std::process::id());
        let to = bench.folder.join(format!("written-{index}"));
        let mut command = Command::new("/bin/sh");
        let lines = measure::run(command.args(["-c", &script(&from, &to.to_string_lossy())]))?.lines;
        host.push(took(&lines.iter().map(|(_, line)| format!("{line}\n")).collect::<String>())?);
        measure::run(&mut Command::new("sync"))?;
        let step = [Operation::Run(format!("# {engine} {index}\n{}", script("/run/ready", "/root/written")))];
        let build = expect_layers(bench.build_operations("write", &step, None, engine)?, 1)?;
        guest.push(took(&build.output())?);
        layer = build.layer_sizes().into_iter().max().unwrap_or(0).max(layer);
    }
    if engine == "vm" {
        return Ok(vec![("write_guest_vm", median(guest)?), ("write_host_vm", median(host)?)]);
    }
    Ok(vec![
        ("write_guest", median(guest)?),
        ("write_host", median(host)?),
        ("layer_big", layer as f64),
        ("layer_big_payload", PAYLOAD as f64),
    ])
}

/// A base of the same file into a store of its own, against `cp`.
fn import(bench: &Bench, _: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let (mut ours, mut copies, mut synced) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..3 {
        let copy = bench.folder.join("copy.qcow2");
        measure::run(&mut Command::new("sync"))?;
        let begin = Instant::now();
        measure::run(Command::new("cp").args(["--reflink=never"]).arg(&bench.base).arg(&copy))?;
        copies.push(begin.elapsed());
        measure::run(Command::new("sync").arg(&copy))?;
        synced.push(begin.elapsed());
        remove(&copy)?;

        let binary = bench.maker.binary.clone();
        let store = bench.folder.join(format!("import-{index}"));
        let maker = Maker { binary, store: store.clone(), force_tcg: bench.maker.force_tcg };
        let fresh = Bench { quick: true, folder: bench.folder.clone(), base: bench.base.clone(), maker };
        ours.push(expect_layers(fresh.build_operations("import", &[], None, "auto")?, 1)?.wall);
        std::fs::remove_dir_all(&store).map_err(|error| format!("{}: {error}", store.display()))?;
    }
    Ok(vec![("import", median(ours)?), ("cp", median(copies)?), ("cp_sync", median(synced)?)])
}

fn virt_customize(_: &Bench, peers: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let steps = work::five_steps("customize");
    let took = peers.virt_customize(&steps)?;
    // The tree of `forks` has more steps than anybody would wait for, and a call takes the same time wherever it stands.
    let each = took.steps.as_secs_f64() / steps.len() as f64;
    let tree = each * forks::TREE_STEPS as f64;
    Ok(vec![("virt_customize", took.all.as_secs_f64()), ("virt_customize_tree", tree)])
}

/// Absent from the table where Packer is not installed.
fn packer(bench: &Bench, peers: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let mut times = Vec::new();
    for index in 0..if bench.quick { 1 } else { 2 } {
        let salt = index.to_string();
        times.extend(peers.packer(&work::five_steps(&salt), &salt, PackerDisk::Copy)?);
    }
    if times.is_empty() {
        eprintln!("bench: packer is not installed; its rows are left out");
        return Ok(Vec::new());
    }
    Ok(vec![("packer", median(times)?)])
}

/// Puts the table between the two marks of a document.
fn quote(document: &Path, table: &str) -> Result<(), Failure> {
    let (begin, end) = ("<!-- bench: begin -->\n", "<!-- bench: end -->");
    let text = std::fs::read_to_string(document).map_err(|error| format!("{}: {error}", document.display()))?;
    let marks = text.split_once(begin).and_then(|(head, rest)| Some((head, rest.split_once(end)?.1)));
    let (head, tail) = marks.ok_or_else(|| format!("{} has no marks for the table", document.display()))?;
    std::fs::write(document, format!("{head}{begin}{table}{end}{tail}"))
        .map_err(|error| format!("{}: {error}", document.display()))
}

fn create(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn remove(file: &Path) -> Result<(), Failure> {
    std::fs::remove_file(file).map_err(|error| format!("{}: {error}", file.display()))
}
