//! What is known of the cluster: what watches tell goes through the translation to data planes, and what is to be looked
//! at for its sake (statuses, the pods of Gateways) comes out.
//!
//! Nothing is translated before everything has been listed once: half of the cluster is not a cluster with half of the
//! objects.

mod lists;
mod mesh;
mod others;
mod published;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
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
    infrastructure::render::Transport,
    injection::Meshed,
    metrics::Metrics,
    object::{Seen, has_status},
    watch::{News, Watched},
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

    /// Takes over what watches tell.
    pub(crate) fn take(&mut self, news: impl IntoIterator<Item = (Watched, News)>) -> Effects {
        let mut effects = Effects::default();
        let mut edits = Vec::new();
        let began = std::time::Instant::now();
        for (watched, news) in news {
            self.one(watched, news, &mut edits, &mut effects);
        }
        if !self.is_complete() {
            self.held.append(&mut edits);
            return Effects::default();
        }
        let held = std::mem::take(&mut self.held);
        let first = self.published.epoch == 0;
        let edits: Vec<Edit> = held.into_iter().chain(edits).collect();
        if !edits.is_empty() || first {
            self.translate(edits, &mut effects);
            self.metrics.translation.observe(began.elapsed().as_secs_f64());
        }
        if first {
            effects.namespaces = self.all_meshed();
            effects.complete = true;
        }
        effects
    }

    fn one(&mut self, watched: Watched, news: News, edits: &mut Vec<Edit>, effects: &mut Effects) {
        match news {
            News::Begin(resource) => {
                if let (Watched::Kind(kind), Some(resource)) = (watched, resource) {
                    self.resources.insert(kind, resource);
                }
                self.lists.begin(watched);
            }
            News::Put(seen, object) => {
                self.lists.add(watched, &seen.reference.namespace, &seen.reference.name);
                self.touch(&seen.reference, effects);
                if has_status(seen.reference.kind) {
                    effects.statuses.insert(seen.reference.clone());
                    let stale = self.seen.get(&seen.reference).is_some_and(|known| {
                        // The same name may have become another object, whose versions are later ones anyway.
                        known.uid == seen.uid && known.is_newer_than(&seen)
                    });
                    if !stale {
                        self.seen.insert(seen.reference.clone(), *seen);
                    }
                }
                self.notice(&object.reference(), Some(&object), effects);
                edits.push(Edit::Put(object));
            }
            News::Unreadable(reference) => self.lists.add(watched, &reference.namespace, &reference.name),
            News::Delete(reference) => self.gone(reference, edits, effects),
            News::PutChild(child) => {
                self.lists.add(watched, &child.namespace, &child.name);
                self.put_child(*child, effects);
            }
            News::DeleteChild(namespace, name) => {
                if let Watched::Child(kind) = watched
                    && let Some(child) = self.children.remove(&(kind, namespace, name))
                {
                    effects.namespaces.extend(meshed_by(&child));
                    effects.gateways.extend(owner(&child));
                    effects.statuses.extend(owner(&child));
                }
            }
            News::Complete => self.complete(watched, edits, effects),
        }
    }

    /// What has not come since the list began is gone.
    fn complete(&mut self, watched: Watched, edits: &mut Vec<Edit>, effects: &mut Effects) {
        let listed = self.lists.complete(watched);
        match watched {
            Watched::Kind(kind) => {
                let waiting = self.held.iter().chain(edits.iter()).filter_map(|edit| match edit {
                    Edit::Put(object) => Some(object.reference()),
                    Edit::Delete(_) => None,
                });
                let known = self.translator.references(kind).cloned().chain(waiting);
                let gone: BTreeSet<ObjectRef> = known
                    .filter(|known| known.kind == kind)
                    .filter(|known| !listed.contains(&(known.namespace.clone(), known.name.clone())))
                    .collect();
                for reference in gone {
                    self.gone(reference, edits, effects);
                }
            }
            Watched::Child(kind) => {
                let gone = self.children.extract_if(.., |(of, namespace, name), _| {
                    *of == kind && !listed.contains(&(namespace.clone(), name.clone()))
                });
                for (_, child) in gone {
                    effects.namespaces.extend(meshed_by(&child));
                    effects.gateways.extend(owner(&child));
                }
            }
        }
    }

    fn gone(&mut self, reference: ObjectRef, edits: &mut Vec<Edit>, effects: &mut Effects) {
        self.seen.remove(&reference);
        self.notice(&reference, None, effects);
        self.touch(&reference, effects);
        edits.push(Edit::Delete(reference));
    }

    /// Looks whether an object is one by which the operator itself goes.
    fn notice(&mut self, reference: &ObjectRef, object: Option<&Object>, effects: &mut Effects) {
        self.others.notice(reference, object);
        if self.mesh.notice(reference, object) {
            effects.namespaces.insert(reference.name.clone());
        }
    }

    /// Says which Gateways an object has to do with, for what is made for them.
    fn touch(&self, reference: &ObjectRef, effects: &mut Effects) {
        match reference.kind {
            Kind::Gateway => {
                effects.gateways.insert(reference.clone());
            }
            Kind::Secret => {
                let secret = format!("{}/{}", reference.namespace, reference.name);
                effects.secrets.insert(secret);
            }
            // Few, and seldom changed: which Gateways name them is not worth remembering.
            Kind::GatewayClass | Kind::GatewayParameters => effects.gateways.append(&mut self.all_gateways()),
            _ => {}
        }
    }

    /// Takes over what something made for a Gateway is.
    pub(crate) fn put_child(&mut self, child: Child, effects: &mut Effects) {
        let owner = owner(&child);
        let before = self.children.insert(child.key(), child.clone());
        if before.as_ref() != Some(&child) {
            effects.namespaces.extend(meshed_by(&child));
            effects.gateways.extend(owner.clone());
            effects.statuses.extend(owner);
        }
    }

    fn translate(&mut self, edits: Vec<Edit>, effects: &mut Effects) {
        let output = self.translator.apply(edits);
        let mut touched = BTreeSet::new();
        for change in &output.changes {
            let gateway = self.published.take(change);
            touched.extend(gateway.as_ref().and_then(reference));
        }
        self.metrics.changes.inc_by(output.changes.len() as u64);
        if !output.changes.is_empty() || self.published.epoch == 0 {
            self.published.epoch = self.publisher.publish(output.changes);
        }
        if let Some(mesh) = self.mesh.take_changed() {
            self.publisher.set_mesh(mesh);
        }
        effects.acme |= output.acme;
        effects.wrong.extend(wrong(output.diagnostics));
        let changed = output.statuses.into_iter().map(|(reference, _)| reference);
        for reference in changed.chain(output.cleared) {
            if reference.kind == Kind::Gateway {
                touched.insert(reference.clone());
            }
            effects.statuses.insert(reference);
        }
        for gateway in touched {
            if self.translator.get(&gateway).is_some() {
                self.published.touch(gateway.clone());
            } else {
                self.published.forget(&gateway);
            }
            effects.gateways.insert(gateway);
        }
        self.metrics
            .resources
            .set(i64::try_from(self.translator.size()).unwrap_or(i64::MAX));
    }
}

/// What is said by Events, since there is no status to say it in.
fn is_to_be_said(reference: &ObjectRef, diagnostic: &Diagnostic) -> bool {
    reference.kind.is_smi() && diagnostic.level != Level::Info
}

fn wrong(lists: Vec<(ObjectRef, Arc<[Diagnostic]>)>) -> Vec<(ObjectRef, Diagnostic)> {
    let all = lists.into_iter().flat_map(|(reference, list)| {
        let list: Vec<Diagnostic> = list.to_vec();
        list.into_iter().map(move |diagnostic| (reference.clone(), diagnostic))
    });
    all.filter(|(reference, diagnostic)| is_to_be_said(reference, diagnostic))
        .collect()
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
