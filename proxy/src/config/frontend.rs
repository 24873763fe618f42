//! A Service port as its clients in the mesh see it.

use std::{net::SocketAddr, sync::Arc};

use weft_model::{Frontend, ListenerProtocol};

use super::{
    Found, L4Rule, Match,
    attached::{Attached, Hosts, Rules},
    hosts::Host,
    paths::Candidate,
};
use crate::fields::{Fields, RequestView};

/// A Service port and the routes attached to it. There is one group of them, so unlike listeners there is nothing to select
/// first; how a rule is found among them is the same.
#[derive(Clone)]
pub struct FrontendEntry {
    /// The resource.
    pub frontend: Arc<Frontend>,
    rules: Rules,
}

impl FrontendEntry {
    pub(super) fn new(frontend: Arc<Frontend>) -> Self {
        Self {
            frontend,
            rules: Rules::default(),
        }
    }

    /// What is spoken to it.
    pub fn protocol(&self) -> ListenerProtocol {
        self.frontend.protocol
    }

    /// Who takes a request. The host it names says nothing of that, nor do the hostnames of routes (GEP-1294).
    pub fn find<'s, F: Fields>(&'s self, request: &RequestView<'_, F>) -> Found<'s> {
        match self.rules.find(request, "") {
            None => Found::NoRoute,
            Some((Candidate { rule, index }, prefix)) => Found::Rule(Match {
                rule,
                index: *index,
                prefix,
                identity: None,
            }),
        }
    }

    /// Who takes a connection with this SNI; without one, those who ask for none.
    pub fn flow(&self, sni: Option<&str>) -> Option<&Arc<L4Rule>> {
        let host = Host::new(sni.unwrap_or_default());
        self.rules.flow(host.as_str())
    }

    /// Whether anything is routed: with no rule of its kind, it is as if there were none.
    pub(super) fn is_routed(&self) -> bool {
        match self.frontend.protocol {
            ListenerProtocol::Http => self.rules.has_http(),
            _ => self.rules.has_l4(),
        }
    }

    /// The addresses that are its own.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let (.., port) = self.frontend.service.parts();
        let addresses = self.frontend.addresses.iter();
        addresses.map(move |address| SocketAddr::new(*address, port))
    }

    pub(super) fn attach(&mut self, rule: &Attached) {
        self.rules.attach(rule, Hosts::Any);
    }

    pub(super) fn detach(&mut self, rule: &Attached) {
        self.rules.detach(rule, Hosts::Any);
    }
}
