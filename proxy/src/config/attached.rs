//! The rules that are attached to the listeners of one hostname, or to a Service port, by the hosts for which they are
//! served there.

use std::sync::Arc;

use smallvec::SmallVec;
use weft_model::HostPattern;

use super::{
    L4Rule, Rule,
    hosts::{HostTable, hostnames},
    l4::L4Rules,
    paths::{Candidate, PathTable},
};
use crate::fields::{Fields, RequestView};

/// A rule of either sort.
#[derive(Clone)]
pub(super) enum Attached {
    Http(Arc<Rule>),
    L4(Arc<L4Rule>),
}

/// For which hosts rules are served.
#[derive(Clone, Copy)]
pub(super) enum Hosts<'h> {
    /// Those of the rule's route, as far as they are those of a listener.
    Listeners(Option<&'h HostPattern>),
    /// Requests for any: clients of a Service are told by where they connect to, whatever they say (GEP-1294). What is told
    /// apart by its SNI still is.
    Any,
}

/// Rules, the one that takes a request or connection found by its host first.
#[derive(Clone, Default)]
pub(super) struct Rules {
    http: HostTable<Arc<PathTable>>,
    l4: L4Rules,
}

impl<'h> Hosts<'h> {
    fn of_requests(self, route: &[HostPattern]) -> SmallVec<[Option<HostPattern>; 1]> {
        match self {
            Self::Listeners(hostname) => hostnames(route, hostname),
            Self::Any => SmallVec::from_iter([None]),
        }
    }

    fn listeners(self) -> Option<&'h HostPattern> {
        match self {
            Self::Listeners(hostname) => hostname,
            Self::Any => None,
        }
    }
}

impl Rules {
    /// The rule that takes a request, by which of its matches, and how many bytes of the path that took.
    pub(super) fn find<F: Fields>(&self, request: &RequestView<'_, F>, host: &str) -> Option<(&Candidate, usize)> {
        self.http.matching(host).find_map(|paths| paths.find(request))
    }

    /// The rule that takes a connection or flow.
    pub(super) fn flow(&self, host: &str) -> Option<&Arc<L4Rule>> {
        self.l4.find(host)
    }

    /// Whether there are any for requests.
    pub(super) fn has_http(&self) -> bool {
        !self.http.is_empty()
    }

    /// Whether there are any for connections.
    pub(super) fn has_l4(&self) -> bool {
        !self.l4.is_empty()
    }

    pub(super) fn attach(&mut self, rule: &Attached, hosts: Hosts<'_>) {
        let rule = match rule {
            Attached::Http(rule) => rule,
            Attached::L4(rule) => return self.l4.attach(rule, hosts.listeners()),
        };
        for hostname in hosts.of_requests(&rule.route.hostnames) {
            let paths = Arc::make_mut(self.http.entry(hostname.as_ref(), Arc::default));
            for index in 0..rule.matchers.len() {
                paths.insert(Candidate {
                    rule: Arc::clone(rule),
                    index,
                });
            }
        }
    }

    pub(super) fn detach(&mut self, rule: &Attached, hosts: Hosts<'_>) {
        let rule = match rule {
            Attached::Http(rule) => rule,
            Attached::L4(rule) => return self.l4.detach(rule, hosts.listeners()),
        };
        for hostname in hosts.of_requests(&rule.route.hostnames) {
            if self.http.get(hostname.as_ref()).is_none() {
                continue;
            }
            let paths = Arc::make_mut(self.http.entry(hostname.as_ref(), Arc::default));
            for index in 0..rule.matchers.len() {
                paths.remove(&Candidate {
                    rule: Arc::clone(rule),
                    index,
                });
            }
            if paths.is_empty() {
                self.http.remove(hostname.as_ref());
            }
        }
    }
}
