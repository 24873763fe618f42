//! What comes to Gateways, and what routes take of it.
//!
//! Gateways decide, and nobody else: where the parent of a route is a Service, its rules are carried out by the sidecars of
//! clients, and a client is not to be asked what it may do.

use weft_crds::{
    AuthorizationPolicy as Spec, AuthorizationTargetReference as TargetSpec, Condition, Kind, ObjectRef,
    ParentReference,
};
use weft_model::{AuthorizationRule, AuthorizationTarget, GatewayKey, Listener, ListenerKey, ListenerSetKey};

use super::{
    Lower,
    targets::{Target, in_force},
    unseen::Sight,
};
use crate::{
    diagnostic::Code,
    owner::Owner,
    policy::parent_reference,
    route::{self, Outline},
    status::condition,
};

/// What is a target of Gateways.
pub(super) const KINDS: [Kind; 7] = [
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::UdpRoute,
];

/// The routes that a policy names as its targets.
pub(crate) fn routes(policy: &Spec) -> impl Iterator<Item = ObjectRef> {
    let kind = |target: &TargetSpec| {
        let mut kinds = KINDS.into_iter().filter(|kind| !has_listeners(*kind));
        kinds.find(|kind| kind.group() == target.group && kind.name() == target.kind)
    };
    let targets = policy.spec.target_refs.iter();
    targets.filter_map(move |target| {
        let namespace = policy.metadata.namespace();
        Some(ObjectRef::new(kind(target)?, namespace, &target.name))
    })
}

fn has_listeners(kind: Kind) -> bool {
    matches!(kind, Kind::Gateway | Kind::ListenerSet)
}

fn key_of(gateway: &ObjectRef) -> GatewayKey {
    GatewayKey::from(format!("{}/{}", gateway.namespace, gateway.name))
}

fn not_enforced(reason: &str, message: &str, generation: i64) -> Condition {
    condition("Enforced", false, reason, message, generation)
}

/// A target about which Gateways decide, as it is written.
pub(super) struct Aim<'p> {
    pub(super) reference: ObjectRef,
    pub(super) spec: &'p TargetSpec,
    /// Where it stands in the policy.
    pub(super) path: &'p str,
}

impl Aim<'_> {
    fn section(&self) -> Option<&str> {
        self.spec.section_name.as_deref()
    }

    /// What comes by the listeners of a Gateway or a ListenerSet, or by one of them.
    fn listeners(&self, gateway: &ObjectRef) -> AuthorizationTarget {
        let (namespace, name) = (&self.reference.namespace, &self.reference.name);
        let (set, gateway) = (self.reference.kind == Kind::ListenerSet, key_of(gateway));
        match self.section() {
            None if set => AuthorizationTarget::ListenerSet {
                gateway,
                set: ListenerSetKey::from(format!("{namespace}/{name}")),
            },
            None => AuthorizationTarget::Gateway(gateway),
            Some(listener) => AuthorizationTarget::Listener {
                gateway,
                listener: if set {
                    ListenerKey::of_set(namespace, name, listener)
                } else {
                    ListenerKey::of_gateway(namespace, name, listener)
                },
            },
        }
    }
}

