//! From changes to snapshots.

mod frontends;
mod policies;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    net::SocketAddr,
    sync::Arc,
};

use weft_model::{
    Certificate, CertificateKey, Challenge, ChallengeKey, Change, Key, L4Route, Listener, ListenerKey, NamedEndpoint,
    Rejected, Resource, Route, RouteKey, Service, ServiceKey, TrustBundle, TrustBundleKey, TrustRoots, Workload,
    WorkloadKey,
};

use super::{
    BackendTls, Endpoint, L4Rule, Named, Place, Port, Resolution, Rule, ServiceEntry, ServiceId, Snapshot,
    attached::Attached,
    certificate::CertificateEntry,
    port::Served,
    trust::{ClientVerification, TrustEntry},
};
use crate::session::Session;

/// All that is configured, and what makes the next snapshot cheap. Owned by the control thread.
#[derive(Default)]
pub struct Configuration {
    /// What [`Snapshot`]s are copies of. A change copies only what a snapshot still shares.
    next: Snapshot,
    current: Arc<Snapshot>,
    /// The number that was given out last, to a rule or a service.
    last_id: u64,
    names: HashMap<ServiceKey, Name>,
    /// What each service's workloads say of it. It may not exist (yet).
    endpoints: Index<ServiceKey, (WorkloadKey, SocketAddr)>,
    /// The routes that name a listener or frontend. It may not exist (yet).
    attached: Index<ListenerKey, RouteKey>,
    /// The listeners and services that name a certificate. It may not exist (yet).
    shown_by: Index<CertificateKey, Key>,
    /// The listeners and services that name a trust bundle. It may not exist (yet).
    trusted_by: Index<TrustBundleKey, Key>,
    /// The services that have a name.
    named_by: Index<String, ServiceKey>,
    by_port: Index<Place, ListenerKey>,
    /// The listeners that are on their port, in the version that is.
    served: HashMap<ListenerKey, Arc<Listener>>,
    /// The frontends of an address, in the order in which they are asked.
    by_address: Index<SocketAddr, frontends::Turn>,
    guarding: policies::Guarding,
    touched: Touched,
}

/// What points to something.
type Index<K, V> = HashMap<K, BTreeSet<V>>;

/// What is brought up to date once, after a set of changes.
#[derive(Default)]
struct Touched {
    anything: bool,
    services: HashSet<ServiceKey>,
    ports: BTreeSet<Place>,
    certificates: HashSet<CertificateKey>,
    trust_bundles: HashSet<TrustBundleKey>,
    names: HashSet<String>,
    addresses: HashSet<SocketAddr>,
}

/// A service's number, kept as long as somebody uses it: a rule that names it, or the service itself.
struct Name {
    id: ServiceId,
    uses: usize,
}

/// What came of a set of changes.
pub struct Applied {
    /// What to serve from now on.
    pub snapshot: Arc<Snapshot>,
    /// What was refused.
    pub rejected: Vec<Rejected>,
}

impl Configuration {
    /// Nothing is configured.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes changes, in any order, all at once for whoever looks at the snapshot. What is refused does not stop the
    /// rest.
    pub fn apply(&mut self, changes: Vec<Change>) -> Applied {
        let mut rejected = Vec::new();
        for change in changes {
            let key = match &change {
                Change::Upsert(resource) => resource.key(),
                Change::Remove(key) => key.clone(),
            };
            let done = match change {
                Change::Upsert(Resource::Certificate(certificate)) => self.put_certificate(certificate),
                Change::Upsert(Resource::TrustBundle(bundle)) => self.put_trust_bundle(bundle),
                Change::Upsert(Resource::Challenge(challenge)) => self.put_challenge(challenge),
                Change::Upsert(Resource::Route(route)) => self.put_route(route),
                Change::Upsert(Resource::Workload(workload)) => Ok(self.put_workload(workload)),
                Change::Upsert(Resource::Service(service)) => self.put_service(service),
                Change::Upsert(Resource::Listener(listener)) => Ok(self.put_listener(listener)),
                Change::Upsert(Resource::L4Route(route)) => Ok(self.put_l4_route(route)),
                Change::Upsert(Resource::Frontend(frontend)) => self.put_frontend(frontend),
                Change::Upsert(Resource::Authorization(policy)) => self.put_policy(policy),
                // Of these the mesh takes care: see `Mesh::apply`.
                Change::Upsert(
                    Resource::Member(_) | Resource::MeshNamespace(_) | Resource::Peer(_) | Resource::MeshService(_),
                ) => Ok(false),
                Change::Remove(key) => Ok(self.remove(&key)),
            };
            match done {
                Ok(changed) => self.touched.anything |= changed,
                Err(reason) => rejected.push(Rejected { key, reason }),
            }
        }
        let touched = std::mem::take(&mut self.touched);
        for hostname in &touched.names {
            if !self.named_by.contains_key(hostname) {
                self.next.names.remove(hostname);
            }
        }
        for key in &touched.services {
            self.settle_service(key);
        }
        for key in &touched.trust_bundles {
            self.settle_trust_bundle(key, &mut rejected);
        }
        self.settle_ports(&touched.ports, &mut rejected);
        for address in touched.addresses {
            self.settle_address(address);
        }
        for key in &touched.certificates {
            self.settle_certificate(key, &mut rejected);
        }
        self.settle_guards();
        Applied {
            snapshot: self.publish(touched.anything),
            rejected,
        }
    }

