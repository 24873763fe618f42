//! What is known of the cluster: what watches tell goes through the translation to data planes, and what is to be looked
//! at for its sake (statuses, the pods of Gateways) comes out.
//!
//! Nothing is translated before everything has been listed once: half of the cluster is not a cluster with half of the
//! objects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use kube::api::ApiResource;
use tokio::sync::watch;
use weft_crds::{EndpointSlice, Kind, Object, ObjectRef, Stage};
use weft_discovery::{Epoch, Publisher};
use weft_injection::ROOTS;
use weft_model::{Challenge, ChallengeKey, Change, GatewayKey, Key, ListenerKey, Resource};
use weft_translate::{Diagnostic, Edit, Level, Options, Translator};

use crate::{
    children::{Child, ChildKey, ChildKind, Children},
    infrastructure::render::Transport,
    injection::{self, Meshed},
    metrics::Metrics,
    object::{Seen, has_status},
    peers,
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

/// Which replica of the operator this is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Myself {
    pub(crate) namespace: String,
    /// The Service in front of all replicas.
    pub(crate) service: String,
    /// Its pod's name.
    pub(crate) identity: String,
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
    /// What has come since a list began.
    listed: HashMap<Watched, HashSet<(String, String)>>,
    /// Those namespaces in the mesh that are not about to go: where pods get sidecars.
    meshed: watch::Sender<Meshed>,
    /// Watches whose first list is not complete.
    awaited: BTreeSet<Watched>,
    /// What is to be translated once all are.
    held: Vec<Edit>,
    /// Listeners that are published.
    listeners: HashMap<ListenerKey, (GatewayKey, u16, Transport)>,
    /// Challenges that are.
    challenges: HashMap<ChallengeKey, GatewayKey>,
    /// The slices of the operator's own Service,
    own: BTreeMap<String, Arc<EndpointSlice>>,
    /// who this replica is,
    myself: Myself,
    /// and where the others are by them.
    others: watch::Sender<BTreeSet<IpAddr>>,
    /// The namespaces in the mesh, and whether they are others than published.
    mesh: BTreeSet<String>,
    mesh_changed: bool,
    /// The last epoch that was published,
    epoch: Epoch,
    /// and the last that had to do with a Gateway.
    epochs: HashMap<ObjectRef, Epoch>,
}

