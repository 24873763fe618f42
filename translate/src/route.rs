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
    BackendTarget, Frontend, HostPattern, ListenerKey, Resource, Route, RouteKey, RouteKind, RouteOwner, ServiceKey,
};

use crate::{
    backend::Referrer,
    claim::{self, Claim, Ground},
    diagnostic::{Code, Diagnostic, Level},
    l4,
    listener::ListenerState,
    mesh,
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
    /// The listeners and Service ports it counts for, by key.
    pub(crate) attached: Box<[Attachment]>,
    /// The Service ports in the mesh that it counts for.
    pub(crate) frontends: Box<[Arc<Frontend>]>,
    /// The Gateways through which requests come to it.
    pub(crate) gateways: Box<[ObjectRef]>,
    /// The objects it names as backends that cannot be served.
    pub(crate) unserved: Box<[ObjectRef]>,
    pub(crate) diagnostics: Box<[Diagnostic]>,
}

/// A listener, or a Service port in the mesh, that a route counts for.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) listener: ListenerKey,
    /// The listener's.
    hostname: Option<HostPattern>,
    /// Whether it is served.
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

    /// What its matches claim of the listeners' requests. A split has its frontends to itself, and claims nothing.
    pub(crate) fn claims(&self) -> Vec<(Ground, Claim)> {
        if self.rules.iter().any(is_split) {
            return Vec::new();
        }
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

    /// Whether what comes to it comes by the same listeners as to another.
    pub(crate) fn comes_as(&self, other: &Self) -> bool {
        let listeners = self.attached.iter().map(|attached| &attached.listener);
        let others = other.attached.iter().map(|attached| &attached.listener);
        self.gateways == other.gateways && listeners.eq(others)
    }

    /// Whether it counts for a listener.
    pub(crate) fn is_attached(&self, listener: &ListenerKey) -> bool {
        let found = self
            .attached
            .binary_search_by(|attached| attached.listener.cmp(listener));
        found.is_ok()
    }
}

fn is_split(rule: &Resource) -> bool {
    let owner = match rule {
        Resource::Route(route) => &route.owner,
        Resource::L4Route(route) => &route.owner,
        _ => return false,
    };
    owner.kind == RouteKind::Split
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

    /// Whether all its parents are Services: no Gateway leads to it.
    fn in_mesh(&self) -> bool {
        !self.parents().is_empty() && self.parents().iter().all(ParentReference::is_service)
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

    fn rule_names(&self) -> Vec<Option<&'w str>> {
        match self {
            Self::Http(route) => route.spec.rules.iter().map(|rule| rule.name.as_deref()).collect(),
            Self::Grpc(route) => route.spec.rules.iter().map(|rule| rule.name.as_deref()).collect(),
            Self::Tls(_) | Self::Tcp(_) | Self::Udp(_) => {
                self.l4_rules().iter().map(|rule| rule.name.as_deref()).collect()
            }
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

/// A route, whatever its parents are.
struct Lowered<'w> {
    route: Source<'w>,
    hostnames: Vec<HostPattern>,
    rules: Vec<LoweredRule>,
    /// Of those, what is wrong with the route as a whole.
    diagnostics: Vec<Diagnostic>,
    /// Why nothing of it can be served.
    invalid: Option<String>,
}

fn lower<'w>(reader: &Reader<'w>, reference: &ObjectRef) -> Option<Lowered<'w>> {
    let route = Source::read(reader, reference)?;
    let mut diagnostics = Vec::new();
    let refused = route.validate();
    let hostnames = hostnames(route.hostnames(), &mut diagnostics);
    diagnostics.extend(refused);
    let from = Referrer {
        kind: reference.kind,
        namespace: &reference.namespace,
        in_mesh: route.in_mesh(),
    };
    let lowering = Lowering {
        reader,
        from,
        metadata: route.metadata(),
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
    Some(Lowered {
        route,
        hostnames,
        rules,
        diagnostics,
        invalid,
    })
}

/// What is to be known of a route by whoever names it.
pub(crate) struct Outline<'w> {
    pub(crate) kind: RouteKind,
    pub(crate) parents: &'w [ParentReference],
    /// The names of its rules.
    pub(crate) rules: Vec<Option<&'w str>>,
}

/// Reads that of a route; none if there is no such route.
pub(crate) fn outline<'w>(reader: &Reader<'w>, reference: &ObjectRef) -> Option<Outline<'w>> {
    let route = Source::read(reader, reference)?;
    Some(Outline {
        kind: route.kind(),
        parents: route.parents(),
        rules: route.rule_names(),
    })
}

/// What a route that can be served names as its parents; none if there is no such route or it cannot.
pub(crate) fn parents<'w>(reader: &Reader<'w>, reference: &ObjectRef) -> Option<&'w [ParentReference]> {
    let lowered = lower(reader, reference)?;
    lowered.invalid.is_none().then(|| lowered.route.parents())
}

