//! Routes: the listeners they attach to, their rules, and how they stand with each parent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weft_crds::{
    Condition, GrpcRoute, HttpRoute, HttpRouteRule, Kind, L4RouteRule, Metadata, ObjectRef, ParentReference,
    ParentStatus, RouteStatus, TcpRoute, TlsRoute, UdpRoute,
};
use weft_model::{
    BackendTarget, HostPattern, ListenerKey, Resource, Route, RouteKey, RouteKind, RouteOwner, ServiceKey,
};

use crate::{
    claim::{self, Claim, Ground},
    diagnostic::{Code, Diagnostic, Level},
    l4,
    listener::ListenerState,
    owner::Listeners,
    rule::{LoweredRule, Lowering},
    status::condition,
    validate,
    world::Reader,
};

/// What became of a route. One is kept of each, so what follows from the rest is not in it.
#[derive(Debug, Default)]
pub(crate) struct RouteResult {
    /// Its rules.
    pub(crate) rules: Box<[Resource]>,
    /// The listeners it counts for, by key.
    pub(crate) attached: Box<[Attachment]>,
    /// The Gateways through which requests come to it.
    pub(crate) gateways: Box<[ObjectRef]>,
    /// The objects it names as backends that cannot be served.
    pub(crate) unserved: Box<[ObjectRef]>,
    pub(crate) diagnostics: Box<[Diagnostic]>,
}

/// A listener that a route counts for.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) listener: ListenerKey,
    /// The listener's.
    hostname: Option<HostPattern>,
    /// Whether the listener is.
    served: bool,
}

impl RouteResult {
    /// The services it uses, for copies too.
    pub(crate) fn services(&self) -> BTreeSet<&ServiceKey> {
        let mut services = BTreeSet::new();
        for rule in &self.rules {
            match rule {
                Resource::Route(route) => services.extend(route.services()),
                Resource::L4Route(route) => services.extend(route.services()),
                _ => {}
            }
        }
        services
    }

    /// The services its backends are, each with the path of the reference.
    pub(crate) fn backends(&self) -> impl Iterator<Item = (String, &ServiceKey)> {
        let rules = self.rules.iter().enumerate();
        rules.flat_map(|(at, rule)| backends(rule, at))
    }

    /// What its matches claim of the listeners' requests.
    pub(crate) fn claims(&self) -> Vec<(Ground, Claim)> {
        let served: Vec<_> = self
            .attached
            .iter()
            .filter(|attached| attached.served)
            .map(|attached| (&attached.listener, attached.hostname.as_ref()))
            .collect();
        self.rules
            .iter()
            .flat_map(|rule| claim::claims(rule, &served))
            .collect()
    }

    /// Whether it counts for a listener.
    pub(crate) fn is_attached(&self, listener: &ListenerKey) -> bool {
        let found = self
            .attached
            .binary_search_by(|attached| attached.listener.cmp(listener));
        found.is_ok()
    }
}

/// What is derived of a route: what is kept, and how it stands.
pub(crate) type Derived = (RouteResult, RouteStatus);

