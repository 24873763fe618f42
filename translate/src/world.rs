//! The objects there are, and the recorder through which derivations read them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use weft_crds::{
    EndpointSlice, Gateway, GatewayClass, GatewayParameters, GrpcRoute, HttpRoute, Kind, Namespace, Object, ObjectRef,
    ParentReference, ReferenceGrant, Secret, Service, XBackendTrafficPolicy,
};

use crate::{
    listener::GatewayListeners,
    policy::{self, Policy},
    translator::Options,
};

/// Something a derivation can depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Dependency {
    /// One object, there or not.
    Object(ObjectRef),
    /// The grants of a namespace.
    Grants(String),
    /// The slices of a Service, by namespace and name.
    Slices(String, String),
    /// What listeners a Gateway has come to have.
    Listeners(ObjectRef),
    /// Which Gateways want a port (standalone: they share it).
    Port(u16),
    /// Which policies name an object as their target.
    Policies(ObjectRef),
}

/// All objects, with the indexes that derivations need.
#[derive(Default)]
pub(crate) struct World {
    objects: HashMap<ObjectRef, Object>,
    grants: HashMap<String, BTreeSet<ObjectRef>>,
    slices: HashMap<(String, String), BTreeSet<ObjectRef>>,
    ports: HashMap<u16, BTreeSet<ObjectRef>>,
    policies: HashMap<ObjectRef, BTreeSet<ObjectRef>>,
}

impl World {
    /// Puts or takes away an object, and says what may have changed by that.
    pub(crate) fn replace(&mut self, reference: &ObjectRef, object: Option<Object>) -> Vec<Dependency> {
        let before = match object {
            Some(object) if self.objects.get(reference) == Some(&object) => return Vec::new(),
            Some(object) => self.objects.insert(reference.clone(), object),
            None => self.objects.remove(reference),
        };
        let after = self.objects.get(reference).cloned();
        let mut changed = vec![Dependency::Object(reference.clone())];
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
        fn set<K: std::hash::Hash + Eq>(
            index: &mut HashMap<K, BTreeSet<ObjectRef>>,
            key: K,
            of: &ObjectRef,
            put: bool,
        ) {
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
        match object {
            Object::ReferenceGrant(_) => {
                set(&mut self.grants, reference.namespace.clone(), reference, put);
                changed.push(Dependency::Grants(reference.namespace.clone()));
            }
            Object::EndpointSlice(slice) => {
                if let Some(service) = slice.metadata.labels.get("kubernetes.io/service-name") {
                    let key = (reference.namespace.clone(), service.clone());
                    set(&mut self.slices, key.clone(), reference, put);
                    changed.push(Dependency::Slices(key.0, key.1));
                }
            }
            Object::Gateway(gateway) => {
                let ports: HashSet<u16> = gateway.spec.listeners.iter().map(|listener| listener.port).collect();
                for port in ports {
                    set(&mut self.ports, port, reference, put);
                    changed.push(Dependency::Port(port));
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

    /// How many entries there are, indexes included.
    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        self.objects.len() + self.grants.len() + self.slices.len() + self.ports.len() + self.policies.len()
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

/// Reads the world and what was derived from it, and notes everything read.
pub(crate) struct Reader<'w> {
    pub(crate) options: &'w Options,
    world: &'w World,
    listeners: &'w BTreeMap<ObjectRef, Arc<GatewayListeners>>,
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
        listeners: &'w BTreeMap<ObjectRef, Arc<GatewayListeners>>,
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
        namespace: Namespace -> Namespace;
        service: Service -> Service;
        secret: Secret -> Secret;
        traffic_policy: XBackendTrafficPolicy -> XBackendTrafficPolicy;
        gateway_parameters: GatewayParameters -> GatewayParameters;
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
        self.note(Dependency::Grants(to_namespace.to_owned()));
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
        let key = (namespace.to_owned(), service.to_owned());
        self.note(Dependency::Slices(key.0.clone(), key.1.clone()));
        let members = self.world.slices.get(&key).into_iter().flatten();
        members
            .filter_map(|reference| match self.world.get(reference) {
                Some(Object::EndpointSlice(slice)) => Some(slice),
                _ => None,
            })
            .collect()
    }

    /// The policies of a kind that name an object as their target, in no order.
    pub(crate) fn policies(&self, kind: Kind, target: &ObjectRef) -> Vec<(&'w ObjectRef, &'w dyn Policy)> {
        self.note(Dependency::Policies(target.clone()));
        let members = self.world.policies(target).filter(|reference| reference.kind == kind);
        members
            .filter_map(|reference| Some((reference, policy::of(self.world.get(reference)?)?)))
            .collect()
    }

    /// The Gateways that want a port, in the order in which they come before each other.
    pub(crate) fn gateways_on(&self, port: u16) -> Vec<&'w Arc<Gateway>> {
        self.note(Dependency::Port(port));
        let members = self.world.ports.get(&port).into_iter().flatten();
        let mut gateways: Vec<_> = members
            .filter_map(|reference| match self.world.get(reference) {
                Some(Object::Gateway(gateway)) => Some(gateway),
                _ => None,
            })
            .collect();
        gateways.sort_by_key(|gateway| {
            let metadata = &gateway.metadata;
            (
                metadata.created(),
                metadata.namespace().to_owned(),
                metadata.name.clone(),
            )
        });
        gateways
    }

    /// The listeners that a route's parent has come to have; none if it is not ours or not there.
    pub(crate) fn listeners(&self, parent: &ParentReference, namespace: &str) -> Option<&'w Arc<GatewayListeners>> {
        let namespace = parent.namespace.as_deref().unwrap_or(namespace);
        let reference = ObjectRef::new(Kind::Gateway, namespace, &parent.name);
        let listeners = self.listeners.get(&reference);
        self.note(Dependency::Listeners(reference));
        listeners
    }
}
