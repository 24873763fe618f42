//! From changes to snapshots.

mod frontends;
mod listeners;
mod policies;
mod routes;
mod services;
mod tls;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    net::SocketAddr,
    sync::Arc,
};

use weft_model::{
    CertificateKey, Change, Key, Listener, ListenerKey, Rejected, Resource, RouteKey, ServiceKey, TrustBundleKey,
    WorkloadKey,
};

use super::{Place, Resolution, ServiceId, Snapshot};

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
                    {"listenerSet": {"gateway": "g/g", "set": format!("n/{version}")}},
                    {"route": {"kind": "TCPRoute", "namespace": "n", "name": "t"}},
                    {"route": {"kind": "HTTPRoute", "namespace": "n", "name": "r"}}]}),
            ),
            read(
                serde_json::json!({"kind": "listener", "key": "ListenerSet/n/1/l", "gateway": "g/g", "port": 540 + version,
                "protocol": "TCP"}),
            ),
            read(
                serde_json::json!({"kind": "l4Route", "key": "t", "listeners": ["ListenerSet/n/1/l"],
                "owner": {"kind": "TCPRoute", "namespace": "n", "name": "t", "rule": 0, "created": i64::from(version)}}),
            ),
        ]
    }

    #[test]
    fn nothing_is_left_of_what_was_removed() {
        let mut configuration = Configuration::new();
        for version in [1, 2, 1, 2] {
            let applied = configuration.apply(everything(version));
            assert_eq!(applied.rejected, []);
            assert_eq!(applied.snapshot.resources().len(), 9);
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
