//! Services, what stands for them, and who answers.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use weft_crds::{Endpoint, EndpointSlice, Kind, ObjectRef};
use weft_model::{Resource, Service, ServiceKey, ServiceKind, WorkloadKey};

use crate::{backend, backend_tls, traffic_policy, world::Reader, xbackend};

/// What became of a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceResult {
    pub(crate) service: Arc<Service>,
    /// The roots and certificates it names.
    pub(crate) resources: Vec<Resource>,
    /// Who answers, and on which port.
    pub(crate) endpoints: BTreeMap<WorkloadKey, Answering>,
}

/// Someone who answers for a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answering {
    pub(crate) address: IpAddr,
    pub(crate) zone: Option<String>,
    pub(crate) port: u16,
}

/// The object that a key is of.
pub(crate) fn object(key: &ServiceKey) -> ObjectRef {
    let (namespace, name, _) = key.parts();
    let kind = match key.kind() {
        ServiceKind::Service => Kind::Service,
        ServiceKind::XBackend => Kind::XBackend,
    };
    ObjectRef::new(kind, namespace, name)
}

/// Derives a port; none if there is no such object or port.
pub(crate) fn derive(reader: &Reader<'_>, key: &ServiceKey) -> Option<ServiceResult> {
    match key.kind() {
        ServiceKind::Service => of_service(reader, key),
        ServiceKind::XBackend => of_xbackend(reader, key),
    }
}

/// An XBackend has no endpoints but its name.
fn of_xbackend(reader: &Reader<'_>, key: &ServiceKey) -> Option<ServiceResult> {
    let (namespace, name, port) = key.parts();
    let lowered = xbackend::lower(reader, reader.xbackend(namespace, name)?);
    let destination = lowered.destination.ok().filter(|found| found.name.port == port)?;
    let traffic = traffic_policy::effective(reader, &object(key));
    let broken = lowered.broken.map(|why| format!("XBackend {namespace}/{name}: {why}"));
    Some(ServiceResult {
        service: Arc::new(Service {
            key: key.clone(),
            protocol: destination.protocol(),
            names: vec![destination.name],
            session: traffic.session,
            retry_budget: traffic.retry_budget,
            tls: lowered.tls,
            broken,
        }),
        resources: lowered.resources,
        endpoints: BTreeMap::new(),
    })
}

fn of_service(reader: &Reader<'_>, key: &ServiceKey) -> Option<ServiceResult> {
    let (namespace, name, number) = key.parts();
    let service = reader.service(namespace, name)?;
    let mut ports = service.spec.ports.iter();
    let port = ports.find(|port| port.port == number && backend::transport_of(port) == Some(key.transport()))?;
    // Routes that would have to speak what is not known have refused it.
    let protocol = backend::protocol(port.app_protocol.as_deref()).unwrap_or_default();
    let port_name = port.name.as_deref().unwrap_or_default();
    let slices = reader.slices(namespace, name);
    let mut endpoints = collect(namespace, port_name, &slices, |endpoint| {
        endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true)
    });
    if endpoints.is_empty() {
        // While everything is on its way out, what still serves is better than nothing (KEP-1669).
        endpoints = collect(namespace, port_name, &slices, |endpoint| {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            conditions.serving == Some(true) && conditions.terminating == Some(true)
        });
    }
    if endpoints.is_empty() {
        // Who is on a node of which nothing is heard is said to be unready by that alone, and mostly serves.
        endpoints = collect(namespace, port_name, &slices, |endpoint| {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let node = endpoint.node_name.as_deref().and_then(|node| reader.node("", node));
            conditions.terminating != Some(true) && node.is_some_and(|node| node.is_unready())
        });
    }
    let traffic = traffic_policy::effective(reader, &object(key));
    let secured = backend_tls::effective(reader, namespace, name, port.name.as_deref());
    Some(ServiceResult {
        service: Arc::new(Service {
            key: key.clone(),
            protocol,
            names: Vec::new(),
            session: traffic.session,
            retry_budget: traffic.retry_budget,
            tls: secured.tls,
            broken: secured.broken,
        }),
        resources: secured.bundles.into_iter().map(Resource::TrustBundle).collect(),
        endpoints,
    })
}

fn collect(
    namespace: &str,
    port_name: &str,
    slices: &[&Arc<EndpointSlice>],
    takes_part: impl Fn(&Endpoint) -> bool,
) -> BTreeMap<WorkloadKey, Answering> {
    let mut found: BTreeMap<WorkloadKey, Answering> = BTreeMap::new();
    for slice in slices {
        let port = slice
            .ports
            .iter()
            .find(|port| port.name.as_deref().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|port| port.port) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().filter(|endpoint| takes_part(endpoint)) {
            let Some(address) = endpoint
                .addresses
                .first()
                .and_then(|address| address.parse::<IpAddr>().ok())
            else {
                continue;
            };
            let pod = endpoint
                .target_ref
                .as_ref()
                .filter(|target| target.kind.as_deref() == Some("Pod"));
            let key = match pod.and_then(|pod| pod.name.as_deref()) {
                Some(pod) => WorkloadKey::from(format!("{namespace}/{pod}")),
                None => WorkloadKey::from(format!("{namespace}/{}/{address}", slice.metadata.name)),
            };
            let answering = Answering {
                address,
                zone: endpoint.zone.clone(),
                port,
            };
            // A pod of two families is one workload: its IPv4 address is used.
            match found.get(&key) {
                Some(known) if known.address.is_ipv4() => {}
                _ => {
                    found.insert(key, answering);
                }
            }
        }
    }
    let of_family = |(key, answering): (WorkloadKey, Answering)| match answering.address {
        IpAddr::V4(_) => (key, answering),
        // Another Service may have the pod's IPv4 address, at which nobody need listen for this one, nor at this one for that.
        IpAddr::V6(_) => (key.by_ipv6(), answering),
    };
    found.into_iter().map(of_family).collect()
}
