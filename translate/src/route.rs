//! Routes: the listeners they attach to, their rules, and how they stand with each parent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weft_crds::{
    Condition, GrpcRoute, HttpRoute, HttpRouteRule, Kind, Metadata, ObjectRef, ParentReference, ParentStatus,
    RouteStatus,
};
use weft_model::{HostPattern, ListenerKey, Route, RouteKey, RouteKind, RouteOwner, ServiceKey};

use crate::{
    claim::{self, Claim, Ground},
    diagnostic::{Code, Diagnostic, Level},
    listener::ListenerState,
    owner::Listeners,
    rule::{LoweredRule, Lowering},
    status::condition,
    validate,
    world::Reader,
};

/// What became of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteResult {
    pub(crate) routes: Vec<Arc<Route>>,
    /// The listeners it counts for, served or not.
    pub(crate) attached: BTreeSet<ListenerKey>,
    /// What its matches claim of the listeners' requests.
    pub(crate) claims: Vec<(Ground, Claim)>,
    /// The Gateways through which requests come to it.
    pub(crate) gateways: BTreeSet<ObjectRef>,
    /// The services it uses.
    pub(crate) services: BTreeSet<ServiceKey>,
    pub(crate) status: RouteStatus,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// An HTTPRoute or a GRPCRoute.
enum Either<'w> {
    Http(&'w HttpRoute),
    Grpc(&'w GrpcRoute),
}

impl Either<'_> {
    fn metadata(&self) -> &Metadata {
        match self {
            Self::Http(route) => &route.metadata,
            Self::Grpc(route) => &route.metadata,
        }
    }

    fn parents(&self) -> &[ParentReference] {
        match self {
            Self::Http(route) => &route.spec.parent_refs,
            Self::Grpc(route) => &route.spec.parent_refs,
        }
    }

    fn hostnames(&self) -> &[String] {
        match self {
            Self::Http(route) => &route.spec.hostnames,
            Self::Grpc(route) => &route.spec.hostnames,
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
        }
    }
}

/// Derives a route; none if there is no such route.
pub(crate) fn derive(reader: &Reader<'_>, reference: &ObjectRef) -> Option<RouteResult> {
    let (namespace, name) = (reference.namespace.as_str(), reference.name.as_str());
    let route = match reference.kind {
        Kind::GrpcRoute => Either::Grpc(reader.grpc_route(namespace, name)?),
        _ => Either::Http(reader.http_route(namespace, name)?),
    };
    let mut result = RouteResult::default();
    let refused = match &route {
        Either::Http(route) => validate::http_route(route),
        Either::Grpc(route) => validate::grpc_route(route),
    };
    let hostnames = hostnames(route.hostnames(), &mut result.diagnostics);
    result.diagnostics.extend(refused);
    let lowering = Lowering {
        reader,
        kind: reference.kind,
        metadata: route.metadata(),
        namespace,
    };
    let rules = route.lower(&lowering);
    // What the API server would have refused is not served; everything else is, if anything of it can be.
    let refused = result
        .diagnostics
        .iter()
        .chain(rules.iter().flat_map(|rule| &rule.diagnostics));
    let refused = refused.filter(|diagnostic| diagnostic.level == Level::Error);
    let unserved = rules.iter().flat_map(|rule| &rule.unserved);
    let all_unserved = !rules.is_empty() && rules.iter().all(|rule| !rule.unserved.is_empty());
    let invalid = refused.chain(unserved.filter(|_| all_unserved)).next();
    let invalid = invalid.map(|first| first.message.clone());
    let resolved = resolved(&rules, route.metadata().generation());
    let mut listeners = BTreeMap::new();
    if route.parents().is_empty() {
        let message = "the route has no parentRefs, so nothing sends it requests";
        result
            .diagnostics
            .push(Code::NoParent.at("spec.parentRefs", message, "name the Gateway it is for"));
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
                result.diagnostics.push(Code::ParentNotFound.at(path, message, remedy));
            }
            continue;
        };
        let attached = attach(reader, reference.kind, namespace, parent, owning, &hostnames);
        let generation = route.metadata().generation();
        let mut conditions = Vec::new();
        let accepted = match (attached, &invalid) {
            (Ok(_), Some(why)) => condition("Accepted", false, "UnsupportedValue", why, generation),
            (Ok(found), None) => {
                result.gateways.insert(owning.gateway.clone());
                result
                    .attached
                    .extend(found.iter().map(|listener| listener.key.clone()));
                listeners.extend(
                    found
                        .iter()
                        .filter(|listener| listener.model.is_some())
                        .map(|listener| (listener.key.clone(), listener.hostname.clone())),
                );
                conditions.extend(partially_invalid(&rules, generation));
                condition("Accepted", true, "Accepted", "The route is attached", generation)
            }
            (Err((code, reason, message)), _) => {
                let remedy = "see the listeners there: their names, ports, hostnames and allowedRoutes";
                result.diagnostics.push(code.at(path, &message, remedy));
                condition("Accepted", false, reason, message, generation)
            }
        };
        conditions.splice(..0, [accepted, resolved.clone()]);
        result.status.parents.push(ParentStatus {
            parent_ref: parent.clone(),
            controller_name: reader.options.controller_name.clone(),
            conditions,
        });
    }
    for rule in &rules {
        result
            .diagnostics
            .extend(rule.diagnostics.iter().chain(&rule.unserved).cloned());
        result
            .diagnostics
            .extend(rule.unresolved.iter().map(|unresolved| unresolved.diagnostic.clone()));
    }
    if !listeners.is_empty() && invalid.is_none() {
        let keys: Vec<ListenerKey> = listeners.keys().cloned().collect();
        result.routes = rules
            .into_iter()
            .enumerate()
            .map(|(at, rule)| Arc::new(model(reference, route.metadata(), at, rule, &keys, &hostnames)))
            .collect();
        let listeners: Vec<_> = listeners.into_iter().collect();
        let claims = result.routes.iter().flat_map(|route| claim::claims(route, &listeners));
        result.claims = claims.collect();
        result.services = result
            .routes
            .iter()
            .flat_map(|route| route.services().cloned())
            .collect();
    }
    Some(result)
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
    metadata: &Metadata,
    at: usize,
    rule: LoweredRule,
    listeners: &[ListenerKey],
    hostnames: &[HostPattern],
) -> Route {
    let kind = if reference.kind == Kind::GrpcRoute {
        RouteKind::Grpc
    } else {
        RouteKind::Http
    };
    Route {
        key: RouteKey::from(format!(
            "{}/{}/{}/{at}",
            reference.kind, reference.namespace, reference.name
        )),
        owner: RouteOwner {
            kind,
            namespace: reference.namespace.clone(),
            name: reference.name.clone(),
            rule: u32::try_from(at).unwrap_or(u32::MAX),
            rule_name: rule.name,
            created: metadata.created(),
        },
        listeners: listeners.to_vec(),
        hostnames: hostnames.to_vec(),
        matches: rule.matches,
        filters: rule.filters,
        backends: rule.backends,
        timeouts: rule.timeouts,
        retry: rule.retry,
        session: rule.session,
        broken: rule.broken,
    }
}
