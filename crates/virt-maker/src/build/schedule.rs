//! What may be worked on now: chains of missing layers, and tests and exports of layers that are there.
//!
//! A worker takes a chain: from a missing node whose parent is there, down to a tip, at each fork along the branch with
//! the most steps before it. As soon as the layer at a fork is sealed, its other branches may be taken by other
//! workers, each with a session of its own. So a common prefix is built once, and the longest branch never waits.
//!
//! The tests of an image run side by side, and before its first export. Its exports are made side by side, but for those
//! that run scripts.
//!
//! This only decides who begins with what. That a layer is made once is the work of the keys' locks, which hold between
//! processes too.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::key::LayerKey;
use crate::plan::{NodeId, Plan, PlanNode, SpecId, Table};

/// A piece of work for one worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// The layers from the base to this node, of which the last ones are missing.
    Chain(NodeId),
    /// A part of what is done with a spec whose layers are all there.
    After(SpecId, Part),
}

/// What is done with the last layer of a spec, by numbers from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// One of its tests.
    Test(usize),
    /// Some of its exports.
    Exports(Range<usize>),
}

/// The place of an error among those of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ErrorId(pub(super) usize);

impl ErrorId {
    pub(super) fn of(self, errors: &[Error]) -> &Error {
        &errors[self.0]
    }
}

/// How a task ended, and what has become of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All that it was to make is there.
    Made,
    /// This error ended it.
    Failed(ErrorId),
    /// The build was stopped meanwhile.
    Stopped,
}

/// The work of one build, shared by its workers.
pub(super) struct Schedule {
    parents: Table<NodeId, Option<NodeId>>,
    children: Table<NodeId, Vec<NodeId>>,
    /// Layers on the longest way down from a node, itself included.
    heights: Table<NodeId, usize>,
    nodes: HashMap<LayerKey, NodeId>,
    /// The specs that end at a node.
    specs: Table<NodeId, Vec<SpecId>>,
    /// Of each spec: its tests and exports in stages, one after another. Those of a stage are made side by side.
    stages: Table<SpecId, Stages>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Tests and exports of one spec: one stage after another, and in each what is made side by side.
pub(super) type Stages = Vec<Vec<Part>>;

struct State {
    /// Where chains may begin.
    chains: Vec<NodeId>,
    after: Vec<(SpecId, Part)>,
    /// Of each spec: how many of its stages are done, and how many parts of the next one are not.
    stage: Table<SpecId, (usize, usize)>,
    /// The layer of a node is in the store.
    there: Table<NodeId, bool>,
    /// A worker has a node, or had it.
    taken: Table<NodeId, bool>,
    running: usize,
    fates: Table<SpecId, Option<End>>,
    stopped: bool,
}

impl Schedule {
    /// `stages` are those of the exports of each spec; see [`stages`].
    pub(super) fn new(plan: &Plan, stages: Table<SpecId, Stages>) -> Schedule {
        let parents: Table<NodeId, _> = plan.nodes().iter().map(PlanNode::parent).collect::<Vec<_>>().into();
        let (mut children, mut heights) = (Table::of_nodes(plan, Vec::new()), Table::of_nodes(plan, 1));
        for (node, parent) in plan.ids().filter_map(|node| Some((node, parents[node]?))) {
            children[parent].push(node);
        }
        // Parents come before their children, so backwards a node's own height is known before its parent asks.
        for (node, parent) in plan.ids().rev().filter_map(|node| Some((node, parents[node]?))) {
            heights[parent] = heights[parent].max(heights[node] + 1);
        }
        let mut specs = Table::of_nodes(plan, Vec::new());
        plan.tips().for_each(|(spec, tip)| specs[tip].push(spec));
        let state = State {
            chains: Vec::new(),
            after: Vec::new(),
            stage: Table::of_specs(plan, (0, 0)),
            there: Table::of_nodes(plan, false),
            taken: Table::of_nodes(plan, false),
            running: 0,
            fates: Table::of_specs(plan, None),
            stopped: false,
        };
        let nodes = plan.ids().map(|id| (plan[id].info.key, id)).collect();
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let schedule = Schedule { parents, children, heights, nodes, specs, stages, state, changed };
        {
            let mut state = schedule.state();
            for id in plan.ids() {
                if plan[id].layer.is_some() {
                    schedule.mark(&mut state, id);
                } else if plan[id].parent().is_none() {
                    state.chains.push(id);
                }
            }
        }
        schedule
    }

