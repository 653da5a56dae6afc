//! A Debian guest gets a new kernel in each way on each engine, is exported, and boots into that kernel: by its own boot loader each time, and
//! by its entry of the Boot Loader Specification once an engine.
//!
//! The guest before is made once, on engine `chroot`; engines that emulate a machine do the way to the kernel and what asks for it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use testkit::{HostState, KERNEL_WAYS, NewKernel, kernel_guest, kernel_template};

use crate::Options;
use crate::field::engines;
use crate::random::Random;
use crate::world::{Ran, World};

pub fn run(options: &Options, _: &mut Random) -> String {
    if options.short {
        return "not in the short form, as a test has engine chroot".to_owned();
    }
    let engines = engines(options);
    let world = World::new(&options.binary);
    let seconds = |begin: Instant| begin.elapsed().as_secs();
    let begin = Instant::now();
    build(&world, "chroot", &kernel_guest(&options.binary));
    println!("kernels: the guest before was made in {} s", seconds(begin));
    let mut known: Option<NewKernel> = None;
    let mut booted = 0;
    // Each engine with the first way before any with the second: who stops it early has seen all engines.
    for (index, (name, way)) in KERNEL_WAYS.iter().enumerate() {
        for engine in &engines {
            let _turn = testkit::appliance_lock();
            let before = HostState::capture();
            let image = world.path("kernel.img");
            // The engine is no part of a key, and each is to do the work.
            let own = format!("run: ': on {engine}'");
            let begin = Instant::now();
            let ran = build(&world, engine, &kernel_template(&options.binary, &[&own, way], &image));
            let built = seconds(begin);
            let said: String = ran.of("output").filter_map(|event| event["text"].as_str()).collect();
            let new = NewKernel::of(&image, &said);
            println!("kernels: {name} on {engine}: {}, built and exported in {built} s", new.release);
            assert_eq!(new, *known.get_or_insert_with(|| new.clone()), "each way makes the same on each engine");
            let begin = Instant::now();
            new.boots_by_menu(&image);
            booted += 1;
            println!("kernels: {name} on {engine}: booted by its menu in {} s", seconds(begin));
            if index == 0 {
                let begin = Instant::now();
                new.boots_by_entry(&image, &world.path(""));
                booted += 1;
                println!("kernels: {name} on {engine}: booted by its entry in {} s", seconds(begin));
            }
            fs::remove_file(&image).expect("it was exported");
            before.assert_nothing_left();
        }
    }
    format!("{booted} boots into a new kernel, built on {}", engines.join(", "))
}

#[track_caller]
fn build(world: &World, engine: &str, template: &str) -> Ran {
    let path = world.path("kernel.yml");
    fs::write(&path, template).expect("the folder is ours");
    world.build(engine, &[Path::new(&path)]).exits(0)
}
