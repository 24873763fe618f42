//! What protects listeners and rules at a Gateway.

use std::sync::Arc;

use weft_model::{Listener, ListenerKey, PolicyKey};

use super::{L4Rule, Rule, table::Table};
use crate::authorization::{Policy, Protection, edge::Level};

/// The policies, and what each listener and rule has of them; entries only for those that have any.
#[derive(Clone, Default)]
pub(crate) struct Guards {
    pub(super) policies: Table<PolicyKey, Arc<Policy>>,
    /// What its Gateway asks of those who come by a listener.
    pub(super) listeners: Table<ListenerKey, Arc<Protection>>,
    /// What the ListenerSet asks of them that has the listener.
    pub(super) sets: Table<ListenerKey, Arc<Protection>>,
    /// By the rule's number.
    pub(super) rules: Table<u64, Arc<Protection>>,
    /// Another each time any of this may be another.
    pub(super) generation: u64,
}

impl Guards {
    /// Whether nothing is protected.
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.sets.is_empty() && self.rules.is_empty()
    }

    /// Another one that may decide otherwise has another.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// All of these must allow what comes by the listener.
    pub(crate) fn of_listener(&self, listener: &Listener) -> impl Iterator<Item = (Level, &Arc<Protection>)> {
        let of_gateway = self.listeners.get(&listener.key);
        let of_set = self.sets.get(&listener.key);
        let of_gateway = of_gateway.map(|protection| (Level::Gateway, protection));
        of_gateway
            .into_iter()
            .chain(of_set.map(|protection| (Level::ListenerSet, protection)))
    }

    pub(crate) fn of_rule(&self, rule: &Rule) -> Option<&Arc<Protection>> {
        self.of_number(rule.id)
    }

    pub(crate) fn of_l4_rule(&self, rule: &L4Rule) -> Option<&Arc<Protection>> {
        self.of_number(rule.id)
    }

    /// By the number of a rule, of either kind.
    pub(crate) fn of_number(&self, rule: u64) -> Option<&Arc<Protection>> {
        self.rules.get(&rule)
    }
}