    /// The next piece of work; waits while there is none but another worker's may bring some. `None` is the end.
    ///
    /// Exports come first: an image that is finished is worth more to its user than a further one that is begun.
    pub(super) fn next(&self) -> Option<Task> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            if !state.after.is_empty() {
                state.running += 1;
                let (spec, part) = state.after.remove(0);
                return Some(Task::After(spec, part));
            }
            if let Some(start) = self.longest(&mut state) {
                state.running += 1;
                return Some(Task::Chain(self.chain(&mut state, start)));
            }
            if state.running == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The layer with this key is in the store: its other branches, and exports of it, may begin.
    pub(super) fn sealed(&self, key: LayerKey) {
        if let Some(node) = self.nodes.get(&key) {
            self.mark(&mut self.state(), *node);
            self.changed.notify_all();
        }
    }

    /// A worker has done its task, or it ended in another way.
    pub(super) fn done(&self, task: &Task, end: End) {
        let mut state = self.state();
        state.running -= 1;
        match task {
            Task::Chain(last) => {
                let line = self.line(*last);
                match end {
                    End::Made => line.into_iter().for_each(|node| self.mark(&mut state, node)),
                    ended => {
                        if let Some(first) = line.into_iter().find(|node| !state.there[*node]) {
                            self.fail(&mut state, first, ended);
                        }
                    }
                }
            }
            Task::After(spec, part) => {
                state.stage[*spec].1 -= 1;
                match end {
                    End::Made if state.stage[*spec].1 == 0 && state.fates[*spec].is_none() => {
                        state.stage[*spec].0 += 1;
                        self.begin_stage(&mut state, *spec);
                    }
                    End::Made => {}
                    ended => {
                        // What is being made beside it goes on, and nothing of this image is begun any more; but who
                        // mends an image wants to know of all tests.
                        state.fates[*spec].get_or_insert(ended);
                        if let Part::Exports(_) = part {
                            state.after.retain(|(other, _)| other != spec);
                        }
                    }
                }
            }
        }
        self.changed.notify_all();
    }

    /// No further work is given out.
    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// What has become of each spec; `None` where the build was stopped before.
    pub(super) fn fates(&self) -> Table<SpecId, Option<End>> {
        self.state().fates.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, state: &mut State, node: NodeId) {
        if std::mem::replace(&mut state.there[node], true) {
            return;
        }
        state.taken[node] = true;
        for spec in &self.specs[node] {
            self.begin_stage(state, *spec);
        }
        let waiting = self.children[node].iter().filter(|child| !state.taken[**child]);
        let waiting: Vec<_> = waiting.copied().collect();
        state.chains.extend(waiting);
    }

    /// Gives out the next stage of a spec; where there is none, the image is made.
    fn begin_stage(&self, state: &mut State, spec: SpecId) {
        match self.stages[spec].get(state.stage[spec].0) {
            Some(stage) => {
                state.stage[spec].1 = stage.len();
                state.after.extend(stage.iter().map(|part| (spec, part.clone())));
                state.after.sort_unstable_by(|(one, part), (other, next)| {
                    let start = |part: &Part| match part {
                        Part::Test(number) => *number,
                        Part::Exports(entries) => entries.start,
                    };
                    (one, start(part)).cmp(&(other, start(next)))
                });
            }
            None => state.fates[spec] = Some(End::Made),
        }
    }

    /// The nodes from the base to one, with both.
    fn line(&self, node: NodeId) -> Vec<NodeId> {
        let mut line: Vec<NodeId> = std::iter::successors(Some(node), |node| self.parents[*node]).collect();
        line.reverse();
        line
    }

    /// Takes the start of the chain with the most layers before it; of equals, the first of the plan.
    fn longest(&self, state: &mut State) -> Option<NodeId> {
        // What another process made, or a chain reached in the meantime, is no start any more.
        let State { chains, taken, .. } = state;
        chains.retain(|node| !taken[*node]);
        let best = (0..chains.len()).max_by_key(|place| self.rank(chains[*place]))?;
        Some(chains.swap_remove(best))
    }

    /// Who has more layers before it goes first; of equals, who comes first in the plan.
    fn rank(&self, node: NodeId) -> (usize, Reverse<NodeId>) {
        (self.heights[node], Reverse(node))
    }

    /// Takes all from a start down to a tip, which it gives.
    fn chain(&self, state: &mut State, start: NodeId) -> NodeId {
        let mut here = start;
        loop {
            state.taken[here] = true;
            let free = self.children[here].iter().filter(|child| !state.taken[**child]);
            match free.copied().max_by_key(|child| self.rank(*child)) {
                Some(child) => here = child,
                None => return here,
            }
        }
    }

