//! Guests that boot: a step `boot` against Packer and against bare qemu, what steps in a booted guest cost, and the verdict of a test that
//! is there.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::machine::{MEMORY, cpus};
use crate::maker::Build;
use crate::measure::{Failure, median, repeat, took};
use crate::peers::{PackerDisk, Peers};
use crate::work::{self, Operation};
use crate::{Bench, expect_layers, measure};

/// A kind of step that is measured: the name of its figure, and one step of it, which differs from the others by a number.
type Kind = (&'static str, fn(usize) -> Value);

/// How often each kind of step runs in one boot.
const TIMES: usize = 12;

impl Bench {
    /// Writes a template whose only step boots the base and does this in it.
    fn boot_template(&self, name: &str, steps: &[Value]) -> Result<PathBuf, Failure> {
        let mut template = work::template(&self.base, &[], None);
        template["spec"]["steps"] =
            // Packer goes on as soon as SSH answers.
            json!([{ "boot": { "memory": format!("{MEMORY}M"), "cpus": cpus(), "wait_for": { "unit": "ssh.service" }, "steps": steps } }]);
        let path = self.folder.join(format!("{name}.yml"));
        work::write(&path, &template)?;
        Ok(path)
    }

    fn boot(&self, name: &str, steps: &[Value]) -> Result<Build, Failure> {
        expect_layers(self.maker.build(&self.boot_template(name, steps)?, "auto", &[])?, 1)
    }
}

/// What is done in the booted guest, by us and by Packer's provisioners.
fn three_lines(salt: &str) -> [String; 3] {
    [
        format!("echo {salt} > /root/one"),
        "mkdir -p /srv/data && cp /etc/os-release /srv/data/".to_owned(),
        "systemctl is-active ssh".to_owned(),
    ]
}

/// One step `boot` with three `run`, whole process; when its agent answered; bare qemu with the same devices until the login prompt; and
/// Packer with three shell provisioners on an overlay. In turn, so that each has the same share of a bad moment.
pub fn boots(bench: &Bench, peers: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let times = if bench.quick { 1 } else { 3 };
    let (mut whole, mut answered, mut booted, mut logins, mut packer) = (vec![], vec![], vec![], vec![], vec![]);
    // What reads the base for the first time reads it from the disk.
    measure::run(Command::new("cat").arg(&bench.base).stdout(std::process::Stdio::null()))?;
    for index in 0..times {
        let salt = format!("booted-{index}");
        let steps: Vec<Value> = three_lines(&salt).iter().map(|line| json!({ "run": line })).collect();
        let build = bench.boot(&salt, &steps)?;
        let (_, told) = build.events("machine_booted").next().ok_or("no machine has booted")?;
        let seconds = |name: &str| told[name].as_f64().map(Duration::from_secs_f64).ok_or(format!("no `{name}`"));
        answered.push(seconds("answered")?);
        booted.push(seconds("elapsed")?);
        let phases = told["phases"].as_array().into_iter().flatten();
        let phases: Vec<_> =
            phases.map(|phase| format!("{} {:.1}", phase["name"], phase["seconds"].as_f64().unwrap_or(0.0))).collect();
        eprintln!("bench:   {} s: {}", build.wall.as_secs_f64(), phases.join(", "));
        whole.push(build.wall);
        logins.push(peers.login(index)?);
        let operations = three_lines(&salt).map(Operation::Run);
        packer.extend(peers.packer(&operations, &salt, PackerDisk::Overlay)?);
        for (what, times) in [("login", &logins), ("packer", &packer)] {
            eprintln!("bench:   {what} {:?}", times.last());
        }
    }
    let mut figures = vec![
        ("boot_step", median(whole)?),
        ("boot_agent", median(answered)?),
        ("boot_whole", median(booted)?),
        ("boot_login", median(logins)?),
    ];
    match packer.is_empty() {
        true => eprintln!("bench: packer is not installed; its row is left out"),
        false => figures.push(("boot_packer", median(packer)?)),
    }
    Ok(figures)
}

/// Steps in one booted guest: from the line of the log that begins each to that of the next, so with all that goes with a step; against the
/// same line, run by a shell in there, by the guest's own clock.
pub fn booted_steps(bench: &Bench, _: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let kinds: [Kind; 4] = [
        ("booted_run", |index| json!({ "run": format!("echo booted.{index} > /root/step") })),
        ("booted_unit", |_| json!({ "expect": { "unit": "ssh.service" } })),
        ("booted_port", |_| json!({ "expect": { "port": 22 } })),
        ("booted_screen", |_| json!({ "expect": { "screen": "login:" } })),
    ];
    let line = "/bin/sh -c 'echo bare > /root/step'";
    let bare = format!(
        "begin=$(date +%s%N); for i in $(seq {TIMES}); do {line}; done; end=$(date +%s%N); echo \"took $((end - begin)) ns\""
    );
    let mut steps = vec![json!({ "wait_for": { "screen": "login:" } })];
    steps.extend(kinds.iter().flat_map(|(_, step)| (0..TIMES).map(step)));
    steps.push(json!({ "run": bare }));
    let build = bench.boot("booted-steps", &steps)?;
    let begins = begins(&build);
    if begins.len() != steps.len() {
        return Err(format!("{} of {} steps were seen to begin", begins.len(), steps.len()));
    }
    let costs: Vec<Duration> = begins.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    let mut figures = Vec::new();
    for (place, (figure, _)) in kinds.iter().enumerate() {
        // The first of a kind also loads what all need; on the other side it is a thirteenth.
        let from = 1 + place * TIMES;
        figures.push((*figure, median(costs[from + 1..from + TIMES].iter().copied())?));
    }
    let bare = took(&build.output()).ok_or("the guest said no time")? / TIMES as u32;
    figures.push(("booted_bare", median([bare])?));
    Ok(figures)
}

/// When each step within a `boot` began, as the lines of its log came: `virt-maker: 2 of 5: step: run: ...`.
fn begins(build: &Build) -> Vec<Duration> {
    let begins = |text: &str| {
        let rest = text.strip_prefix("virt-maker: ")?;
        let (numbers, _) = rest.split_once(": ")?;
        numbers.split_once(" of ")?.0.parse::<usize>().ok()
    };
    let lines = build.events("output").filter_map(|(at, event)| Some((at, event["text"].as_str()?)));
    lines.filter(|(_, text)| begins(text).is_some()).map(|(at, _)| at).collect()
}

/// `virt-maker test` of an image that has passed, whole process.
pub fn verdict(bench: &Bench, _: &Peers<'_>) -> Result<Vec<(&'static str, f64)>, Failure> {
    let mut template = work::template(&bench.base, &[Operation::Run("echo tested > /root/tested".to_owned())], None);
    template["spec"]["tests"] = json!([{ "name": "ssh", "steps": [{ "expect": { "unit": "ssh.service" } }] }]);
    let path = bench.folder.join("verdict.yml");
    work::write(&path, &template)?;
    let test = || bench.maker.test(&path);
    let outcome = |build: &Build| -> String {
        build
            .events("test_finished")
            .map(|(_, event)| event["outcome"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let first = outcome(&test()?);
    if first != "passed" {
        return Err(format!("the test was to pass, and is `{first}`"));
    }
    let tests = repeat(if bench.quick { 10 } else { 40 }, |_| {
        let build = test()?;
        match outcome(&build).as_str() {
            "cached" => Ok(build.wall),
            other => Err(format!("the verdict was to be there, and is `{other}`")),
        }
    })?;
    Ok(vec![("verdict", median(tests)?)])
}
