//! What comes to Gateways, and what routes take of it.
//!
//! Gateways decide, and nobody else: where the parent of a route is a Service, its rules are carried out by the sidecars of
//! clients, and a client is not to be asked what it may do.

use std::collections::BTreeSet;

use weft_crds::{
    AuthorizationPolicy as Spec, AuthorizationTargetReference as TargetSpec, Condition, Kind, Object, ObjectRef,
    ParentReference,
};
use weft_model::{AuthorizationTarget, GatewayKey, ListenerKey, RouteKind};

use super::{
    Lower,
    targets::{Target, in_force},
};
use crate::{diagnostic::Code, policy::parent_reference, status::condition, world::Reader};

/// The routes that a policy names as its targets.
pub(crate) fn routes(policy: &Spec) -> impl Iterator<Item = ObjectRef> {
    let kind = |target: &TargetSpec| {
        let mut kinds = [Kind::HttpRoute, Kind::GrpcRoute].into_iter();
        kinds.find(|kind| kind.group() == target.group && kind.name() == target.kind)
    };
    let targets = policy.spec.target_refs.iter();
    targets.filter_map(move |target| {
        let namespace = policy.metadata.namespace();
        Some(ObjectRef::new(kind(target)?, namespace, &target.name))
    })
}

fn key_of(gateway: &ObjectRef) -> GatewayKey {
    GatewayKey::from(format!("{}/{}", gateway.namespace, gateway.name))
}

fn not_enforced(reason: &str, message: &str, generation: i64) -> Condition {
    condition("Enforced", false, reason, message, generation)
}

impl Lower<'_> {
    #[expect(clippy::too_many_arguments, reason = "what a target is, and where it goes")]
    pub(super) fn edge(
        &mut self,
        reader: &Reader<'_>,
        kind: Kind,
        spec: &TargetSpec,
        path: &str,
        found: &mut Target,
        generation: i64,
        gateways_of: &impl Fn(&ObjectRef) -> BTreeSet<ObjectRef>,
    ) {
        let reference = ObjectRef::new(kind, self.namespace, &spec.name);
        if kind == Kind::Gateway {
            self.gateway(reader, &reference, spec, path, found, generation);
        } else {
            self.route(
                reader,
                &reference,
                spec,
                path,
                found,
                generation,
                &gateways_of(&reference),
            );
        }
    }

    /// The target holds whether it is there or not: what comes to be there is protected at once.
    fn gateway(
        &mut self,
        reader: &Reader<'_>,
        reference: &ObjectRef,
        spec: &TargetSpec,
        path: &str,
        found: &mut Target,
        generation: i64,
    ) {
        let section = spec.section_name.as_deref();
        let gateway = key_of(reference);
        found.model = Some(match section {
            None => AuthorizationTarget::Gateway(gateway),
            Some(name) => AuthorizationTarget::Listener {
                gateway,
                listener: ListenerKey::of_gateway(&reference.namespace, &reference.name, name),
            },
        });
        let parent = ParentReference {
            section_name: spec.section_name.clone(),
            ..parent_reference(reference)
        };
        let Some(owning) = reader.listeners(&parent, self.namespace) else {
            let message = match reader.object(reference.clone()) {
                None => format!("there is no {reference}"),
                Some(_) => format!("the {reference} is not served here, but by another controller"),
            };
            let remedy = "create it, or correct the reference";
            return self.missing(format!("{path}.name"), message, remedy, found, generation);
        };
        let listeners = owning.listeners.iter();
        let mut named = listeners
            .filter(|listener| section.is_none_or(|name| listener.name == name))
            .peekable();
        if let (Some(name), None) = (section, named.peek()) {
            let message = format!("the {reference} has no listener {name:?}");
            let remedy = "name one that it has";
            return self.missing(format!("{path}.sectionName"), message, remedy, found, generation);
        }
        found.enforced = if named.any(|listener| listener.model.is_some()) || section.is_none() {
            in_force(generation)
        } else {
            not_enforced(
                "NotServed",
                "The listener is not served: see its conditions",
                generation,
            )
        };
    }

    #[expect(clippy::too_many_arguments, reason = "what a target is, and where it goes")]
    fn route(
        &mut self,
        reader: &Reader<'_>,
        reference: &ObjectRef,
        spec: &TargetSpec,
        path: &str,
        found: &mut Target,
        generation: i64,
        gateways: &BTreeSet<ObjectRef>,
    ) {
        let (parents, rules, kind): (_, Vec<&Option<String>>, _) = match reader.object(reference.clone()) {
            Some(Object::HttpRoute(route)) => {
                let rules = route.spec.rules.iter().map(|rule| &rule.name).collect();
                (&route.spec.parent_refs, rules, RouteKind::Http)
            }
            Some(Object::GrpcRoute(route)) => {
                let rules = route.spec.rules.iter().map(|rule| &rule.name).collect();
                (&route.spec.parent_refs, rules, RouteKind::Grpc)
            }
            _ => {
                let message = format!("there is no {reference}");
                let remedy = "create it, or correct the reference";
                return self.missing(format!("{path}.name"), message, remedy, found, generation);
            }
        };
        if !gateways.is_empty() {
            found.model = Some(AuthorizationTarget::Route {
                kind,
                namespace: self.namespace.into(),
                name: spec.name.clone(),
                rule: spec.section_name.clone(),
                gateways: gateways.iter().map(key_of).collect(),
            });
        }
        if let Some(name) = &spec.section_name
            && !rules.iter().any(|rule| rule.as_ref() == Some(name))
        {
            let message = format!("the {reference} has no rule of the name {name:?}");
            let remedy = "name one of its rules";
            return self.missing(format!("{path}.sectionName"), message, remedy, found, generation);
        }
        found.enforced = if gateways.is_empty() {
            not_enforced(
                "NotAttached",
                "No Gateway takes the route: see its conditions",
                generation,
            )
        } else {
            in_force(generation)
        };
        if !parents.iter().any(ParentReference::is_service) {
            return;
        }
        let message = format!(
            "the {reference} is for clients of a Service: its rules are carried out by the sidecars of clients, which cannot be \
             trusted with what clients may do"
        );
        let remedy = "protect the Service itself, by a target of the kind Service";
        self.wrong(Code::PolicyTarget, path, &message, remedy);
        if parents.iter().all(ParentReference::is_service) {
            found.amiss = Some(("Invalid", message));
        } else {
            found.holds = "The policy holds at Gateways, and not for clients of Services in the mesh";
        }
    }

    fn missing(&mut self, path: String, message: String, remedy: &str, found: &mut Target, generation: i64) {
        self.wrong(Code::PolicyTarget, path, &message, remedy);
        found.enforced = not_enforced("TargetNotFound", &message, generation);
        found.amiss = Some(("TargetNotFound", message));
    }
}
