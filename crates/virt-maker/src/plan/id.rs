//! Places in a plan and in a build, as types of their own: one is never taken for the other, nor for a number of something
//! else.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use super::Plan;
use crate::spec::Spec;

/// The place of a node in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(super) usize);

/// The place of a spec among those of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpecId(pub(super) usize);

#[cfg(test)]
impl NodeId {
    pub(crate) fn nth(number: usize) -> NodeId {
        NodeId(number)
    }
}

#[cfg(test)]
impl SpecId {
    pub(crate) fn nth(number: usize) -> SpecId {
        SpecId(number)
    }
}

impl SpecId {
    /// The spec, among those that the plan was made of.
    pub fn of(self, specs: &[Spec]) -> &Spec {
        &specs[self.0]
    }

    /// Its number, from 0, for people and programs outside.
    pub fn number(self) -> usize {
        self.0
    }

    /// All places of these specs.
    pub fn all(specs: &[Spec]) -> impl ExactSizeIterator<Item = SpecId> + Clone + use<> {
        (0..specs.len()).map(SpecId)
    }
}

/// What a [`Table`] is looked up by.
pub trait Id: Copy {
    /// Its number, from 0.
    fn index(self) -> usize;
}

impl Id for NodeId {
    fn index(self) -> usize {
        self.0
    }
}

impl Id for SpecId {
    fn index(self) -> usize {
        self.0
    }
}

/// One value for each node, or for each spec.
#[derive(Debug, Clone)]
pub struct Table<I, T> {
    values: Vec<T>,
    by: PhantomData<fn(I)>,
}

impl<T: Clone> Table<NodeId, T> {
    /// The same value for each node of a plan.
    pub fn of_nodes(plan: &Plan, value: T) -> Self {
        Table::from(vec![value; plan.nodes().len()])
    }
}

impl<T: Clone> Table<SpecId, T> {
    /// The same value for each spec of a plan.
    pub fn of_specs(plan: &Plan, value: T) -> Self {
        Table::from(vec![value; plan.tips.values.len()])
    }
}

impl<I, T> Table<I, T> {
    /// The values in their order.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    pub(super) fn push(&mut self, value: T) {
        self.values.push(value);
    }
}

/// In the order of the nodes, or of the specs; one for each.
impl<I, T> From<Vec<T>> for Table<I, T> {
    fn from(values: Vec<T>) -> Self {
        Table { values, by: PhantomData }
    }
}

impl<I: Id, T> Index<I> for Table<I, T> {
    type Output = T;

    fn index(&self, id: I) -> &T {
        &self.values[id.index()]
    }
}

impl<I: Id, T> IndexMut<I> for Table<I, T> {
    fn index_mut(&mut self, id: I) -> &mut T {
        &mut self.values[id.index()]
    }
}
