//! The objects there are, and the recorder through which derivations read them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use weft_crds::{
    AcmeIssuer, AuthorizationPolicy, BackendTlsPolicy, ConfigMap, EndpointSlice, Gateway, GatewayClass,
    GatewayParameters, GrpcRoute, HttpRoute, HttpRouteGroup, IdentityBinding, Kind, ListenerSet, ListenerSpec,
    Namespace, Node, Object, ObjectRef, ParentReference, ReferenceGrant, Secret, Service, SmiTcpRoute, SmiUdpRoute,
    TcpRoute, TlsRoute, TrafficSplit, TrafficTarget, UdpRoute, XBackend, XBackendTrafficPolicy, XMesh,
};
use weft_model::ListenerProtocol;

use crate::{
    authorization,
    listener::{self, GATEWAY_GROUP},
    mesh,
    owner::Listeners,
    policy::{self, Policy},
    smi,
    translator::Options,
};

/// Something a derivation can depend on. Each derivation keeps some, so it is small.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Dependency {
    /// One object, there or not.
    Object(ObjectRef),
    /// The grants of a namespace.
    Grants(Box<str>),
    /// The slices of a Service.
    Slices(ObjectRef),
    /// What listeners a Gateway or a ListenerSet has come to have.
    Listeners(ObjectRef),
    /// Which Gateways and ListenerSets want a place on a port.
    Slot(Arc<Slot>),
    /// Which policies name an object as their target.
    Policies(ObjectRef),
    /// Which routes name a Service as their parent.
    Attaching(Arc<Place>),
    /// Which TrafficSplits are for a Service.
    Splits(ObjectRef),
    /// Which ListenerSets would add to a Gateway.
    Sets(ObjectRef),
}

/// A place that routes of one protocol may want: a Service, as its clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) service: ObjectRef,
    /// Of consumers' routes, the namespace they are for.
    pub(crate) clients: Option<Box<str>>,
    pub(crate) protocol: ListenerProtocol,
}

/// A place on a port that listeners may dispute.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    /// The Gateway whose port it is; none where all Gateways share their ports.
    pub(crate) scope: Option<ObjectRef>,
    pub(crate) port: u16,
    pub(crate) protocol: String,
    /// Of listeners of this hostname, empty for all hosts; if absent, of any.
    pub(crate) hostname: Option<String>,
}

/// All objects, with the indexes that derivations need.
pub(crate) struct World {
    /// All Gateways share their ports.
    shared_ports: bool,
    objects: HashMap<ObjectRef, Object>,
    grants: HashMap<String, BTreeSet<ObjectRef>>,
    slices: HashMap<ObjectRef, BTreeSet<ObjectRef>>,
    slots: HashMap<Arc<Slot>, BTreeSet<ObjectRef>>,
    policies: HashMap<ObjectRef, BTreeSet<ObjectRef>>,
    attaching: HashMap<Arc<Place>, BTreeSet<ObjectRef>>,
    splits: HashMap<ObjectRef, BTreeSet<ObjectRef>>,
    sets: HashMap<ObjectRef, BTreeSet<ObjectRef>>,
}

/// Puts a member into an index, or takes it out.
fn set<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<ObjectRef>>, key: K, of: &ObjectRef, put: bool) {
    match index.entry(key) {
        entry if put => {
            entry.or_default().insert(of.clone());
        }
        Entry::Occupied(mut members) => {
            members.get_mut().remove(of);
            if members.get().is_empty() {
                members.remove();
            }
        }
        Entry::Vacant(_) => {}
    }
}

impl World {
    pub(crate) fn new(shared_ports: bool) -> Self {
        Self {
            shared_ports,
            objects: HashMap::new(),
            grants: HashMap::new(),
            slices: HashMap::new(),
            slots: HashMap::new(),
            policies: HashMap::new(),
            attaching: HashMap::new(),
            splits: HashMap::new(),
            sets: HashMap::new(),
        }
    }

