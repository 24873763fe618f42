//! GatewayClasses and meshes, Gateways and ListenerSets: their listeners, and how they stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weft_crds::{GatewayClassStatus, Kind, ObjectRef};
use weft_model::{Key, ListenerKey, Resource};

use super::{Translator, node::Node, outcome::Run};
use crate::{
    acme, features, mesh,
    owner::{self, Listeners},
    parameters,
    status::{Status, condition},
    world::Dependency,
};

impl Translator {
    pub(super) fn class(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let status = self.read(node, |reader| {
            if reference.kind == Kind::XMesh {
                return mesh::stand(reader, &reference.name).map(Status::XMesh);
            }
            let class = reader.gateway_class("", &reference.name)?;
            (class.spec.controller_name == reader.options.controller_name).then(|| {
                let generation = class.metadata.generation();
                let reference = class.spec.parameters_ref.as_ref();
                let accepted = match reference.and_then(|reference| parameters::problem(reader, reference, None)) {
                    None => condition("Accepted", true, "Accepted", "The class is served", generation),
                    Some(message) => condition("Accepted", false, "InvalidParameters", message, generation),
                };
                Status::GatewayClass(GatewayClassStatus {
                    conditions: vec![accepted],
                    supported_features: features::of_gateways(),
                })
            })
        });
        self.outcome.set_status(run, reference, status);
    }

    pub(super) fn listeners(&mut self, run: &mut Run, node: &Node, reference: &ObjectRef) {
        let derived = self.read(node, |reader| owner::derive(reader, reference));
        let listeners = derived.listeners.map(Arc::new);
        self.outcome.set_diagnostics(run, reference, derived.diagnostics);
        let before = match &listeners {
            Some(listeners) => self.owners.insert(reference.clone(), listeners.clone()),
            None => self.owners.remove(reference),
        };
        run.dirty.insert(Node::OwnerStatus(reference.clone()));
        if before == listeners {
            return;
        }
        let parts = |listeners: &Option<Arc<Listeners>>| -> Vec<acme::Part> {
            let listeners = listeners.iter().flat_map(|listeners| listeners.acme());
            listeners.cloned().collect()
        };
        run.acme |= parts(&before) != parts(&listeners);
        if reference.kind == Kind::ListenerSet {
            self.attach_set(run, reference, before.as_deref(), listeners.as_deref());
        }
        let resources = |listeners: &Listeners| -> BTreeMap<Key, Resource> {
            let served = listeners
                .listeners
                .iter()
                .filter_map(|listener| listener.model.clone())
                .map(Resource::Listener);
            served.map(|resource| (resource.key(), resource)).collect()
        };
        let (old, new) = (before.as_deref().map(&resources), listeners.as_deref().map(&resources));
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        for key in old.keys().filter(|key| !new.contains_key(key)) {
            self.outcome.set_resource(run, key.clone(), None);
        }
        for (key, resource) in new {
            self.outcome.set_resource(run, key, Some(resource));
        }
        let needed = |listeners: &Option<Arc<Listeners>>| -> Vec<Resource> {
            let listeners = listeners.iter();
            listeners.flat_map(|listeners| listeners.resources.clone()).collect()
        };
        self.outcome.share(run, &needed(&before), needed(&listeners));
        self.touch(run, &Dependency::Listeners(reference.clone()));
    }

    /// Counts a ListenerSet for its Gateway, if it is accepted.
    fn attach_set(
        &mut self,
        run: &mut Run,
        reference: &ObjectRef,
        before: Option<&Listeners>,
        after: Option<&Listeners>,
    ) {
        let gateway = |listeners: Option<&Listeners>| {
            let accepted = listeners.filter(|listeners| listeners.is_accepted_set());
            accepted.map(|listeners| listeners.gateway.clone())
        };
        let (before, after) = (gateway(before), gateway(after));
        if before == after {
            return;
        }
        if let Some(gateway) = before
            && let Some(sets) = self.sets.get_mut(&gateway)
        {
            sets.remove(reference);
            if sets.is_empty() {
                self.sets.remove(&gateway);
            }
            run.dirty.insert(Node::OwnerStatus(gateway));
        }
        if let Some(gateway) = after {
            self.sets.entry(gateway.clone()).or_default().insert(reference.clone());
            run.dirty.insert(Node::OwnerStatus(gateway));
        }
    }

    pub(super) fn owner_status(&mut self, run: &mut Run, reference: &ObjectRef) {
        let attached = |listener: &ListenerKey| self.attached.get(listener).copied().unwrap_or(0);
        let status = self.owners.get(reference).map(|listeners| match reference.kind {
            Kind::ListenerSet => Status::ListenerSet(listeners.set_status(attached)),
            _ => {
                let sets = self.sets.get(reference).map_or(0, BTreeSet::len);
                Status::Gateway(listeners.gateway_status(attached, sets))
            }
        });
        self.outcome.set_status(run, reference, status);
    }
}
