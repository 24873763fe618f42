//! One watch for each kind. What cannot be read is said once and passed over; a kind that the API server does not have
//! is looked for again until it has.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    discovery,
    runtime::watcher,
};
use tokio::sync::mpsc;
use weft_crds::{Kind, Object, ObjectRef};
use weft_translate::MANAGED_BY;

use crate::{
    children::{Child, ChildKind},
    metrics::Metrics,
    nodes,
    object::{self, Seen},
};

/// Waits after an error double from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a kind that is not there is looked for, and one of SMI, which most clusters never have.
const LOOK: Duration = Duration::from_secs(5);
const LOOK_FOR_SMI: Duration = Duration::from_secs(30);
/// How long everything else waits for the objects of a kind without which it can do. Of SMI, to list those that are stored in an
/// old version may take a conversion, which the API server asks of an operator that is ready: this one, perhaps.
const PATIENCE: Duration = Duration::from_secs(10);
/// News of nodes that wait to be handed on.
const NODES: usize = 64;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Watched {
    /// What is translated.
    Kind(Kind),
    /// What was made for Gateways.
    Child(ChildKind),
}

/// What a watch has to say.
#[derive(Debug)]
pub(crate) enum News {
    /// Everything there is comes anew, served in this way; nothing if the kind is not served.
    Begin(Option<ApiResource>),
    /// An object is there.
    Put(Box<Seen>, Object),
    /// An object is there that cannot be read: the one read before stays.
    Unreadable(ObjectRef),
    /// An object is gone.
    Delete(ObjectRef),
    /// Something made for a Gateway is there.
    PutChild(Box<Child>),
    /// Something made for a Gateway is gone.
    DeleteChild(String, String),
    /// Everything there is has come since [`News::Begin`]; what has not is gone.
    Complete,
}

/// Watches everything, and tells what comes in the order of each watch.
pub(crate) fn start(client: &Client, metrics: &Metrics, news: &mpsc::Sender<(Watched, News)>) {
    let kinds = Kind::ALL.iter().copied().map(Watched::Kind);
    let children = ChildKind::ALL.iter().copied().map(Watched::Child);
    for watched in kinds.chain(children) {
        let news = match watched {
            Watched::Kind(Kind::Node) => {
                let (nodes, told) = mpsc::channel(NODES);
                tokio::spawn(nodes::relay(told, news.clone()));
                nodes
            }
            _ => news.clone(),
        };
        let can_wait = matches!(watched, Watched::Kind(kind) if kind.is_smi() || kind == Kind::Node);
        let watch = Watch {
            client: client.clone(),
            metrics: metrics.clone(),
            watched,
            news,
            unreadable: HashMap::new(),
            patience: can_wait.then(|| Instant::now() + PATIENCE),
        };
        tokio::spawn(watch.run());
    }
}

impl Watched {
    /// What to call it in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kind(kind) => kind.name(),
            Self::Child(kind) => kind.watch_name(),
        }
    }

    /// The versions it may be served in, the best first.
    fn candidates(self) -> Vec<GroupVersionKind> {
        match self {
            Self::Kind(kind) => {
                let versions = kind.served().iter();
                versions
                    .map(|version| GroupVersionKind::gvk(kind.group(), version, kind.name()))
                    .collect()
            }
            Self::Child(kind) => vec![kind.gvk()],
        }
    }

    fn config(self) -> watcher::Config {
        match self {
            // Of these nobody refers to any, and some are large.
            Self::Kind(Kind::Secret) => watcher::Config::default().fields(
                "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=bootstrap.kubernetes.io/token,\
                 type!=kubernetes.io/dockerconfigjson,type!=kubernetes.io/dockercfg",
            ),
            Self::Kind(_) => watcher::Config::default(),
            Self::Child(_) => {
                let (label, operator) = MANAGED_BY;
                watcher::Config::default().labels(&format!("{label}={operator}"))
            }
        }
    }
}

struct Watch {
    client: Client,
    metrics: Metrics,
    watched: Watched,
    news: mpsc::Sender<(Watched, News)>,
    /// What was said to be unreadable, and in which version.
    unreadable: HashMap<ObjectRef, String>,
    /// When everything else goes on without a first list; it never does where there is none.
    patience: Option<Instant>,
}

/// Nobody listens any more.
struct Closed;

impl Watch {
    async fn run(mut self) {
        let Closed = self.forever().await;
    }