impl Lower<'_> {
    pub(super) fn edge(&mut self, aim: &Aim<'_>, rules: &[AuthorizationRule], found: &mut Target) {
        let sights = if has_listeners(aim.reference.kind) {
            self.listeners(aim, found)
        } else {
            self.route(aim, found)
        };
        found.unseen = self.unseen(&aim.reference, &sights, rules);
    }

    /// The target holds whether it is there or not: what comes to be there is protected at once. To which Gateway a
    /// ListenerSet adds is known when it has come, and in the same set of changes as its listeners. Returns what those that
    /// are served show; of a whole Gateway, those that ListenerSets add to it too.
    fn listeners(&mut self, aim: &Aim<'_>, found: &mut Target) -> Vec<Sight> {
        let reference = &aim.reference;
        let owning = self.reader.listeners(&parent_reference(reference), self.namespace);
        let gateway = match reference.kind {
            Kind::Gateway => Some(reference),
            _ => owning.map(|owning| &owning.gateway),
        };
        found.model = gateway.map(|gateway| aim.listeners(gateway));
        let Some(owning) = owning else {
            let message = match (self.reader.object(reference.clone()), reference.kind) {
                (None, _) => format!("there is no {reference}"),
                (Some(_), Kind::ListenerSet) => format!("the {reference} adds to no Gateway that is served here"),
                (Some(_), _) => format!("the {reference} is not served here, but by another controller"),
            };
            self.missing(aim, "name", message, "create it, or correct the reference", found);
            return Vec::new();
        };
        let listeners = owning.listeners.iter();
        let named: Vec<_> = listeners
            .filter(|listener| aim.section().is_none_or(|name| listener.name == name))
            .collect();
        if let (Some(name), []) = (aim.section(), &named[..]) {
            let message = format!("the {reference} has no listener {name:?}");
            self.missing(aim, "sectionName", message, "name one that it has", found);
            return Vec::new();
        }
        let served: Vec<&Listener> = named.iter().filter_map(|listener| listener.model.as_deref()).collect();
        let whole_gateway = reference.kind == Kind::Gateway && aim.section().is_none();
        found.enforced = if whole_gateway || !served.is_empty() {
            in_force(self.generation)
        } else {
            let message = match aim.section() {
                Some(_) => "The listener is not served: see its conditions",
                None => "None of its listeners is served: see their conditions",
            };
            not_enforced("NotServed", message, self.generation)
        };
        let mut sights: Vec<Sight> = served.into_iter().map(Sight::of).collect();
        if whole_gateway {
            sights.extend(self.added_to(reference));
        }
        sights
    }

    /// What the listeners show that ListenerSets add to a Gateway.
    fn added_to(&self, gateway: &ObjectRef) -> impl Iterator<Item = Sight> {
        let sets = self.reader.sets(gateway).into_iter();
        let owning = sets.filter_map(|set| self.reader.listeners(&parent_reference(set), &set.namespace));
        let added = owning.filter(move |owning| owning.gateway == *gateway);
        let listeners = added.flat_map(|owning| &owning.listeners);
        listeners
            .filter_map(|listener| listener.model.as_deref())
            .map(Sight::of)
    }

    /// Returns what those listeners show by which something comes to the route.
    fn route(&mut self, aim: &Aim<'_>, found: &mut Target) -> Vec<Sight> {
        let reference = &aim.reference;
        let Some(Outline { kind, parents, rules }) = route::outline(self.reader, reference) else {
            let message = format!("there is no {reference}");
            self.missing(aim, "name", message, "create it, or correct the reference", found);
            return Vec::new();
        };
        let gateways = self.routes.get(reference).map_or(&[][..], |route| &route.gateways);
        if !gateways.is_empty() {
            found.model = Some(AuthorizationTarget::Route {
                kind,
                namespace: self.namespace.into(),
                name: aim.spec.name.clone(),
                rule: aim.spec.section_name.clone(),
                gateways: gateways.iter().map(key_of).collect(),
            });
        }
        if let Some(name) = aim.section()
            && !rules.contains(&Some(name))
        {
            let message = format!("the {reference} has no rule of the name {name:?}");
            self.missing(aim, "sectionName", message, "name one of its rules", found);
            return Vec::new();
        }
        found.enforced = if gateways.is_empty() {
            not_enforced(
                "NotAttached",
                "No Gateway takes the route: see its conditions",
                self.generation,
            )
        } else {
            in_force(self.generation)
        };
        if parents.iter().any(ParentReference::is_service) {
            self.for_clients(aim, parents, found);
        }
        self.leading_to(reference)
    }

    /// Says that the policy does not hold for clients of a Service, or, where those are all there are, that it cannot hold.
    fn for_clients(&mut self, aim: &Aim<'_>, parents: &[ParentReference], found: &mut Target) {
        let reference = &aim.reference;
        let message = if reference.kind == Kind::UdpRoute {
            format!(
                "the {reference} is for clients of a Service: the mesh carries no UDP, and nobody carries out its rules"
            )
        } else {
            format!(
                "the {reference} is for clients of a Service: its rules are carried out by the sidecars of clients, which \
                 cannot be trusted with what clients may do"
            )
        };
        let remedy = "protect the Service itself, by a target of the kind Service";
        self.wrong(Code::PolicyTarget, aim.path, &message, remedy);
        if parents.iter().all(ParentReference::is_service) {
            found.amiss = Some(("Invalid", message));
        } else {
            found.holds = "The policy holds at Gateways, and not for clients of Services in the mesh";
        }
    }

    /// What the listeners show to which a route is attached.
    fn leading_to(&self, route: &ObjectRef) -> Vec<Sight> {
        let attached = self.routes.get(route).into_iter().flat_map(|route| &route.attached);
        let listeners = attached.filter(|attached| !attached.listener.is_frontend());
        let models = listeners.filter_map(|attached| {
            let owner = parent_reference(&Owner::of(&attached.listener));
            let listeners = &self.reader.listeners(&owner, self.namespace)?.listeners;
            let listener = listeners.iter().find(|listener| listener.key == attached.listener)?;
            listener.model.as_deref()
        });
        models.map(Sight::of).collect()
    }

    fn missing(&mut self, aim: &Aim<'_>, field: &str, message: String, remedy: &str, found: &mut Target) {
        self.wrong(Code::PolicyTarget, format!("{}.{field}", aim.path), &message, remedy);
        found.enforced = not_enforced("TargetNotFound", &message, self.generation);
        found.amiss = Some(("TargetNotFound", message));
    }
}
