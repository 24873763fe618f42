//! Who is at which address, and how far its namespace is: told by the operator, looked at for each connection.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use weft_model::{
    Change, DefaultAction, Key, MeshService, NamespaceKey, Peer, Resource, ServiceKey, SpiffeId, Stage, TrustDomain,
    WorkloadKey,
};

use super::{
    stages::Stages,
    talk::{Talk, Talking},
};

/// Endpoints of a Service that are asked about at once.
const ENDPOINTS: usize = 512;

/// The workloads of the mesh. A change makes another, which shares what has not changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workloads {
    peers: HashMap<WorkloadKey, Arc<Peer>>,
    at: HashMap<IpAddr, Arc<Peer>>,
    stages: Stages,
    services: HashMap<ServiceKey, Arc<Told>>,
    by: HashMap<SocketAddr, Arc<Told>>,
    /// Connections with the namespaces of which there are peers or services.
    talks: HashMap<NamespaceKey, Arc<Talk>>,
    /// What was taken back of namespaces that have just left the mesh, and until when it is known all the same.
    lingering: HashMap<Key, Instant>,
    /// How many times it has changed.
    pub(super) generation: u64,
}

/// What was told of a Service port.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) service: Arc<MeshService>,
    talk: Arc<Talk>,
    /// When it was last told of an endpoint that was new.
    pub(super) since: Instant,
    /// The workloads that are at its endpoints, or were at the last that it had, and can prove who they are there.
    led: Vec<Arc<Peer>>,
}

/// Who has to prove that it is there: one of these.
#[derive(Debug)]
pub(crate) struct Expected(Vec<Arc<Peer>>);

impl Expected {
    /// Whether it is one of them.
    pub(super) fn includes(&self, found: &SpiffeId, domain: &TrustDomain) -> bool {
        let is = |peer: &Arc<Peer>| found.namespace() == peer.namespace.as_str() && found.account() == peer.account;
        found.trust_domain() == domain && self.0.iter().any(is)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<String> = self
            .0
            .iter()
            .map(|peer| format!("{}/{}", peer.namespace, peer.account))
            .collect();
        names.sort();
        names.dedup();
        f.write_str(&names.join(" or "))
    }
}

/// What comes to a port of this pod, as the stage of its namespace wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    /// In clear from anybody.
    Open,
    /// From workloads of the mesh with proof, from others in clear.
    Secure,
    /// With proof only.
    Strict,
}

