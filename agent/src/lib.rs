//! A data plane at its operator: it has who it is signed there, serves what it is told, and goes on with both while the
//! operator is away, across restarts of its container too. Gateways and sidecars are the same in this.

mod asks;
mod identity;
mod seen;
mod store;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use tokio::{sync::watch, task::JoinSet};
use weft_discovery::{DataPlane, Endpoint, Sink, Subscriber};
use weft_model::{Change, Key, Rejected};
use weft_proxy::Proxy;

use self::{asks::Asking, identity::Keeper, seen::Seen, store::Store};

/// Which data plane it is, and where its operator is.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Which it is.
    pub data_plane: DataPlane,
    /// Where the operator is.
    pub operator: Endpoint,
    /// Where the last configuration and the certificate are kept, on a disk in memory; nowhere when absent.
    pub state: Option<PathBuf>,
}

/// Keeps a data plane up to date until it is dropped.
#[derive(Debug)]
pub struct Agent {
    _tasks: JoinSet<()>,
    has_resumed: bool,
}

impl Agent {
    /// Puts in use what was kept of before, and asks the operator for what has changed since. `synced` is called whenever
    /// everything the operator has to tell is in use, before the operator hears that it is.
    pub async fn start(proxy: &Arc<Proxy>, options: AgentOptions, synced: impl FnMut() + Send + 'static) -> Self {
        let AgentOptions {
            data_plane,
            operator,
            state,
        } = options;
        let store = state.map(|folder| Arc::new(Store::new(folder, data_plane.clone())));
        let (changed, changes) = watch::channel(());
        let applier = Applier {
            proxy: proxy.clone(),
            changed: changed.clone(),
            synced,
        };
        let is_sidecar = matches!(data_plane, DataPlane::Sidecar { .. });
        let mut subscriber = Subscriber::new(operator.clone(), data_plane, applier);
        subscriber.observe(Arc::new(Seen(proxy.clone())));
        if is_sidecar {
            proxy.mesh().cannot_ask();
            subscriber.ask(Arc::new(Asking {
                mesh: proxy.mesh().clone(),
                changed,
            }));
        }
        let mut keeper = Keeper::new(operator, proxy.mesh().clone(), store.clone());
        let mut tasks = JoinSet::new();
        if is_sidecar {
            tasks.spawn(asks::leave(proxy.clone()));
        }
        let mut has_resumed = false;
        if let Some(store) = store {
            keeper.resume();
            // Before anything is told: what is not asked for when it connects is taken away.
            proxy.mesh().resume_talks(store.talks());
            let kept = store.load();
            has_resumed = !kept.is_empty();
            if has_resumed {
                tracing::info!(
                    resources = kept.len(),
                    "serving what was last told, until the operator says more"
                );
                // Without versions: the operator sends what there is once more, and says what is gone.
                subscriber.known(kept.iter().map(|resource| (resource.key(), String::new())).collect());
                for Rejected { key, reason } in proxy.apply(kept.into_iter().map(Change::Upsert).collect()).await {
                    tracing::warn!(%key, reason, "what was kept is refused");
                }
            }
            tasks.spawn(store.keep(proxy.clone(), changes));
        }
        tasks.spawn(subscriber.run());
        tasks.spawn(keeper.run());
        Self {
            _tasks: tasks,
            has_resumed,
        }
    }

    /// Whether it serves what was kept of before.
    pub fn has_resumed(&self) -> bool {
        self.has_resumed
    }
}

/// Puts in use what the operator tells.
struct Applier<F> {
    proxy: Arc<Proxy>,
    changed: watch::Sender<()>,
    synced: F,
}

impl<F: FnMut() + Send> Sink for Applier<F> {
    async fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        let rejected = self.proxy.apply(changes).await;
        self.changed.send_replace(());
        rejected
    }

    async fn synced(&mut self) {
        self.proxy.mesh().told_everything();
        (self.synced)();
    }

    async fn retry(&mut self, refused: &BTreeSet<Key>) -> Vec<Key> {
        if !refused.iter().any(|key| matches!(key, Key::Listener(_))) {
            return Vec::new();
        }
        // A port that another process had may be free by now.
        self.proxy.apply(Vec::new()).await;
        let served = self.proxy.listening().await;
        let served = refused
            .iter()
            .filter(|key| matches!(key, Key::Listener(key) if served.contains(key)));
        served.cloned().collect()
    }
}