/// Derives a route; none if there is no such route.
pub(crate) fn derive(reader: &Reader<'_>, reference: &ObjectRef) -> Option<Derived> {
    let Lowered {
        route,
        hostnames,
        rules,
        mut diagnostics,
        invalid,
    } = lower(reader, reference)?;
    let mut status = RouteStatus::default();
    let resolved = resolved(&rules, route.metadata().generation());
    let (mut attached, mut frontends) = (BTreeMap::new(), BTreeMap::new());
    let (mut gateways, mut unserved) = (BTreeSet::new(), BTreeSet::new());
    if route.parents().is_empty() {
        let message = "the route has no parentRefs, so nothing sends it requests";
        diagnostics.push(Code::NoParent.at("spec.parentRefs", message, "name the Gateway it is for"));
    }
    for (at, parent) in route.parents().iter().enumerate() {
        let path = format!("spec.parentRefs[{at}]");
        let found = if parent.is_service() {
            mesh::attach(reader, reference, parent, &path, &mut diagnostics)
        } else {
            to_listeners(reader, reference, parent, &path, &hostnames, &mut diagnostics)
        };
        // One that is not ours: nothing is said of it.
        let Some(found) = found else { continue };
        let generation = route.metadata().generation();
        let mut conditions = Vec::new();
        let accepted = match (found, &invalid) {
            (Ok(_), Some(why)) => condition("Accepted", false, "UnsupportedValue", why, generation),
            (Ok(found), None) => {
                match found {
                    Found::Listeners { gateway, listeners } => {
                        gateways.insert(gateway.clone());
                        let listeners = listeners.into_iter().map(Attachment::to_listener);
                        attached.extend(listeners.map(|attachment| (attachment.listener.clone(), attachment)));
                    }
                    Found::Frontends(found) => {
                        let attachments = found.iter().map(|frontend| Attachment::to_frontend(frontend));
                        attached.extend(attachments.map(|attachment| (attachment.listener.clone(), attachment)));
                        frontends.extend(found.into_iter().map(|frontend| (frontend.key.clone(), frontend)));
                    }
                }
                conditions.extend(partially_invalid(&rules, generation));
                condition("Accepted", true, "Accepted", "The route is attached", generation)
            }
            (Err(refused), _) => {
                diagnostics.push(refused.code.at(path, &refused.message, refused.remedy));
                condition("Accepted", false, refused.reason, refused.message, generation)
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
    let served = attached.values().filter(|attachment| attachment.served);
    let served: Vec<ListenerKey> = served.map(|attachment| attachment.listener.clone()).collect();
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
        attached: attached.into_values().collect(),
        frontends: frontends.into_values().collect(),
        gateways: gateways.into_iter().collect(),
        unserved: unserved.into_iter().collect(),
        diagnostics: diagnostics.into(),
    };
    Some((result, status))
}

impl Attachment {
    fn to_listener(listener: &ListenerState) -> Self {
        Self {
            listener: listener.key.clone(),
            hostname: listener.hostname.clone(),
            served: listener.model.is_some(),
        }
    }

    pub(crate) fn to_frontend(frontend: &Frontend) -> Self {
        Self {
            listener: frontend.key.clone(),
            hostname: None,
            served: true,
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

/// What a parent has come to for a route.
pub(crate) enum Found<'g> {
    /// The listeners that take it.
    Listeners {
        /// The Gateway that has them.
        gateway: &'g ObjectRef,
        listeners: Vec<&'g ListenerState>,
    },
    /// The ports of a Service in the mesh.
    Frontends(Vec<Arc<Frontend>>),
}

/// Why a parent does not take a route.
pub(crate) struct Refused {
    pub(crate) code: Code,
    /// That of the condition.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) remedy: &'static str,
}

/// Finds what a Gateway or a ListenerSet comes to for a route; none if it is not ours.
fn to_listeners<'w>(
    reader: &Reader<'w>,
    reference: &ObjectRef,
    parent: &ParentReference,
    path: &str,
    hostnames: &[HostPattern],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Result<Found<'w>, Refused>> {
    let (owner, namespace) = (parent.listener_owner()?, reference.namespace.as_str());
    let Some(owning) = reader.listeners(parent, namespace) else {
        let whose = parent.namespace.as_deref().unwrap_or(namespace);
        // One that is there is another controller's.
        if reader.object(ObjectRef::new(owner, whose, &parent.name)).is_none() {
            let message = format!("there is no {owner} {whose}/{}", parent.name);
            let remedy = "create it, or correct the name";
            diagnostics.push(Code::ParentNotFound.at(format!("{path}.name"), message, remedy));
        }
        return None;
    };
    let found = attach(reader, reference.kind, namespace, parent, owning, hostnames);
    let gateway = &owning.gateway;
    Some(match found {
        Ok(listeners) => Ok(Found::Listeners { gateway, listeners }),
        Err((code, reason, message)) => Err(Refused {
            code,
            reason,
            message,
            remedy: "see the listeners there: their names, ports, hostnames and allowedRoutes",
        }),
    })
}

/// Finds the listeners of a Gateway or a ListenerSet that take a route.
fn attach<'g>(
    reader: &Reader<'_>,
    kind: Kind,
    namespace: &str,
    parent: &ParentReference,
    owning: &'g Listeners,
    hostnames: &[HostPattern],
) -> Result<Vec<&'g ListenerState>, (Code, &'static str, String)> {
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
            // Of a split's backends some may be left out.
            BackendTarget::Service(key) if is_split(rule) => Some(("spec.backends".to_owned(), key)),
            BackendTarget::Service(key) => Some((format!("spec.rules[{at}].backendRefs[{backend}]"), key)),
            BackendTarget::Invalid(_) => None,
        })
        .collect()
}
