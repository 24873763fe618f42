//! Whose data planes use a resource.
//!
//! Resources point up: a route names its listeners and frontends, a workload its services. Whoever has one of these needs
//! the routes attached to it, the services these routes use, the workloads that answer for them, the certificates that are shown and
//! the roots by which either side is trusted. So an audience flows along the links from the listeners down, and a change re-does only what lies below it.
//!
//! What is said of the mesh is for the sidecars that talk to the namespace it is said of. Gateways are told which of their
//! workloads have a sidecar, and how far the namespaces of these are, and so is whoever has routes to workloads elsewhere.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use weft_model::{AuthorizationTarget, Key, ListenerKey, Resource, TrustRoots};

use crate::party::Party;

/// Who uses something.
pub(crate) type Parties = Arc<BTreeSet<Party>>;

/// Who uses what.
#[derive(Debug, Default)]
pub(crate) struct Audiences {
    known: HashMap<Key, Known>,
    /// What each uses.
    used: HashMap<Party, HashSet<Key>>,
    /// What a resource names, whether that exists or not.
    names: HashMap<Key, BTreeSet<Key>>,
    /// The same the other way round.
    named_by: HashMap<Key, BTreeSet<Key>>,
}

#[derive(Debug)]
struct Known {
    /// Of a listener or a challenge, the Gateway it belongs to; of a frontend, its clients; of a policy, whom it protects; of
    /// what is said of the mesh, all in it: where all audience comes from.
    owners: BTreeSet<Party>,
    parties: Parties,
}

/// For whom a resource has changed: those that used it, and those that use it now.
pub(crate) type Affected = HashMap<Key, BTreeSet<Party>>;

impl Audiences {
    /// Those that use a resource; none if it does not exist.
    pub(crate) fn of(&self, key: &Key) -> Option<&Parties> {
        self.known.get(key).map(|known| &known.parties)
    }

    /// What a party uses.
    pub(crate) fn used_by(&self, party: &Party) -> impl Iterator<Item = &Key> {
        self.used.get(party).into_iter().flatten()
    }

    /// Takes over that resources are new or other than before (`Some`), or gone, and says for whom what has changed.
    pub(crate) fn update(&mut self, changed: &[(Key, Option<Resource>)]) -> Affected {
        let mut affected = Affected::new();
        let mut due = BTreeSet::new();
        for (key, resource) in changed {
            due.extend(self.below(key));
            self.link(key, resource.as_ref());
            due.extend(self.below(key));
            due.insert((rank(key), key.clone()));
            let before = match resource {
                Some(resource) => {
                    let known = self.known.entry(key.clone()).or_insert_with(|| Known {
                        owners: BTreeSet::new(),
                        parties: Parties::default(),
                    });
                    known.owners = owners(resource);
                    Some(known.parties.clone())
                }
                None => self.forget(key),
            };
            let users = affected.entry(key.clone()).or_default();
            users.extend(before.iter().flat_map(|parties| parties.iter().cloned()));
        }
        while let Some((_, key)) = due.pop_first() {
            let Some(known) = self.known.get(&key) else { continue };
            let now = self.derive(&key, known);
            if now != *known.parties {
                let users = affected.entry(key.clone()).or_default();
                users.extend(known.parties.union(&now).cloned());
                self.settle(&key, now);
                due.extend(self.below(&key));
            } else if let Some(users) = affected.get_mut(&key) {
                users.extend(now);
            }
        }
        affected
    }

    /// Takes over who uses a resource.
    fn settle(&mut self, key: &Key, now: BTreeSet<Party>) {
        let Some(known) = self.known.get_mut(key) else { return };
        let before = std::mem::replace(&mut known.parties, Arc::new(now));
        let now = known.parties.clone();
        for party in now.difference(&before) {
            self.used.entry(party.clone()).or_default().insert(key.clone());
        }
        for party in before.difference(&now) {
            self.unused(party, key);
        }
    }

    /// Forgets a resource, and says who used it.
    fn forget(&mut self, key: &Key) -> Option<Parties> {
        let parties = self.known.remove(key)?.parties;
        for party in parties.iter() {
            self.unused(party, key);
        }
        Some(parties)
    }

    fn unused(&mut self, party: &Party, key: &Key) {
        if let Some(used) = self.used.get_mut(party) {
            used.remove(key);
            if used.is_empty() {
                self.used.remove(party);
            }
        }
    }

    /// The audience of a resource, from those above it.
    fn derive(&self, key: &Key, known: &Known) -> BTreeSet<Party> {
        let above = self.neighbours(key).filter(|other| rank(other) < rank(key));
        let audiences = above.filter_map(|above| self.of(above));
        let audiences = audiences.flat_map(|parties| parties.iter());
        if known.owners.is_empty() {
            return audiences.cloned().collect();
        }
        // Sidecars are told by what they are, but who has a workload needs to know what is there, whatever its namespace.
        let is_peer = matches!(key, Key::Peer(_));
        audiences
            .filter(|party| is_peer || matches!(party, Party::Gateway(_)))
            .chain(&known.owners)
            .cloned()
            .collect()
    }

    fn neighbours(&self, key: &Key) -> impl Iterator<Item = &Key> {
        let names = self.names.get(key).into_iter().flatten();
        names.chain(self.named_by.get(key).into_iter().flatten())
    }

