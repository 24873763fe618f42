//! Routes in the mesh: their parents are Services, as clients see them (GEP-1226, GEP-1294).
//!
//! A route in the namespace of its Service is the producer's, and for all clients; one in another namespace is a
//! consumer's, and for the clients in its own. Either is ours from the stage `observe` of its namespace on: a route is
//! what somebody has asked for, not what the stage brings.

use std::{net::IpAddr, sync::Arc};

use weft_crds::{Kind, MESH_LABEL, MeshStatus, ObjectRef, ParentReference, Service, ServicePort, Stage};
use weft_model::{Frontend, ListenerKey, ListenerProtocol, ServiceKey, Transport};

use crate::{
    backend,
    diagnostic::{Code, Diagnostic},
    features,
    route::{self, Found, Refused},
    status::condition,
    world::{Place, Reader},
};

/// What frontends are of, by their routes. Of the kinds that name one port the first here has it (GEP-1294).
const PROTOCOLS: [ListenerProtocol; 3] = [ListenerProtocol::Http, ListenerProtocol::Tls, ListenerProtocol::Tcp];

/// What a frontend with routes of a kind is of; none if such routes are not for Services.
pub(crate) fn protocol(kind: Kind) -> Option<ListenerProtocol> {
    Some(match kind {
        Kind::HttpRoute | Kind::GrpcRoute => ListenerProtocol::Http,
        Kind::TlsRoute => ListenerProtocol::Tls,
        Kind::TcpRoute => ListenerProtocol::Tcp,
        _ => return None,
    })
}

/// The place that a route wants by one of its parents; none if that is no Service.
pub(crate) fn place(route: &ObjectRef, parent: &ParentReference) -> Option<Place> {
    let own = route.namespace.as_str();
    let namespace = parent.namespace.as_deref().unwrap_or(own);
    parent.is_service().then_some(())?;
    Some(Place {
        service: ObjectRef::new(Kind::Service, namespace, &parent.name),
        clients: (namespace != own).then(|| own.into()),
        protocol: protocol(route.kind)?,
    })
}

/// Finds what a Service comes to for a route; none if the route is not ours.
pub(crate) fn attach<'w>(
    reader: &Reader<'w>,
    route: &ObjectRef,
    parent: &ParentReference,
    path: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Result<Found<'w>, Refused>> {
    if let Err((message, remedy)) = takes_part(reader, &route.namespace, "route") {
        diagnostics.push(Code::NoMesh.at(path, message, remedy));
        return None;
    }
    Some(ports(reader, route, parent, path, diagnostics).map(Found::Frontends))
}

/// Whether a namespace is in the mesh; or why not, so that something of it has no effect, and what to do.
pub(crate) fn takes_part(reader: &Reader<'_>, namespace: &str, what: &str) -> Result<(), (String, String)> {
    if !reader.options.mesh {
        let message = if what == "route" {
            "the route is for clients in the mesh, and here is none".to_owned()
        } else {
            format!("the {what} is for the mesh, and here is none")
        };
        let remedy = if what == "route" {
            "serve it in a cluster, or name a Gateway as its parent too"
        } else {
            "serve it in a cluster"
        };
        return Err((message, remedy.into()));
    }
    let why = match Stage::of(&reader.namespace_labels(namespace)) {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => format!("it has no label {MESH_LABEL}"),
        Err(unknown) => format!("its label {MESH_LABEL}={unknown}"),
    };
    Err((
        format!("the namespace {namespace} takes no part in the mesh, so the {what} has no effect: {why}"),
        format!("label the namespace: {MESH_LABEL}={}", Stage::Observe),
    ))
}

