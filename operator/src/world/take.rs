//! What watches tell is taken over, translated and published.

use std::{collections::BTreeSet, mem, sync::Arc, time::Instant};

use weft_crds::{Kind, Object, ObjectRef};
use weft_translate::{Diagnostic, Edit};

use super::{Effects, World, is_to_be_said, meshed_by, owner, reference};
use crate::{
    children::Child,
    object::has_status,
    watch::{News, Watched},
};

impl World {
    /// Takes over what watches tell.
    pub(crate) fn take(&mut self, news: impl IntoIterator<Item = (Watched, News)>) -> Effects {
        let mut effects = Effects::default();
        let mut edits = Vec::new();
        let began = Instant::now();
        for (watched, news) in news {
            self.one(watched, news, &mut edits, &mut effects);
        }
        if !self.is_complete() {
            self.held.append(&mut edits);
            return Effects::default();
        }
        let held = mem::take(&mut self.held);
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
        let (mut touched, mut guarded) = (BTreeSet::new(), BTreeSet::new());
        for change in &output.changes {
            self.guards.take(change, &mut guarded);
            let gateway = self.published.take(change);
            touched.extend(gateway.as_ref().and_then(reference));
        }
        self.metrics.changes.inc_by(output.changes.len() as u64);
        if !output.changes.is_empty() || self.published.epoch == 0 {
            self.published.epoch = self.publisher.publish(output.changes);
        }
        self.guards.published(guarded, self.published.epoch);
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

fn wrong(lists: Vec<(ObjectRef, Arc<[Diagnostic]>)>) -> Vec<(ObjectRef, Diagnostic)> {
    let all = lists.into_iter().flat_map(|(reference, list)| {
        let list: Vec<Diagnostic> = list.to_vec();
        list.into_iter().map(move |diagnostic| (reference.clone(), diagnostic))
    });
    all.filter(|(reference, diagnostic)| is_to_be_said(reference, diagnostic))
        .collect()
}
