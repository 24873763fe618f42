//! What protects listeners and rules at a Gateway.

use std::sync::Arc;

use weft_model::{Listener, ListenerKey, PolicyKey};

use super::{Rule, table::Table};
use crate::authorization::{Policy, Protection};

/// The policies, and what each listener and rule has of them; entries only for those that have any.
#[derive(Clone, Default)]
pub(crate) struct Guards {
    pub(super) policies: Table<PolicyKey, Arc<Policy>>,
    pub(super) listeners: Table<ListenerKey, Arc<Protection>>,
    /// By the rule's number.
    pub(super) rules: Table<u64, Arc<Protection>>,
}

impl Guards {
    /// Whether nothing is protected.
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.rules.is_empty()
    }

    pub(crate) fn of_listener(&self, listener: &Listener) -> Option<&Arc<Protection>> {
        self.listeners.get(&listener.key)
    }

    pub(crate) fn of_rule(&self, rule: &Rule) -> Option<&Arc<Protection>> {
        self.rules.get(&rule.id)
    }
}
