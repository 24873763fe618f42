//! What is known of the cluster: what watches tell goes through the translation to data planes, and what is to be looked
//! at for its sake (statuses, the pods of Gateways) comes out.
//!
//! Nothing is translated before everything has been listed once: half of the cluster is not a cluster with half of the
//! objects.

mod lists;
mod mesh;
mod others;
mod published;
mod take;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use kube::api::ApiResource;
use tokio::sync::watch;
use weft_crds::{Kind, Object, ObjectRef};
use weft_discovery::{Epoch, Publisher};
use weft_injection::ROOTS;
use weft_model::{Challenge, ChallengeKey, GatewayKey, Key, Resource};
use weft_translate::{Diagnostic, Edit, Level, Options, Translator};

pub(crate) use self::others::Myself;
use self::{lists::Lists, mesh::Mesh, others::Others, published::Published};
use crate::{
    children::{Child, ChildKey, ChildKind, Children},
    guards::Guards,
    infrastructure::input::Transport,
    injection::Meshed,
    metrics::Metrics,
    object::Seen,
};

/// What is to be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Objects whose status may not be what it should.
    pub(crate) statuses: BTreeSet<ObjectRef>,
    /// Gateways for which not everything may be made.
    pub(crate) gateways: BTreeSet<ObjectRef>,
    /// Namespaces that have come into the mesh, or left it, or in which what it needs has changed.
    pub(crate) namespaces: BTreeSet<String>,
    /// Secrets that are new, other or gone, by `namespace/name`.
    pub(crate) secrets: BTreeSet<String>,
    /// What is wrong with objects that have no status to say it in.
    pub(crate) wrong: Vec<(ObjectRef, Diagnostic)>,
    /// Whether other certificates than before are to be had by ACME.
    pub(crate) acme: bool,
    /// Whether this was the first time that everything was known.
    pub(crate) complete: bool,
}

/// Everything that is known.
pub(crate) struct World {
    pub(crate) translator: Translator,
    publisher: Publisher,
    metrics: Metrics,
    /// What is known of objects with a status beside what is translated.
    seen: BTreeMap<ObjectRef, Seen>,
    pub(crate) children: Children,
    /// How kinds are served.
    resources: HashMap<Kind, ApiResource>,
    lists: Lists,
    /// What is to be translated once all of them are complete.
    held: Vec<Edit>,
    mesh: Mesh,
    others: Others,
    published: Published,
    /// Policies for Gateways.
    pub(crate) guards: Guards,
}

impl World {
    pub(crate) fn new(controller_name: &str, myself: Myself, publisher: Publisher, metrics: Metrics) -> Self {
        Self {
            translator: Translator::new(Options {
                controller_name: controller_name.to_owned(),
                standalone: false,
                mesh: true,
            }),
            publisher,
            metrics,
            seen: BTreeMap::new(),
            children: Children::new(),
            resources: HashMap::new(),
            lists: Lists::new(),
            held: Vec::new(),
            mesh: Mesh::new(),
            others: Others::new(myself),
            published: Published::default(),
            guards: Guards::default(),
        }
    }

    /// Whether everything has been listed once.
    pub(crate) fn is_complete(&self) -> bool {
        self.lists.are_complete()
    }

    /// What is known of an object beside what is translated.
    pub(crate) fn seen(&self, reference: &ObjectRef) -> Option<&Seen> {
        self.seen.get(reference)
    }

    /// Every object that can have a status.
    pub(crate) fn all_seen(&self) -> impl Iterator<Item = &ObjectRef> {
        self.seen.keys()
    }

    /// What is wrong with all objects that have no status to say it in.
    pub(crate) fn all_wrong(&self) -> Vec<(ObjectRef, Diagnostic)> {
        let found = self.translator.diagnostics();
        let found = found.filter(|(reference, diagnostic)| is_to_be_said(reference, diagnostic));
        found
            .map(|(reference, diagnostic)| (reference.clone(), diagnostic.clone()))
            .collect()
    }

    /// Every ListenerSet.
    pub(crate) fn all_listener_sets(&self) -> impl Iterator<Item = &ObjectRef> {
        let sets = self.seen.range(ObjectRef::new(Kind::ListenerSet, "", "")..);
        sets.map(|(reference, _)| reference)
            .take_while(|reference| reference.kind == Kind::ListenerSet)
    }