impl World {
    pub(crate) fn new(controller_name: &str, myself: Myself, publisher: Publisher, metrics: Metrics) -> Self {
        let kinds = Kind::ALL.iter().copied().map(Watched::Kind);
        let children = ChildKind::ALL.iter().copied().map(Watched::Child);
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
            listed: HashMap::new(),
            meshed: watch::Sender::new(Meshed::new()),
            awaited: kinds.chain(children).collect(),
            held: Vec::new(),
            listeners: HashMap::new(),
            challenges: HashMap::new(),
            own: BTreeMap::new(),
            myself,
            others: watch::Sender::new(BTreeSet::new()),
            mesh: BTreeSet::new(),
            mesh_changed: false,
            epoch: 0,
            epochs: HashMap::new(),
        }
    }

    /// Whether everything has been listed once.
    pub(crate) fn is_complete(&self) -> bool {
        self.awaited.is_empty()
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
        self.meshed.subscribe()
    }

    /// Whether a namespace is in the mesh.
    pub(crate) fn is_meshed(&self, namespace: &str) -> bool {
        self.meshed.borrow().contains_key(namespace)
    }

    /// Every namespace that is in the mesh, or still has what it needed there.
    pub(crate) fn all_meshed(&self) -> BTreeSet<String> {
        let roots = self.children.keys().filter(|key| is_roots(key));
        let roots = roots.map(|(_, namespace, _)| namespace.clone());
        roots.chain(self.meshed.borrow().keys().cloned()).collect()
    }

    /// Looks whether a namespace has come into the mesh or left it, and whether pods there get sidecars.
    fn notice_namespace(&mut self, reference: &ObjectRef, object: Option<&Object>, effects: &mut Effects) {
        if reference.kind != Kind::Namespace {
            return;
        }
        let metadata = match object {
            Some(Object::Namespace(namespace)) => Some(&namespace.metadata),
            _ => None,
        };
        let takes_part = metadata.is_some_and(|metadata| matches!(Stage::of(&metadata.labels), Ok(Some(_))));
        self.mesh_changed |= if takes_part {
            self.mesh.insert(reference.name.clone())
        } else {
            self.mesh.remove(&reference.name)
        };
        let namespace = metadata.and_then(injection::meshed);
        let changed = self.meshed.send_if_modified(|meshed| match namespace {
            Some(namespace) if meshed.get(&reference.name).is_none_or(|known| **known != namespace) => {
                meshed.insert(reference.name.clone(), Arc::new(namespace));
                true
            }
            Some(_) => false,
            None => meshed.remove(&reference.name).is_some(),
        });
        if changed {
            effects.namespaces.insert(reference.name.clone());
        }
    }

    /// How a kind is served.
    pub(crate) fn resource(&self, kind: Kind) -> Option<&ApiResource> {
        self.resources.get(&kind)
    }

    /// Where the other replicas of the operator are.
    pub(crate) fn others(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.others.subscribe()
    }

    /// Looks whether an object is about the operator's own replicas.
    fn notice_others(&mut self, reference: &ObjectRef, object: Option<&Object>) {
        if reference.kind != Kind::EndpointSlice || reference.namespace != self.myself.namespace {
            return;
        }
        let known = match object {
            Some(Object::EndpointSlice(slice))
                if slice
                    .metadata
                    .labels
                    .get("kubernetes.io/service-name")
                    .is_some_and(|of| *of == self.myself.service) =>
            {
                self.own.insert(reference.name.clone(), slice.clone());
                true
            }
            _ => self.own.remove(&reference.name).is_some(),
        };
        if known {
            let others = peers::others(self.own.values().map(AsRef::as_ref), &self.myself.identity);
            self.others.send_if_modified(|known| {
                let changed = *known != others;
                *known = others;
                changed
            });
        }
    }

    /// The last epoch that was published.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last epoch that had to do with a Gateway.
    pub(crate) fn epoch_of(&self, gateway: &ObjectRef) -> Epoch {
        self.epochs.get(gateway).copied().unwrap_or_default()
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
        let of = self.challenges.iter().filter(|(_, of)| *of == gateway);
        let mut found: Vec<&Challenge> = of.filter_map(|(key, _)| self.challenge(key)).collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    /// The ports on which a Gateway is served, those of its own listeners and others'.
    pub(crate) fn ports(&self, gateway: &ObjectRef) -> BTreeSet<(u16, Transport)> {
        let key = GatewayKey::from(format!("{}/{}", gateway.namespace, gateway.name));
        let listeners = self.listeners.values().filter(|(owner, ..)| *owner == key);
        listeners.map(|(_, port, transport)| (*port, *transport)).collect()
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
        let first = self.epoch == 0;
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
                self.listed.insert(watched, HashSet::new());
            }
            News::Put(seen, object) => {
                self.list(watched, &seen.reference);
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
                self.notice_others(&object.reference(), Some(&object));
                self.notice_namespace(&object.reference(), Some(&object), effects);
                edits.push(Edit::Put(object));
            }
            News::Unreadable(reference) => self.list(watched, &reference),
            News::Delete(reference) => self.gone(reference, edits, effects),
            News::PutChild(child) => {
                let listed = self.listed.get_mut(&watched);
                if let Some(listed) = listed {
                    listed.insert((child.namespace.clone(), child.name.clone()));
                }
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

    fn list(&mut self, watched: Watched, reference: &ObjectRef) {
        if let Some(listed) = self.listed.get_mut(&watched) {
            listed.insert((reference.namespace.clone(), reference.name.clone()));
        }
    }

    /// What has not come since the list began is gone.
    fn complete(&mut self, watched: Watched, edits: &mut Vec<Edit>, effects: &mut Effects) {
        self.awaited.remove(&watched);
        let listed = self.listed.remove(&watched).unwrap_or_default();
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
        self.notice_others(&reference, None);
        self.notice_namespace(&reference, None, effects);
        self.touch(&reference, effects);
        edits.push(Edit::Delete(reference));
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
            let gateway = match change {
                Change::Upsert(Resource::Listener(listener)) => {
                    let published = (
                        listener.gateway.clone(),
                        listener.port,
                        Transport::of(listener.protocol),
                    );
                    self.listeners.insert(listener.key.clone(), published);
                    Some(listener.gateway.clone())
                }
                Change::Remove(Key::Listener(key)) => self.listeners.remove(key).map(|(gateway, ..)| gateway),
                Change::Upsert(Resource::Challenge(challenge)) => {
                    self.challenges.insert(challenge.key.clone(), challenge.gateway.clone());
                    Some(challenge.gateway.clone())
                }
                Change::Remove(Key::Challenge(key)) => self.challenges.remove(key),
                _ => None,
            };
            touched.extend(gateway.as_ref().and_then(reference));
        }
        self.metrics.changes.inc_by(output.changes.len() as u64);
        if !output.changes.is_empty() || self.epoch == 0 {
            self.epoch = self.publisher.publish(output.changes);
        }
        if std::mem::take(&mut self.mesh_changed) {
            self.publisher.set_mesh(self.mesh.clone());
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
                self.epochs.insert(gateway.clone(), self.epoch);
            } else {
                self.epochs.remove(&gateway);
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::object;

    fn world() -> World {
        World::new("ours", Myself::default(), Publisher::new(), Metrics::new())
    }

    fn put(kind: Kind, name: &str, more: Value) -> (Watched, News) {
        let mut value = json!({
            "apiVersion": "v1", "kind": kind.name(),
            "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1", "generation": 1},
        });
        if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
            value.extend(more);
        }
        let object = serde_json::from_value(value).expect("an object");
        let (seen, object) = object::read(kind, object).expect("readable");
        (Watched::Kind(kind), News::Put(Box::new(seen), object))
    }

    fn gateway(name: &str) -> (Watched, News) {
        let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
        put(
            Kind::Gateway,
            name,
            json!({"spec": {"gatewayClassName": "c", "listeners": listeners}}),
        )
    }

    fn class() -> (Watched, News) {
        put(Kind::GatewayClass, "c", json!({"spec": {"controllerName": "ours"}}))
    }

    fn all() -> Vec<Watched> {
        let kinds = Kind::ALL.iter().copied().map(Watched::Kind);
        kinds
            .chain(ChildKind::ALL.iter().copied().map(Watched::Child))
            .collect()
    }

    /// A world in which these were listed.
    fn listed(objects: Vec<(Watched, News)>) -> (World, Effects) {
        let mut world = world();
        let begin = all().into_iter().map(|watched| (watched, News::Begin(None)));
        let complete = all().into_iter().map(|watched| (watched, News::Complete));
        let effects = world.take(begin.chain(objects).chain(complete));
        (world, effects)
    }

    fn reference(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Gateway, "n", name)
    }

    #[test]
    fn nothing_is_translated_before_everything_was_listed() {
        let mut world = world();
        let watches = all();
        world.take(watches.iter().map(|watched| (*watched, News::Begin(None))));
        world.take([class(), gateway("edge")]);
        for watched in &watches[1..] {
            assert_eq!(world.take([(*watched, News::Complete)]), Effects::default());
            assert_eq!((world.epoch(), world.translator.size()), (0, 0));
        }
        let effects = world.take([(watches[0], News::Complete)]);
        assert!(effects.complete && effects.gateways.contains(&reference("edge")));
        assert_eq!((world.epoch(), world.translator.size()), (1, 1));
        assert_eq!(world.ports(&reference("edge")), BTreeSet::from([(80, Transport::Tcp)]));
    }

    #[test]
    fn a_namespace_is_in_the_mesh_for_as_long_as_it_has_a_stage() {
        let namespace = |name: &str, stage: &str| {
            let value = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "uid": name, "labels": {"weft.dev/mesh": stage}},
            });
            let object = serde_json::from_value(value).expect("an object");
            let (seen, object) = object::read(Kind::Namespace, object).expect("readable");
            (Watched::Kind(Kind::Namespace), News::Put(Box::new(seen), object))
        };
        let (mut world, _) = listed(vec![
            namespace("a", "observe"),
            namespace("b", "enabled"),
            namespace("c", "strict"),
        ]);
        let is = |world: &World, names: &[&str]| assert!(world.mesh.iter().eq(names), "{:?}", world.mesh);
        is(&world, &["a", "c"]);
        let gone = News::Delete(ObjectRef::new(Kind::Namespace, "", "c"));
        world.take([namespace("b", "secure"), (Watched::Kind(Kind::Namespace), gone)]);
        is(&world, &["a", "b"]);
        world.take([namespace("a", "")]);
        is(&world, &["b"]);
        assert!(!world.mesh_changed, "it was published");
    }

    #[test]
    fn that_datagrams_are_not_for_the_mesh_to_let_in_is_said_by_an_event() {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "uid": "n", "labels": {"weft.dev/mesh": "secure"}},
        });
        let object = serde_json::from_value(namespace).expect("an object");
        let (seen, object) = object::read(Kind::Namespace, object).expect("readable");
        let namespace = (Watched::Kind(Kind::Namespace), News::Put(Box::new(seen), object));
        let route = put(Kind::SmiUdpRoute, "dns", json!({"spec": {"matches": {"ports": [53]}}}));
        let target = json!({
            "destination": {"kind": "ServiceAccount", "name": "dns", "namespace": "n"},
            "sources": [{"kind": "ServiceAccount", "name": "web", "namespace": "n"}],
            "rules": [{"kind": "UDPRoute", "name": "dns"}],
        });
        let target = put(Kind::TrafficTarget, "t", json!({"spec": target}));
        let (world, effects) = listed(vec![namespace, route, target]);
        let [(of, said)] = &effects.wrong[..] else {
            panic!("{:?}", effects.wrong);
        };
        assert_eq!(
            (of.to_string().as_str(), said.code.as_str(), said.level),
            ("TrafficTarget n/t", "W0603", Level::Warning)
        );
        assert!(said.message.contains("carries no UDP"), "{}", said.message);
        assert_eq!(world.all_wrong(), effects.wrong, "who leads later says it too");
    }

    #[test]
    fn what_is_not_in_a_later_list_is_gone_and_what_cannot_be_read_stays() {
        let (mut world, _) = listed(vec![class(), gateway("a"), gateway("b"), gateway("c")]);
        assert_eq!(world.translator.size(), 3);
        let watched = Watched::Kind(Kind::Gateway);
        world.take([(watched, News::Begin(None)), gateway("a")]);
        assert_eq!(world.translator.size(), 3);
        world.take([(watched, News::Unreadable(reference("b"))), (watched, News::Complete)]);
        let left: BTreeSet<_> = world.translator.references(Kind::Gateway).cloned().collect();
        assert_eq!(left, BTreeSet::from([reference("a"), reference("b")]));
        assert!(world.seen(&reference("c")).is_none());
    }

    #[test]
    fn what_is_gone_before_everything_was_listed_never_was() {
        let mut world = world();
        world.take(all().into_iter().map(|watched| (watched, News::Begin(None))));
        let watched = Watched::Kind(Kind::Gateway);
        world.take([class(), gateway("a"), (watched, News::Complete)]);
        // The watch is lost and begun anew while others still list.
        world.take([(watched, News::Begin(None)), gateway("b")]);
        world.take(all().into_iter().map(|watched| (watched, News::Complete)));
        let left: Vec<_> = world.translator.references(Kind::Gateway).cloned().collect();
        assert_eq!(left, [reference("b")]);
    }

    #[test]
    fn a_status_that_was_written_is_not_undone_by_older_news() {
        let (mut world, _) = listed(vec![class(), gateway("a")]);
        let mut written = world.seen(&reference("a")).expect("seen").clone();
        written.resource_version = "9".to_owned();
        written.status = r#"{"conditions":[]}"#.into();
        world.written(written.clone());
        let epoch = world.epoch();
        world.take([gateway("a")]);
        assert_eq!(world.seen(&reference("a")), Some(&written));
        assert_eq!(world.epoch(), epoch);
    }
}
