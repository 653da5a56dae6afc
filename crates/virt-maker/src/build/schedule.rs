//! What may be worked on now: chains of missing layers, and exports of layers that are there.
//!
//! A worker takes a chain: from a missing node whose parent is there, down to a tip, at each fork along the branch with
//! the most steps before it. As soon as the layer at a fork is sealed, its other branches may be taken by other
//! workers, each with a session of its own. So a common prefix is built once, and the longest branch never waits.
//!
//! The exports of an image are made side by side, but for those that run scripts.
//!
//! This only decides who begins with what. That a layer is made once is the work of the keys' locks, which hold between
//! processes too.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::key::LayerKey;
use crate::plan::Plan;

/// A piece of work for one worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// The nodes from the base to the end of a chain, of which the last ones are missing.
    Chain(Vec<usize>),
    /// Some of the exports of the spec with this index, whose layers are all there.
    Export(usize, Range<usize>),
}

/// What has become of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its layers and artifacts are there.
    Made,
    /// The error with this number ended it.
    Failed(usize),
}

/// The work of one build, shared by its workers.
pub(super) struct Schedule {
    parents: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
    /// Layers on the longest way down from a node, itself included.
    heights: Vec<usize>,
    nodes: HashMap<LayerKey, usize>,
    /// The specs that end at a node.
    specs: Vec<Vec<usize>>,
    /// Of each spec: its exports in stages, one after another. Those of a stage are made side by side.
    stages: Vec<Vec<Vec<Range<usize>>>>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    chains: Vec<usize>,
    exports: Vec<(usize, Range<usize>)>,
    /// Of each spec: how many of its stages are done, and how many exports of the next one are not.
    stage: Vec<(usize, usize)>,
    /// The layer of a node is in the store.
    there: Vec<bool>,
    /// A worker has a node, or had it.
    taken: Vec<bool>,
    running: usize,
    fates: Vec<Option<Fate>>,
    stopped: bool,
}

