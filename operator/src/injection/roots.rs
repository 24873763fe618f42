//! The ConfigMap `weft-roots` in each namespace of the mesh: what sidecars trust when they speak to the operator.
//!
//! Where a namespace has left the mesh it is kept until no pod with a sidecar is left, for the kubelet takes what is gone out
//! of running pods as well.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};
use weft_injection::{INJECTED, ROOTS};
use weft_translate::MANAGED_BY;

use crate::{
    children::{Child, ChildKind, RENDERED},
    infrastructure::{
        apply::{self, ApplyError, Step},
        names,
    },
    queue::Queue,
    world::World,
};

/// Namespaces worked on at a time.
const NAMESPACES: usize = 4;
/// How often is looked whether pods with sidecars are left.
const LOOK: Duration = Duration::from_secs(60);

/// What came of a namespace.
#[derive(Debug)]
pub(crate) enum Report {
    /// It has the roots.
    Put(Box<Child>),
    /// It has them no more.
    Removed,
    /// It still has pods that use them.
    InUse,
}

/// The namespaces that are to be looked at.
pub(crate) struct Roots(Queue<String>);

/// What is to be done in a namespace.
#[derive(Debug, PartialEq)]
pub(crate) struct Work {
    namespace: String,
    step: Step,
}

impl Roots {
    pub(crate) fn new() -> Self {
        Self(Queue::new(NAMESPACES))
    }

    pub(crate) fn add(&mut self, namespaces: impl IntoIterator<Item = String>, now: Instant) {
        for namespace in namespaces {
            self.0.add(namespace, now);
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.next()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What is due.
    pub(crate) fn take(&mut self, world: &World, roots: &str, now: Instant) -> Option<Work> {
        while let Some(namespace) = self.0.take(now) {
            if let Some(step) = step(&namespace, world, roots) {
                return Some(Work { namespace, step });
            }
            self.0.done(&namespace, true, now);
        }
        None
    }

    /// Takes over what came of it.
    pub(crate) fn done(&mut self, namespace: &str, result: &Result<Report, ApplyError>, now: Instant) {
        self.0.done(&namespace.to_owned(), result.is_ok(), now);
        match result {
            Ok(Report::InUse) => self.0.add(namespace.to_owned(), now + LOOK),
            Ok(_) => {}
            Err(error @ ApplyError::Foreign(..)) => {
                tracing::warn!(namespace, %error, "sidecars there cannot speak to the operator; rename that ConfigMap");
            }
            // A namespace that is about to go takes nothing any more.
            Err(error) => {
                tracing::debug!(namespace, %error, "the roots could not be put there or removed; it is tried again")
            }
        }
    }
}

impl Work {
    pub(crate) async fn run(self, client: Client) -> (String, Result<Report, ApplyError>) {
        let result = self.result(&client).await;
        (self.namespace, result)
    }

    async fn result(&self, client: &Client) -> Result<Report, ApplyError> {
        if matches!(self.step, Step::Delete { .. }) {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
            let some = ListParams::default().labels(INJECTED).limit(1);
            if !pods.list_metadata(&some).await?.items.is_empty() {
                return Ok(Report::InUse);
            }
        }
        let made = apply::run(client, &self.step).await?;
        Ok(made.map_or(Report::Removed, |child| Report::Put(Box::new(child))))
    }
}

fn step(namespace: &str, world: &World, roots: &str) -> Option<Step> {
    let key = (ChildKind::ConfigMap, namespace.to_owned(), ROOTS.to_owned());
    let there = world.children.get(&key);
    if !world.is_meshed(namespace) {
        let child = Box::new(there?.clone());
        return Some(Step::Delete { child });
    }
    if roots.is_empty() {
        return None;
    }
    let object = config_map(namespace, roots);
    let same = there.is_some_and(|there| apply::is_same(&there.object, &object));
    (!same).then_some(Step::Apply {
        kind: ChildKind::ConfigMap,
        object,
        ours: there.is_some(),
    })
}

fn config_map(namespace: &str, roots: &str) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": ROOTS,
            "namespace": namespace,
            "labels": {MANAGED_BY.0: MANAGED_BY.1, "app.kubernetes.io/part-of": "weft"},
        },
        "data": {"ca.crt": roots},
    });
    object["metadata"]["annotations"][RENDERED] = names::digest(&object.to_string()).into();
    object
}