    /// What takes its audience from this.
    fn below(&self, key: &Key) -> Vec<(u8, Key)> {
        let below = self.neighbours(key).filter(|other| rank(other) > rank(key));
        below.map(|other| (rank(other), other.clone())).collect()
    }

    fn link(&mut self, key: &Key, resource: Option<&Resource>) {
        let now = resource.map(named).unwrap_or_default();
        let before = if now.is_empty() {
            self.names.remove(key).unwrap_or_default()
        } else {
            self.names.insert(key.clone(), now.clone()).unwrap_or_default()
        };
        for gone in before.difference(&now) {
            if let Some(by) = self.named_by.get_mut(gone) {
                by.remove(key);
                if by.is_empty() {
                    self.named_by.remove(gone);
                }
            }
        }
        for new in now.difference(&before) {
            self.named_by.entry(new.clone()).or_default().insert(key.clone());
        }
    }
}

/// Those for whom a resource is by itself.
fn owners(resource: &Resource) -> BTreeSet<Party> {
    let one = match resource {
        Resource::Listener(listener) => Party::Gateway(listener.gateway.clone()),
        Resource::Challenge(challenge) => Party::Gateway(challenge.gateway.clone()),
        Resource::Frontend(frontend) => match &frontend.clients {
            Some(namespace) => Party::Sidecars(namespace.as_str().into()),
            None => return talking(frontend.service.parts().0),
        },
        Resource::Peer(peer) => return talking(peer.namespace.as_str()),
        Resource::MeshService(service) => return talking(service.key.parts().0),
        Resource::MeshNamespace(_) => Party::Mesh,
        Resource::Member(member) => Party::Sidecar(member.key.clone()),
        Resource::Authorization(policy) => {
            let namespaces = policy.targets.iter().filter_map(AuthorizationTarget::workloads_of);
            let sidecars = namespaces.map(|namespace| Party::Sidecars(namespace.as_str().into()));
            let gateways = policy.targets.iter().flat_map(AuthorizationTarget::gateways);
            return sidecars.chain(gateways.cloned().map(Party::Gateway)).collect();
        }
        _ => return BTreeSet::new(),
    };
    BTreeSet::from([one])
}

/// Those that are told what is said of a namespace: who talks to it, and who is told everything.
fn talking(namespace: &str) -> BTreeSet<Party> {
    BTreeSet::from([Party::Everything, Party::Talking(namespace.into())])
}

/// How far below listeners and frontends a kind is.
fn rank(key: &Key) -> u8 {
    match key {
        Key::Listener(_)
        | Key::Frontend(_)
        | Key::Challenge(_)
        | Key::Member(_)
        | Key::Authorization(_)
        | Key::MeshService(_) => 0,
        Key::Route(_) | Key::L4Route(_) => 1,
        Key::Service(_) => 2,
        Key::Workload(_) | Key::Certificate(_) | Key::TrustBundle(_) => 3,
        Key::Peer(_) => 4,
        Key::MeshNamespace(_) => 5,
    }
}

/// What a resource names.
fn named(resource: &Resource) -> BTreeSet<Key> {
    match resource {
        Resource::Listener(listener) => {
            let tls = listener.tls.as_ref();
            let shown = tls.into_iter().flat_map(|tls| &tls.certificates);
            let shown = shown
                .chain(&listener.backend_certificate)
                .cloned()
                .map(Key::Certificate);
            let client = tls.and_then(|tls| tls.client.as_ref());
            let trusted = client.into_iter().flat_map(|client| &client.trust_bundles);
            shown.chain(trusted.cloned().map(Key::TrustBundle)).collect()
        }
        Resource::Route(route) => {
            let listeners = route.listeners.iter().map(attachment);
            listeners.chain(route.services().cloned().map(Key::Service)).collect()
        }
        Resource::L4Route(route) => {
            let listeners = route.listeners.iter().map(attachment);
            listeners.chain(route.services().cloned().map(Key::Service)).collect()
        }
        Resource::Workload(workload) => workload.services.keys().cloned().map(Key::Service).collect(),
        Resource::Service(service) => {
            let tls = service.tls.as_ref();
            let shown = tls.and_then(|tls| tls.certificate()).cloned().map(Key::Certificate);
            let trusted = tls.map_or(&[][..], |tls| match &tls.roots {
                TrustRoots::Bundles(bundles) => bundles,
                TrustRoots::System => &[],
            });
            shown
                .into_iter()
                .chain(trusted.iter().cloned().map(Key::TrustBundle))
                .collect()
        }
        Resource::Peer(peer) => {
            let six = peer.addresses.iter().any(IpAddr::is_ipv6);
            let six = six.then(|| Key::Workload(peer.key.by_ipv6()));
            let both = [
                Key::Workload(peer.key.clone()),
                Key::MeshNamespace(peer.namespace.clone()),
            ];
            both.into_iter().chain(six).collect()
        }
        Resource::Certificate(_)
        | Resource::Challenge(_)
        | Resource::TrustBundle(_)
        | Resource::Frontend(_)
        | Resource::Member(_)
        | Resource::Authorization(_)
        | Resource::MeshNamespace(_)
        | Resource::MeshService(_) => BTreeSet::new(),
    }
}

/// What a route is attached to.
fn attachment(listener: &ListenerKey) -> Key {
    if listener.is_frontend() {
        Key::Frontend(listener.clone())
    } else {
        Key::Listener(listener.clone())
    }
}
