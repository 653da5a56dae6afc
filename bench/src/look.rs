//! Looking into layers.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::measure::{self, Failure, Timed, median};
use crate::peers::Peers;
use crate::{Bench, expect_layers};

/// What a layer of the image holds besides the base, in MiB; with it, more than 4 GB are in use.
const FILE_MIB: u32 = 3700;

/// `diff` of two neighbours, of which the upper one wrote a line, in an image of more than 4 GB; whole process.
pub fn diff(bench: &Bench, _: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let path = bench.folder.join("diff.yml");
    let spec = json!({
        "import": { "download": { "url": format!("file://{}", bench.base.display()), "resize": { "size": "6G", "expand": "/dev/sda2" } } },
        "steps": [
            { "run": format!("dd if=/dev/urandom of=/var/data bs=1M count={FILE_MIB} 2>/dev/null; df -B1 --output=used / | tail -1") },
            { "run": "echo one > /root/line" },
        ],
    });
    write(&path, &json!({ "spec": spec }).to_string())?;
    let build = expect_layers(bench.maker.build(&path, "chroot", &[])?, 3)?;
    let used: u64 = build.output().trim().parse().map_err(|_| "the guest did not say what is used")?;
    if used < 4_000_000_000 {
        return Err(format!("only {used} bytes are in use in the guest"));
    }
    let name = path.display();
    let mut times = Vec::new();
    for _ in 0..if bench.quick { 3 } else { 7 } {
        let mut command = Command::new(&bench.maker.binary);
        command.args(["diff", &format!("{name}:1"), &format!("{name}:2"), "--engine", "chroot", "--store"]);
        let Timed { wall, lines, .. } = measure::run(command.arg(&bench.maker.store))?;
        if !lines.iter().any(|(_, line)| line.contains("A /root/line")) {
            return Err("the difference does not have what the step wrote".into());
        }
        times.push(wall);
    }
    Ok(vec![("diff_chroot", median(times)?)])
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
