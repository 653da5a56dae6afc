//! Many images in one build: variants that fork from common steps, and hundreds of templates that are all there.

use std::path::PathBuf;
use std::time::Duration;

use crate::measure::{Failure, median, repeat};
use crate::peers::Peers;
use crate::work::{self, Operation};
use crate::{Bench, expect_layers};

/// How many variants, how many steps they share, how many are their own.
const VARIANTS: usize = 8;
const SHARED: usize = 5;
const OWN: usize = 2;

/// How many templates of how many steps are all there, and how many of the steps they share.
const MANY: usize = 200;
const STEPS: usize = 20;
const MANY_SHARED: usize = 15;

impl Bench {
    /// Writes templates that share their first steps; nothing is exported.
    fn forked(&self, salt: &str, count: usize, shared: usize, own: usize) -> Result<Vec<PathBuf>, Failure> {
        let common = || (0..shared).map(|step| Operation::Run(format!("echo {salt}.{step} > /root/shared-{step}")));
        let write = |variant: usize| {
            let own = (0..own).map(|step| Operation::Run(format!("echo {salt}.{variant}.{step} > /root/own-{step}")));
            let steps: Vec<_> = common().chain(own).collect();
            let path = self.folder.join(format!("{salt}-{variant}.yml"));
            std::fs::write(&path, format!("{:#}", work::template(&self.base, &steps, None)))
                .map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(path)
        };
        (0..count).map(write).collect()
    }
}

/// Eight variants that share five steps and differ in the last two, and one of them alone; whole processes.
pub fn variants(bench: &Bench, _: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let times = if bench.quick { 3 } else { 7 };
    let measure = |name: &str, count: usize| -> Result<f64, Failure> {
        let builds = repeat(times, |index| {
            let templates = bench.forked(&format!("{name}-{index}"), count, SHARED, OWN)?;
            expect_layers(bench.maker.build_all(&templates, "chroot", &[])?, SHARED + count * OWN)
        })?;
        median(builds.iter().map(|build| build.wall))
    };
    let (alone, all) = (measure("alone", 1)?, measure("forked", VARIANTS)?);
    Ok(vec![("forked_chroot", all), ("forked_one", alone)])
}

/// The steps of that tree, each of which the older way runs once, in an appliance of its own.
pub const TREE_STEPS: usize = SHARED + VARIANTS * OWN;

/// Two hundred templates of twenty steps in one call, when all is there; whole process.
pub fn many_cached(bench: &Bench, _: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let templates = bench.forked("many", MANY, MANY_SHARED, STEPS - MANY_SHARED)?;
    let build = || bench.maker.build_all(&templates, "chroot", &[]);
    build()?;
    let builds = repeat(if bench.quick { 5 } else { 15 }, |_| expect_layers(build()?, 0))?;
    let wall: Vec<Duration> = builds.iter().map(|build| build.wall).collect();
    Ok(vec![("many_cached", median(wall)?)])
}
