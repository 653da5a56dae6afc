//! `virt-maker plan`: the prefix tree of all templates, with hit or miss for each node, and why.

use std::io::Write;
use std::time::Duration;

use serde_json::json;
use virt_maker::event::Events;
use virt_maker::export::Look;
use virt_maker::host::Cancel;
use virt_maker::import::ImportContext;
use virt_maker::plan::{NodeId, NodeState, Plan, PlanContext, PlanNode, SpecId, Table, make};
use virt_maker::spec::{self, Spec};
use virt_maker::store::Store;

use super::{loading, print_json};
use crate::arguments;
use crate::error::Failure;
use crate::text::{count, duration, harmless};
use crate::{environment, explain, lock, report, settings};

/// Version of the JSON document.
const VERSION: u32 = 2;

pub fn run(arguments: &arguments::Plan) -> Result<(), Failure> {
    let cancel = Cancel::default();
    let events = Events::new(report::warnings_only);
    let paths: Vec<_> = arguments.templates.paths().cloned().collect();
    let mut options = loading::options(&arguments.templates, &events, &cancel)?;
    if arguments.freeze {
        loading::freeze(&arguments.templates, &mut options)?;
    }
    let mut loaded = spec::load_all(&paths, &options)?;
    loading::warn(&loaded.notes, &events);
    let store = settings::open_store(arguments.store.store.clone())?;
    let cache_dir = store.cache_dir();
    let (env, certificates) = (environment::proxies(), settings::certificates()?);
    let host_network = loading::host_network(arguments.templates.allowed())?;
    let import = ImportContext {
        cache_dir: &cache_dir,
        events: &events,
        cancel: &cancel,
        env: &env,
        certificates: &certificates,
        host_network,
    };
    lock::releases(&mut loaded.specs, lock::Wanted::default(), &import)?;
    let context = PlanContext {
        store: &store,
        import,
        force: false,
        again: &arguments.force_from,
        explain: true,
        events: &events,
        cancel: &cancel,
    };
    let plan = make(&loaded.specs, &context)?;
    // What a build would stop at is said after what it would make.
    let ready = spec::check_outputs(&loaded.specs, Look { records: Some(&store.exports_dir()), force: false });
    if arguments.json {
        print_json(&document(&plan, &loaded.specs, &store))?;
        return Ok(ready?);
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut children = Table::of_nodes(&plan, Vec::new());
    for node in plan.ids() {
        if let Some(parent) = plan[node].parent() {
            children[parent].push(node);
        }
    }
    let roots = plan.ids().filter(|node| plan[*node].parent().is_none());
    for root in roots {
        print(&plan, &children, root, ("", ""), arguments.explain, &mut out)?;
    }
    for line in labels(&plan, &loaded.specs, arguments.explain) {
        writeln!(out, "{line}")?;
    }
    let tests = tests(&plan, &loaded.specs, &store);
    for (test, _, seconds) in &tests {
        let how = if seconds.is_some() { "passed before" } else { "to run" };
        writeln!(out, "test {}  {}: {how}", test.info.key.short(), harmless(&test.info.summary))?;
    }
    let hits = plan.hits();
    let missing = plan.nodes().len() - hits;
    let cost = match plan.cost() {
        (_, 0) => String::new(),
        (took, known) => {
            let took = duration(Duration::try_from_secs_f64(took).unwrap_or_default());
            let of = if known < missing { format!(" ({known} of them)") } else { String::new() };
            format!(", which took {took} the last time{of}")
        }
    };
    writeln!(out, "{}: {hits} there, {missing} to make{cost}", count(plan.nodes().len(), "layer"))?;
    out.flush()?;
    Ok(ready?)
}

/// What is said of SELinux labels: they are no layer, but part of each export.
fn labels(plan: &Plan, specs: &[Spec], explain: bool) -> Vec<String> {
    let exported = || SpecId::all(specs).filter(|spec| !spec.of(specs).exports.is_empty());
    let images = |wanted| exported().filter(|spec| plan.labels(*spec) == wanted).count();
    let mut lines = Vec::new();
    if images(Some(true)) > 0 {
        lines.push(format!(
            "SELinux labels: for the files of {}, once at each export",
            count(images(Some(true)), "image")
        ));
    }
    if explain && images(None) > 0 {
        lines.push(format!(
            "SELinux labels: for {}, at each export if the guest loads a policy, which is known when a step has run",
            count(images(None), "image")
        ));
    }
    lines
}

/// All tests, each with its image, and how long it took in seconds where its layer has passed it.
fn tests<'a>(plan: &'a Plan, specs: &[Spec], store: &Store) -> Vec<(&'a PlanNode, SpecId, Option<f64>)> {
    let all = SpecId::all(specs).flat_map(|spec| plan.tests(spec).iter().map(move |test| (test, spec)));
    let seconds = |test: &PlanNode, spec: SpecId| {
        let tip = plan[plan.tip(spec)].layer.as_ref()?;
        store.passed(test.info.key, &tip.record).map(|verdict| verdict.seconds)
    };
    all.map(|(test, spec)| (test, spec, seconds(test, spec))).collect()
}