    /// Puts or takes away an object, and says what may have changed by that.
    pub(crate) fn replace(&mut self, reference: &ObjectRef, object: Option<Object>) -> Vec<Dependency> {
        let before = match object {
            Some(object) if self.objects.get(reference) == Some(&object) => return Vec::new(),
            Some(object) => self.objects.insert(reference.clone(), object),
            None => self.objects.remove(reference),
        };
        let after = self.objects.get(reference).cloned();
        let mut changed = vec![Dependency::Object(reference.clone())];
        // Only who comes or goes: a listener that is merely changed disputes nothing else than before.
        let (had, has) = (
            self.wanted(reference, before.as_ref()),
            self.wanted(reference, after.as_ref()),
        );
        for slot in had.symmetric_difference(&has) {
            set(&mut self.slots, slot.clone(), reference, has.contains(slot));
            changed.push(Dependency::Slot(slot.clone()));
        }
        let (had, has) = (places(reference, before.as_ref()), places(reference, after.as_ref()));
        for place in had.symmetric_difference(&has) {
            set(&mut self.attaching, place.clone(), reference, has.contains(place));
            changed.push(Dependency::Attaching(place.clone()));
        }
        if let Some(before) = &before {
            self.index(reference, before, false, &mut changed);
        }
        if let Some(after) = &after {
            self.index(reference, after, true, &mut changed);
        }
        if before.is_none() && after.is_none() {
            Vec::new()
        } else {
            changed
        }
    }

    fn index(&mut self, reference: &ObjectRef, object: &Object, put: bool, changed: &mut Vec<Dependency>) {
        match object {
            Object::ReferenceGrant(_) => {
                set(&mut self.grants, reference.namespace.clone(), reference, put);
                changed.push(Dependency::Grants(reference.namespace.as_str().into()));
            }
            Object::EndpointSlice(slice) => {
                if let Some(service) = slice.metadata.labels.get("kubernetes.io/service-name") {
                    let service = ObjectRef::new(Kind::Service, &reference.namespace, service);
                    set(&mut self.slices, service.clone(), reference, put);
                    changed.push(Dependency::Slices(service));
                }
            }
            Object::TrafficSplit(split) => {
                if let Some(service) = smi::split::root(split) {
                    set(&mut self.splits, service.clone(), reference, put);
                    changed.push(Dependency::Splits(service));
                }
            }
            Object::ListenerSet(listeners) => {
                let parent = &listeners.spec.parent_ref;
                if parent.group == GATEWAY_GROUP && parent.kind == Kind::Gateway.name() {
                    let gateway = gateway_of(listeners, reference);
                    set(&mut self.sets, gateway.clone(), reference, put);
                    changed.push(Dependency::Sets(gateway));
                }
            }
            // Whoever attaches one of these routes has the policies for it look again.
            Object::AuthorizationPolicy(policy) => {
                for route in authorization::routes(policy) {
                    set(&mut self.policies, route, reference, put);
                }
            }
            other => {
                let Some(policy) = policy::of(other) else { return };
                for target in policy
                    .targets()
                    .iter()
                    .filter_map(|target| policy::target(policy, target))
                {
                    set(&mut self.policies, target.clone(), reference, put);
                    changed.push(Dependency::Policies(target));
                }
            }
        }
    }

    /// The places on ports that the listeners of an object want.
    fn wanted(&self, reference: &ObjectRef, object: Option<&Object>) -> HashSet<Arc<Slot>> {
        let (gateway, listeners): (_, &[ListenerSpec]) = match object {
            Some(Object::Gateway(gateway)) => (reference.clone(), &gateway.spec.listeners),
            Some(Object::ListenerSet(set)) => (gateway_of(set, reference), &set.spec.listeners),
            _ => return HashSet::new(),
        };
        let scope = (!self.shared_ports).then_some(gateway);
        let slots = listeners.iter().flat_map(|spec| {
            [None, Some(listener::hostname(spec).to_owned())].map(|hostname| {
                Arc::new(Slot {
                    scope: scope.clone(),
                    port: spec.port,
                    protocol: spec.protocol.clone(),
                    hostname,
                })
            })
        });
        slots.collect()
    }