    /// Takes what names have come to. What nobody names any more is passed over.
    pub fn resolve(&mut self, resolutions: Vec<(String, Resolution)>) -> Arc<Snapshot> {
        let mut changed = false;
        for (hostname, resolution) in resolutions {
            let known = match self.next.names.get(&hostname) {
                Some(known) => known.as_deref(),
                None => continue,
            };
            if known == Some(&resolution) {
                continue;
            }
            changed = true;
            self.next.names.insert(hostname.clone(), Some(Arc::new(resolution)));
            for service in self.named_by.get(&hostname).cloned().into_iter().flatten() {
                self.settle_service(&service);
            }
        }
        self.publish(changed)
    }

    /// What is served from now on.
    fn publish(&mut self, changed: bool) -> Arc<Snapshot> {
        if changed {
            self.next.generation += 1;
            self.current = Arc::new(self.next.clone());
        }
        Arc::clone(&self.current)
    }

    fn remove(&mut self, key: &Key) -> bool {
        match key {
            Key::Certificate(key) => {
                self.touched.certificates.insert(key.clone());
                self.next.certificates.remove(key).is_some()
            }
            Key::TrustBundle(key) => {
                self.touched.trust_bundles.insert(key.clone());
                self.next.trust_bundles.remove(key).is_some()
            }
            Key::Challenge(key) => self.remove_challenge(key),
            Key::Workload(key) => self.remove_workload(key),
            Key::Service(key) => self.remove_service(key),
            Key::Route(key) => self.remove_route(key),
            Key::Listener(key) => self.remove_listener(key),
            Key::L4Route(key) => self.remove_l4_route(key),
            Key::Frontend(key) => self.remove_frontend(key),
            Key::Authorization(key) => self.remove_policy(key),
            Key::Member(_) | Key::MeshNamespace(_) | Key::Peer(_) | Key::MeshService(_) => false,
        }
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

/// Certificates.
impl Configuration {
    fn put_certificate(&mut self, certificate: Arc<Certificate>) -> Result<bool, String> {
        let key = certificate.key.clone();
        if self
            .next
            .certificates
            .get(&key)
            .is_some_and(|old| old.source == certificate)
        {
            return Ok(false);
        }
        let entry = CertificateEntry::new(certificate)?;
        self.touched.certificates.insert(key.clone());
        self.next.certificates.insert(key, Arc::new(entry));
        Ok(true)
    }

    /// Gives a certificate to the listeners and services that show it.
    fn settle_certificate(&mut self, key: &CertificateKey, rejected: &mut Vec<Rejected>) {
        for key in self.shown_by.get(key).cloned().into_iter().flatten() {
            self.secure_anew(key, rejected);
        }
    }

    /// Gives a listener or a service what it names of certificates and trust bundles.
    fn secure_anew(&mut self, key: Key, rejected: &mut Vec<Rejected>) {
        match &key {
            Key::Listener(listener) => {
                if let Some(listener) = self.served.get(listener) {
                    self.next.serve(listener);
                }
            }
            Key::Service(service) => {
                let Some(entry) = self.next.services.get(service) else {
                    return;
                };
                match self.next.backend_tls(&entry.service) {
                    Ok(tls) => self.insert_service(ServiceEntry {
                        tls,
                        ..ServiceEntry::clone(entry)
                    }),
                    Err(reason) => rejected.push(Rejected { key, reason }),
                }
            }
            _ => {}
        }
    }
}

/// Challenges.
impl Configuration {
    fn put_challenge(&mut self, challenge: Arc<Challenge>) -> Result<bool, String> {
        let challenges = self.next.challenges.get_or_insert_default();
        let changed = Arc::make_mut(challenges).put(challenge);
        self.next.challenges.take_if(|challenges| challenges.is_empty());
        changed
    }

    fn remove_challenge(&mut self, key: &ChallengeKey) -> bool {
        let Some(challenges) = &mut self.next.challenges else {
            return false;
        };
        let changed = Arc::make_mut(challenges).remove(key);
        self.next.challenges.take_if(|challenges| challenges.is_empty());
        changed
    }
}

/// Trust bundles.
impl Configuration {
    fn put_trust_bundle(&mut self, bundle: Arc<TrustBundle>) -> Result<bool, String> {
        let key = bundle.key.clone();
        if self
            .next
            .trust_bundles
            .get(&key)
            .is_some_and(|old| old.source == bundle)
        {
            return Ok(false);
        }
        let entry = TrustEntry::new(bundle)?;
        self.touched.trust_bundles.insert(key.clone());
        self.next.trust_bundles.insert(key, Arc::new(entry));
        Ok(true)
    }

    /// Gives a trust bundle to the listeners and services that trust by it.
    fn settle_trust_bundle(&mut self, key: &TrustBundleKey, rejected: &mut Vec<Rejected>) {
        for key in self.trusted_by.get(key).cloned().into_iter().flatten() {
            self.secure_anew(key, rejected);
        }
    }
}

impl Snapshot {
    /// How TLS is spoken to a service, by the trust bundles and certificates that are there.
    fn backend_tls(&self, service: &Service) -> Result<Option<Arc<BackendTls>>, String> {
        let Some(tls) = &service.tls else { return Ok(None) };
        let bundles = bundles_of(tls).iter().filter_map(|key| self.trust_bundles.get(key));
        let certificate = tls.certificate().and_then(|key| self.certificates.get(key));
        let certificate = certificate.map(|entry| &entry.certified);
        Ok(Some(Arc::new(BackendTls::new(tls, bundles, certificate)?)))
    }

    /// A name, with what it has come to.
    fn named(&self, name: &NamedEndpoint) -> Named {
        Named {
            endpoint: name.clone(),
            resolution: self.names.get(&name.hostname).cloned().flatten(),
        }
    }

    /// Puts a listener on its port, which is there, with its certificates and bundles as far as they are.
    fn serve(&mut self, listener: &Arc<Listener>) {
        let certificate = |key| self.certificates.get(key).map(|entry| Arc::clone(&entry.certified));
        let shown = listener.tls.iter().flat_map(|tls| &tls.certificates);
        let certificates = shown.filter_map(certificate).collect();
        let identity = listener.backend_certificate.as_ref().and_then(certificate);
        let validation = listener.tls.as_ref().and_then(|tls| tls.client.as_ref());
        let client = validation.map(|validation| {
            let keys = validation.trust_bundles.iter();
            let bundles: Vec<_> = keys.filter_map(|key| self.trust_bundles.get(key)).cloned().collect();
            // Kept if it is the same, with the sessions that can be resumed.
            let port = self.ports.get(&place_of(listener));
            let before = port.and_then(|port| port.verification_of(listener));
            match before.filter(|before| before.is_of(validation, &bundles)) {
                Some(before) => Arc::clone(before),
                None => Arc::new(ClientVerification::new(validation, bundles)),
            }
        });
        if let Some(port) = self.ports.get_mut(&place_of(listener)) {
            Arc::make_mut(port).serve(Served {
                listener: Arc::clone(listener),
                certificates,
                client,
                identity,
            });
        }
    }
}

/// Services and workloads.
impl Configuration {
    /// The number of a service that is used once more.
    fn acquire(&mut self, key: &ServiceKey) -> ServiceId {
        if let Some(name) = self.names.get_mut(key) {
            name.uses += 1;
            return name.id;
        }
        let id = ServiceId(self.new_id());
        self.names.insert(key.clone(), Name { id, uses: 1 });
        id
    }

    fn release(&mut self, key: &ServiceKey) {
        if let Some(name) = self.names.get_mut(key) {
            name.uses -= 1;
            if name.uses == 0 {
                self.names.remove(key);
            }
        }
    }

    fn put_service(&mut self, service: Arc<Service>) -> Result<bool, String> {
        let key = service.key.clone();
        let old = self.next.services.get(&key).cloned();
        let tls = match &old {
            Some(old) if old.service == service => return Ok(false),
            Some(old) if old.service.tls == service.tls => old.tls.clone(),
            _ => self.next.backend_tls(&service)?,
        };
        let session = service.session.as_ref().map(Session::new).transpose()?.map(Arc::new);
        for bundle in old.iter().flat_map(|old| &old.service.tls).flat_map(bundles_of) {
            remove_from(&mut self.trusted_by, bundle, &Key::Service(key.clone()));
        }
        for bundle in service.tls.iter().flat_map(bundles_of) {
            let by = self.trusted_by.entry(bundle.clone()).or_default();
            by.insert(Key::Service(key.clone()));
        }
        for certificate in old.iter().filter_map(|old| old.service.tls.as_ref()?.certificate()) {
            remove_from(&mut self.shown_by, certificate, &Key::Service(key.clone()));
        }
        for certificate in service.tls.iter().filter_map(|tls| tls.certificate()) {
            let by = self.shown_by.entry(certificate.clone()).or_default();
            by.insert(Key::Service(key.clone()));
        }
        self.rename(&key, old.as_deref().map(|old| &*old.service), Some(&service));
        let (id, endpoints, names) = match &old {
            Some(old) => (old.id, Arc::clone(&old.endpoints), Arc::clone(&old.names)),
            None => (self.acquire(&key), Arc::default(), Arc::default()),
        };
        self.touched.services.insert(key);
        self.next.sessions += usize::from(session.is_some());
        self.next.sessions -= usize::from(old.is_some_and(|old| old.session.is_some()));
        self.insert_service(ServiceEntry {
            id,
            service,
            session,
            endpoints,
            names,
            tls,
        });
        Ok(true)
    }

    /// Keeps track of who has which names. What a name has come to is kept for as long as somebody has it.
    fn rename(&mut self, key: &ServiceKey, before: Option<&Service>, after: Option<&Service>) {
        let hostnames = |service: Option<&Service>| -> BTreeSet<String> {
            let names = service.into_iter().flat_map(|service| &service.names);
            names.map(|name| name.hostname.clone()).collect()
        };
        let (before, after) = (hostnames(before), hostnames(after));
        for hostname in after.difference(&before) {
            self.named_by.entry(hostname.clone()).or_default().insert(key.clone());
            self.next.names.entry(hostname, || None);
        }
        for hostname in before.difference(&after) {
            remove_from(&mut self.named_by, hostname, key);
            self.touched.names.insert(hostname.clone());
        }
    }

    fn remove_service(&mut self, key: &ServiceKey) -> bool {
        let Some(old) = self.next.services.remove(key) else {
            return false;
        };
        self.next.sessions -= usize::from(old.session.is_some());
        self.next.services_by_id.remove(&old.id);
        for bundle in old.service.tls.iter().flat_map(bundles_of) {
            remove_from(&mut self.trusted_by, bundle, &Key::Service(key.clone()));
        }
        for certificate in old.service.tls.iter().filter_map(|tls| tls.certificate()) {
            remove_from(&mut self.shown_by, certificate, &Key::Service(key.clone()));
        }
        self.rename(key, Some(&old.service), None);
        self.release(key);
        true
    }

    fn insert_service(&mut self, entry: ServiceEntry) {
        let entry = Arc::new(entry);
        self.next.services_by_id.insert(entry.id, Arc::clone(&entry));
        self.next.services.insert(entry.service.key.clone(), entry);
    }

    fn put_workload(&mut self, workload: Arc<Workload>) -> bool {
        if self.next.workloads.get(&workload.key) == Some(&workload) {
            return false;
        }
        self.remove_workload(&workload.key);
        for (service, port) in &workload.services {
            let endpoint = (workload.key.clone(), SocketAddr::new(workload.address, *port));
            self.endpoints.entry(service.clone()).or_default().insert(endpoint);
            self.touched.services.insert(service.clone());
        }
        self.next.workloads.insert(workload.key.clone(), workload);
        true
    }

    fn remove_workload(&mut self, key: &WorkloadKey) -> bool {
        let Some(old) = self.next.workloads.remove(key) else {
            return false;
        };
        for (service, port) in &old.services {
            remove_from(
                &mut self.endpoints,
                service,
                &(key.clone(), SocketAddr::new(old.address, *port)),
            );
            self.touched.services.insert(service.clone());
        }
        true
    }

    /// Makes the list of a service's endpoints anew, if it has changed.
    fn settle_service(&mut self, key: &ServiceKey) {
        let Some(entry) = self.next.services.get(key) else {
            return;
        };
        let names: Arc<[Named]> = entry.service.names.iter().map(|name| self.next.named(name)).collect();
        let known = self.endpoints.get(key).into_iter().flatten().cloned();
        let known = known.map(|(workload, address)| Endpoint { address, workload });
        let endpoints: Arc<[Endpoint]> = known.chain(names.iter().flat_map(Named::endpoints)).collect();
        if endpoints != entry.endpoints || names != entry.names {
            let entry = ServiceEntry {
                // Whoever looks for a change looks for another allocation.
                endpoints: if endpoints == entry.endpoints {
                    Arc::clone(&entry.endpoints)
                } else {
                    endpoints
                },
                names,
                ..ServiceEntry::clone(entry)
            };
            self.insert_service(entry);
        }
    }
}

/// Routes.
impl Configuration {
    fn put_route(&mut self, route: Arc<Route>) -> Result<bool, String> {
        let key = route.key.clone();
        let old = self.next.routes.get(&key).cloned();
        if old.as_ref().is_some_and(|old| old.route == route) {
            return Ok(false);
        }
        // Before the old rule's are released, so that services keep their numbers.
        for service in route.services() {
            self.acquire(service);
        }
        let id = old.as_ref().map_or_else(|| self.new_id(), |old| old.id);
        let id_of = |service: &ServiceKey| self.names.get(service).map_or(ServiceId(0), |name| name.id);
        let rule = match Rule::new(id, Arc::clone(&route), &id_of) {
            Ok(rule) => Arc::new(rule),
            Err(reason) => {
                route.services().for_each(|service| self.release(service));
                return Err(reason);
            }
        };
        if let Some(old) = old {
            self.detach(&Attached::Http(old));
        }
        self.attach(&Attached::Http(Arc::clone(&rule)));
        if let Some(old) = self.next.routes.insert(key, rule) {
            self.guard_route(&old.route, false);
        }
        self.guard_route(&route, true);
        Ok(true)
    }

    fn remove_route(&mut self, key: &RouteKey) -> bool {
        let Some(old) = self.next.routes.remove(key) else {
            return false;
        };
        self.guard_route(&old.route, false);
        self.next.guards.rules.remove(&old.id);
        self.detach(&Attached::Http(old));
        true
    }

    fn put_l4_route(&mut self, route: Arc<L4Route>) -> bool {
        let key = route.key.clone();
        let old = self.next.l4_routes.get(&key).cloned();
        if old.as_ref().is_some_and(|old| old.route == route) {
            return false;
        }
        // Before the old rule's are released, so that services keep their numbers.
        for service in route.services() {
            self.acquire(service);
        }
        let id = old.as_ref().map_or_else(|| self.new_id(), |old| old.id);
        let id_of = |service: &ServiceKey| self.names.get(service).map_or(ServiceId(0), |name| name.id);
        let rule = Arc::new(L4Rule::new(id, route, &id_of));
        if let Some(old) = old {
            self.detach(&Attached::L4(old));
        }
        self.attach(&Attached::L4(Arc::clone(&rule)));
        self.next.l4_routes.insert(key, rule);
        true
    }

    fn remove_l4_route(&mut self, key: &RouteKey) -> bool {
        let Some(old) = self.next.l4_routes.remove(key) else {
            return false;
        };
        self.detach(&Attached::L4(old));
        true
    }

    /// Puts a rule on its listeners and frontends.
    fn attach(&mut self, rule: &Attached) {
        for key in rule.listeners() {
            self.attached.entry(key.clone()).or_default().insert(rule.key().clone());
            if let Some(listener) = self.served.get(key)
                && let Some(port) = self.next.ports.get_mut(&place_of(listener))
            {
                Arc::make_mut(port).group(listener).attach(rule);
            }
            self.change_frontend(key, |frontend| frontend.attach(rule));
        }
    }

    /// Takes a rule off its listeners and frontends and gives back the services it names.
    fn detach(&mut self, rule: &Attached) {
        for key in rule.listeners() {
            remove_from(&mut self.attached, key, rule.key());
            if let Some(listener) = self.served.get(key)
                && let Some(port) = self.next.ports.get_mut(&place_of(listener))
            {
                Arc::make_mut(port).group(listener).detach(rule);
            }
            self.change_frontend(key, |frontend| frontend.detach(rule));
        }
        match rule {
            Attached::Http(rule) => rule.route.services().for_each(|service| self.release(service)),
            Attached::L4(rule) => rule.route.services().for_each(|service| self.release(service)),
        }
    }
}

impl Attached {
    fn key(&self) -> &RouteKey {
        match self {
            Self::Http(rule) => &rule.route.key,
            Self::L4(rule) => &rule.route.key,
        }
    }

    /// The listeners it names, each once.
    fn listeners(&self) -> BTreeSet<&ListenerKey> {
        match self {
            Self::Http(rule) => rule.route.listeners.iter().collect(),
            Self::L4(rule) => rule.route.listeners.iter().collect(),
        }
    }
}

impl Snapshot {
    /// The rules that name a listener, of those in an index.
    fn attached(&self, index: &Index<ListenerKey, RouteKey>, listener: &ListenerKey) -> Vec<Attached> {
        let keys = index.get(listener).into_iter().flatten();
        keys.filter_map(|key| match self.routes.get(key) {
            Some(rule) => Some(Attached::Http(Arc::clone(rule))),
            None => self.l4_routes.get(key).cloned().map(Attached::L4),
        })
        .collect()
    }
}

/// Listeners.
impl Configuration {
    fn put_listener(&mut self, listener: Arc<Listener>) -> bool {
        if self.next.listeners.get(&listener.key) == Some(&listener) {
            return false;
        }
        self.remove_listener(&listener.key);
        self.by_port
            .entry(place_of(&listener))
            .or_default()
            .insert(listener.key.clone());
        for certificate in shown_by(&listener) {
            let by = self.shown_by.entry(certificate.clone()).or_default();
            by.insert(Key::Listener(listener.key.clone()));
        }
        for bundle in trusted_by(&listener) {
            let by = self.trusted_by.entry(bundle.clone()).or_default();
            by.insert(Key::Listener(listener.key.clone()));
        }
        self.guard_listener(&listener, true);
        self.touched.ports.insert(place_of(&listener));
        self.next.listeners.insert(listener.key.clone(), listener);
        true
    }

    fn remove_listener(&mut self, key: &ListenerKey) -> bool {
        let Some(old) = self.next.listeners.remove(key) else {
            return false;
        };
        remove_from(&mut self.by_port, &place_of(&old), key);
        self.guard_listener(&old, false);
        for certificate in shown_by(&old) {
            remove_from(&mut self.shown_by, certificate, &Key::Listener(key.clone()));
        }
        for bundle in trusted_by(&old) {
            remove_from(&mut self.trusted_by, bundle, &Key::Listener(key.clone()));
        }
        self.touched.ports.insert(place_of(&old));
        true
    }

    /// Makes ports serve what their listeners say. All that goes, goes first: a listener may move between them.
    fn settle_ports(&mut self, places: &BTreeSet<Place>, rejected: &mut Vec<Rejected>) {
        let wanted: Vec<_> = places
            .iter()
            .map(|place| (*place, self.wanted(*place, rejected)))
            .collect();
        for (place, wanted) in &wanted {
            self.withdraw_others(*place, wanted);
        }
        for (place, wanted) in wanted {
            for listener in wanted {
                self.serve(place, listener);
            }
        }
    }

    /// The listeners that a port is to serve, by key. It speaks one protocol, that of the first.
    fn wanted(&self, place: Place, rejected: &mut Vec<Rejected>) -> Vec<Arc<Listener>> {
        let (number, _) = place;
        let keys = self.by_port.get(&place).into_iter().flatten();
        let mut wanted: Vec<_> = keys.filter_map(|key| self.next.listeners.get(key).cloned()).collect();
        let Some(first) = wanted.first().cloned() else {
            return wanted;
        };
        for other in wanted.extract_if(.., |listener| listener.protocol != first.protocol) {
            let Listener { key, protocol, .. } = &*first;
            let reason =
                format!("port {number} speaks {protocol:?} for listener {key}: use its protocol, or another port");
            rejected.push(Rejected {
                key: Key::Listener(other.key.clone()),
                reason,
            });
        }
        wanted
    }

    /// Takes the listeners off a port that are not wanted there, or not for the hostname they were there for.
    fn withdraw_others(&mut self, place: Place, wanted: &[Arc<Listener>]) {
        let Some(port) = self.next.ports.get(&place) else {
            return;
        };
        let present: Vec<_> = port.listeners().cloned().collect();
        let stays = |old: &Listener| {
            let new = wanted
                .binary_search_by(|new| new.key.cmp(&old.key))
                .ok()
                .map(|index| &wanted[index]);
            new.is_some_and(|new| new.hostname == old.hostname)
        };
        for old in present.iter().filter(|old| !stays(old)) {
            let rules = self.next.attached(&self.attached, &old.key);
            if let Some(port) = self.next.ports.get_mut(&place) {
                Arc::make_mut(port).withdraw(old, &rules);
            }
            self.served.remove(&old.key);
        }
        if self.next.ports.get(&place).is_some_and(|port| port.is_empty()) {
            self.next.ports.remove(&place);
        }
    }

    /// Puts a listener on its port, with the routes that name it, or its new version in place of the old one.
    fn serve(&mut self, place: Place, listener: Arc<Listener>) {
        let old = self.served.insert(listener.key.clone(), Arc::clone(&listener));
        if old.as_ref() == Some(&listener) {
            return;
        }
        let ports = self.next.ports.entry(place);
        ports.or_insert_with(|| Arc::new(Port::new(place.0)));
        self.next.serve(&listener);
        let rules = match old {
            None => self.next.attached(&self.attached, &listener.key),
            Some(_) => return,
        };
        if let Some(port) = self.next.ports.get_mut(&place) {
            let group = Arc::make_mut(port).group(&listener);
            rules.iter().for_each(|rule| group.attach(rule));
        }
    }
}

/// Where a listener listens.
fn place_of(listener: &Listener) -> Place {
    (listener.port, listener.protocol.transport())
}

/// The certificates a listener names: those it shows to clients, and the one for backends.
fn shown_by(listener: &Listener) -> impl Iterator<Item = &CertificateKey> {
    let shown = listener.tls.iter().flat_map(|tls| &tls.certificates);
    shown.chain(&listener.backend_certificate)
}

/// The trust bundles a listener names.
fn trusted_by(listener: &Listener) -> impl Iterator<Item = &TrustBundleKey> {
    let client = listener.tls.iter().flat_map(|tls| &tls.client);
    client.flat_map(|client| &client.trust_bundles)
}

/// The trust bundles that TLS to a service names.
fn bundles_of(tls: &weft_model::BackendTls) -> &[TrustBundleKey] {
    match &tls.roots {
        TrustRoots::Bundles(keys) => keys,
        TrustRoots::System => &[],
    }
}

fn remove_from<K: Hash + Eq, V: Ord>(index: &mut Index<K, V>, key: &K, value: &V) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Change {
        Change::Upsert(serde_json::from_value(json).expect("a resource"))
    }

    /// An HTTPS listener, a route that mirrors, their services and a workload, all in one of two versions.
    fn everything(version: u16) -> Vec<Change> {
        let listener = format!("g/g/{version}");
        let path = format!("/{version}");
        let service = format!("n/{version}:80");
        let mirror = serde_json::json!({"type": "mirror", "service": service, "numerator": 1, "denominator": 2});
        vec![
            read(
                serde_json::json!({"kind": "listener", "key": "g/g/l", "gateway": "g/g", "port": 440 + version,
                "protocol": "HTTPS", "backendCertificate": format!("n/b{version}"), "tls": {"certificates": [format!("n/{version}")],
                "client": {"trustBundles": [format!("ConfigMap/n/{version}")]}}}),
            ),
            read(
                serde_json::json!({"kind": "route", "key": "r", "listeners": ["g/g/l", listener, "Service/n/f:80"],
                "owner": {"kind": "HTTPRoute", "namespace": "n", "name": "r", "rule": 0, "created": 0},
                "matches": [{"path": {"prefix": path}}, {"path": {"exact": path}}, {"path": {"regex": path}}],
                "filters": [mirror.clone()],
                "backends": [{"weight": 1, "target": {"service": service}, "filters": [mirror]}]}),
            ),
            read(serde_json::json!({"kind": "service", "key": "n/1:80",
                "names": [{"hostname": format!("{version}.example"), "port": 443}], "tls": {"hostname": "a.example",
                "roots": {"bundles": [format!("ConfigMap/n/s{version}")]},
                "identity": {"certificate": format!("n/c{version}")}}})),
            read(
                serde_json::json!({"kind": "challenge", "key": "g/g/l/s", "gateway": "g/g", "host": "a.example",
                "proof": {"type": "http", "token": format!("t{version}"), "keyAuthorization": "k"}}),
            ),
            read(
                serde_json::json!({"kind": "workload", "key": "n/w", "address": "10.0.0.1", "services": {service: 80}}),
            ),
            read(
                serde_json::json!({"kind": "frontend", "key": "Service/n/f:80", "service": "n/f:80", "protocol": "HTTP",
                "addresses": [format!("10.96.0.{version}"), "fd00::1"]}),
            ),
            read(
                serde_json::json!({"kind": "authorization", "key": "AuthorizationPolicy/n/p", "action": "allow", "targets": [
                    {"gateway": format!("g/{version}")}, {"listener": {"gateway": "g/g", "listener": listener}},
                    {"route": {"kind": "HTTPRoute", "namespace": "n", "name": "r"}}]}),
            ),
        ]
    }

    #[test]
    fn nothing_is_left_of_what_was_removed() {
        let mut configuration = Configuration::new();
        for version in [1, 2, 1, 2] {
            let applied = configuration.apply(everything(version));
            assert_eq!(applied.rejected, []);
            assert_eq!(applied.snapshot.resources().len(), 7);
        }
        let keys: Vec<_> = configuration.current.resources().iter().map(Resource::key).collect();
        for key in keys {
            configuration.apply(vec![Change::Remove(key)]);
        }
        assert_eq!(configuration.current.resources(), []);
        assert_eq!(configuration.current.ports().count(), 0);
        assert!(configuration.next.services_by_id.is_empty());
        assert_eq!(configuration.names.len(), 0, "a service is still counted as used");
        assert_eq!(configuration.endpoints.len(), 0);
        assert_eq!(configuration.attached.len(), 0);
        assert_eq!(configuration.shown_by.len(), 0);
        assert_eq!(configuration.trusted_by.len(), 0);
        assert_eq!(configuration.named_by.len(), 0);
        assert!(configuration.next.names.is_empty());
        assert_eq!(configuration.by_port.len(), 0);
        assert_eq!(configuration.served.len(), 0);
        assert_eq!(configuration.by_address.len(), 0);
        assert!(configuration.next.frontends_at.is_empty());
        assert!(configuration.current.challenges().is_none());
        assert!(configuration.guards_nothing());
    }

    #[test]
    fn what_a_name_comes_to_is_kept_as_long_as_somebody_has_it() {
        let mut configuration = Configuration::new();
        configuration.apply(everything(1));
        let key = ServiceKey::from("n/1:80");
        let endpoints = |snapshot: &Snapshot| -> Vec<String> {
            let endpoints = snapshot.service(&key).expect("the service").endpoints.iter();
            endpoints.map(|endpoint| endpoint.address.to_string()).collect()
        };
        let resolution = |address: &str| Resolution {
            addresses: vec![address.parse().expect("an address")],
            ..Resolution::default()
        };
        let resolved = vec![
            ("1.example".to_owned(), resolution("192.0.2.1")),
            ("2.example".to_owned(), resolution("192.0.2.2")),
        ];
        let first = configuration.resolve(resolved.clone());
        assert_eq!(endpoints(&first), ["10.0.0.1:80", "192.0.2.1:443"]);
        let again = configuration.resolve(resolved);
        assert!(Arc::ptr_eq(&first, &again), "nothing has changed");
        let renamed = configuration.apply(everything(2)).snapshot;
        assert_eq!(
            endpoints(&renamed),
            Vec::<String>::new(),
            "another name, and nobody has said what it comes to"
        );
        let back = configuration.apply(everything(1)).snapshot;
        assert_eq!(endpoints(&back), ["10.0.0.1:80"], "nobody had the name for a while");
    }

    #[test]
    fn a_refused_route_uses_no_service() {
        let mut configuration = Configuration::new();
        let changes = everything(1).into_iter().map(|change| match change {
            Change::Upsert(Resource::Route(route)) => {
                let mut route = Arc::unwrap_or_clone(route);
                route.matches[0].path = weft_model::PathMatch::Regex("(".into());
                Change::Upsert(Resource::Route(Arc::new(route)))
            }
            other => other,
        });
        assert_eq!(configuration.apply(changes.collect()).rejected.len(), 1);
        assert_eq!(
            configuration.names.values().map(|name| name.uses).collect::<Vec<_>>(),
            [1],
            "the service's own"
        );
    }
}
