//! The namespaces that are in the mesh.

use std::{collections::BTreeSet, mem, sync::Arc};

use tokio::sync::watch;
use weft_crds::{Kind, Object, ObjectRef, Stage};

use crate::injection::{self, Meshed};

/// The namespaces in the mesh, as their labels say.
pub(super) struct Mesh {
    /// Those that are not about to go: where pods get sidecars.
    meshed: watch::Sender<Meshed>,
    /// All of them, and whether they are others than published.
    namespaces: BTreeSet<String>,
    changed: bool,
}

impl Mesh {
    pub(super) fn new() -> Self {
        Self {
            meshed: watch::Sender::new(Meshed::new()),
            namespaces: BTreeSet::new(),
            changed: false,
        }
    }

    /// Looks whether a namespace has come into the mesh or left it. Returns whether pods there get other sidecars than before,
    /// or none.
    pub(super) fn notice(&mut self, reference: &ObjectRef, object: Option<&Object>) -> bool {
        if reference.kind != Kind::Namespace {
            return false;
        }
        let metadata = match object {
            Some(Object::Namespace(namespace)) => Some(&namespace.metadata),
            _ => None,
        };
        let takes_part = metadata.is_some_and(|metadata| matches!(Stage::of(&metadata.labels), Ok(Some(_))));
        self.changed |= if takes_part {
            self.namespaces.insert(reference.name.clone())
        } else {
            self.namespaces.remove(&reference.name)
        };
        let namespace = metadata.and_then(injection::meshed);
        self.meshed.send_if_modified(|meshed| match namespace {
            Some(namespace) if meshed.get(&reference.name).is_none_or(|known| **known != namespace) => {
                meshed.insert(reference.name.clone(), Arc::new(namespace));
                true
            }
            Some(_) => false,
            None => meshed.remove(&reference.name).is_some(),
        })
    }

    /// Where pods get sidecars, as it is told.
    pub(super) fn meshed(&self) -> watch::Receiver<Meshed> {
        self.meshed.subscribe()
    }

    /// Whether pods of a namespace get sidecars.
    pub(super) fn is_meshed(&self, namespace: &str) -> bool {
        self.meshed.borrow().contains_key(namespace)
    }

    /// The namespaces whose pods get sidecars.
    pub(super) fn all_meshed(&self) -> BTreeSet<String> {
        self.meshed.borrow().keys().cloned().collect()
    }

    /// All namespaces in the mesh, if they are others than the last time.
    pub(super) fn take_changed(&mut self) -> Option<BTreeSet<String>> {
        mem::take(&mut self.changed).then(|| self.namespaces.clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(name: &str, stage: &str) -> Object {
        let value = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "uid": name, "labels": {"weft.dev/mesh": stage}},
        });
        Object::from_value(Kind::Namespace, value).expect("a namespace")
    }

    #[test]
    fn a_namespace_is_in_the_mesh_for_as_long_as_it_has_a_stage() {
        let mut mesh = Mesh::new();
        let put = |mesh: &mut Mesh, name: &str, stage: &str| {
            let object = namespace(name, stage);
            mesh.notice(&object.reference(), Some(&object))
        };
        let changed = |mesh: &mut Mesh| {
            mesh.take_changed()
                .map(|names| names.into_iter().collect::<Vec<_>>().join(" "))
        };
        assert!(put(&mut mesh, "a", "observe") && put(&mut mesh, "c", "strict"));
        assert!(!put(&mut mesh, "b", "enabled"), "there is no such stage");
        assert_eq!(changed(&mut mesh).as_deref(), Some("a c"));
        assert!(put(&mut mesh, "b", "secure"));
        assert!(mesh.notice(&ObjectRef::new(Kind::Namespace, "", "c"), None));
        assert_eq!(changed(&mut mesh).as_deref(), Some("a b"));
        assert!(put(&mut mesh, "a", ""));
        assert_eq!(changed(&mut mesh).as_deref(), Some("b"));
        assert!(!put(&mut mesh, "b", "secure"), "it was so before");
        assert_eq!(changed(&mut mesh), None);
    }
}