/// A route of any kind.
enum Source<'w> {
    Http(&'w HttpRoute),
    Grpc(&'w GrpcRoute),
    Tls(&'w TlsRoute),
    Tcp(&'w TcpRoute),
    Udp(&'w UdpRoute),
}

impl<'w> Source<'w> {
    fn read(reader: &Reader<'w>, reference: &ObjectRef) -> Option<Self> {
        let (namespace, name) = (reference.namespace.as_str(), reference.name.as_str());
        Some(match reference.kind {
            Kind::GrpcRoute => Self::Grpc(reader.grpc_route(namespace, name)?),
            Kind::TlsRoute => Self::Tls(reader.tls_route(namespace, name)?),
            Kind::TcpRoute => Self::Tcp(reader.tcp_route(namespace, name)?),
            Kind::UdpRoute => Self::Udp(reader.udp_route(namespace, name)?),
            _ => Self::Http(reader.http_route(namespace, name)?),
        })
    }

    fn kind(&self) -> RouteKind {
        match self {
            Self::Http(_) => RouteKind::Http,
            Self::Grpc(_) => RouteKind::Grpc,
            Self::Tls(_) => RouteKind::Tls,
            Self::Tcp(_) => RouteKind::Tcp,
            Self::Udp(_) => RouteKind::Udp,
        }
    }

    fn metadata(&self) -> &'w Metadata {
        match self {
            Self::Http(route) => &route.metadata,
            Self::Grpc(route) => &route.metadata,
            Self::Tls(route) => &route.metadata,
            Self::Tcp(route) => &route.metadata,
            Self::Udp(route) => &route.metadata,
        }
    }

    fn parents(&self) -> &'w [ParentReference] {
        match self {
            Self::Http(route) => &route.spec.parent_refs,
            Self::Grpc(route) => &route.spec.parent_refs,
            Self::Tls(route) => &route.spec.parent_refs,
            Self::Tcp(route) => &route.spec.parent_refs,
            Self::Udp(route) => &route.spec.parent_refs,
        }
    }

    fn hostnames(&self) -> &'w [String] {
        match self {
            Self::Http(route) => &route.spec.hostnames,
            Self::Grpc(route) => &route.spec.hostnames,
            Self::Tls(route) => &route.spec.hostnames,
            Self::Tcp(_) | Self::Udp(_) => &[],
        }
    }

    /// The rules of a route that looks at no request.
    fn l4_rules(&self) -> &'w [L4RouteRule] {
        match self {
            Self::Tls(route) => &route.spec.rules,
            Self::Tcp(route) => &route.spec.rules,
            Self::Udp(route) => &route.spec.rules,
            Self::Http(_) | Self::Grpc(_) => &[],
        }
    }

    /// What the API server would have refused.
    fn validate(&self) -> Vec<Diagnostic> {
        match self {
            Self::Http(route) => validate::http_route(route),
            Self::Grpc(route) => validate::grpc_route(route),
            Self::Tls(_) | Self::Tcp(_) | Self::Udp(_) => validate::l4_route(self.hostnames(), self.l4_rules()),
        }
    }

    fn lower(&self, lowering: &Lowering<'_, '_>) -> Vec<LoweredRule> {
        let path = |at: usize| format!("spec.rules[{at}]");
        match self {
            Self::Http(route) => {
                // The API's default is one rule that takes everything. GRPCRoutes have none.
                let default = [HttpRouteRule::default()];
                let rules = match route.spec.rules.as_slice() {
                    [] => &default,
                    rules => rules,
                };
                let lower = |(at, rule): (usize, &HttpRouteRule)| lowering.http(rule, &path(at));
                rules.iter().enumerate().map(lower).collect()
            }
            Self::Grpc(route) => route
                .spec
                .rules
                .iter()
                .enumerate()
                .map(|(at, rule)| lowering.grpc(rule, &path(at)))
                .collect(),
            Self::Tls(_) | Self::Tcp(_) | Self::Udp(_) => {
                let lower = |(at, rule): (usize, &L4RouteRule)| lowering.l4(rule, &path(at));
                self.l4_rules().iter().enumerate().map(lower).collect()
            }
        }
    }
}

