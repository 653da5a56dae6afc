//! Exports, caches, and many steps in one session, each against what people do today.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::measure::{self, Failure, median, repeat};
use crate::peers::Peers;
use crate::work::{self, Operation};
use crate::{Bench, expect_layers};

/// Steps that are run on one session of libguestfs.
pub const MANY: usize = 20;

type Figures = Vec<(&'static str, f64)>;

impl Bench {
    /// Builds a template of these steps and this export, and gives how long the whole process took.
    fn exported(&self, name: &str, steps: &Value, export: &Value, force: bool) -> Result<Duration, Failure> {
        let template = self.folder.join(format!("{name}.yml"));
        let import = json!({ "download": { "url": format!("file://{}", self.base.display()) } });
        let text = json!({ "spec": { "import": import, "steps": steps, "export": export } });
        work::write(&template, &text)?;
        let more: &[String] = if force { &["--force-export".to_owned()] } else { &[] };
        Ok(self.maker.build(&template, "auto", more)?.wall)
    }
}

fn bytes(path: &Path) -> Result<f64, Failure> {
    use std::os::unix::fs::MetadataExt as _;
    let stat = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((stat.blocks() * 512) as f64)
}

/// An image with files that were deleted again: exported without what no file system uses, when its layers are there;
/// against `virt-sparsify` of the image as it is.
pub fn sparsify(bench: &Bench, peers: &Peers<'_>) -> Result<Figures, Failure> {
    let mib = if bench.quick { 256 } else { 1024 };
    let script = format!("head -c {mib}M /dev/urandom > /root/big; sync");
    let steps = json!([{ "run": script }, { "run": "rm /root/big" }]);
    let (plain, ours) = (bench.folder.join("full.qcow2"), bench.folder.join("ours.qcow2"));
    bench.exported("full", &steps, &json!({ "qcow2": { "path": plain } }), false)?;
    let export = json!({ "qcow2": { "path": ours, "sparsify": true } });
    bench.exported("sparse", &steps, &export, false)?;
    let times = repeat(if bench.quick { 1 } else { 3 }, |_| bench.exported("sparse", &steps, &export, true))?;
    let theirs = bench.folder.join("theirs.qcow2");
    let took = peers.virt_sparsify(&plain, &theirs)?;
    Ok(vec![
        ("sparsify", median(times)?),
        ("virt_sparsify", took.as_secs_f64()),
        ("layer_sparsified", bytes(&ours)?),
        ("layer_virt_sparsified", bytes(&theirs)?),
    ])
}

/// Exports that compress, when the layers are there; against `qemu-img` for what it compresses itself, and against a second
/// pass by the usual program for the rest.
pub fn compress(bench: &Bench, _: &Peers<'_>) -> Result<Figures, Failure> {
    let steps = json!([{ "run": "echo compress > /root/step" }]);
    let plain = bench.folder.join("plain.qcow2");
    bench.exported("plain", &steps, &json!({ "qcow2": { "path": plain } }), false)?;
    let times = if bench.quick { 1 } else { 3 };
    let ours = |name: &str| -> Result<f64, Failure> {
        let target = bench.folder.join(format!("ours-{name}"));
        let export = json!({ "qcow2": { "path": target, "compress": name } });
        bench.exported(name, &steps, &export, false)?;
        median(repeat(times, |_| bench.exported(name, &steps, &export, true))?)
    };
    let convert = |target: &Path, options: &[&str]| -> Result<Duration, Failure> {
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "qcow2", "-O", "qcow2"]).args(options).arg(&plain).arg(target);
        Ok(measure::run(&mut command)?.wall)
    };
    let target: PathBuf = bench.folder.join("theirs.qcow2");
    let zstd = repeat(times, |_| convert(&target, &["-c", "-W", "-m", "16", "-o", "compression_type=zstd"]))?;
    // The older tool converts, then compresses what it wrote with one thread.
    let two_passes = |program: &str, arguments: &[&str]| -> Result<f64, Failure> {
        let first = convert(&target, &[])?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "exec \"$@\" > \"$0\""]).arg(bench.folder.join("packed"));
        shell.arg(program).args(arguments).arg(&target);
        Ok((first + measure::run(&mut shell)?.wall).as_secs_f64())
    };
    Ok(vec![
        ("export_zstd", ours("zstd")?),
        ("qemu_img_zstd", median(zstd)?),
        ("export_xz", ours("xz")?),
        ("two_passes_xz", two_passes("xz", &["-T1", "-c"])?),
        ("export_lz4", ours("lz4")?),
        ("two_passes_lz4", two_passes("lz4", &["-q", "-c"])?),
        ("export_gzip", ours("gzip")?),
        ("two_passes_gzip", two_passes("gzip", &["-c"])?),
    ])
}

/// nginx from the mirror, with a cache, in one template and then in another one: what apt says that it has to get.
pub fn cache(bench: &Bench, _: &Peers<'_>) -> Result<Figures, Failure> {
    let install = |salt: &str| -> Result<(f64, f64), Failure> {
        let steps = json!([
            { "run": format!("echo {salt} > /root/step") },
            { "install": ["nginx"], "mounts": [{ "cache": "apt" }] },
        ]);
        let template = bench.folder.join(format!("{salt}.yml"));
        let import = json!({ "download": { "url": format!("file://{}", bench.base.display()) } });
        let text = json!({ "spec": { "import": import, "steps": steps } });
        work::write(&template, &text)?;
        let build = expect_layers(bench.maker.build(&template, "auto", &[])?, 2)?;
        let output = build.output();
        let line = output.lines().find_map(|line| line.strip_prefix("Need to get "));
        let line = line.ok_or_else(|| format!("apt did not say what it needs: {output}"))?;
        Ok((size(line).ok_or_else(|| format!("no size in `{line}`"))?, build.wall.as_secs_f64()))
    };
    let (first, second) = (install("cached-one")?, install("cached-two")?);
    Ok(vec![
        ("download_second", second.0),
        ("download_first", first.0),
        ("install_second", second.1),
        ("install_first", first.1),
    ])
}

/// The beginning of `1,234 kB of archives` or `0 B/1,234 kB of archives`, in bytes.
fn size(text: &str) -> Option<f64> {
    let mut words = text.split([' ', '/']);
    let number: f64 = words.next()?.replace(',', "").parse().ok()?;
    let unit = match words.next()? {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some(number * unit)
}

/// Twenty steps in one session of libguestfs, as a whole process without an export; against as many calls of
/// `virt-customize`, of which five are made.
pub fn many(bench: &Bench, peers: &Peers<'_>) -> Result<Figures, Failure> {
    let operations: Vec<Operation> =
        (0..MANY / 5).flat_map(|index| work::five_steps(&format!("many-{index}"))).collect();
    let build = expect_layers(bench.build_operations("many", &operations, None, "libguestfs")?, MANY)?;
    let calls = work::five_steps("each");
    let calls = if bench.quick { &calls[..1] } else { &calls[..] };
    let each = peers.virt_customize(calls)?.steps.as_secs_f64() / calls.len() as f64;
    Ok(vec![("many_libguestfs", build.wall.as_secs_f64()), ("many_virt_customize", each * MANY as f64)])
}