/// The ports of a Service that take a route.
fn ports(
    reader: &Reader<'_>,
    route: &ObjectRef,
    parent: &ParentReference,
    path: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Vec<Arc<Frontend>>, Refused> {
    let Some(place) = place(route, parent) else {
        let message = format!("{}s of Services are not served: the mesh carries no UDP", route.kind);
        return Err(refused(Code::NotAllowed, message, "name a Gateway as its parent"));
    };
    let full = format!("{}/{}", place.service.namespace, place.service.name);
    let Some(service) = reader.service(&place.service.namespace, &place.service.name) else {
        let message = format!("there is no Service {full}");
        return Err(refused(Code::ParentNotFound, message, "create it, or correct the name"));
    };
    let addresses = addresses(service).map_err(|why| {
        let message = format!("the Service {full} {why}: nothing is sent to an address that is the Service's own");
        refused(Code::NoParent, message, "name a Service that has a cluster IP")
    })?;
    let tcp = |port: &&ServicePort| backend::transport_of(port) == Some(Transport::Tcp);
    let all = service.spec.ports.iter().filter(tcp);
    let named: Vec<&ServicePort> = all.clone().filter(|port| is_named(parent, port)).collect();
    if named.is_empty() {
        let known: Vec<String> = all.map(|port| port.port.to_string()).collect();
        let known = known.join(", ");
        let message = match (&parent.section_name, parent.port) {
            (Some(name), Some(port)) => format!("the Service {full} has no port {port} of the name {name:?}"),
            (Some(name), None) => format!("the Service {full} has no port of the name {name:?}"),
            (None, Some(port)) => format!("the Service {full} has no TCP port {port}; it has {known}"),
            (None, None) => format!("the Service {full} has no TCP port"),
        };
        return Err(refused(
            Code::NoParent,
            message,
            "name one of its ports, or none for all",
        ));
    }
    let mut found = Vec::with_capacity(named.len());
    let mut lost = Vec::new();
    for port in named {
        match before(reader, &place, port) {
            Some(other) => lost.push(format!("port {} of the Service {full} is that of {other}", port.port)),
            None => found.push(Arc::new(frontend(&place, port, &addresses))),
        }
    }
    let remedy = "remove one of the two routes, or let each name ports of its own";
    match lost.first() {
        Some(first) if found.is_empty() => Err(Refused {
            code: Code::RouteConflict,
            reason: "Conflicted",
            message: first.clone(),
            remedy,
        }),
        _ => {
            let lost = lost.into_iter();
            diagnostics.extend(lost.map(|message| Code::RouteConflict.at(path, message, remedy)));
            Ok(found)
        }
    }
}

fn refused(code: Code, message: String, remedy: &'static str) -> Refused {
    Refused {
        code,
        reason: "NoMatchingParent",
        message,
        remedy,
    }
}

/// The cluster IPs of a Service, none before it was given any; or why it can have none.
pub(crate) fn addresses(service: &Service) -> Result<Vec<IpAddr>, &'static str> {
    let spec = &service.spec;
    if spec.service_type.as_deref() == Some("ExternalName") {
        return Err("is of type ExternalName");
    }
    let mut given = spec.cluster_ips.clone();
    if given.is_empty() {
        given.extend(spec.cluster_ip.clone());
    }
    if given.iter().any(|address| address == "None") {
        return Err("is headless");
    }
    Ok(given.iter().filter_map(|address| address.parse().ok()).collect())
}

/// Whether a parent reference means a port of its Service.
fn is_named(parent: &ParentReference, port: &ServicePort) -> bool {
    let name = port.name.as_deref().unwrap_or_default();
    parent.port.is_none_or(|number| number == port.port)
        && parent.section_name.as_ref().is_none_or(|section| section == name)
}

/// A route of a kind that comes before, to which a port belongs.
fn before(reader: &Reader<'_>, place: &Place, port: &ServicePort) -> Option<ObjectRef> {
    let first = PROTOCOLS.into_iter().take_while(|protocol| *protocol != place.protocol);
    holder(reader, place, first, port)
}

/// A producer's route of any kind, to which a port belongs.
pub(crate) fn taken(reader: &Reader<'_>, service: &ObjectRef, port: &ServicePort) -> Option<ObjectRef> {
    let place = Place {
        service: service.clone(),
        clients: None,
        protocol: PROTOCOLS[0],
    };
    holder(reader, &place, PROTOCOLS, port)
}

/// A route of one of some protocols, to which a port belongs.
fn holder(
    reader: &Reader<'_>,
    place: &Place,
    protocols: impl IntoIterator<Item = ListenerProtocol>,
    port: &ServicePort,
) -> Option<ObjectRef> {
    protocols.into_iter().find_map(|protocol| {
        let place = Place {
            protocol,
            ..place.clone()
        };
        let wants = |other: &&ObjectRef| {
            let parents = route::parents(reader, other).unwrap_or_default().iter();
            parents
                .filter(|parent| self::place(other, parent).as_ref() == Some(&place))
                .any(|parent| is_named(parent, port))
        };
        reader.attaching(place.clone()).into_iter().find(wants).cloned()
    })
}

pub(crate) fn frontend(place: &Place, port: &ServicePort, addresses: &[IpAddr]) -> Frontend {
    let (namespace, name) = (&place.service.namespace, &place.service.name);
    Frontend {
        key: match &place.clients {
            Some(clients) => ListenerKey::of_consumers(namespace, name, port.port, clients),
            None => ListenerKey::of_service(namespace, name, port.port),
        },
        service: ServiceKey::new(namespace, name, port.port),
        addresses: addresses.to_vec(),
        protocol: place.protocol,
        clients: place.clients.as_deref().map(Into::into),
    }
}

/// How an XMesh stands; none if it is not ours.
pub(crate) fn stand(reader: &Reader<'_>, name: &str) -> Option<MeshStatus> {
    let mesh = reader.xmesh("", name)?;
    let ours = reader.options.mesh && mesh.spec.controller_name == reader.options.controller_name;
    ours.then_some(())?;
    let generation = mesh.metadata.generation();
    let conditions = if mesh.spec.parameters_ref.is_some() {
        let message = "the mesh has no parameters: remove the reference";
        vec![
            condition("Accepted", false, "InvalidParameters", message, generation),
            condition("Programmed", false, "Invalid", message, generation),
        ]
    } else {
        let told = "Sidecars are told the routes of Services";
        vec![
            condition("Accepted", true, "Accepted", "The mesh is served", generation),
            condition("Programmed", true, "Programmed", told, generation),
        ]
    };
    Some(MeshStatus {
        conditions,
        supported_features: features::of_mesh(),
    })
}
