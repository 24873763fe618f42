//! What is served on a port.

use std::sync::Arc;

use rustls::sign::CertifiedKey;
use weft_model::{HostPattern, Listener, ListenerProtocol};

use super::{
    L4Rule, Rule,
    attached::{Attached, Hosts, Rules},
    certificate::covers,
    hosts::{Host, HostTable},
    paths::Candidate,
    trust::ClientVerification,
};
use crate::fields::{Fields, RequestView};

/// A port and all listeners on it. They speak the same protocol.
#[derive(Clone)]
pub struct Port {
    /// Its number in the manifests.
    pub number: u16,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    groups: HostTable<Arc<Group>>,
}

/// The listeners of one hostname: one, unless several Gateways share the port.
///
/// Listeners are isolated: a request belongs to the most specific hostname that means its host, and no route of another
/// listener may answer it (Gateway API, `Listener.hostname`).
#[derive(Clone)]
pub(super) struct Group {
    pub(super) hostname: Option<HostPattern>,
    /// By key.
    pub(super) listeners: Vec<Served>,
    rules: Rules,
}

/// A listener and its certificates, as far as they are there.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) listener: Arc<Listener>,
    pub(super) certificates: Vec<Arc<CertifiedKey>>,
    /// What is asked of its clients.
    pub(super) client: Option<Arc<ClientVerification>>,
    /// What its requests show to backends that ask.
    pub(super) identity: Option<Arc<CertifiedKey>>,
}

/// Who takes a request.
#[derive(Clone, Copy, Debug)]
pub enum Found<'s> {
    /// This rule.
    Rule(Match<'s>),
    /// Nobody: 404.
    NoRoute,
    /// A listener other than the one whose certificate the client was shown: 421 (RFC 9110 section 15.5.20).
    Misdirected,
}

/// A rule and how it came to match.
#[derive(Clone, Copy, Debug)]
pub struct Match<'s> {
    /// The rule.
    pub rule: &'s Arc<Rule>,
    /// Which of its route's matches held.
    pub index: usize,
    /// How many bytes of the path its prefix took, without a trailing slash; all of them for another kind of match.
    pub prefix: usize,
    /// What the request shows to a backend that asks for a certificate.
    pub identity: Option<&'s Arc<CertifiedKey>>,
}

/// Who takes a connection or a flow of datagrams.
#[derive(Clone, Copy)]
pub struct Flow<'s> {
    /// The rule.
    pub rule: &'s Arc<L4Rule>,
    /// The listener by which it comes. TLS is terminated if that one says so, and else passed through.
    pub listener: &'s Arc<Listener>,
    group: &'s Group,
}

impl<'s> Flow<'s> {
    /// All listeners by which it comes to the rule: one, unless several Gateways share the port.
    pub(crate) fn listeners(self) -> impl Iterator<Item = &'s Arc<Listener>> {
        let named = &self.rule.route.listeners;
        let listeners = self.group.listeners.iter().map(|served| &served.listener);
        listeners.filter(|listener| named.contains(&listener.key))
    }
}

