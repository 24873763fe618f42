//! The mesh as workloads see each other, told to all sidecars: who is at which address, who may be behind that of a Service,
//! and how far namespaces are. Gateways are told as much of it as concerns their backends. What is watched is published as it
//! is; nothing is translated.

mod pods;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    pin::Pin,
    sync::Arc,
};

use futures::{Stream, StreamExt as _, stream::select_all};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use weft_crds::MESH_LABEL;
use weft_discovery::Publisher;
use weft_injection::INJECTED;
use weft_model::{Change, Key, MeshNamespace, Resource};
use weft_translate::MANAGED_BY;

use self::services::{Ports, Services, Slice};
use crate::metrics::Metrics;

/// What is published at once, where there is so much: what hangs together is then looked at once.
const AT_ONCE: usize = 1024;

/// `namespace/name` of an object.
type Name = (String, String);

/// Something that was seen, as far as it is of use; nothing if it is of none.
enum Seen {
    Pod(Event<(Name, Option<Resource>)>),
    Gateway(Event<(Name, Option<Resource>)>),
    Namespace(Event<(Name, Option<MeshNamespace>)>),
    Service(Event<(Name, Option<Ports>)>),
    Slice(Event<(Name, Option<Slice>)>),
}

/// Tells of them until it is dropped.
pub(crate) async fn tell(client: Client, publisher: Publisher, metrics: Metrics) {
    let gateways = format!("app.kubernetes.io/name=weft-gateway,{}={}", MANAGED_BY.0, MANAGED_BY.1);
    let mut seen = select_all([
        follow::<Pod, _>(&client, Some(INJECTED), &metrics, Seen::Pod, |pod| {
            pods::peer(&pod).map(|peer| Resource::Peer(Arc::new(peer)))
        }),
        follow::<Pod, _>(&client, Some(&gateways), &metrics, Seen::Gateway, |pod| {
            pods::gateway(&pod).map(|peer| Resource::Peer(Arc::new(peer)))
        }),
        follow::<Namespace, _>(&client, Some(MESH_LABEL), &metrics, Seen::Namespace, |namespace| {
            pods::namespace(&namespace)
        }),
        follow::<Service, _>(&client, None, &metrics, Seen::Service, |service| {
            services::ports(&service)
        }),
        follow::<EndpointSlice, _>(&client, None, &metrics, Seen::Slice, |slice| services::slice(&slice)),
    ])
    .ready_chunks(AT_ONCE);
    let mut mesh = Mesh::default();
    while let Some(seen) = seen.next().await {
        let changes: Vec<Change> = seen.into_iter().flat_map(|seen| mesh.changes(seen)).collect();
        if !changes.is_empty() {
            publisher.publish(changes);
        }
    }
}

type Watch = Pin<Box<dyn Stream<Item = Seen> + Send>>;

/// Watches a kind, of which `read` keeps what is of use.
fn follow<K, T: 'static>(
    client: &Client,
    label: Option<&str>,
    metrics: &Metrics,
    as_seen: impl Fn(Event<(Name, Option<T>)>) -> Seen + Send + 'static,
    read: impl Fn(K) -> Option<T> + Send + 'static,
) -> Watch
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = match label {
        Some(label) => watcher::Config::default().labels(label),
        None => watcher::Config::default(),
    };
    let metrics = metrics.clone();
    let kind = K::kind(&());
    let events = watcher(Api::<K>::all(client.clone()), config).default_backoff();
    Box::pin(events.filter_map(move |event| {
        let keyed = |object: K| {
            let metadata = object.meta();
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            ((text(&metadata.namespace), text(&metadata.name)), read(object))
        };
        let seen = match event {
            Ok(Event::Init) => Some(Event::Init),
            Ok(Event::InitDone) => Some(Event::InitDone),
            Ok(Event::InitApply(object)) => Some(Event::InitApply(keyed(object))),
            Ok(Event::Apply(object)) => Some(Event::Apply(keyed(object))),
            Ok(Event::Delete(object)) => Some(Event::Delete((keyed(object).0, None))),
            Err(error) => {
                metrics.watch_error("Mesh");
                tracing::debug!(%error, %kind, "the watch is begun anew");
                None
            }
        };
        std::future::ready(seen.map(&as_seen))
    }))
}