impl Schedule {
    /// `stages` are those of the exports of each spec; see [`stages`].
    pub(super) fn new(plan: &Plan, stages: Vec<Vec<Vec<Range<usize>>>>) -> Schedule {
        let count = plan.nodes.len();
        let parents: Vec<_> = plan.nodes.iter().map(|node| node.parent).collect();
        let (mut children, mut heights) = (vec![Vec::new(); count], vec![1; count]);
        for (node, parent) in parents.iter().enumerate() {
            parent.iter().for_each(|parent: &usize| children[*parent].push(node));
        }
        // Parents come before their children, so backwards a node's own height is known before its parent asks.
        for node in (0..count).rev() {
            if let Some(parent) = parents[node] {
                heights[parent] = heights[parent].max(heights[node] + 1);
            }
        }
        let mut specs = vec![Vec::new(); count];
        for (spec, tip) in plan.tips.iter().enumerate() {
            specs[*tip].push(spec);
        }
        let state = State {
            chains: Vec::new(),
            exports: Vec::new(),
            stage: vec![(0, 0); plan.tips.len()],
            there: vec![false; count],
            taken: vec![false; count],
            running: 0,
            fates: vec![None; plan.tips.len()],
            stopped: false,
        };
        let nodes = plan.nodes.iter().enumerate().map(|(index, node)| (node.info.key, index)).collect();
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let schedule = Schedule { parents, children, heights, nodes, specs, stages, state, changed };
        {
            let mut state = schedule.state();
            for (index, node) in plan.nodes.iter().enumerate() {
                if node.layer.is_some() {
                    schedule.mark(&mut state, index);
                } else if node.parent.is_none() {
                    state.chains.push(index);
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
            if !state.exports.is_empty() {
                state.running += 1;
                let (spec, entries) = state.exports.remove(0);
                return Some(Task::Export(spec, entries));
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

    /// A worker has done its task, or failed with the error of this number.
    pub(super) fn done(&self, task: &Task, failed: Option<usize>) {
        let mut state = self.state();
        state.running -= 1;
        match (task, failed) {
            (Task::Chain(path), None) => path.iter().for_each(|node| self.mark(&mut state, *node)),
            (Task::Chain(path), Some(error)) => {
                if let Some(first) = path.iter().find(|node| !state.there[**node]) {
                    self.fail(&mut state, *first, error);
                }
            }
            (Task::Export(spec, _), None) => {
                state.stage[*spec].1 -= 1;
                if state.stage[*spec].1 == 0 && state.fates[*spec].is_none() {
                    state.stage[*spec].0 += 1;
                    self.begin_stage(&mut state, *spec);
                }
            }
            (Task::Export(spec, _), Some(error)) => {
                // What is being made beside it goes on, and nothing of this image is begun any more.
                state.fates[*spec].get_or_insert(Fate::Failed(error));
                state.stage[*spec].1 -= 1;
                state.exports.retain(|(other, _)| other != spec);
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
    pub(super) fn fates(&self) -> Vec<Option<Fate>> {
        self.state().fates.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, state: &mut State, node: usize) {
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

    /// Gives out the exports of the next stage of a spec; where there is none, the image is made.
    fn begin_stage(&self, state: &mut State, spec: usize) {
        match self.stages[spec].get(state.stage[spec].0) {
            Some(stage) => {
                state.stage[spec].1 = stage.len();
                state.exports.extend(stage.iter().map(|entries| (spec, entries.clone())));
                state.exports.sort_unstable_by_key(|(spec, entries)| (*spec, entries.start));
            }
            None => state.fates[spec] = Some(Fate::Made),
        }
    }

    /// Takes the start of the chain with the most layers before it; of equals, the first of the plan.
    fn longest(&self, state: &mut State) -> Option<usize> {
        // What another process made, or a chain reached in the meantime, is no start any more.
        let State { chains, taken, .. } = state;
        chains.retain(|node| !taken[*node]);
        let best = (0..chains.len()).max_by_key(|place| (self.heights[chains[*place]], usize::MAX - chains[*place]))?;
        Some(chains.swap_remove(best))
    }

    fn chain(&self, state: &mut State, start: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(self.parents[start], |node| self.parents[*node]).collect();
        path.reverse();
        let mut node = Some(start);
        while let Some(here) = node {
            state.taken[here] = true;
            path.push(here);
            let free = self.children[here].iter().filter(|child| !state.taken[**child]);
            node = free.copied().max_by_key(|child| (self.heights[*child], usize::MAX - *child));
        }
        path
    }

    /// Nothing at or below `node` will be made.
    fn fail(&self, state: &mut State, node: usize, error: usize) {
        let mut below = vec![node];
        while let Some(node) = below.pop() {
            state.taken[node] = true;
            for spec in &self.specs[node] {
                state.fates[*spec].get_or_insert(Fate::Failed(error));
            }
            below.extend(&self.children[node]);
        }
    }
}

/// The stages of exports of which `alone` says, in their order, which run scripts: such a script may rely on all that
/// stands before it and may change what comes after it, so it runs by itself. Where there are none, one task still looks after
/// the layer.
pub(super) fn stages(alone: &[bool]) -> Vec<Vec<Range<usize>>> {
    let mut stages: Vec<Vec<Range<usize>>> = Vec::new();
    let mut open = false;
    for (at, alone) in alone.iter().enumerate() {
        let entry = at..at + 1;
        match stages.last_mut() {
            Some(stage) if open && !alone => stage.push(entry),
            _ => stages.push(vec![entry]),
        }
        open = !alone;
    }
    if stages.is_empty() {
        stages.push(vec![Range { start: 0, end: 0 }]);
    }
    stages
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a stage of one task, which is one range of exports")]
mod tests {
    use super::*;

    fn one() -> Vec<Vec<Range<usize>>> {
        vec![vec![0..1]]
    }

    /// base 0 - 1 - 2 - 3, and on 1 also 4 - 5 - 6 - 7, and on 4 also 8. Specs end at 3, 7, 8.
    fn forked() -> Schedule {
        let parents = vec![None, Some(0), Some(1), Some(2), Some(1), Some(4), Some(5), Some(6), Some(4)];
        let mut children = vec![Vec::new(); 9];
        for (node, parent) in parents.iter().enumerate() {
            parent.iter().for_each(|parent: &usize| children[*parent].push(node));
        }
        let mut specs = vec![Vec::new(); 9];
        (specs[3], specs[7], specs[8]) = (vec![0], vec![1], vec![2]);
        let key = |node: usize| LayerKey(crate::key::Digest::of(&[node as u8]));
        let state = State {
            chains: vec![0],
            exports: Vec::new(),
            stage: vec![(0, 0); 3],
            there: vec![false; 9],
            taken: vec![false; 9],
            running: 0,
            fates: vec![None; 3],
            stopped: false,
        };
        Schedule {
            parents,
            children,
            heights: vec![6, 5, 2, 1, 4, 3, 2, 1, 1],
            nodes: (0..9).map(|node| (key(node), node)).collect(),
            specs,
            stages: vec![one(); 3],
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
        assert_eq!(first, Task::Chain(vec![0, 1, 4, 5, 6, 7]));
        schedule.sealed(key(0));
        schedule.sealed(key(1));
        let second = schedule.next().unwrap();
        assert_eq!(second, Task::Chain(vec![0, 1, 2, 3]));
        schedule.sealed(key(4));
        let third = schedule.next().unwrap();
        assert_eq!(third, Task::Chain(vec![0, 1, 4, 8]));
        schedule.done(&third, None);
        assert_eq!(schedule.next(), Some(Task::Export(2, 0..1)));
        schedule.done(&Task::Export(2, 0..1), None);
        schedule.done(&second, None);
        schedule.done(&first, None);
        assert_eq!(schedule.next(), Some(Task::Export(0, 0..1)));
        assert_eq!(schedule.next(), Some(Task::Export(1, 0..1)));
        schedule.done(&Task::Export(0, 0..1), None);
        schedule.done(&Task::Export(1, 0..1), Some(0));
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.fates(), [Some(Fate::Made), Some(Fate::Failed(0)), Some(Fate::Made)]);
    }

    #[test]
    fn what_lies_on_a_failed_layer_fails_with_it_and_the_rest_goes_on() {
        let schedule = forked();
        let first = schedule.next().unwrap();
        schedule.sealed(key(0));
        schedule.sealed(key(1));
        // Node 4 failed: specs 1 and 2 lie on it, spec 0 does not.
        schedule.done(&first, Some(7));
        assert_eq!(schedule.next(), Some(Task::Chain(vec![0, 1, 2, 3])));
        schedule.done(&Task::Chain(vec![0, 1, 2, 3]), None);
        assert_eq!(schedule.next(), Some(Task::Export(0, 0..1)));
        schedule.done(&Task::Export(0, 0..1), None);
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.fates(), [Some(Fate::Made), Some(Fate::Failed(7)), Some(Fate::Failed(7))]);
    }

    #[test]
    fn exports_with_scripts_are_made_by_themselves() {
        assert_eq!(stages(&[]), [[0..0]]);
        assert_eq!(stages(&[false, false, true, true, false]), [vec![0..1, 1..2], vec![2..3], vec![3..4], vec![4..5]]);

        let mut schedule = forked();
        schedule.stages[2] = stages(&[false, false, true]);
        let first = schedule.next().unwrap();
        [0, 1, 4].into_iter().for_each(|node| schedule.sealed(key(node)));
        let tasks = [schedule.next().unwrap(), schedule.next().unwrap()];
        assert_eq!(tasks, [Task::Chain(vec![0, 1, 2, 3]), Task::Chain(vec![0, 1, 4, 8])]);
        schedule.done(&tasks[1], None);
        // Both at once, the script's only when both are there.
        assert_eq!(schedule.next(), Some(Task::Export(2, 0..1)));
        assert_eq!(schedule.next(), Some(Task::Export(2, 1..2)));
        schedule.done(&Task::Export(2, 1..2), None);
        assert!(schedule.state().exports.is_empty());
        schedule.done(&Task::Export(2, 0..1), None);
        assert_eq!(schedule.next(), Some(Task::Export(2, 2..3)));
        assert_eq!(schedule.fates()[2], None);
        schedule.done(&Task::Export(2, 2..3), Some(5));
        assert_eq!(schedule.fates()[2], Some(Fate::Failed(5)));
        schedule.done(&tasks[0], Some(5));
        schedule.done(&first, Some(5));
    }

    #[test]
    fn an_export_that_fails_ends_those_that_wait() {
        let mut schedule = forked();
        schedule.stages[0] = stages(&[false, false, false]);
        let first = schedule.next().unwrap();
        [0, 1].into_iter().for_each(|node| schedule.sealed(key(node)));
        let second = schedule.next().unwrap();
        schedule.done(&second, None);
        assert_eq!(schedule.next(), Some(Task::Export(0, 0..1)));
        assert_eq!(schedule.next(), Some(Task::Export(0, 1..2)));
        schedule.done(&Task::Export(0, 0..1), Some(3));
        schedule.done(&Task::Export(0, 1..2), None);
        assert_eq!(schedule.fates()[0], Some(Fate::Failed(3)));
        schedule.done(&first, Some(4));
        assert_eq!(schedule.next(), None);
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
        assert_eq!(schedule.fates(), [None, None, None]);
    }
}
