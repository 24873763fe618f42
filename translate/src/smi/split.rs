//! TrafficSplits: what clients in the mesh send to a Service goes to others, by weight. A split comes to the rules of a frontend,
//! like a route whose parent is that Service, and routes come before it.

use std::{net::IpAddr, sync::Arc};

use weft_crds::{BackendObjectReference, Kind, ObjectRef, Service, ServicePort, TrafficSplit};
use weft_model::{
    Backend, BackendProtocol, BackendTarget, Frontend, L4Backend, L4Route, ListenerProtocol, PathMatch, Resource,
    Route, RouteKey, RouteKind, RouteMatch, RouteOwner, ServiceKey, Timeouts, Transport,
};

use super::{nested, requests};
use crate::{
    backend::{self, Referrer},
    diagnostic::{Code, Diagnostic},
    mesh,
    route::{Attachment, RouteResult},
    world::{Place, Reader},
};

/// The most that the weights of a split come to together: shares finer than that are rounded.
const WEIGHTS: u64 = 1_000_000;

/// Derives a split; none if there is none.
pub(crate) fn derive(reader: &Reader<'_>, reference: &ObjectRef) -> Option<RouteResult> {
    let split = reader.traffic_split(&reference.namespace, &reference.name)?;
    let mut lowering = Lowering {
        reader,
        reference,
        split,
        diagnostics: Vec::new(),
        rules: Vec::new(),
        frontends: Vec::new(),
    };
    lowering.split();
    let attached = lowering.frontends.iter();
    Some(RouteResult {
        rules: lowering.rules.into(),
        attached: attached.map(|frontend| Attachment::to_frontend(frontend)).collect(),
        frontends: lowering.frontends.into(),
        diagnostics: lowering.diagnostics.into(),
        ..RouteResult::default()
    })
}

/// The Service that a split is for; none if it names none.
pub(crate) fn root(split: &TrafficSplit) -> Option<ObjectRef> {
    let name = split.local(&split.spec.service).ok()?;
    Some(ObjectRef::new(Kind::Service, split.metadata.namespace(), name))
}

/// Whether what is sent to a port is split by its requests, and not by its connections.
pub(super) fn has_requests(port: &ServicePort) -> bool {
    let declared = port.app_protocol.as_deref().unwrap_or_default();
    let secure = ["kubernetes.io/wss", "wss"]
        .iter()
        .any(|name| declared.eq_ignore_ascii_case(name));
    declared.is_empty()
        || !secure
            && matches!(
                backend::protocol(Some(declared)),
                Some(BackendProtocol::Http1 | BackendProtocol::H2c)
            )
}

/// The split of a Service that is in effect: the oldest.
pub(super) fn first<'w>(reader: &Reader<'w>, root: &ObjectRef) -> Option<&'w TrafficSplit> {
    let splits = reader.splits(root).into_iter();
    let splits = splits.filter_map(|split| reader.traffic_split(&split.namespace, &split.name));
    let order = |split: &TrafficSplit| (split.metadata.created(), split.metadata.name.clone());
    splits
        .map(AsRef::as_ref)
        .min_by(|a: &&TrafficSplit, b| order(a).cmp(&order(b)))
}

/// A split that becomes rules.
struct Lowering<'r, 'w> {
    reader: &'r Reader<'w>,
    reference: &'r ObjectRef,
    split: &'w TrafficSplit,
    diagnostics: Vec<Diagnostic>,
    rules: Vec<Resource>,
    frontends: Vec<Arc<Frontend>>,
}