fn document(plan: &Plan, specs: &[Spec], store: &Store) -> serde_json::Value {
    let node = |node: &PlanNode| {
        let parent = node.parent().map(|parent| plan[parent].info.key);
        json!({"layer": node.info, "parent": parent, "state": node.state, "took": node.took})
    };
    let tips: Vec<_> = plan.tips().map(|(_, tip)| plan[tip].info.key).collect();
    let labels: Vec<_> = SpecId::all(specs).map(|spec| plan.labels(spec)).collect();
    let nodes: Vec<_> = plan.nodes().iter().map(node).collect();
    let test = |(test, spec, seconds): (&PlanNode, SpecId, Option<f64>)| {
        let (key, name, passed) = (test.info.key, &test.info.summary, seconds.is_some());
        json!({"key": key, "image": spec.number(), "name": name, "passed": passed, "took": seconds})
    };
    let tests: Vec<_> = tests(plan, specs, store).into_iter().map(test).collect();
    json!({"version": VERSION, "nodes": nodes, "tips": tips, "selinux_labels": labels, "tests": tests})
}

/// Prints a node and what is on it. A single child continues in its parent's column, so that a chain stays a column.
fn print(
    plan: &Plan,
    children: &Table<NodeId, Vec<NodeId>>,
    id: NodeId,
    (first, rest): (&str, &str),
    details: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let node = &plan[id];
    let (mark, why) = match &node.state {
        NodeState::Hit => ("hit ", String::new()),
        NodeState::Miss { reason } => ("miss", format!("  ({})", explain::headline(reason))),
    };
    let info = &node.info;
    let mut summary = harmless(&info.summary);
    if let Some(outer) = info.within.first() {
        summary.push_str(&format!("  [{}, {}]", harmless(&info.part_of()), harmless(&outer.position.to_string())));
    }
    if !info.volatile.is_empty() {
        summary.push_str(&format!("  [changes each time: {}]", info.volatile.join(", ")));
    }
    writeln!(out, "{first}{mark} {}  {}: {summary}{why}", info.key.short(), info.kind)?;
    if let (true, NodeState::Miss { reason }) = (details, &node.state) {
        for line in explain::details(reason) {
            writeln!(out, "{rest}         {line}")?;
        }
    }
    let own = &children[id];
    if let [only] = own[..] {
        return print(plan, children, only, (rest, rest), details, out);
    }
    for (place, child) in own.iter().enumerate() {
        let last = place + 1 == own.len();
        let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let prefix = (format!("{rest}{branch}"), format!("{rest}{below}"));
        print(plan, children, *child, (&prefix.0, &prefix.1), details, out)?;
    }
    Ok(())
}