    /// Every Gateway, and what something was made for though it is none.
    pub(crate) fn all_gateways(&self) -> BTreeSet<ObjectRef> {
        let there = self.translator.references(Kind::Gateway).cloned();
        there.chain(self.children.values().filter_map(owner)).collect()
    }

    /// The namespaces in the mesh, as they are told.
    pub(crate) fn meshed(&self) -> watch::Receiver<Meshed> {
        self.mesh.meshed()
    }

    /// Whether a namespace is in the mesh.
    pub(crate) fn is_meshed(&self, namespace: &str) -> bool {
        self.mesh.is_meshed(namespace)
    }

    /// Every namespace that is in the mesh, or still has what it needed there.
    pub(crate) fn all_meshed(&self) -> BTreeSet<String> {
        let roots = self.children.keys().filter(|key| is_roots(key));
        let roots = roots.map(|(_, namespace, _)| namespace.clone());
        roots.chain(self.mesh.all_meshed()).collect()
    }

    /// How a kind is served.
    pub(crate) fn resource(&self, kind: Kind) -> Option<&ApiResource> {
        self.resources.get(&kind)
    }

    /// Where the other replicas of the operator are.
    pub(crate) fn others(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.others.addresses()
    }

    /// The last epoch that was published.
    pub(crate) fn epoch(&self) -> Epoch {
        self.published.epoch
    }

    /// The last epoch that had to do with a Gateway.
    pub(crate) fn epoch_of(&self, gateway: &ObjectRef) -> Epoch {
        self.published.epoch_of(gateway)
    }

    /// What CAs ask, as data planes have been told.
    pub(crate) fn challenge(&self, key: &ChallengeKey) -> Option<&Challenge> {
        match self.translator.resource(&Key::Challenge(key.clone()))? {
            Resource::Challenge(challenge) => Some(challenge),
            _ => None,
        }
    }

    /// What CAs ask by way of a Gateway, in the order of their keys.
    pub(crate) fn challenges_of(&self, gateway: &GatewayKey) -> Vec<&Challenge> {
        let keys = self.published.challenges_of(gateway);
        let mut found: Vec<&Challenge> = keys.filter_map(|key| self.challenge(key)).collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    /// The ports on which a Gateway is served, those of its own listeners and others'.
    pub(crate) fn ports(&self, gateway: &ObjectRef) -> BTreeSet<(u16, Transport)> {
        let key = GatewayKey::from(format!("{}/{}", gateway.namespace, gateway.name));
        self.published.ports(&key)
    }

    /// Takes over what an object has come to be by what was written; what a watch tells of older versions is ignored.
    pub(crate) fn written(&mut self, seen: Seen) {
        if self
            .seen
            .get(&seen.reference)
            .is_some_and(|known| !known.is_newer_than(&seen))
        {
            self.seen.insert(seen.reference.clone(), seen);
        }
    }
}

/// What is said by Events, since there is no status to say it in.
fn is_to_be_said(reference: &ObjectRef, diagnostic: &Diagnostic) -> bool {
    reference.kind.is_smi() && diagnostic.level != Level::Info
}

/// The Gateway that something was made for.
fn owner(child: &Child) -> Option<ObjectRef> {
    let name = child.gateway.as_deref()?;
    Some(ObjectRef::new(Kind::Gateway, &child.namespace, name))
}

/// Whether something is what sidecars of its namespace need,
fn is_roots((kind, _, name): &ChildKey) -> bool {
    *kind == ChildKind::ConfigMap && name == ROOTS
}

/// and of which namespace.
fn meshed_by(child: &Child) -> Option<String> {
    is_roots(&child.key()).then(|| child.namespace.clone())
}

/// The Gateway with that key.
pub(crate) fn reference(key: &GatewayKey) -> Option<ObjectRef> {
    let (namespace, name) = key.as_str().split_once('/')?;
    Some(ObjectRef::new(Kind::Gateway, namespace, name))
}

/// A Gateway that was put.
pub(crate) fn gateway<'a>(translator: &'a Translator, reference: &ObjectRef) -> Option<&'a weft_crds::Gateway> {
    match translator.get(reference)? {
        Object::Gateway(gateway) => Some(gateway),
        _ => None,
    }
}