    /// Nothing at or below `node` will be made.
    fn fail(&self, state: &mut State, node: NodeId, end: End) {
        let mut below = vec![node];
        while let Some(node) = below.pop() {
            state.taken[node] = true;
            for spec in &self.specs[node] {
                state.fates[*spec].get_or_insert(end);
            }
            below.extend(&self.children[node]);
        }
    }
}

/// The stages of so many tests, and of exports of which `alone` says, in their order, which run scripts: such a script may rely
/// on all that stands before it and may change what comes after it, so it runs by itself. Where there are none, one task still
/// looks after the layer.
pub(super) fn stages(tests: usize, alone: &[bool]) -> Stages {
    let mut stages: Stages = Vec::new();
    if tests > 0 {
        stages.push((0..tests).map(Part::Test).collect());
    }
    let mut open = false;
    for (at, alone) in alone.iter().enumerate() {
        let entry = Part::Exports(at..at + 1);
        match stages.last_mut() {
            Some(stage) if open && !alone => stage.push(entry),
            _ => stages.push(vec![entry]),
        }
        open = !alone;
    }
    if stages.is_empty() {
        stages.push(vec![Part::Exports(Range { start: 0, end: 0 })]);
    }
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Stages {
        vec![vec![Part::Exports(0..1)]]
    }

    fn export(number: usize, entries: Range<usize>) -> Task {
        Task::After(spec(number), Part::Exports(entries))
    }

    fn node(number: usize) -> NodeId {
        NodeId::nth(number)
    }

    fn spec(number: usize) -> SpecId {
        SpecId::nth(number)
    }

    fn failed(number: usize) -> End {
        End::Failed(ErrorId(number))
    }

    /// base 0 - 1 - 2 - 3, and on 1 also 4 - 5 - 6 - 7, and on 4 also 8. Specs end at 3, 7, 8.
    fn forked() -> Schedule {
        let parents = [None, Some(0), Some(1), Some(2), Some(1), Some(4), Some(5), Some(6), Some(4)];
        let parents: Vec<_> = parents.map(|parent| parent.map(node)).to_vec();
        let mut children = Table::from(vec![Vec::new(); 9]);
        for (number, parent) in parents.iter().enumerate() {
            parent.iter().for_each(|parent: &NodeId| children[*parent].push(node(number)));
        }
        let mut specs = Table::from(vec![Vec::new(); 9]);
        for (tip, number) in [(3, 0), (7, 1), (8, 2)] {
            specs[node(tip)].push(spec(number));
        }
        let state = State {
            chains: vec![node(0)],
            after: Vec::new(),
            stage: vec![(0, 0); 3].into(),
            there: vec![false; 9].into(),
            taken: vec![false; 9].into(),
            running: 0,
            fates: vec![None; 3].into(),
            stopped: false,
        };
        Schedule {
            parents: parents.into(),
            children,
            heights: vec![6, 5, 2, 1, 4, 3, 2, 1, 1].into(),
            nodes: (0..9).map(|number| (key(number as u8), node(number))).collect(),
            specs,
            stages: vec![one(); 3].into(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn key(node: u8) -> LayerKey {
        LayerKey(crate::key::Digest::of(&[node]))
    }

    #[test]
    fn the_longest_branch_goes_on_and_the_others_follow_at_the_fork() {
        let schedule = forked();
        let first = schedule.next().unwrap();
        assert_eq!(first, Task::Chain(node(7)));
        schedule.sealed(key(0));
        schedule.sealed(key(1));
        let second = schedule.next().unwrap();
        assert_eq!(second, Task::Chain(node(3)));
        schedule.sealed(key(4));
        let third = schedule.next().unwrap();
        assert_eq!(third, Task::Chain(node(8)));
        schedule.done(&third, End::Made);
        assert_eq!(schedule.next(), Some(export(2, 0..1)));
        schedule.done(&export(2, 0..1), End::Made);
        schedule.done(&second, End::Made);
        schedule.done(&first, End::Made);
        assert_eq!(schedule.next(), Some(export(0, 0..1)));
        assert_eq!(schedule.next(), Some(export(1, 0..1)));
        schedule.done(&export(0, 0..1), End::Made);
        schedule.done(&export(1, 0..1), failed(0));
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.fates().values(), [Some(End::Made), Some(failed(0)), Some(End::Made)]);
    }

    #[test]
    fn what_lies_on_a_failed_layer_fails_with_it_and_the_rest_goes_on() {
        let schedule = forked();
        let first = schedule.next().unwrap();
        schedule.sealed(key(0));
        schedule.sealed(key(1));
        // Node 4 failed: specs 1 and 2 lie on it, spec 0 does not.
        schedule.done(&first, failed(7));
        assert_eq!(schedule.next(), Some(Task::Chain(node(3))));
        schedule.done(&Task::Chain(node(3)), End::Made);
        assert_eq!(schedule.next(), Some(export(0, 0..1)));
        schedule.done(&export(0, 0..1), End::Made);
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.fates().values(), [Some(End::Made), Some(failed(7)), Some(failed(7))]);
    }

    #[test]
    fn exports_with_scripts_are_made_by_themselves() {
        let one = |start, end| Part::Exports(start..end);
        assert_eq!(stages(0, &[]), [[one(0, 0)]]);
        let made = stages(0, &[false, false, true, true, false]);
        assert_eq!(made, [vec![one(0, 1), one(1, 2)], vec![one(2, 3)], vec![one(3, 4)], vec![one(4, 5)]]);

        let mut schedule = forked();
        schedule.stages[spec(2)] = stages(0, &[false, false, true]);
        let first = schedule.next().unwrap();
        [0, 1, 4].into_iter().for_each(|node| schedule.sealed(key(node)));
        let tasks = [schedule.next().unwrap(), schedule.next().unwrap()];
        assert_eq!(tasks, [Task::Chain(node(3)), Task::Chain(node(8))]);
        schedule.done(&tasks[1], End::Made);
        // Both at once, the script's only when both are there.
        assert_eq!(schedule.next(), Some(export(2, 0..1)));
        assert_eq!(schedule.next(), Some(export(2, 1..2)));
        schedule.done(&export(2, 1..2), End::Made);
        assert!(schedule.state().after.is_empty());
        schedule.done(&export(2, 0..1), End::Made);
        assert_eq!(schedule.next(), Some(export(2, 2..3)));
        assert_eq!(schedule.fates()[spec(2)], None);
        schedule.done(&export(2, 2..3), failed(5));
        assert_eq!(schedule.fates()[spec(2)], Some(failed(5)));
        schedule.done(&tasks[0], failed(5));
        schedule.done(&first, failed(5));
    }

    #[test]
    fn an_export_that_fails_ends_those_that_wait() {
        let mut schedule = forked();
        schedule.stages[spec(0)] = stages(0, &[false, false, false]);
        let first = schedule.next().unwrap();
        [0, 1].into_iter().for_each(|node| schedule.sealed(key(node)));
        let second = schedule.next().unwrap();
        schedule.done(&second, End::Made);
        assert_eq!(schedule.next(), Some(export(0, 0..1)));
        assert_eq!(schedule.next(), Some(export(0, 1..2)));
        schedule.done(&export(0, 0..1), failed(3));
        schedule.done(&export(0, 1..2), End::Made);
        assert_eq!(schedule.fates()[spec(0)], Some(failed(3)));
        schedule.done(&first, failed(4));
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn all_tests_run_and_exports_only_after_them() {
        let mut schedule = forked();
        schedule.stages[spec(0)] = stages(2, &[false]);
        schedule.stages[spec(2)] = stages(2, &[false]);
        let first = schedule.next().unwrap();
        [0, 1, 4].into_iter().for_each(|node| schedule.sealed(key(node)));
        let chains = [schedule.next().unwrap(), schedule.next().unwrap()];
        chains.iter().for_each(|chain| schedule.done(chain, End::Made));
        let test = |of: usize, number| Task::After(spec(of), Part::Test(number));
        let tests = [test(0, 0), test(0, 1), test(2, 0), test(2, 1)];
        assert_eq!(std::array::from_fn(|_| schedule.next().unwrap()), tests);
        // The first of spec 0 fails: its second one goes on, and nothing is exported.
        schedule.done(&tests[0], failed(1));
        schedule.done(&tests[1], End::Made);
        schedule.done(&tests[2], End::Made);
        schedule.done(&tests[3], End::Made);
        assert_eq!(schedule.next(), Some(export(2, 0..1)));
        schedule.done(&export(2, 0..1), End::Made);
        schedule.done(&first, failed(2));
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.fates().values(), [Some(failed(1)), Some(failed(2)), Some(End::Made)]);
    }

    #[test]
    fn a_stop_ends_all_waiting() {
        let schedule = forked();
        schedule.next().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| schedule.next());
            std::thread::sleep(std::time::Duration::from_millis(20));
            schedule.stop();
            assert_eq!(waiting.join().unwrap(), None);
        });
        assert_eq!(schedule.fates().values(), [None, None, None]);
    }
}