#[cfg(test)]
mod tests {
    use weft_crds::Kind;
    use weft_discovery::Publisher;

    use super::*;
    use crate::{
        metrics::Metrics,
        object,
        watch::{News, Watched},
        world::{Effects, Myself},
    };

    /// A world that has listed everything, of which there is nothing.
    fn world() -> World {
        let mut world = World::new("ours", Myself::default(), Publisher::new(), Metrics::new());
        let kinds = Kind::ALL.iter().copied().map(Watched::Kind);
        let all: Vec<Watched> = kinds
            .chain(ChildKind::ALL.iter().copied().map(Watched::Child))
            .collect();
        world.take(all.iter().map(|watched| (*watched, News::Begin(None))));
        world.take(all.iter().map(|watched| (*watched, News::Complete)));
        world
    }

    fn label(world: &mut World, labels: Value) -> Effects {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "resourceVersion": "1", "labels": labels},
        });
        let object = serde_json::from_value(object).expect("an object");
        let (seen, object) = object::read(Kind::Namespace, object).expect("readable");
        world.take([(Watched::Kind(Kind::Namespace), News::Put(Box::new(seen), object))])
    }

    fn put(world: &mut World, object: Value) -> Effects {
        let child = Child::new(ChildKind::ConfigMap, serde_json::from_value(object).expect("an object"));
        let mut effects = Effects::default();
        world.put_child(child, &mut effects);
        effects
    }

    #[test]
    fn a_namespace_of_the_mesh_has_the_roots_and_one_that_left_it_has_not() {
        let mut world = world();
        assert!(
            label(&mut world, json!({"weft.dev/mesh": "someday"}))
                .namespaces
                .is_empty()
        );
        assert_eq!(step("shop", &world, "roots"), None);
        let effects = label(&mut world, json!({"weft.dev/mesh": "observe"}));
        assert_eq!(effects.namespaces, ["shop".to_owned()].into());
        assert_eq!(step("shop", &world, ""), None);
        let Some(Step::Apply {
            object, ours: false, ..
        }) = step("shop", &world, "roots")
        else {
            panic!("they are put there")
        };
        assert_eq!(object["data"], json!({"ca.crt": "roots"}));
        assert_eq!(put(&mut world, object).namespaces, ["shop".to_owned()].into());
        assert_eq!(step("shop", &world, "roots"), None);
        // Other roots, or somebody has changed them.
        let Some(Step::Apply { object, ours: true, .. }) = step("shop", &world, "roots and next") else {
            panic!("they are told the next ones")
        };
        let mut changed = object.clone();
        changed["data"]["ca.crt"] = "others".into();
        put(&mut world, changed);
        assert!(step("shop", &world, "roots and next").is_some());
        put(&mut world, object);
        // Another stage is the same for them.
        label(&mut world, json!({"weft.dev/mesh": "strict"}));
        assert_eq!(step("shop", &world, "roots and next"), None);
        let effects = label(&mut world, json!({}));
        assert_eq!(effects.namespaces, ["shop".to_owned()].into());
        assert!(matches!(step("shop", &world, "roots"), Some(Step::Delete { .. })));
    }

    #[test]
    fn whoever_comes_to_lead_looks_at_all_of_them() {
        let mut world = world();
        label(&mut world, json!({"weft.dev/mesh": "secure"}));
        put(&mut world, config_map("left", "roots"));
        assert_eq!(world.all_meshed(), ["left".to_owned(), "shop".to_owned()].into());
    }
}
