//! A rule of a TLSRoute, TCPRoute or UDPRoute, compiled, and which of them takes a connection.

use std::sync::Arc;

use weft_model::{BackendTarget, HostPattern, L4Route, ServiceKey};

use super::{
    ServiceId, Target,
    hosts::{HostTable, hostnames},
};

/// A rule of a route that does not look into what it carries.
#[derive(Debug)]
pub struct L4Rule {
    /// Stays the same as long as there is a route with this key.
    pub id: u64,
    /// What it was compiled from.
    pub route: Arc<L4Route>,
    /// Where connections and flows go, in the manifest's order: weight and target.
    pub backends: Vec<(u32, Target)>,
}

impl L4Rule {
    /// Compiles a route. `id_of` knows every service that [`L4Route::services`] names.
    pub(super) fn new(id: u64, route: Arc<L4Route>, id_of: &dyn Fn(&ServiceKey) -> ServiceId) -> Self {
        let backends = route.backends.iter().map(|backend| {
            let target = match &backend.target {
                BackendTarget::Service(key) => Target::Service(id_of(key)),
                BackendTarget::Invalid(reason) => Target::Invalid(reason.as_str().into()),
            };
            (backend.weight, target)
        });
        Self {
            id,
            backends: backends.collect(),
            route,
        }
    }

    /// The lesser wins: the oldest, then the first by name (Gateway API, "Conflicts").
    fn precedence(&self) -> (i64, &str, &str, u32) {
        let owner = &self.route.owner;
        (owner.created, &owner.namespace, &owner.name, owner.rule)
    }
}

/// The rules of the listeners of one hostname, by the hostnames for which they are served there, the winner of each first.
#[derive(Clone, Default)]
pub(super) struct L4Rules(HostTable<Arc<Vec<Arc<L4Rule>>>>);

impl L4Rules {
    /// The rule that takes a connection. The most specific hostname is asked, and of its rules the oldest.
    pub(super) fn find(&self, host: &str) -> Option<&Arc<L4Rule>> {
        self.0.matching(host).find_map(|rules| rules.first())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn attach(&mut self, rule: &Arc<L4Rule>, listener: Option<&HostPattern>) {
        for hostname in hostnames(&rule.route.hostnames, listener) {
            let rules = Arc::make_mut(self.0.entry(hostname.as_ref(), Arc::default));
            rules.retain(|other| other.id != rule.id);
            let at = rules.partition_point(|other| other.precedence() <= rule.precedence());
            rules.insert(at, Arc::clone(rule));
        }
    }

    pub(super) fn detach(&mut self, rule: &Arc<L4Rule>, listener: Option<&HostPattern>) {
        for hostname in hostnames(&rule.route.hostnames, listener) {
            if self.0.get(hostname.as_ref()).is_none() {
                continue;
            }
            let rules = Arc::make_mut(self.0.entry(hostname.as_ref(), Arc::default));
            rules.retain(|other| other.id != rule.id);
            if rules.is_empty() {
                self.0.remove(hostname.as_ref());
            }
        }
    }
}
