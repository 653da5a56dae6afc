//! A guest gets a new kernel: its menu, its boot entry and its initial RAM disk are of its own disk, and it boots.
//!
//! What the engines show of the disk is compared by the step `tiny/46-run`, so here one engine is enough, and one boot: the entry has the
//! files that the menu starts. `make torture TORTURE_FLAGS=kernels` boots each combination of way and engine, and by entries.

use std::fs;
use std::path::Path;

use testkit::{HostState, KERNEL_WAYS, NewKernel, appliance_lock, kernel_template};

use crate::common::Bench;

#[test]
fn a_guest_with_a_new_kernel_boots_it() {
    let before = HostState::capture();
    let (bench, program) = (Bench::new("/nonexistent".into()), Path::new(env!("CARGO_BIN_EXE_virt-maker")));
    let made = KERNEL_WAYS.map(|(name, way)| {
        let template = bench.path("t.yml");
        let image = bench.path(&format!("{name}.img"));
        fs::write(&template, kernel_template(program, &[way], &image)).unwrap();
        let ran = bench.build("chroot", &template, &[]).exits(0);
        let said = ran.said();
        (NewKernel::of(&image, &said), image)
    });
    let (new, image) = &made[1];
    assert!(made.iter().all(|(other, _)| other == new), "each way makes the same: {made:#?}");
    let _lock = appliance_lock();
    new.boots_by_menu(image);
    before.assert_nothing_left();
}
