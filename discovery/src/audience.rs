//! Which Gateways use a resource.
//!
//! Resources point up: a route names its listeners, a workload its services. Whoever has a listener needs the routes
//! attached to it, the services these routes use, the workloads that answer for them, the certificates that are shown and
//! the roots by which either side is trusted. So an audience flows along the links from the listeners down, and a change re-does only what lies below it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use weft_model::{GatewayKey, Key, Resource, TrustRoots};

/// The Gateways that use something.
pub(crate) type Gateways = Arc<BTreeSet<GatewayKey>>;

/// Who uses what.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    known: HashMap<Key, Known>,
    /// What a resource names, whether that exists or not.
    names: HashMap<Key, BTreeSet<Key>>,
    /// The same the other way round.
    named_by: HashMap<Key, BTreeSet<Key>>,
}

#[derive(Debug)]
struct Known {
    /// Of a listener or a challenge, the Gateway it belongs to: where all audience comes from.
    owner: Option<GatewayKey>,
    gateways: Gateways,
}

/// For whom a resource has changed: those that used it, and those that use it now.
pub(crate) type Affected = HashMap<Key, BTreeSet<GatewayKey>>;

impl Audience {
    /// Those that use a resource; none if it does not exist.
    pub(crate) fn of(&self, key: &Key) -> Option<&Gateways> {
        self.known.get(key).map(|known| &known.gateways)
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
                        owner: None,
                        gateways: Gateways::default(),
                    });
                    known.owner = match resource {
                        Resource::Listener(listener) => Some(listener.gateway.clone()),
                        Resource::Challenge(challenge) => Some(challenge.gateway.clone()),
                        _ => None,
                    };
                    Some(known.gateways.clone())
                }
                None => self.known.remove(key).map(|known| known.gateways),
            };
            let users = affected.entry(key.clone()).or_default();
            users.extend(before.iter().flat_map(|gateways| gateways.iter().cloned()));
        }
        while let Some((_, key)) = due.pop_first() {
            let Some(known) = self.known.get(&key) else { continue };
            let now = self.derive(&key, known);
            if now != *known.gateways {
                let users = affected.entry(key.clone()).or_default();
                users.extend(known.gateways.union(&now).cloned());
                if let Some(known) = self.known.get_mut(&key) {
                    known.gateways = Arc::new(now);
                }
                due.extend(self.below(&key));
            } else if let Some(users) = affected.get_mut(&key) {
                users.extend(now);
            }
        }
        affected
    }

    /// The audience of a resource, from those above it.
    fn derive(&self, key: &Key, known: &Known) -> BTreeSet<GatewayKey> {
        if let Some(owner) = &known.owner {
            return BTreeSet::from([owner.clone()]);
        }
        let above = self.neighbours(key).filter(|other| rank(other) < rank(key));
        let audiences = above.filter_map(|above| self.of(above));
        audiences.flat_map(|gateways| gateways.iter().cloned()).collect()
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

/// How far below the listeners a kind is.
fn rank(key: &Key) -> u8 {
    match key {
        Key::Listener(_) | Key::Challenge(_) => 0,
        Key::Route(_) | Key::L4Route(_) => 1,
        Key::Service(_) => 2,
        Key::Workload(_) | Key::Certificate(_) | Key::TrustBundle(_) => 3,
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
            let listeners = route.listeners.iter().cloned().map(Key::Listener);
            listeners.chain(route.services().cloned().map(Key::Service)).collect()
        }
        Resource::L4Route(route) => {
            let listeners = route.listeners.iter().cloned().map(Key::Listener);
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
        Resource::Certificate(_) | Resource::Challenge(_) | Resource::TrustBundle(_) => BTreeSet::new(),
    }
}