    async fn forever(&mut self) -> Closed {
        let (mut wait, mut absent) = (BACKOFF.0, false);
        loop {
            match self.discover().await {
                Ok(Some(resource)) => {
                    if absent {
                        tracing::info!(kind = self.watched.name(), "the API server has this kind now");
                    }
                    (wait, absent) = (BACKOFF.0, false);
                    if let Err(closed) = self.follow(&resource).await {
                        return closed;
                    }
                }
                Ok(None) => {
                    if !absent {
                        absent = true;
                        let said = "the API server does not have this kind; it is watched once it has";
                        if self.is_smi() {
                            tracing::debug!(kind = self.watched.name(), "{said}");
                        } else {
                            tracing::warn!(kind = self.watched.name(), "{said}");
                        }
                        if let Err(closed) = self.none().await {
                            return closed;
                        }
                    }
                    tokio::time::sleep(if self.is_smi() { LOOK_FOR_SMI } else { LOOK }).await;
                }
                Err(error) => {
                    tracing::warn!(kind = self.watched.name(), %error, "the API server cannot be asked; what was read before stays");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }

    fn is_smi(&self) -> bool {
        matches!(self.watched, Watched::Kind(kind) if kind.is_smi())
    }

    /// Says that there is no object.
    async fn none(&mut self) -> Result<(), Closed> {
        self.patience = None;
        for news in [News::Begin(None), News::Complete] {
            self.tell(news).await?;
        }
        Ok(())
    }

    /// How the kind is served; none if it is not.
    async fn discover(&self) -> Result<Option<ApiResource>, kube::Error> {
        if let Watched::Kind(kind) = self.watched
            && kind.is_smi()
        {
            // One question for all versions.
            let groups = self.client.list_api_groups().await?.groups;
            if groups.iter().all(|group| group.name != kind.group()) {
                return Ok(None);
            }
        }
        for candidate in self.watched.candidates() {
            match discovery::pinned_kind(&self.client, &candidate).await {
                Ok((resource, _)) => return Ok(Some(resource)),
                Err(kube::Error::Discovery(_)) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Tells what happens to the objects of a kind until it is served no more.
    async fn follow(&mut self, resource: &ApiResource) -> Result<(), Closed> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), resource);
        let mut events = std::pin::pin!(watcher(api, self.watched.config()));
        let mut wait = BACKOFF.0;
        while let Some(event) = events.next().await {
            let news = match event {
                Ok(watcher::Event::Init) => News::Begin(Some(resource.clone())),
                Ok(watcher::Event::InitDone) => {
                    wait = BACKOFF.0;
                    self.patience = None;
                    News::Complete
                }
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                    wait = BACKOFF.0;
                    match self.read(object) {
                        Some(news) => news,
                        None => continue,
                    }
                }
                Ok(watcher::Event::Delete(object)) => self.gone(&object),
                Err(error) => {
                    self.metrics.watch_error(self.watched.name());
                    if is_not_found(&error) {
                        return Ok(());
                    }
                    if self.patience.is_some_and(|end| Instant::now() > end) {
                        tracing::warn!(kind = self.watched.name(), %error, "objects of this kind cannot be listed; everything else goes on without them until they can");
                        self.none().await?;
                    }
                    // A watch that is too old is begun anew at once, and that is no fault.
                    tracing::debug!(kind = self.watched.name(), %error, "the watch is begun anew");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                    continue;
                }
            };
            self.tell(news).await?;
        }
        Ok(())
    }

    fn read(&mut self, object: DynamicObject) -> Option<News> {
        self.metrics.watch_event(self.watched.name());
        let kind = match self.watched {
            Watched::Child(kind) => return Some(News::PutChild(Box::new(Child::new(kind, object)))),
            Watched::Kind(kind) => kind,
        };
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        let reference = object::reference(kind, &object.metadata);
        match object::read(kind, object) {
            Ok((seen, object)) => {
                self.unreadable.remove(&reference);
                Some(News::Put(Box::new(seen), object))
            }
            Err(error) => {
                if self.unreadable.insert(reference.clone(), version.clone()).as_ref() != Some(&version) {
                    tracing::warn!(object = %reference, %error, "an object cannot be read and is passed over; the one read before stays in use");
                }
                Some(News::Unreadable(reference))
            }
        }
    }

    fn gone(&mut self, object: &DynamicObject) -> News {
        self.metrics.watch_event(self.watched.name());
        match self.watched {
            Watched::Child(_) => {
                let (namespace, name) = (object.metadata.namespace.clone(), object.metadata.name.clone());
                News::DeleteChild(namespace.unwrap_or_default(), name.unwrap_or_default())
            }
            Watched::Kind(kind) => {
                let reference = object::reference(kind, &object.metadata);
                self.unreadable.remove(&reference);
                News::Delete(reference)
            }
        }
    }

    async fn tell(&self, news: News) -> Result<(), Closed> {
        self.news.send((self.watched, news)).await.map_err(|_| Closed)
    }
}

fn is_not_found(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status,
        _ => return false,
    };
    status.code == 404
}
