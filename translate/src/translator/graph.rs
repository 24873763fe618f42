//! Who has read what.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use super::node::Node;
use crate::world::Dependency;

/// Which derivations have read what of the world.
#[derive(Default)]
pub(super) struct Graph {
    readers: HashMap<Dependency, Readers>,
    reads: HashMap<Node, Box<[Dependency]>>,
}

/// Mostly one: a route reads little that others read, too.
enum Readers {
    One(Node),
    Many(HashSet<Node>),
}

impl Readers {
    fn iter(&self) -> impl Iterator<Item = &Node> {
        let (one, many) = match self {
            Self::One(node) => (Some(node), None),
            Self::Many(nodes) => (None, Some(nodes)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn insert(&mut self, node: &Node) {
        match self {
            Self::One(only) if only == node => {}
            Self::One(only) => *self = Self::Many(HashSet::from([only.clone(), node.clone()])),
            Self::Many(nodes) => {
                nodes.insert(node.clone());
            }
        }
    }

    /// Takes one out, and says whether none is left.
    fn remove(&mut self, node: &Node) -> bool {
        match self {
            Self::One(only) => only == node,
            Self::Many(nodes) => {
                nodes.remove(node);
                nodes.is_empty()
            }
        }
    }
}

impl Graph {
    /// Those that have read something.
    pub(super) fn readers(&self, dependency: &Dependency) -> impl Iterator<Item = &Node> {
        self.readers.get(dependency).into_iter().flat_map(Readers::iter)
    }

    /// Puts what was read for a node in the place of what was read before.
    pub(super) fn record(&mut self, node: &Node, read: HashSet<Dependency>) {
        let before = self.reads.remove(node).unwrap_or_default();
        for gone in before.iter().filter(|dependency| !read.contains(dependency)) {
            if self.readers.get_mut(gone).is_some_and(|readers| readers.remove(node)) {
                self.readers.remove(gone);
            }
        }
        let read: Box<[Dependency]> = read
            .into_iter()
            .map(|dependency| {
                // All who read the same share one name of it.
                let shared = self.readers.get_key_value(&dependency);
                let dependency = shared.map_or(dependency, |(known, _)| known.clone());
                match self.readers.entry(dependency.clone()) {
                    Entry::Occupied(readers) => readers.into_mut().insert(node),
                    Entry::Vacant(none) => {
                        none.insert(Readers::One(node.clone()));
                    }
                }
                dependency
            })
            .collect();
        if !read.is_empty() {
            self.reads.insert(node.clone(), read);
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.readers.len(), self.reads.len()]
    }
}
