//! Who has read what.

use std::collections::{HashMap, HashSet};

use super::node::Node;
use crate::world::Dependency;

/// Which derivations have read what of the world.
#[derive(Default)]
pub(super) struct Graph {
    readers: HashMap<Dependency, HashSet<Node>>,
    reads: HashMap<Node, Box<[Dependency]>>,
}

impl Graph {
    /// Those that have read something.
    pub(super) fn readers(&self, dependency: &Dependency) -> impl Iterator<Item = &Node> {
        self.readers.get(dependency).into_iter().flatten()
    }

    /// Puts what was read for a node in the place of what was read before.
    pub(super) fn record(&mut self, node: &Node, read: HashSet<Dependency>) {
        let before = self.reads.remove(node).unwrap_or_default();
        for gone in before.iter().filter(|dependency| !read.contains(dependency)) {
            if let Some(nodes) = self.readers.get_mut(gone) {
                nodes.remove(node);
                if nodes.is_empty() {
                    self.readers.remove(gone);
                }
            }
        }
        let read: Box<[Dependency]> = read
            .into_iter()
            .map(|dependency| {
                // All who read the same share one name of it.
                let shared = self.readers.get_key_value(&dependency);
                let dependency = shared.map_or(dependency, |(known, _)| known.clone());
                let readers = self.readers.entry(dependency.clone()).or_default();
                readers.insert(node.clone());
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
