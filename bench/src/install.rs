//! Real work in a guest: packages from the mirror, against the same packages in a bare chroot on the host.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::measure::{self, Failure, median, repeat};
use crate::peers::Peers;
use crate::work;
use crate::{Bench, expect_layers};

const PACKAGES: [&str; 2] = ["postgresql", "nginx-light"];

/// The whole process of one `install` step on the base, and a shell that mounts a raw copy of the same base, does what
/// the step does in a chroot there, and syncs it, for the seal of a layer syncs too. In turn, for both fetch from the mirror.
pub fn packages(bench: &Bench, _: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let raw = bench.folder.join("bare.raw");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    repeat(if bench.quick { 1 } else { 3 }, |index| {
        theirs.push(bare(bench, &raw)?);
        measure::run(&mut Command::new("sync"))?;
        let template = bench.folder.join("packages.yml");
        // Another line each time, so that it is done each time; it is not timed apart.
        let steps = json!([{ "run": format!("echo {index} > /root/step") }, { "install": PACKAGES }]);
        let import = json!({ "download": { "url": format!("file://{}", bench.base.display()) } });
        work::write(&template, &json!({ "spec": { "import": import, "steps": steps } }))?;
        ours.push(expect_layers(bench.maker.build(&template, "chroot", &[])?, 2)?.wall);
        measure::run(&mut Command::new("sync"))?;
        Ok(())
    })?;
    std::fs::remove_file(&raw).map_err(|error| format!("{}: {error}", raw.display()))?;
    Ok(vec![("install_chroot", median(ours)?), ("install_bare", median(theirs)?)])
}

/// The peer. Its copy of the base is made before the clock starts; its mounts are gone with their namespace.
fn bare(bench: &Bench, raw: &Path) -> Result<Duration, Failure> {
    let mut convert = Command::new("qemu-img");
    measure::run(convert.args(["convert", "-f", "qcow2", "-O", "raw"]).arg(&bench.base).arg(raw))?;
    let offset = root_partition(raw)?;
    measure::run(&mut Command::new("sync"))?;
    let script = format!(
        "set -e; root=$2; mount -o loop,offset={offset} \"$1\" \"$root\"
         mount -t proc proc \"$root/proc\"; mount -t sysfs sys \"$root/sys\"; mount --rbind /dev \"$root/dev\"
         rm -f \"$root/etc/resolv.conf\"; cat /etc/resolv.conf > \"$root/etc/resolv.conf\"
         printf '#!/bin/sh\\nexit 101\\n' > \"$root/usr/sbin/policy-rc.d\"; chmod 755 \"$root/usr/sbin/policy-rc.d\"
         export DEBIAN_FRONTEND=noninteractive
         chroot \"$root\" apt-get -q update
         chroot \"$root\" apt-get -qy install {}
         rm \"$root/usr/sbin/policy-rc.d\"; sync -f \"$root\"; sync \"$1\"",
        PACKAGES.join(" ")
    );
    let root = bench.folder.join("bare-root");
    std::fs::create_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", &script, "sh"]);
    Ok(measure::run(command.arg(raw).arg(&root))?.wall)
}

/// Where the largest partition begins, in bytes.
fn root_partition(raw: &Path) -> Result<u64, Failure> {
    let lines = measure::run(Command::new("sfdisk").arg("--json").arg(raw))?.lines;
    let text: String = lines.into_iter().map(|(_, line)| line).collect();
    let table: Value = serde_json::from_str(&text).map_err(|error| format!("sfdisk: {error}"))?;
    let table = &table["partitiontable"];
    let sector = table["sectorsize"].as_u64().unwrap_or(512);
    let partitions = table["partitions"].as_array().ok_or("sfdisk named no partitions")?;
    let largest = partitions.iter().max_by_key(|partition| partition["size"].as_u64());
    let start = largest.and_then(|partition| partition["start"].as_u64());
    Ok(start.ok_or("sfdisk named no start of a partition")? * sector)
}
