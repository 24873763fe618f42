//! Who may be behind the addresses of Services: for connections that go to one of these without any route, of which somebody
//! else chooses the endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube::runtime::watcher::Event;
use weft_model::{Change, Key, MeshService, Resource, ServiceKey};

use super::{Kept, Name};

/// The label by which a slice says whose it is.
const OF_SERVICE: &str = "kubernetes.io/service-name";

/// The addresses of a Service and its ports of TCP, each by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    addresses: Vec<IpAddr>,
    ports: BTreeMap<String, u16>,
    sticky: bool,
    local: bool,
}

/// Some endpoints of a Service, and their ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    service: String,
    addresses: Vec<IpAddr>,
    /// Those of them that are not ready, and still serve.
    leaving: Vec<IpAddr>,
    ports: BTreeMap<String, u16>,
}

/// What is of use of a Service: nothing if it has no address of its own.
pub(super) fn ports(service: &Service) -> Option<Ports> {
    let spec = service.spec.as_ref()?;
    let addresses: Vec<IpAddr> = spec
        .cluster_ips
        .iter()
        .flatten()
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let tcp = spec.ports.iter().flatten().filter(|port| {
        let protocol = port.protocol.as_deref();
        protocol.is_none_or(|protocol| protocol == "TCP")
    });
    let ports: BTreeMap<String, u16> = tcp
        .filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port).ok()?)))
        .collect();
    let is = |said: &Option<String>, what| said.as_deref() == Some(what);
    (!addresses.is_empty() && !ports.is_empty()).then_some(Ports {
        addresses,
        ports,
        sticky: is(&spec.session_affinity, "ClientIP"),
        local: is(&spec.internal_traffic_policy, "Local"),
    })
}

/// What is of use of a slice: the endpoints to which connections may be led.
pub(super) fn slice(slice: &EndpointSlice) -> Option<Slice> {
    let service = slice.metadata.labels.as_ref()?.get(OF_SERVICE)?.clone();
    let is_ready = |endpoint: &Endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.is_none_or(|conditions| conditions.ready != Some(false))
    };
    let serves = |endpoint: &Endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.is_some_and(|conditions| conditions.serving == Some(true))
    };
    let addresses = |of: &dyn Fn(&Endpoint) -> bool| {
        let endpoints = slice.endpoints.iter().filter(|endpoint| of(endpoint));
        let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
        addresses.filter_map(|address| address.parse().ok()).collect()
    };
    let ports = slice.ports.iter().flatten();
    Some(Slice {
        service,
        addresses: addresses(&|endpoint| is_ready(endpoint) || serves(endpoint)),
        leaving: addresses(&|endpoint| !is_ready(endpoint) && serves(endpoint)),
        ports: ports
            .filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port?).ok()?)))
            .collect(),
    })
}

/// Services with their endpoints.
#[derive(Default)]
pub(super) struct Services {
    services: Kept<Ports>,
    slices: Kept<Slice>,
    /// The slices of each Service.
    of: BTreeMap<Name, BTreeSet<Name>>,
    /// The namespaces in the mesh: nobody is told of the Services of others.
    namespaces: BTreeSet<String>,
    told: BTreeMap<Name, BTreeMap<ServiceKey, MeshService>>,
}

impl Services {
    /// A namespace has come into the mesh, or left it.
    pub(super) fn namespace(&mut self, namespace: &str, is_in: bool) -> Vec<Change> {
        if is_in {
            self.namespaces.insert(namespace.to_owned());
        } else {
            self.namespaces.remove(namespace);
        }
        let start = (namespace.to_owned(), String::new());
        let names = self.services.objects.range(start..).map(|(name, _)| name.clone());
        let names: Vec<Name> = names.take_while(|name| name.0 == namespace).collect();
        names.iter().flat_map(|name| self.look(name)).collect()
    }

    pub(super) fn service(&mut self, event: Event<(Name, Option<Ports>)>) -> Vec<Change> {
        let changed = self.services.take(event);
        changed.iter().flat_map(|(name, _)| self.look(name)).collect()
    }

    pub(super) fn slice(&mut self, event: Event<(Name, Option<Slice>)>) -> Vec<Change> {
        let mut services = BTreeSet::new();
        for (name, before) in self.slices.take(event) {
            let owner = |slice: &Slice| (name.0.clone(), slice.service.clone());
            let before = before.as_ref().map(owner);
            let now = self.slices.objects.get(&name).map(owner);
            if let Some(before) = before.clone().filter(|before| Some(before) != now.as_ref())
                && let Some(slices) = self.of.get_mut(&before)
            {
                slices.remove(&name);
                if slices.is_empty() {
                    self.of.remove(&before);
                }
            }
            if let Some(now) = &now {
                self.of.entry(now.clone()).or_default().insert(name.clone());
            }
            services.extend(before.into_iter().chain(now));
        }
        services.iter().flat_map(|name| self.look(name)).collect()
    }

    /// What has changed of a Service since it was last told of.
    fn look(&mut self, name: &Name) -> Vec<Change> {
        let now = self.derive(name);
        let before = self.told.remove(name).unwrap_or_default();
        let gone = before.keys().filter(|key| !now.contains_key(*key));
        let gone = gone.map(|key| Change::Remove(Key::MeshService(key.clone())));
        let new = now.iter().filter(|(key, service)| before.get(*key) != Some(*service));
        let new = new.map(|(_, service)| Change::Upsert(Resource::MeshService(Arc::new(service.clone()))));
        let changes = gone.chain(new).collect();
        if !now.is_empty() {
            self.told.insert(name.clone(), now);
        }
        changes
    }

