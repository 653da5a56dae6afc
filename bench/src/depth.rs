//! What a guest reads where it lies deep in a chain of layers.

use std::process::Command;
use std::time::Duration;

use crate::measure::{self, Failure, median};
use crate::peers::Peers;
use crate::work::{self, Operation};
use crate::{Bench, expect_layers};

/// Bytes of the file that is read, in MiB.
const FILE_MIB: u32 = 128;
/// Layers on top of the one that holds the file.
const DEEP: usize = 64;

/// The same file, read in a guest whose top layer holds it, and in one with 63 layers more on top; nothing of it is in
/// the host's memory before. The guest's own clock.
pub fn reads(bench: &Bench, _: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let file = Operation::Run(format!("dd if=/dev/urandom of=/var/tmp/data bs=1M count={FILE_MIB} 2>/dev/null"));
    let mut steps = vec![file];
    let shallow = times(bench, &mut steps, "shallow")?;
    steps.truncate(1);
    steps.extend(work::one_line_steps(DEEP - 1, "reads"));
    let deep = times(bench, &mut steps, "deep")?;
    Ok(vec![("read_deep", median(deep)?), ("read_shallow", median(shallow)?)])
}

fn times(bench: &Bench, steps: &mut Vec<Operation>, name: &str) -> Result<Vec<Duration>, Failure> {
    bench.build_operations("reads", steps, None, "chroot")?;
    let script = "begin=$(date +%s%N); dd if=/var/tmp/data of=/dev/null bs=1M 2>/dev/null; end=$(date +%s%N); \
                  echo \"took $((end - begin)) ns\"";
    let mut times = Vec::new();
    for index in 0..if bench.quick { 3 } else { 7 } {
        measure::run(&mut Command::new("sync"))?;
        std::fs::write("/proc/sys/vm/drop_caches", "3").map_err(|error| format!("cannot drop caches: {error}"))?;
        steps.push(Operation::Run(format!("# {name} {index}\n{script}")));
        let build = expect_layers(bench.build_operations("reads", steps, None, "chroot")?, 1)?;
        steps.pop();
        times.push(measure::took(&build.output()).ok_or("the guest said no time")?);
    }
    Ok(times)
}