impl<'w> Lowering<'_, 'w> {
    fn say(&mut self, code: Code, path: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) {
        self.diagnostics.push(code.at(path, message, remedy));
    }

    fn split(&mut self) {
        let (namespace, path) = (self.reference.namespace.as_str(), "spec.service");
        if let Err((message, remedy)) = mesh::takes_part(self.reader, namespace, "split") {
            return self.say(Code::NoMesh, path, message, remedy);
        }
        let name = match self.split.local(&self.split.spec.service) {
            Ok(name) => name,
            Err(why) => {
                let remedy = "name a Service of the split's own namespace";
                return self.say(Code::Invalid, path, why, remedy);
            }
        };
        let Some(service) = self.reader.service(namespace, name) else {
            let message = format!("there is no Service {namespace}/{name}");
            return self.say(Code::ParentNotFound, path, message, "create it, or correct the name");
        };
        let addresses = match mesh::addresses(service) {
            Ok(addresses) => addresses,
            Err(why) => {
                let message = format!(
                    "the Service {namespace}/{name} {why}: nothing is sent to an address that is the Service's own"
                );
                return self.say(Code::NoParent, path, message, "name a Service that has a cluster IP");
            }
        };
        let root = ObjectRef::new(Kind::Service, namespace, name);
        if let Some(older) = self.older(&root) {
            let message = format!("the Service {namespace}/{name} is split by {older}, which is older");
            return self.say(Code::SplitOverruled, path, message, "remove one of the two");
        }
        let Some(matches) = self.matches() else { return };
        self.ports(&root, service, &addresses, &matches);
    }

    /// Another split of the same Service that comes first.
    fn older(&self, root: &ObjectRef) -> Option<ObjectRef> {
        let first = first(self.reader, root)?;
        let name = &first.metadata.name;
        (*name != self.reference.name).then(|| ObjectRef::new(Kind::TrafficSplit, &root.namespace, name))
    }

    /// The requests that are split, all when empty; none if it says some and there are none.
    fn matches(&mut self) -> Option<Vec<RouteMatch>> {
        let mut found = Vec::new();
        for (at, reference) in self.split.spec.matches.iter().enumerate() {
            let path = format!("spec.matches[{at}]");
            if reference.kind != Kind::HttpRouteGroup.name() {
                let message = format!("{:?} is not a kind of what is matched", reference.kind);
                self.say(Code::Invalid, format!("{path}.kind"), message, "use HTTPRouteGroup");
                continue;
            }
            let namespace = &self.reference.namespace;
            let Some(group) = self.reader.http_route_group(namespace, &reference.name) else {
                let message = format!(
                    "there is no HTTPRouteGroup {namespace}/{}: none of its requests is split",
                    reference.name
                );
                let remedy = "create it, or correct the name";
                self.say(Code::SmiReference, format!("{path}.name"), message, remedy);
                continue;
            };
            for one in &group.spec.matches {
                match requests::lower(one, "") {
                    Ok(matched) => found.extend(matched.routes()),
                    Err(why) => {
                        let message = format!(
                            "the match {:?} of the HTTPRouteGroup {} takes nothing: {}",
                            one.name, reference.name, why.message
                        );
                        self.say(Code::SmiUnserved, &path, message, why.remedy);
                    }
                }
            }
        }
        (!found.is_empty() || self.split.spec.matches.is_empty()).then_some(found)
    }

    fn ports(&mut self, root: &ObjectRef, service: &'w Service, addresses: &[IpAddr], matches: &[RouteMatch]) {
        let tcp = service
            .spec
            .ports
            .iter()
            .filter(|port| backend::transport_of(port) == Some(Transport::Tcp));
        let tcp: Vec<&ServicePort> = tcp.collect();
        if tcp.is_empty() {
            let message = format!("the Service {}/{} has no TCP port", root.namespace, root.name);
            return self.say(Code::NoParent, "spec.service", message, "name a Service that has one");
        }
        for (at, backend) in self.split.spec.backends.iter().enumerate() {
            if self.split.local(&backend.service) == Ok(root.name.as_str()) {
                let message = "the Service is a backend of its own split: that share goes to all its endpoints, whatever version they are";
                let remedy = "name a Service of one version, as SMI wants it";
                self.say(
                    Code::SplitOfItself,
                    format!("spec.backends[{at}].service"),
                    message,
                    remedy,
                );
            }
        }
        for port in tcp {
            if let Some(route) = mesh::taken(self.reader, root, port) {
                let message = format!("port {} of the Service {} goes by {route}", port.port, root.name);
                let remedy = "remove one of the two, or let the route name other ports";
                self.say(Code::SplitOverruled, "spec.service", message, remedy);
                continue;
            }
            let by_requests = has_requests(port);
            if !by_requests && !matches.is_empty() {
                let message = format!(
                    "port {} of the Service {} is declared to carry {:?}, so that its requests are not seen and not split",
                    port.port,
                    root.name,
                    port.app_protocol.as_deref().unwrap_or_default()
                );
                let remedy = "declare the appProtocol http, or remove the matches";
                self.say(Code::SplitBackend, "spec.matches", message, remedy);
                continue;
            }
            let backends = self.backends(root, port, by_requests);
            if backends.iter().all(|(weight, _)| *weight == 0) {
                let message = format!(
                    "no backend gets what is sent to port {} of the Service {}: it is not split",
                    port.port, root.name
                );
                let remedy = "give a weight to a backend with that port";
                self.say(Code::NoBackend, "spec.backends", message, remedy);
                continue;
            }
            self.port(root, port, addresses, matches, (by_requests, backends));
        }
    }

    /// The backends for a port, each with its share. Those that cannot be sent to what is sent to that port get nothing.
    fn backends(&mut self, root: &ObjectRef, port: &ServicePort, by_requests: bool) -> Vec<(u32, ServiceKey)> {
        let from = Referrer {
            kind: if by_requests { Kind::HttpRoute } else { Kind::TcpRoute },
            namespace: &self.reference.namespace,
            in_mesh: true,
        };
        let (mut found, mut weights, mut nested) = (Vec::new(), Vec::new(), Vec::new());
        for (at, backend) in self.split.spec.backends.iter().enumerate() {
            let path = format!("spec.backends[{at}].service");
            let resolved = match self.split.local(&backend.service) {
                Ok(name) => {
                    let reference = BackendObjectReference {
                        group: String::new(),
                        kind: Kind::Service.name().to_owned(),
                        name: name.to_owned(),
                        namespace: None,
                        port: Some(port.port),
                    };
                    backend::resolve(self.reader, from, &reference, &path)
                        .map_err(|why| (why.diagnostic.message, why.diagnostic.remedy))
                }
                Err(why) => Err((why, "name a Service of the split's own namespace".to_owned())),
            };
            match resolved {
                Ok(key) => {
                    let (namespace, name, _) = key.parts();
                    let service = ObjectRef::new(Kind::Service, namespace, name);
                    let followed = nested::follow(self.reader, &service, &key, std::slice::from_ref(root));
                    // Of itself it is said for the split as a whole.
                    if let Some(back) = followed.back.filter(|back| service != *root && back == root) {
                        let message =
                            format!("its own split leads back to the {back}: that share goes to all its endpoints");
                        let remedy = "let splits lead to Services of one version";
                        self.say(Code::SplitOfItself, path, message, remedy);
                    }
                    weights.push(backend.weight.milli());
                    nested.push((u128::from(backend.weight.milli()), followed.shares));
                    found.push(key);
                }
                // It may be named before it is there, and gets nothing until it is (SMI, "Workflow").
                Err((why, remedy)) => {
                    let message = format!("it gets nothing of what is sent to port {}: {why}", port.port);
                    self.say(Code::SplitBackend, path, message, remedy);
                }
            }
        }
        let plain = found
            .iter()
            .zip(&nested)
            .all(|(key, (_, shares))| matches!(&shares[..], [(_, only)] if only == key));
        if plain {
            return shares(&weights).into_iter().zip(found).collect();
        }
        let (weights, found): (Vec<_>, Vec<_>) = nested::joined(nested).into_iter().unzip();
        let weights = weights
            .into_iter()
            .map(|weight| u64::try_from(weight).unwrap_or(u64::MAX));
        fitted(weights.collect()).into_iter().zip(found).collect()
    }

    fn port(
        &mut self,
        root: &ObjectRef,
        port: &ServicePort,
        addresses: &[IpAddr],
        matches: &[RouteMatch],
        (by_requests, backends): (bool, Vec<(u32, ServiceKey)>),
    ) {
        let place = Place {
            service: root.clone(),
            clients: None,
            protocol: if by_requests {
                ListenerProtocol::Http
            } else {
                ListenerProtocol::Tcp
            },
        };
        let frontend = Arc::new(mesh::frontend(&place, port, addresses));
        if by_requests {
            let whole = RouteMatch {
                path: PathMatch::Prefix("/".to_owned()),
                method: None,
                headers: Vec::new(),
                query: Vec::new(),
            };
            let own = ServiceKey::new(&root.namespace, &root.name, port.port);
            let (matched, rest) = match matches {
                [] => (vec![whole], None),
                some => (some.to_vec(), Some((vec![whole], vec![(1, own)]))),
            };
            // What is not matched goes to the Service itself.
            for (matches, backends) in [Some((matched, backends)), rest].into_iter().flatten() {
                let rule = self.requests(&frontend, matches, backends);
                self.rules.push(rule);
            }
        } else {
            let (key, owner) = self.name();
            self.rules.push(Resource::L4Route(Arc::new(L4Route {
                key,
                owner,
                listeners: vec![frontend.key.clone()],
                hostnames: Vec::new(),
                backends: backends
                    .into_iter()
                    .map(|(weight, service)| L4Backend {
                        weight,
                        target: BackendTarget::Service(service),
                    })
                    .collect(),
            })));
        }
        self.frontends.push(frontend);
    }

    fn requests(&self, frontend: &Frontend, matches: Vec<RouteMatch>, backends: Vec<(u32, ServiceKey)>) -> Resource {
        let (key, owner) = self.name();
        Resource::Route(Arc::new(Route {
            key,
            owner,
            listeners: vec![frontend.key.clone()],
            hostnames: Vec::new(),
            matches,
            filters: Vec::new(),
            backends: backends
                .into_iter()
                .map(|(weight, service)| Backend {
                    weight,
                    target: BackendTarget::Service(service),
                    filters: Vec::new(),
                })
                .collect(),
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            broken: None,
        }))
    }

    /// Of the next rule.
    fn name(&self) -> (RouteKey, RouteOwner) {
        let at = self.rules.len();
        let key = RouteKey::from(format!(
            "{}/{}/{}/{at}",
            self.reference.kind, self.reference.namespace, self.reference.name
        ));
        let owner = RouteOwner {
            kind: RouteKind::Split,
            namespace: self.reference.namespace.clone(),
            name: self.reference.name.clone(),
            rule: u32::try_from(at).unwrap_or(u32::MAX),
            rule_name: None,
            created: self.split.metadata.created(),
        };
        (key, owner)
    }
}

/// Weights in thousandths, in whole numbers of the same ratio; nothing that has a share loses it.
fn shares(milli: &[u64]) -> Vec<u32> {
    let whole = milli.iter().all(|weight| weight.is_multiple_of(1000));
    let weights: Vec<u64> = milli
        .iter()
        .map(|weight| if whole { weight / 1000 } else { *weight })
        .collect();
    fitted(weights)
}

/// The same ratio in numbers that do not come to too much together.
fn fitted(weights: Vec<u64>) -> Vec<u32> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let most = sum.div_ceil(u128::from(WEIGHTS)).max(1);
    let weights = weights.into_iter().map(|weight| u128::from(weight).div_ceil(most));
    weights
        .map(|weight| u32::try_from(weight).unwrap_or(u32::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_their_ratio() {
        assert_eq!(shares(&[90_000, 10_000]), [90, 10]);
        assert_eq!(shares(&[1000, 1500, 0]), [1000, 1500, 0]);
        assert_eq!(
            shares(&[1_000_000_000_000, 1_000_000_000_000, 1000]),
            [499_751, 499_751, 1]
        );
        assert_eq!(shares(&[]), [0_u32; 0]);
    }
}