/// What there is of one kind.
struct Kept<T> {
    objects: BTreeMap<Name, T>,
    /// While everything comes anew, what has come.
    anew: Option<BTreeSet<Name>>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            anew: None,
        }
    }
}

impl<T> Kept<T> {
    /// Takes an event; returns the objects that have changed, as they were before.
    fn take(&mut self, event: Event<(Name, Option<T>)>) -> Vec<(Name, Option<T>)> {
        match event {
            Event::Init => {
                self.anew = Some(BTreeSet::new());
                Vec::new()
            }
            Event::InitApply((name, Some(object))) | Event::Apply((name, Some(object))) => {
                if let Some(anew) = &mut self.anew {
                    anew.insert(name.clone());
                }
                let before = self.objects.insert(name.clone(), object);
                vec![(name, before)]
            }
            Event::InitApply((name, None)) | Event::Apply((name, None)) | Event::Delete((name, _)) => {
                let before = self.objects.remove(&name);
                before.into_iter().map(|before| (name.clone(), Some(before))).collect()
            }
            Event::InitDone => {
                let Some(anew) = self.anew.take() else {
                    return Vec::new();
                };
                let gone = self.objects.extract_if(.., |name, _| !anew.contains(name));
                gone.map(|(name, before)| (name, Some(before))).collect()
            }
        }
    }
}

/// All that is known.
#[derive(Default)]
struct Mesh {
    pods: Kept<Resource>,
    /// Pods of Gateways, which have no sidecar.
    gateways: Kept<Resource>,
    namespaces: Kept<MeshNamespace>,
    services: Services,
}

impl Mesh {
    /// What is to be published of something that was seen.
    fn changes(&mut self, seen: Seen) -> Vec<Change> {
        match seen {
            Seen::Pod(event) => peers(&mut self.pods, event),
            Seen::Gateway(event) => peers(&mut self.gateways, event),
            Seen::Namespace(event) => {
                let mut changes = Vec::new();
                for ((_, name), before) in self.namespaces.take(event) {
                    let now = self.namespaces.objects.get(&(String::new(), name.clone()));
                    changes.push(match now {
                        Some(namespace) => Change::Upsert(Resource::MeshNamespace(Arc::new(namespace.clone()))),
                        None => Change::Remove(Key::MeshNamespace(name.as_str().into())),
                    });
                    if now.is_some() != before.is_some() {
                        changes.extend(self.services.namespace(&name, now.is_some()));
                    }
                }
                changes
            }
            Seen::Service(event) => self.services.service(event),
            Seen::Slice(event) => self.services.slice(event),
        }
    }
}

/// What is to be published of pods.
fn peers(known: &mut Kept<Resource>, event: Event<(Name, Option<Resource>)>) -> Vec<Change> {
    let changed = known.take(event).into_iter();
    let change = |(name, _): (Name, _)| match known.objects.get(&name) {
        Some(peer) => Change::Upsert(peer.clone()),
        None => Change::Remove(Key::Peer(format!("{}/{}", name.0, name.1).into())),
    };
    changed.map(change).collect()
}

#[cfg(test)]
mod tests {
    use weft_model::Stage;

    use super::*;

    fn namespace(name: &str) -> (Name, Option<MeshNamespace>) {
        let namespace = MeshNamespace {
            key: name.into(),
            stage: Stage::Secure,
        };
        ((String::new(), name.to_owned()), Some(namespace))
    }

    #[test]
    fn what_is_gone_while_nobody_watched_is_taken_back() {
        let mut mesh = Mesh::default();
        let mut see = |event| mesh.changes(Seen::Namespace(event));
        see(Event::Init);
        see(Event::InitApply(namespace("a")));
        assert_eq!(see(Event::InitApply(namespace("b"))).len(), 1);
        assert!(see(Event::InitDone).is_empty());
        see(Event::Init);
        see(Event::InitApply(namespace("b")));
        assert_eq!(see(Event::InitDone), [Change::Remove(Key::MeshNamespace("a".into()))]);
        // What has lost its stage is told of no longer, and nothing is taken back twice.
        let (name, _) = namespace("b");
        assert_eq!(see(Event::Apply((name.clone(), None))).len(), 1);
        assert!(see(Event::Delete((name, None))).is_empty());
    }
}