/// An address as it is told: one of IPv4 comes by a socket of both families as one of IPv6.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Workloads {
    /// Whether a change is one of these.
    pub(super) fn is_of(change: &Change) -> bool {
        matches!(
            change,
            Change::Upsert(Resource::Peer(_) | Resource::MeshNamespace(_) | Resource::MeshService(_))
                | Change::Remove(Key::Peer(_) | Key::MeshNamespace(_) | Key::MeshService(_))
        )
    }

    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Upsert(Resource::Peer(peer)) => {
                self.lingering.remove(&Key::Peer(peer.key.clone()));
                self.remove(&peer.key);
                self.talks.entry(peer.namespace.clone()).or_default();
                for address in &peer.addresses {
                    self.at.insert(*address, peer.clone());
                }
                self.peers.insert(peer.key.clone(), peer);
            }
            Change::Remove(Key::Peer(key)) => {
                let namespace = self.peers.get(&key).map(|peer| peer.namespace.clone());
                if !self.lingers(namespace, Key::Peer(key.clone())) {
                    self.remove(&key);
                }
            }
            Change::Upsert(Resource::MeshNamespace(namespace)) => {
                let key = namespace.key.clone();
                self.stages.tell(&key, Some(namespace), Instant::now());
            }
            Change::Remove(Key::MeshNamespace(key)) => self.stages.tell(&key, None, Instant::now()),
            Change::Upsert(Resource::MeshService(service)) => {
                self.lingering.remove(&Key::MeshService(service.key.clone()));
                let before = self.remove_service(&service.key);
                let talk = self.talks.entry(service.key.parts().0.into()).or_default().clone();
                let led = self.led(&service, before.as_deref());
                let same = before.filter(|before| {
                    let mut endpoints = service.endpoints.iter();
                    endpoints.all(|endpoint| before.service.endpoints.contains(endpoint))
                });
                let since = same.map_or_else(Instant::now, |before| before.since);
                let told = Arc::new(Told {
                    service,
                    talk,
                    since,
                    led,
                });
                for address in places(&told.service) {
                    self.by.insert(address, told.clone());
                }
                self.services.insert(told.service.key.clone(), told);
            }
            Change::Remove(Key::MeshService(key)) => {
                let namespace = self.services.contains_key(&key).then(|| key.parts().0.into());
                if !self.lingers(namespace, Key::MeshService(key.clone())) {
                    self.remove_service(&key);
                }
            }
            _ => {}
        }
    }

    /// Whether something that is taken back matters still, since its namespace has just left the mesh, and it is not known yet
    /// that all have heard of that.
    fn lingers(&mut self, namespace: Option<NamespaceKey>, key: Key) -> bool {
        let until = namespace.and_then(|namespace| self.stages.leaves(&namespace));
        if let Some(until) = until {
            self.lingering.insert(key, until);
        }
        until.is_some()
    }

    /// Whom a Service leads to that can prove who it is. While it leads to nobody, as far as is known, that is whom it has led to
    /// last: who comes then is most likely of the same account.
    fn led(&self, service: &MeshService, before: Option<&Told>) -> Vec<Arc<Peer>> {
        let provers = |endpoints: &[SocketAddr]| -> Vec<_> {
            let endpoints = endpoints.iter();
            endpoints.filter_map(|to| self.prover(*to)).cloned().collect()
        };
        match before {
            Some(before) if service.endpoints.is_empty() => {
                let mut led = provers(&before.service.endpoints);
                led.extend(before.led.iter().cloned());
                led.sort_by(|a, b| a.key.cmp(&b.key));
                led.dedup_by(|a, b| a.key == b.key);
                led
            }
            _ => provers(&service.endpoints),
        }
    }

    /// When something holds no longer that is not told of.
    pub(super) fn due(&self) -> Option<Instant> {
        let lingering = self.lingering.values().copied().min();
        self.stages.due().into_iter().chain(lingering).min()
    }

    /// Ends what holds no longer.
    pub(super) fn settle(&mut self, now: Instant) {
        self.stages.settle(now);
        let over: Vec<Key> = self
            .lingering
            .extract_if(|_, until| *until <= now)
            .map(|(key, _)| key)
            .collect();
        for key in over {
            match key {
                Key::Peer(key) => self.remove(&key),
                Key::MeshService(key) => drop(self.remove_service(&key)),
                _ => {}
            }
        }
        self.tidy();
    }

    /// Whether everything was told once.
    pub(super) fn is_complete(&self) -> bool {
        self.stages.is_complete()
    }

    /// Everything was told.
    pub(super) fn complete(&mut self) {
        self.stages.complete();
    }

    fn remove(&mut self, key: &WorkloadKey) {
        let Some(gone) = self.peers.remove(key) else { return };
        for address in &gone.addresses {
            // Another may have the address by now.
            if self.at.get(address).is_some_and(|peer| peer.key == gone.key) {
                self.at.remove(address);
            }
        }
    }

    fn remove_service(&mut self, key: &ServiceKey) -> Option<Arc<Told>> {
        let gone = self.services.remove(key)?;
        for address in places(&gone.service) {
            if self.by.get(&address).is_some_and(|told| told.service.key == *key) {
                self.by.remove(&address);
            }
        }
        Some(gone)
    }

    /// Forgets namespaces of which there is nothing any more, and to which there is no connection.
    pub(super) fn tidy(&mut self) {
        let of_peers = self.peers.values().map(|peer| peer.namespace.as_str());
        let of_services = self.services.keys().map(|key| key.parts().0);
        let live: HashSet<&str> = of_peers.chain(of_services).collect();
        self.talks
            .retain(|namespace, talk| live.contains(namespace.as_str()) || talk.is_used(Duration::ZERO));
    }

    /// A connection to or from an address begins. Returns with it the addresses on which it depends and of which nothing is
    /// known, if these are wanted.
    pub(super) fn meet(&self, to: SocketAddr, wanted: bool) -> (Talking, Vec<IpAddr>) {
        let to = canonical(to);
        let told = self.behind_address(to);
        let talk = match told {
            Some(told) => Some(&told.talk),
            None => self.at.get(&to.ip()).and_then(|peer| self.talks.get(&peer.namespace)),
        };
        let (talking, is_told) = talk.map(Talk::begin).unwrap_or_default();
        let unknown = match told {
            _ if !wanted => Vec::new(),
            Some(told) if is_told => {
                let endpoints = told.service.endpoints.iter().map(|endpoint| endpoint.ip());
                let unknown = endpoints.filter(|ip| !self.at.contains_key(ip) && is_elsewhere(*ip));
                unknown.take(ENDPOINTS).collect()
            }
            _ if is_told || !is_elsewhere(to.ip()) => Vec::new(),
            _ => vec![to.ip()],
        };
        (talking, unknown)
    }

    /// The namespaces with which there is a connection, or was one not so long ago.
    pub(super) fn used(&self, within: Duration) -> Vec<String> {
        let used = self.talks.iter().filter(|(_, talk)| talk.is_used(within));
        used.map(|(namespace, _)| namespace.to_string()).collect()
    }

    /// Leaves a namespace, unless there is a connection after all; none if there are no peers or services of it.
    pub(super) fn leave(&self, namespace: &str, unless: Duration) -> Option<bool> {
        let talk = self.talks.get(&NamespaceKey::from(namespace));
        talk.map(|talk| talk.leave(unless))
    }

    /// A namespace is told of.
    pub(super) fn is_told(&self, namespace: &str) {
        if let Some(talk) = self.talks.get(&NamespaceKey::from(namespace)) {
            talk.is_told();
        }
    }

    /// The Service port whose address it is.
    pub(super) fn behind_address(&self, to: SocketAddr) -> Option<&Told> {
        self.by.get(&to).map(|told| &**told)
    }

    /// Whether it is the address of a Service, behind which somebody else chooses.
    pub(super) fn is_service(&self, to: SocketAddr) -> bool {
        self.behind_address(canonical(to)).is_some()
    }

    /// As they were told.
    pub(crate) fn resources(&self) -> impl Iterator<Item = Resource> {
        let namespaces = self.stages.told().cloned().map(Resource::MeshNamespace);
        let services = self
            .services
            .values()
            .map(|told| Resource::MeshService(told.service.clone()));
        let all = namespaces
            .chain(self.peers.values().cloned().map(Resource::Peer))
            .chain(services);
        all.filter(|resource| self.lingering.is_empty() || !self.lingering.contains_key(&resource.key()))
    }

    /// How the workloads of a namespace are to be come to, as they see it, and what becomes there of what no policy decides.
    pub(super) fn stage(&self, namespace: &NamespaceKey) -> (Stage, DefaultAction) {
        self.stages.inbound(namespace)
    }

    /// The same, as those see it who come.
    pub(super) fn stage_of_others(&self, namespace: &NamespaceKey) -> Stage {
        self.stages.outbound(namespace)
    }

    /// Who has to prove at an address and port that it is there; none where nobody has to. Behind the address of a Service that
    /// must hold for all of its endpoints, since nobody here knows which of them it will be (see [`super::choice`]). What goes to the pod itself by its
    /// own address never comes to its sidecar, so nobody there has anything to prove; by a Service it does.
    pub(crate) fn expected(&self, to: SocketAddr, own: Option<&WorkloadKey>) -> Option<Expected> {
        let to = canonical(to);
        let Some(told) = self.behind_address(to) else {
            return self.other(to, own).map(|peer| Expected(vec![peer.clone()]));
        };
        let endpoints = &told.service.endpoints;
        let peers: Option<Vec<_>> = if endpoints.is_empty() {
            Some(self.last(told).cloned().collect())
        } else {
            endpoints.iter().map(|to| self.peer(*to).cloned()).collect()
        };
        peers.filter(|peers| !peers.is_empty()).map(Expected)
    }

    /// The same, without saying who.
    pub(crate) fn is_expected(&self, to: SocketAddr, own: Option<&WorkloadKey>) -> bool {
        let to = canonical(to);
        match self.behind_address(to) {
            Some(told) if told.service.endpoints.is_empty() => self.last(told).next().is_some(),
            Some(told) => told.service.endpoints.iter().all(|to| self.peer(*to).is_some()),
            None => self.other(to, own).is_some(),
        }
    }

    /// Who proves behind a Service without endpoints who he is, if somebody is there after all.
    pub(super) fn last<'s>(&'s self, told: &'s Told) -> impl Iterator<Item = &'s Arc<Peer>> {
        told.led.iter().filter(|peer| self.asks_for_proof(peer))
    }

    fn other(&self, to: SocketAddr, own: Option<&WorkloadKey>) -> Option<&Arc<Peer>> {
        self.peer(to).filter(|peer| Some(&peer.key) != own)
    }

    /// The workload that proves who it is at an address and port.
    pub(super) fn peer(&self, to: SocketAddr) -> Option<&Arc<Peer>> {
        self.prover(to).filter(|peer| self.asks_for_proof(peer))
    }

    /// The workload that could prove it, whatever the stage.
    fn prover(&self, to: SocketAddr) -> Option<&Arc<Peer>> {
        let peer = self.at.get(&to.ip())?;
        let direct = peer.asks_only || peer.direct_ports.contains(&to.port());
        (!direct).then_some(peer)
    }

    fn asks_for_proof(&self, peer: &Peer) -> bool {
        self.stage_of_others(&peer.namespace) >= Stage::Secure
    }

    /// Whether some of them ask whoever comes to prove who it is.
    pub(super) fn ask_for_proof(&self) -> bool {
        let mut peers = self.peers.values().filter(|peer| !peer.asks_only);
        peers.any(|peer| self.asks_for_proof(peer))
    }

    /// Whether it is a workload of the mesh that comes from an address.
    pub(crate) fn is_peer(&self, address: IpAddr) -> bool {
        self.at.contains_key(&address.to_canonical())
    }

    /// Who comes from an address if it can be believed; nobody has proven anything by it.
    pub(crate) fn supposed(&self, address: IpAddr, domain: &TrustDomain) -> Option<SpiffeId> {
        let peer = self.at.get(&address.to_canonical())?;
        SpiffeId::of(domain, peer.namespace.as_str(), &peer.account).ok()
    }

    /// The workload of the mesh at an address.
    pub(super) fn at(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.at.get(&address)
    }

    /// A pod.
    pub(super) fn pod(&self, key: &WorkloadKey) -> Option<&Arc<Peer>> {
        self.peers.get(key)
    }

    /// The Service whose address it is, if it is one's, and who is there: behind a Service, if all of its endpoints are of
    /// the same workload.
    pub(super) fn behind(&self, to: SocketAddr) -> (Option<ServiceKey>, Option<Arc<Peer>>) {
        let Some(Told { service, .. }) = self.behind_address(to) else {
            return (None, self.at.get(&to.ip()).cloned());
        };
        let mut peers = service.endpoints.iter().map(|to| self.at.get(&to.ip()));
        let first = peers.next().flatten();
        let same = |peer: &Arc<Peer>, other: &Arc<Peer>| {
            (&peer.namespace, &peer.account, &peer.owner) == (&other.namespace, &other.account, &other.owner)
                && peer.owner.is_some()
        };
        let first = first.filter(|first| peers.all(|peer| peer.is_some_and(|peer| same(first, peer))));
        (Some(service.key.clone()), first.cloned())
    }

    /// How somebody has to come to a port of a pod.
    pub(crate) fn inbound(&self, own: &WorkloadKey, namespace: &NamespaceKey, port: u16) -> Inbound {
        match self.stage(namespace).0 {
            Stage::Observe if !self.stages.hears(namespace) => Inbound::Open,
            Stage::Strict if !self.is_probed(own, port) => Inbound::Strict,
            Stage::Observe | Stage::Secure | Stage::Strict => Inbound::Secure,
        }
    }

    /// Whether somebody who comes in clear is let in only since not all may have heard yet that the namespace is strict.
    pub(super) fn is_closing(&self, own: &WorkloadKey, namespace: &NamespaceKey, port: u16) -> bool {
        self.stages.is_closing(namespace) && !self.is_probed(own, port)
    }

    fn is_probed(&self, own: &WorkloadKey, port: u16) -> bool {
        let own = self.peers.get(own);
        own.is_some_and(|own| own.probe_ports.contains(&port))
    }
}

/// Whether somebody else can be there: not what is in the pod, or on no wire.
pub(super) fn is_elsewhere(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !link_local && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

/// Where clients find it.
fn places(service: &MeshService) -> impl Iterator<Item = SocketAddr> {
    let (_, _, port) = service.key.parts();
    let addresses = service.addresses.iter();
    addresses.map(move |address| SocketAddr::new(*address, port))
}

#[cfg(test)]
mod tests;