    /// How many entries there are, indexes included.
    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        let of_owners = self.slots.len() + self.policies.len() + self.attaching.len() + self.splits.len();
        self.objects.len() + self.grants.len() + self.slices.len() + self.sets.len() + of_owners
    }

    /// The policies that name an object as their target.
    pub(crate) fn policies(&self, target: &ObjectRef) -> impl Iterator<Item = &ObjectRef> {
        self.policies.get(target).into_iter().flatten()
    }

    pub(crate) fn references(&self) -> impl Iterator<Item = &ObjectRef> {
        self.objects.keys()
    }

    pub(crate) fn get(&self, reference: &ObjectRef) -> Option<&Object> {
        self.objects.get(reference)
    }
}

/// The Gateway to which a ListenerSet would add.
fn gateway_of(set: &ListenerSet, reference: &ObjectRef) -> ObjectRef {
    let parent = &set.spec.parent_ref;
    let namespace = parent.namespace.as_deref().unwrap_or(&reference.namespace);
    ObjectRef::new(Kind::Gateway, namespace, &parent.name)
}

/// The places that a route wants among those that attach to Services.
fn places(reference: &ObjectRef, object: Option<&Object>) -> HashSet<Arc<Place>> {
    let parents: &[ParentReference] = match object {
        Some(Object::HttpRoute(route)) => &route.spec.parent_refs,
        Some(Object::GrpcRoute(route)) => &route.spec.parent_refs,
        Some(Object::TlsRoute(route)) => &route.spec.parent_refs,
        Some(Object::TcpRoute(route)) => &route.spec.parent_refs,
        _ => return HashSet::new(),
    };
    let places = parents.iter().filter_map(|parent| mesh::place(reference, parent));
    places.map(Arc::new).collect()
}

/// Reads the world and what was derived from it, and notes everything read.
pub(crate) struct Reader<'w> {
    pub(crate) options: &'w Options,
    world: &'w World,
    listeners: &'w BTreeMap<ObjectRef, Arc<Listeners>>,
    read: RefCell<HashSet<Dependency>>,
}

macro_rules! getters {
    ($($name:ident: $kind:ident -> $type:ty;)*) => {
        $(pub(crate) fn $name(&self, namespace: &str, name: &str) -> Option<&'w Arc<$type>> {
            match self.object(ObjectRef::new(Kind::$kind, namespace, name))? {
                Object::$kind(object) => Some(object),
                _ => None,
            }
        })*
    };
}

impl<'w> Reader<'w> {
    pub(crate) fn new(
        options: &'w Options,
        world: &'w World,
        listeners: &'w BTreeMap<ObjectRef, Arc<Listeners>>,
    ) -> Self {
        Self {
            options,
            world,
            listeners,
            read: RefCell::default(),
        }
    }

    /// What was read.
    pub(crate) fn into_read(self) -> HashSet<Dependency> {
        self.read.into_inner()
    }

    fn note(&self, dependency: Dependency) {
        self.read.borrow_mut().insert(dependency);
    }