/// The listeners that a request is for.
pub(super) enum Selected<'s> {
    Group(&'s Arc<Group>),
    Nobody,
    /// For these, but it came by the certificate of others.
    Misdirected(&'s Arc<Group>),
}

impl Port {
    pub(super) fn new(number: u16) -> Self {
        Self {
            number,
            protocol: ListenerProtocol::Http,
            groups: HostTable::default(),
        }
    }

    /// The listeners on it.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.groups
            .values()
            .flat_map(|group| &group.listeners)
            .map(|served| &served.listener)
    }

    /// The certificate to show to a client that asks for `sni`, or for nothing: of the most specific listener for it,
    /// the first whose names include it, else the first. None if no listener is for it: the handshake must fail.
    pub fn certificate(&self, sni: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let host = Host::new(sni.unwrap_or_default());
        let group = self.groups.matching(host.as_str()).next()?;
        let certificates = || group.listeners.iter().flat_map(|served| &served.certificates);
        let (first, more) = (certificates().next()?, certificates().nth(1).is_some());
        let fitting = if more {
            certificates().find(|certified| covers(certified, host.as_str()))
        } else {
            None
        };
        Some(Arc::clone(fitting.unwrap_or(first)))
    }

    /// Whether anything is asked of any client.
    pub(crate) fn asks_clients(&self) -> bool {
        let mut listeners = self.groups.values().flat_map(|group| &group.listeners);
        listeners.any(|served| served.client.is_some())
    }

    /// What is asked of a client that asks for `sni`. A request for a host of other listeners is misdirected, so that
    /// nobody comes past it by another name.
    pub(crate) fn client_verification(&self, sni: Option<&str>) -> Option<&Arc<ClientVerification>> {
        let host = Host::new(sni.unwrap_or_default());
        let group = self.groups.matching(host.as_str()).next()?;
        group.listeners.iter().find_map(|served| served.client.as_ref())
    }

    /// What was asked of the clients of a listener last.
    pub(super) fn verification_of(&self, listener: &Listener) -> Option<&Arc<ClientVerification>> {
        let group = self.groups.get(listener.hostname.as_ref())?;
        let mut listeners = group.listeners.iter();
        let served = listeners.find(|served| served.listener.key == listener.key)?;
        served.client.as_ref()
    }

    /// Who takes a request that came by a connection with this SNI (which is ignored where TLS is not terminated).
    ///
    /// Among the routes of the listener that the request is for, the most specific hostname is asked first, and the next
    /// only if none of its rules takes the request; then exact paths come before
    /// regular expressions, those before prefixes, and the rest is as the API says. It allocates nothing.
    pub fn find<'s, F: Fields>(&'s self, request: &RequestView<'_, F>, sni: Option<&str>) -> Found<'s> {
        let host = Host::new(request.host);
        match self.select(&host, sni) {
            Selected::Group(group) => group.find(request, &host).map_or(Found::NoRoute, Found::Rule),
            Selected::Nobody => Found::NoRoute,
            Selected::Misdirected(_) => Found::Misdirected,
        }
    }

    /// The listeners by which a request for a host comes; if a rule takes it, by which it comes to that.
    pub(crate) fn by<'s>(&'s self, host: &str, rule: Option<&'s Rule>) -> impl Iterator<Item = &'s Arc<Listener>> {
        let host = Host::new(host);
        let group = self.groups.matching(host.as_str()).next();
        let listeners = group.into_iter().flat_map(|group| &group.listeners);
        let leads =
            move |listener: &&Arc<Listener>| rule.is_none_or(|rule| rule.route.listeners.contains(&listener.key));
        listeners.map(|served| &served.listener).filter(leads)
    }

    /// Who takes a connection with this SNI; without one, those who ask for none. Listeners are isolated: one that is for
    /// the name has it, even if no route of it is.
    pub fn flow(&self, sni: Option<&str>) -> Option<Flow<'_>> {
        let host = Host::new(sni.unwrap_or_default());
        self.groups.matching(host.as_str()).next()?.flow(&host)
    }

    /// What a backend that asks is shown by connections of a listener.
    pub(crate) fn identity(&self, listener: &Listener) -> Option<&Arc<CertifiedKey>> {
        let group = self.groups.get(listener.hostname.as_ref())?;
        let served = group
            .listeners
            .iter()
            .find(|served| served.listener.key == listener.key)?;
        served.identity.as_ref()
    }

    /// By the host alone, or, after a TLS handshake, by the SNI, which the host must agree with (Gateway API,
    /// `Listener.hostname`): another listener's host is misdirected, and nobody's is not found.
    pub(super) fn select(&self, host: &Host<'_>, sni: Option<&str>) -> Selected<'_> {
        let Some(group) = self.groups.matching(host.as_str()).next() else {
            return Selected::Nobody;
        };
        if self.protocol == ListenerProtocol::Https {
            let sni = Host::new(sni.unwrap_or_default());
            let shown = self.groups.matching(sni.as_str()).next();
            if !shown.is_some_and(|shown| Arc::ptr_eq(shown, group)) {
                return Selected::Misdirected(group);
            }
        }
        Selected::Group(group)
    }

    /// Adds a listener, or takes its new version in place of the old one of the same hostname.
    pub(super) fn serve(&mut self, served: Served) {
        self.protocol = served.listener.protocol;
        let group = self.group(&served.listener);
        match group
            .listeners
            .binary_search_by(|other| other.listener.key.cmp(&served.listener.key))
        {
            Ok(index) => group.listeners[index] = served,
            Err(index) => group.listeners.insert(index, served),
        }
    }

    /// Takes a listener away. The rules of others of the same hostname stay; `rules` are its own.
    pub(super) fn withdraw(&mut self, listener: &Listener, rules: &[Attached]) {
        let group = self.group(listener);
        group.listeners.retain(|served| served.listener.key != listener.key);
        if group.listeners.is_empty() {
            self.groups.remove(listener.hostname.as_ref());
        } else {
            rules.iter().for_each(|rule| group.detach(rule));
        }
    }

    /// The group of a listener, to be changed.
    pub(super) fn group(&mut self, listener: &Listener) -> &mut Group {
        let hostname = listener.hostname.as_ref();
        let new = || Group {
            hostname: hostname.cloned(),
            listeners: Vec::new(),
            rules: Rules::default(),
        };
        Arc::make_mut(self.groups.entry(hostname, || Arc::new(new())))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

impl Group {
    fn find<'s, F: Fields>(&'s self, request: &RequestView<'_, F>, host: &Host<'_>) -> Option<Match<'s>> {
        let (Candidate { rule, index }, prefix) = self.rules.find(request, host.as_str())?;
        Some(Match {
            rule,
            index: *index,
            prefix,
            identity: self.identity(rule),
        })
    }

    /// What requests for a rule show to backends: that of the listener by which they came to it.
    fn identity(&self, rule: &Rule) -> Option<&Arc<CertifiedKey>> {
        let mut showing = self.listeners.iter().filter(|served| served.identity.is_some());
        let served = showing.find(|served| rule.route.listeners.contains(&served.listener.key))?;
        served.identity.as_ref()
    }

    /// Who takes a connection, and by which listener it came to it.
    fn flow(&self, host: &Host<'_>) -> Option<Flow<'_>> {
        let rule = self.rules.flow(host.as_str())?;
        let mut listeners = self.listeners.iter().map(|served| &served.listener);
        let listener = listeners.find(|listener| rule.route.listeners.contains(&listener.key))?;
        Some(Flow {
            rule,
            listener,
            group: self,
        })
    }

    pub(super) fn attach(&mut self, rule: &Attached) {
        self.rules.attach(rule, Hosts::Listeners(self.hostname.as_ref()));
    }

    pub(super) fn detach(&mut self, rule: &Attached) {
        self.rules.detach(rule, Hosts::Listeners(self.hostname.as_ref()));
    }
}
