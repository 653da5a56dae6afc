//! A plan whose layers stay: leased, and looked at again after that.

use crate::error::Result;
use crate::plan::{self, Plan, PlanContext, PlanNode, SpecId, Table, Work};
use crate::spec::Spec;
use crate::store::{BuildNote, Lease, NotedLayer};

/// Makes the plan of a build and leases all of its layers, those that are still to be made too.
///
/// Planning itself takes no lease, for it does not know the keys before. What was collected between the two is found
/// missing then, and the plan is made again; from the lease on, nothing of it goes.
pub(super) fn plan(specs: &[Spec], context: &PlanContext<'_>) -> Result<(Plan, Lease)> {
    let store = context.store;
    let mut plan = plan::make(specs, context)?;
    let keys: Vec<_> = plan.nodes().iter().map(|node| node.info.key).collect();
    let lease = store.lease(&keys)?;
    let mut on_it = Table::of_nodes(&plan, false);
    for node in plan.nodes().iter().filter(|node| node.layer.is_some()) {
        node.parent().into_iter().for_each(|parent| on_it[parent] = true);
    }
    // Leaves are collected first, so where the last layer of a path is there, those under it are.
    let ends = plan.ids().filter(|node| !on_it[*node]);
    let mut gone = false;
    for layer in ends.filter_map(|node| plan[node].layer.as_ref()) {
        gone |= !layer.folder.exists();
        store.count_use(layer.record.key);
    }
    if gone {
        plan = plan::make(specs, context)?;
    }
    note(specs, &plan, context);
    Ok((plan, lease))
}

/// Remembers what each template is built as. A build does not end because that cannot be written.
fn note(specs: &[Spec], plan: &Plan, context: &PlanContext<'_>) {
    for id in SpecId::all(specs) {
        let spec = id.of(specs);
        let layer = |node: &PlanNode| {
            let info = &node.info;
            // Another spec may have come first with the same layer under another name.
            let own = match &node.work {
                Work::Step { .. } => spec.steps.get(info.index - 1).and_then(|step| step.options.running.name.clone()),
                Work::Import(_) | Work::Given(_) => None,
            };
            NotedLayer { key: info.key, kind: info.kind.clone(), summary: own.unwrap_or_else(|| info.summary.clone()) }
        };
        let layers = plan.layers(id).into_iter().map(layer).collect();
        let note = BuildNote::new(&spec.template, spec.matrix.clone(), layers);
        if let Err(error) = context.store.note_build(&note) {
            context.events.warn(format!("what was built is not noted: {}", crate::error::chain(&error)));
        }
    }
}
