//! A crowd on one store, while a collection runs all the time: each layer is made once, nobody fails, nobody waits
//! forever.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use testkit::{HostState, read_file_from_image};

use crate::Options;
use crate::random::Random;
use crate::world::World;

const PROCESSES: usize = 32;
const TEMPLATES: usize = 20;

pub fn run(options: &Options, random: &mut Random) -> String {
    let before = HostState::capture();
    let world = World::new(&options.binary);
    let shared = |group: usize| ["echo all > /all".to_owned(), format!("echo {group} > /group")];
    let templates: Vec<_> = (0..TEMPLATES)
        .map(|number| {
            let own = (0..2).map(|step| format!("echo {number}.{step} >> /own; sleep 0.1"));
            let steps: Vec<String> = shared(number % 4).into_iter().chain(own).collect();
            world.template(&format!("{number}.yml"), &steps, Some(&format!("{number}.raw")))
        })
        .collect();
    let (stop, collections) = (AtomicBool::new(false), AtomicU64::new(0));
    let outputs = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                world.run(&["cache", "gc", "--max-size", "100G", "--max-age", "1h"]).exits(0);
                collections.fetch_add(1, Ordering::SeqCst);
            }
        });
        let children: Vec<Child> = (0..PROCESSES)
            .map(|_| {
                let mut chosen: Vec<usize> = (0..3).map(|_| random.below(TEMPLATES as u64) as usize).collect();
                chosen.dedup();
                let paths: Vec<_> = chosen.iter().map(|number| templates[*number].as_path()).collect();
                let mut command = world.command(&World::build_arguments("chroot", &paths));
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
            })
            .collect();
        // Each is read by a thread of its own: a full pipe would hold its writer up.
        let readers: Vec<_> = children.into_iter().map(|child| scope.spawn(|| child.wait_with_output())).collect();
        let outputs: Vec<_> =
            readers.into_iter().map(|reader| reader.join().expect("no panic").expect("it can be read")).collect();
        stop.store(true, Ordering::SeqCst);
        outputs
    });
    let mut made: BTreeMap<String, u32> = BTreeMap::new();
    for output in &outputs {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let event: serde_json::Value = serde_json::from_str(line).expect("an event a line");
            if event["type"] == "layer_sealed" {
                *made.entry(event["key"].as_str().expect("it has a key").to_owned()).or_default() += 1;
            }
        }
    }
    assert!(made.values().all(|times| *times == 1), "{made:?}");
    for number in 0..TEMPLATES {
        let artifact = world.path(&format!("{number}.raw"));
        if artifact.exists() {
            let text = read_file_from_image(&artifact, "/own");
            assert_eq!(String::from_utf8_lossy(&text), format!("{number}.0\n{number}.1\n"));
        }
    }
    assert_eq!(world.whole_store(true), made.len());
    assert_eq!(world.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
    let collections = collections.into_inner();
    format!(
        "{PROCESSES} processes, {TEMPLATES} templates, {} layers, each made once; {collections} collections meanwhile",
        made.len()
    )
}