    pub(crate) fn object(&self, reference: ObjectRef) -> Option<&'w Object> {
        let object = self.world.get(&reference);
        self.note(Dependency::Object(reference));
        object
    }

    getters! {
        gateway: Gateway -> Gateway;
        gateway_class: GatewayClass -> GatewayClass;
        http_route: HttpRoute -> HttpRoute;
        grpc_route: GrpcRoute -> GrpcRoute;
        tls_route: TlsRoute -> TlsRoute;
        tcp_route: TcpRoute -> TcpRoute;
        udp_route: UdpRoute -> UdpRoute;
        namespace: Namespace -> Namespace;
        node: Node -> Node;
        service: Service -> Service;
        secret: Secret -> Secret;
        xbackend: XBackend -> XBackend;
        xmesh: XMesh -> XMesh;
        traffic_policy: XBackendTrafficPolicy -> XBackendTrafficPolicy;
        gateway_parameters: GatewayParameters -> GatewayParameters;
        acme_issuer: AcmeIssuer -> AcmeIssuer;
        config_map: ConfigMap -> ConfigMap;
        backend_tls_policy: BackendTlsPolicy -> BackendTlsPolicy;
        traffic_target: TrafficTarget -> TrafficTarget;
        identity_binding: IdentityBinding -> IdentityBinding;
        http_route_group: HttpRouteGroup -> HttpRouteGroup;
        smi_tcp_route: SmiTcpRoute -> SmiTcpRoute;
        smi_udp_route: SmiUdpRoute -> SmiUdpRoute;
        traffic_split: TrafficSplit -> TrafficSplit;
        authorization_policy: AuthorizationPolicy -> AuthorizationPolicy;
    }

    /// The labels of a namespace. It has the one that the API server gives every namespace, even if no object says so.
    pub(crate) fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        let mut labels = self
            .namespace("", name)
            .map(|ns| ns.metadata.labels.clone())
            .unwrap_or_default();
        labels
            .entry("kubernetes.io/metadata.name".into())
            .or_insert_with(|| name.to_owned());
        labels
    }

    /// Whether an object may refer to one in another namespace.
    pub(crate) fn permits(&self, from: (Kind, &str), to: (&str, &str, &str, &str)) -> bool {
        let (to_group, to_kind, to_namespace, to_name) = to;
        let (from_kind, from_namespace) = from;
        if from_namespace == to_namespace {
            return true;
        }
        self.note(Dependency::Grants(to_namespace.into()));
        let grants = self.world.grants.get(to_namespace).into_iter().flatten();
        grants.filter_map(|reference| self.world.get(reference)).any(|object| {
            let Object::ReferenceGrant(grant) = object else {
                return false;
            };
            let grant: &ReferenceGrant = grant;
            grant.spec.from.iter().any(|from| {
                from.group == from_kind.group() && from.kind == from_kind.name() && from.namespace == from_namespace
            }) && grant.spec.to.iter().any(|to| {
                to.group == to_group && to.kind == to_kind && to.name.as_ref().is_none_or(|name| name == to_name)
            })
        })
    }

    /// The slices of a Service, in the order of their names.
    pub(crate) fn slices(&self, namespace: &str, service: &str) -> Vec<&'w Arc<EndpointSlice>> {
        let service = ObjectRef::new(Kind::Service, namespace, service);
        let members = self.world.slices.get(&service).into_iter().flatten();
        self.note(Dependency::Slices(service));
        members
            .filter_map(|reference| match self.world.get(reference) {
                Some(Object::EndpointSlice(slice)) => Some(slice),
                _ => None,
            })
            .collect()
    }

    /// The Gateways and ListenerSets that want a place on a port, in no order.
    pub(crate) fn wanting(&self, slot: Slot) -> Vec<&'w ObjectRef> {
        let members = self.world.slots.get(&slot).into_iter().flatten().collect();
        self.note(Dependency::Slot(slot.into()));
        members
    }

    /// The routes that want a place, in the order of their names.
    pub(crate) fn attaching(&self, place: Place) -> Vec<&'w ObjectRef> {
        let members = self.world.attaching.get(&place).into_iter().flatten().collect();
        self.note(Dependency::Attaching(place.into()));
        members
    }

    /// The TrafficSplits of a Service, in the order of their names.
    pub(crate) fn splits(&self, service: &ObjectRef) -> Vec<&'w ObjectRef> {
        self.note(Dependency::Splits(service.clone()));
        self.world.splits.get(service).into_iter().flatten().collect()
    }

    /// The ListenerSets that would add to a Gateway, in the order of their names.
    pub(crate) fn sets(&self, gateway: &ObjectRef) -> Vec<&'w ObjectRef> {
        self.note(Dependency::Sets(gateway.clone()));
        self.world.sets.get(gateway).into_iter().flatten().collect()
    }

    /// The policies of a kind that name an object as their target, in no order.
    pub(crate) fn policies(&self, kind: Kind, target: &ObjectRef) -> Vec<(&'w ObjectRef, &'w dyn Policy)> {
        self.note(Dependency::Policies(target.clone()));
        let members = self.world.policies(target).filter(|reference| reference.kind == kind);
        members
            .filter_map(|reference| Some((reference, policy::of(self.world.get(reference)?)?)))
            .collect()
    }

    /// The listeners that a route's parent has come to have; none if it is not ours or not there.
    pub(crate) fn listeners(&self, parent: &ParentReference, namespace: &str) -> Option<&'w Arc<Listeners>> {
        let namespace = parent.namespace.as_deref().unwrap_or(namespace);
        let reference = ObjectRef::new(parent.listener_owner()?, namespace, &parent.name);
        let listeners = self.listeners.get(&reference);
        self.note(Dependency::Listeners(reference));
        listeners
    }
}
