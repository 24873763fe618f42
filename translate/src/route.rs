//! Routes: the listeners they attach to, their rules, and how they stand with each parent.

mod parent;
mod result;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weft_crds::{Condition, ObjectRef, ParentReference, ParentStatus, RouteStatus};
use weft_model::{HostPattern, ListenerKey, Resource, Route, RouteKey, RouteKind, RouteOwner};

use self::{parent::to_listeners, source::Source};
pub(crate) use self::{
    parent::{Found, Refused},
    result::{Attachment, RouteResult},
};
use crate::{
    backend::Referrer,
    diagnostic::{Code, Diagnostic, Level},
    l4, mesh,
    rule::{LoweredRule, Lowering},
    status::condition,
    world::Reader,
};

/// What is derived of a route: what is kept, and how it stands.
pub(crate) type Derived = (RouteResult, RouteStatus);

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