/// Derives a route; none if there is no such route.
pub(crate) fn derive(reader: &Reader<'_>, reference: &ObjectRef) -> Option<Derived> {
    let namespace = reference.namespace.as_str();
    let route = Source::read(reader, reference)?;
    let (mut status, mut diagnostics) = (RouteStatus::default(), Vec::new());
    let refused = route.validate();
    let hostnames = hostnames(route.hostnames(), &mut diagnostics);
    diagnostics.extend(refused);
    let lowering = Lowering {
        reader,
        kind: reference.kind,
        metadata: route.metadata(),
        namespace,
    };
    let rules = route.lower(&lowering);
    // What the API server would have refused is not served; everything else is, if anything of it can be.
    let refused = diagnostics
        .iter()
        .chain(rules.iter().flat_map(|rule| &rule.diagnostics));
    let refused = refused.filter(|diagnostic| diagnostic.level == Level::Error);
    let unserved = rules.iter().flat_map(|rule| &rule.unserved);
    let all_unserved = !rules.is_empty() && rules.iter().all(|rule| !rule.unserved.is_empty());
    let invalid = refused.chain(unserved.filter(|_| all_unserved)).next();
    let invalid = invalid.map(|first| first.message.clone());
    let resolved = resolved(&rules, route.metadata().generation());
    let (mut attached, mut gateways, mut unserved) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    if route.parents().is_empty() {
        let message = "the route has no parentRefs, so nothing sends it requests";
        diagnostics.push(Code::NoParent.at("spec.parentRefs", message, "name the Gateway it is for"));
    }
    for (at, parent) in route.parents().iter().enumerate() {
        let path = format!("spec.parentRefs[{at}]");
        let Some(owner) = parent.listener_owner() else {
            continue;
        };
        let Some(owning) = reader.listeners(parent, namespace) else {
            let whose = parent.namespace.as_deref().unwrap_or(namespace);
            // One that is there is another controller's.
            if reader.object(ObjectRef::new(owner, whose, &parent.name)).is_none() {
                let message = format!("there is no {owner} {whose}/{}", parent.name);
                let remedy = "create it, or correct the name";
                let path = format!("{path}.name");
                diagnostics.push(Code::ParentNotFound.at(path, message, remedy));
            }
            continue;
        };
        let found = attach(reader, reference.kind, namespace, parent, owning, &hostnames);
        let generation = route.metadata().generation();
        let mut conditions = Vec::new();
        let accepted = match (found, &invalid) {
            (Ok(_), Some(why)) => condition("Accepted", false, "UnsupportedValue", why, generation),
            (Ok(found), None) => {
                gateways.insert(owning.gateway.clone());
                attached.extend(found.iter().map(|listener| (&listener.key, *listener)));
                conditions.extend(partially_invalid(&rules, generation));
                condition("Accepted", true, "Accepted", "The route is attached", generation)
            }
            (Err((code, reason, message)), _) => {
                let remedy = "see the listeners there: their names, ports, hostnames and allowedRoutes";
                diagnostics.push(code.at(path, &message, remedy));
                condition("Accepted", false, reason, message, generation)
            }
        };
        conditions.splice(..0, [accepted, resolved.clone()]);
        status.parents.push(ParentStatus {
            parent_ref: parent.clone(),
            controller_name: reader.options.controller_name.clone(),
            conditions,
        });
    }
    for rule in &rules {
        diagnostics.extend(rule.diagnostics.iter().chain(&rule.unserved).cloned());
        for unresolved in &rule.unresolved {
            diagnostics.push(unresolved.diagnostic.clone());
            unserved.extend(unresolved.found.clone());
        }
    }
    let served = attached.values().filter(|listener| listener.model.is_some());
    let served: Vec<ListenerKey> = served.map(|listener| listener.key.clone()).collect();
    let rules = if served.is_empty() || invalid.is_some() {
        Vec::new()
    } else {
        rules
    };
    let rules = rules.into_iter().enumerate();
    let result = RouteResult {
        rules: rules
            .map(|(at, rule)| model(reference, &route, at, rule, &served, &hostnames))
            .collect(),
        attached: attached.into_values().map(Attachment::new).collect(),
        gateways: gateways.into_iter().collect(),
        unserved: unserved.into_iter().collect(),
        diagnostics: diagnostics.into(),
    };
    Some((result, status))
}

impl Attachment {
    fn new(listener: &ListenerState) -> Self {
        Self {
            listener: listener.key.clone(),
            hostname: listener.hostname.clone(),
            served: listener.model.is_some(),
        }
    }
}

fn hostnames(texts: &[String], diagnostics: &mut Vec<Diagnostic>) -> Vec<HostPattern> {
    let mut hostnames = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        match text.parse::<HostPattern>() {
            Ok(hostname) if hostnames.contains(&hostname) => {}
            Ok(hostname) => hostnames.push(hostname),
            Err(error) => {
                let path = format!("spec.hostnames[{at}]");
                diagnostics.push(Code::InvalidHostname.at(path, error.to_string(), "correct the hostname"));
            }
        }
    }
    hostnames
}

