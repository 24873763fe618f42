//! The mesh as workloads see each other, told to the sidecars that talk to them: who is at which address, who may be behind that of a Service,
//! and how far namespaces are. Gateways are told as much of it as concerns their backends. What is watched is published as it
//! is; nothing is translated.

mod members;
pub(crate) mod pods;
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
use tokio::sync::watch;
use weft_crds::MESH_LABEL;
use weft_discovery::Publisher;
use weft_injection::INJECTED;
use weft_model::{Change, DefaultAction, Key, MeshNamespace, Resource, WorkloadKey};
use weft_translate::MANAGED_BY;

use self::{
    members::{Facts, Leads, Members},
    services::{Ports, Services, Slice},
};
use crate::{metrics::Metrics, seen::Workloads};

/// What is published at once, where there is so much: what hangs together is then looked at once.
const AT_ONCE: usize = 1024;

/// `namespace/name` of an object.
type Name = (String, String);

/// An event of an object, of which something may be of use.
type Of<T> = Event<Named<T>>;

/// An object, as far as it is of use.
type Named<T> = (Name, Option<T>);

/// Something that was seen, as far as it is of use; nothing if it is of none.
enum Seen {
    Pod(Of<(Resource, Facts)>),
    Gateway(Of<Resource>),
    Namespace(Of<MeshNamespace>),
    Service(Of<(Option<Ports>, Option<Leads>)>),
    Slice(Of<Slice>),
}

impl Seen {
    /// Which of the kinds has been told of in full by this, if one has.
    fn whole(&self) -> Option<usize> {
        let done = match self {
            Self::Pod(event) => (0, matches!(event, Event::InitDone)),
            Self::Gateway(event) => (1, matches!(event, Event::InitDone)),
            Self::Namespace(event) => (2, matches!(event, Event::InitDone)),
            Self::Service(event) => (3, matches!(event, Event::InitDone)),
            Self::Slice(event) => (4, matches!(event, Event::InitDone)),
        };
        Some(done.0).filter(|_| done.1)
    }
}

/// Tells of them until it is dropped, and says once all that there was to begin with is published.
pub(crate) async fn tell(
    client: Client,
    publisher: Publisher,
    metrics: Metrics,
    default: DefaultAction,
    known: Workloads,
    all: watch::Sender<bool>,
) {
    let gateways = format!("app.kubernetes.io/name=weft-gateway,{}={}", MANAGED_BY.0, MANAGED_BY.1);
    let mut seen = select_all([
        follow::<Pod, _>(&client, Some(INJECTED), &metrics, Seen::Pod, |pod| {
            let peer = pods::peer(&pod)?;
            Some((Resource::Peer(Arc::new(peer)), members::facts(&pod)?))
        }),
        follow::<Pod, _>(&client, Some(&gateways), &metrics, Seen::Gateway, |pod| {
            pods::gateway(&pod).map(|peer| Resource::Peer(Arc::new(peer)))
        }),
        follow::<Namespace, _>(&client, Some(MESH_LABEL), &metrics, Seen::Namespace, move |namespace| {
            pods::namespace(&namespace, default)
        }),
        follow::<Service, _>(&client, None, &metrics, Seen::Service, |service| {
            Some((services::ports(&service), members::leads(&service)))
        }),
        follow::<EndpointSlice, _>(&client, None, &metrics, Seen::Slice, |slice| services::slice(&slice)),
    ])
    .ready_chunks(AT_ONCE);
    let mut mesh = Mesh::default();
    let mut whole = [false; 5];
    while let Some(seen) = seen.next().await {
        let mut changes: Vec<Change> = Vec::new();
        for seen in seen {
            if let Some(kind) = seen.whole() {
                whole[kind] = true;
            }
            changes.extend(mesh.changes(seen));
        }
        if !changes.is_empty() {
            known.take(&changes, |pod| mesh.node(pod));
            publisher.publish(changes);
        }
        if !*all.borrow() && whole == [true; 5] {
            all.send_replace(true);
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

/// One event as two, of what is of use for either of two.
fn halves<A, B>(event: Of<(Option<A>, Option<B>)>) -> (Of<A>, Of<B>) {
    let split = |(name, object): Named<(Option<A>, Option<B>)>| {
        let (a, b) = object.unwrap_or((None, None));
        ((name.clone(), a), (name, b))
    };
    match event {
        Event::Init => (Event::Init, Event::Init),
        Event::InitDone => (Event::InitDone, Event::InitDone),
        Event::InitApply(object) => {
            let (a, b) = split(object);
            (Event::InitApply(a), Event::InitApply(b))
        }
        Event::Apply(object) => {
            let (a, b) = split(object);
            (Event::Apply(a), Event::Apply(b))
        }
        Event::Delete(object) => {
            let (a, b) = split(object);
            (Event::Delete(a), Event::Delete(b))
        }
    }
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
    pods: Kept<(Resource, Facts)>,
    members: Members,
    leads: Kept<Leads>,
    /// Pods of Gateways, which have no sidecar.
    gateways: Kept<Resource>,
    namespaces: Kept<MeshNamespace>,
    services: Services,
}

impl Mesh {
    /// The node that a pod is on.
    fn node(&self, pod: &WorkloadKey) -> Option<Arc<str>> {
        let (namespace, name) = pod.as_str().split_once('/')?;
        let (_, facts) = self.pods.objects.get(&(namespace.to_owned(), name.to_owned()))?;
        facts.node()
    }

    /// What is to be published of something that was seen.
    fn changes(&mut self, seen: Seen) -> Vec<Change> {
        match seen {
            Seen::Pod(event) => {
                let mut changes = Vec::new();
                for (name, _) in self.pods.take(event) {
                    let now = self.pods.objects.get(&name).cloned();
                    let (peer, facts) = now.unzip();
                    // What it is comes before what its peers may send to it.
                    changes.extend(self.members.pod(&name, facts));
                    changes.push(peer_of(&name, peer));
                }
                changes
            }
            Seen::Gateway(event) => {
                let changed = self.gateways.take(event).into_iter();
                let change = |(name, _)| peer_of(&name, self.gateways.objects.get(&name).cloned());
                changed.map(change).collect()
            }
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
            Seen::Service(event) => {
                let (ports, leads) = halves(event);
                let mut changes = self.services.service(ports);
                for (name, _) in self.leads.take(leads) {
                    let now = self.leads.objects.get(&name).cloned();
                    changes.extend(self.members.service(&name, now));
                }
                changes
            }
            Seen::Slice(event) => self.services.slice(event),
        }
    }
}

/// What is to be published of a pod, as a peer of others.
fn peer_of(name: &Name, peer: Option<Resource>) -> Change {
    match peer {
        Some(peer) => Change::Upsert(peer),
        None => Change::Remove(Key::Peer(format!("{}/{}", name.0, name.1).into())),
    }
}

#[cfg(test)]
mod tests {
    use weft_model::Stage;

    use super::*;

    fn namespace(name: &str) -> (Name, Option<MeshNamespace>) {
        let namespace = MeshNamespace {
            key: name.into(),
            stage: Stage::Secure,
            default_action: weft_model::DefaultAction::default(),
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