    fn derive(&self, name: &Name) -> BTreeMap<ServiceKey, MeshService> {
        let Some(service) = self
            .services
            .objects
            .get(name)
            .filter(|_| self.namespaces.contains(&name.0))
        else {
            return BTreeMap::new();
        };
        let slices = self.of.get(name).into_iter().flatten();
        let slices: Vec<&Slice> = slices.filter_map(|slice| self.slices.objects.get(slice)).collect();
        let made = service.ports.iter().map(|(port_name, port)| {
            let of = |addresses: fn(&Slice) -> &Vec<IpAddr>| -> BTreeSet<SocketAddr> {
                let slices = slices
                    .iter()
                    .filter_map(|slice| Some((slice, slice.ports.get(port_name)?)));
                let each = slices.flat_map(|(slice, port)| {
                    let addresses = addresses(slice).iter();
                    addresses.map(|address| SocketAddr::new(*address, *port))
                });
                each.collect()
            };
            let key = ServiceKey::new(&name.0, &name.1, *port);
            let made = MeshService {
                key: key.clone(),
                addresses: service.addresses.clone(),
                endpoints: of(|slice| &slice.addresses).into_iter().collect(),
                leaving: of(|slice| &slice.leaving).into_iter().collect(),
                sticky: service.sticky,
                local: service.local,
            };
            (key, made)
        });
        made.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(name: &str) -> Name {
        ("shop".to_owned(), name.to_owned())
    }

    fn front() -> (Name, Option<Ports>) {
        let service = json!({
            "metadata": {},
            "spec": {"clusterIPs": ["10.96.0.1"], "ports": [
                {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
            ]},
        });
        (
            name("front"),
            ports(&serde_json::from_value(service).expect("a Service")),
        )
    }

    fn endpoints(of: &str, endpoints: serde_json::Value) -> (Name, Option<Slice>) {
        let made = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": of}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}],
        });
        (
            name("front-abc"),
            slice(&serde_json::from_value(made).expect("a slice")),
        )
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let told = changes.iter().map(|change| match change {
            Change::Upsert(Resource::MeshService(service)) => format!("{} {:?}", service.key, service.endpoints),
            Change::Remove(key) => format!("-{key}"),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[test]
    fn sidecars_are_told_who_may_be_behind_an_address() {
        let mut services = Services::default();
        assert!(services.service(Event::Apply(front())).is_empty(), "it is in no mesh");
        let first = json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]);
        assert!(
            services
                .slice(Event::Apply(endpoints("front", first.clone())))
                .is_empty()
        );
        assert_eq!(
            told(&services.namespace("shop", true)),
            ["shop/front:80 [10.0.0.1:8080]"]
        );
        assert!(
            services
                .slice(Event::Apply(endpoints("front", first.clone())))
                .is_empty(),
            "nothing has changed"
        );
        let both = json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]);
        let changes = services.slice(Event::Apply(endpoints("front", both)));
        assert_eq!(told(&changes), ["shop/front:80 [10.0.0.1:8080, 10.0.0.2:8080]"]);
        // One of them is about to go.
        let leaves = json!([{"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}}]);
        let changes = services.slice(Event::Apply(endpoints("front", leaves)));
        let [Change::Upsert(Resource::MeshService(service))] = &changes[..] else {
            panic!("{changes:?}")
        };
        assert_eq!(service.endpoints.len(), 2);
        assert_eq!(service.leaving, [SocketAddr::from(([10, 0, 0, 2], 8080))]);
        // The slice becomes another's.
        let changes = services.slice(Event::Apply(endpoints("other", first)));
        assert_eq!(told(&changes), ["shop/front:80 []"]);
        let changes = services.service(Event::Delete((name("front"), None)));
        assert_eq!(told(&changes), ["-service shop/front:80 in the mesh"]);
        assert!(services.namespace("shop", false).is_empty());
    }

    #[test]
    fn how_a_service_leads_its_clients_is_told() {
        let made = |spec: serde_json::Value| {
            let service = json!({"metadata": {}, "spec": spec});
            let ports = ports(&serde_json::from_value(service).expect("a Service")).expect("it has an address");
            (ports.sticky, ports.local)
        };
        let ports = json!([{"port": 80}]);
        let plain = json!({"clusterIPs": ["10.96.0.1"], "ports": ports, "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster"});
        assert_eq!(made(plain), (false, false));
        assert_eq!(
            made(json!({"clusterIPs": ["10.96.0.1"], "ports": ports, "sessionAffinity": "ClientIP"})),
            (true, false)
        );
        assert_eq!(
            made(json!({"clusterIPs": ["10.96.0.1"], "ports": ports, "internalTrafficPolicy": "Local"})),
            (false, true)
        );
    }

    #[test]
    fn a_service_without_an_address_is_none() {
        let headless = json!({"metadata": {}, "spec": {"clusterIPs": ["None"], "ports": [{"port": 80}]}});
        assert_eq!(ports(&serde_json::from_value(headless).expect("a Service")), None);
    }
}