type Refused = (Code, &'static str, String);

/// Finds the listeners of a Gateway or a ListenerSet that take a route.
fn attach<'g>(
    reader: &Reader<'_>,
    kind: Kind,
    namespace: &str,
    parent: &ParentReference,
    owning: &'g Listeners,
    hostnames: &[HostPattern],
) -> Result<Vec<&'g ListenerState>, Refused> {
    let named: Vec<_> = owning
        .listeners
        .iter()
        .filter(|listener| parent.section_name.as_ref().is_none_or(|name| *name == listener.name))
        .filter(|listener| parent.port.is_none_or(|port| port == listener.port))
        .collect();
    if named.is_empty() {
        let owner = &parent.kind;
        let message = match (&parent.section_name, parent.port) {
            (Some(name), Some(port)) => format!("the {owner} has no listener {name:?} on port {port}"),
            (Some(name), None) => format!("the {owner} has no listener {name:?}"),
            (None, Some(port)) => format!("the {owner} has no listener on port {port}"),
            (None, None) => format!("the {owner} has no listener"),
        };
        return Err((Code::NoParent, "NoMatchingParent", message));
    }
    let allowed: Vec<_> = named
        .into_iter()
        .filter(|listener| listener.kinds.iter().any(|allowed| allowed.kind == kind.name()))
        .filter(|listener| listener.namespaces.allow(reader, namespace))
        .collect();
    if allowed.is_empty() {
        let message = format!("no listener there allows routes of kind {kind} from the namespace {namespace}");
        return Err((Code::NotAllowed, "NotAllowedByListeners", message));
    }
    let meets = |listener: &&ListenerState| {
        let Some(own) = &listener.hostname else { return true };
        hostnames.is_empty() || hostnames.iter().any(|hostname| hostname.intersect(own).is_some())
    };
    let found: Vec<_> = allowed.into_iter().filter(meets).collect();
    if found.is_empty() {
        let message = "none of the route's hostnames is one that a listener answers for".to_owned();
        return Err((Code::HostnameMismatch, "NoMatchingListenerHostname", message));
    }
    Ok(found)
}

fn resolved(rules: &[LoweredRule], generation: i64) -> Condition {
    match rules.iter().flat_map(|rule| &rule.unresolved).next() {
        Some(first) => condition(
            "ResolvedRefs",
            false,
            first.reason,
            &first.diagnostic.message,
            generation,
        ),
        None => condition(
            "ResolvedRefs",
            true,
            "ResolvedRefs",
            "All references resolve",
            generation,
        ),
    }
}

/// Says which rules are not served though the route is; there is no such condition where all are.
fn partially_invalid(rules: &[LoweredRule], generation: i64) -> Option<Condition> {
    let dropped: Vec<String> = rules
        .iter()
        .enumerate()
        .filter_map(|(at, rule)| Some(format!("{at} ({})", rule.unserved.first()?.message)))
        .collect();
    // The API wants the message to begin like this.
    let message = format!("Dropped Rule {}: requests for it are answered 500", dropped.join(", "));
    (!dropped.is_empty()).then(|| condition("PartiallyInvalid", true, "UnsupportedValue", message, generation))
}

fn model(
    reference: &ObjectRef,
    route: &Source<'_>,
    at: usize,
    rule: LoweredRule,
    listeners: &[ListenerKey],
    hostnames: &[HostPattern],
) -> Resource {
    let key = RouteKey::from(format!(
        "{}/{}/{}/{at}",
        reference.kind, reference.namespace, reference.name
    ));
    let owner = RouteOwner {
        kind: route.kind(),
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
        rule: u32::try_from(at).unwrap_or(u32::MAX),
        rule_name: rule.name.clone(),
        created: route.metadata().created(),
    };
    if matches!(route, Source::Tls(_) | Source::Tcp(_) | Source::Udp(_)) {
        return Resource::L4Route(Arc::new(l4::model(key, owner, listeners, hostnames, rule)));
    }
    Resource::Route(Arc::new(Route {
        key,
        owner,
        listeners: listeners.to_vec(),
        hostnames: hostnames.to_vec(),
        matches: rule.matches,
        filters: rule.filters,
        backends: rule.backends,
        timeouts: rule.timeouts,
        retry: rule.retry,
        session: rule.session,
        broken: rule.broken,
    }))
}

/// The services that the backends of a rule are, and where it names them.
fn backends(rule: &Resource, at: usize) -> Vec<(String, &ServiceKey)> {
    let targets: Vec<&BackendTarget> = match rule {
        Resource::Route(route) => route.backends.iter().map(|backend| &backend.target).collect(),
        Resource::L4Route(route) => route.backends.iter().map(|backend| &backend.target).collect(),
        _ => Vec::new(),
    };
    let named = targets.into_iter().enumerate();
    named
        .filter_map(|(backend, target)| match target {
            BackendTarget::Service(key) => Some((format!("spec.rules[{at}].backendRefs[{backend}]"), key)),
            BackendTarget::Invalid(_) => None,
        })
        .collect()
}
