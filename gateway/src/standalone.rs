//! A gateway on files: read, translate, serve, and do so again when a file changes.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use notify::{RecursiveMode, Watcher as _};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use weft_crds::ObjectRef;
use weft_model::{Key, ListenerKey};
use weft_proxy::{Options, Proxy, Rejected};
use weft_translate::{Edit, Status, Translator};

use crate::{
    admin,
    analyze::{self, refused},
    echo::Echo,
    files::{File, Loaded, Problem, Sources, SourcesError},
};

/// After a file has changed, further changes are waited for this long: editors write in several steps.
const SETTLE: Duration = Duration::from_millis(15);
/// Files are looked at this often even if the system says nothing, as it may on network file systems.
const LOOK: Duration = Duration::from_secs(5);

/// How to run.
#[derive(Clone, Debug)]
pub struct StandaloneOptions {
    /// Where manifests come from.
    pub sources: Sources,
    /// How the data plane runs.
    pub proxy: Options,
    /// Whether Services without endpoints are answered for.
    pub echo: bool,
    /// Where the admin pages are.
    pub admin: Option<SocketAddr>,
}

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A source cannot be read.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// The data plane cannot start.
    #[error("the data plane cannot start: {0}")]
    Proxy(#[source] io::Error),
    /// The admin address cannot be bound.
    #[error("the admin address {0} cannot be bound: {1}; choose another with --admin")]
    Admin(SocketAddr, #[source] io::Error),
    /// No loopback port for the echo backend.
    #[error("the echo backend cannot start: {0}")]
    Echo(#[source] io::Error),
}

/// What the outside may see while it runs.
pub struct State {
    proxy: ArcSwap<Proxy>,
    ready: AtomicBool,
    draining: AtomicBool,
}

/// What was last applied.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Grows with every change.
    pub generation: u64,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Every status, with the data plane's word.
    pub statuses: BTreeMap<ObjectRef, Status>,
    /// Kinds that are not read, and how many objects of each there are.
    pub unknown: BTreeMap<String, usize>,
}

/// A gateway that runs on files.
pub struct Standalone {
    state: Arc<State>,
    applied: watch::Receiver<Applied>,
    task: JoinHandle<()>,
    admin: Option<SocketAddr>,
}

impl State {
    /// The data plane.
    pub fn proxy(&self) -> Arc<Proxy> {
        self.proxy.load_full()
    }

    /// Why it is not ready; none when it is.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Acquire) {
            return Some("draining");
        }
        (!self.ready.load(Ordering::Acquire)).then_some("the first configuration is not served yet")
    }
}

impl Standalone {
    /// Reads everything, serves it, and goes on to serve what changes.
    ///
    /// # Errors
    /// A source cannot be read, or an address of our own cannot be bound. What is wrong within manifests is not an error
    /// here: see [`Applied::problems`].
    pub async fn start(options: StandaloneOptions) -> Result<Self, StartError> {
        let files = options.sources.files()?;
        let proxy = Arc::new(Proxy::start(options.proxy.clone()).map_err(StartError::Proxy)?);
        let state = Arc::new(State {
            proxy: ArcSwap::new(proxy.clone()),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        });
        let admin = match options.admin {
            Some(address) => {
                let bound = admin::start(address, state.clone()).await;
                Some(bound.map_err(|error| StartError::Admin(address, error))?)
            }
            None => None,
        };
        let (sender, applied) = watch::channel(Applied::default());
        let mut reloader = Reloader {
            sources: options.sources,
            files: BTreeMap::new(),
            loaded: Loaded::default(),
            translator: analyze::translator(),
            echo: options.echo.then(Echo::default),
            proxy,
            refused: HashMap::new(),
            applied: sender,
            seen: HashMap::new(),
        };
        // Signs of change are gathered from before the first reading on, so that none is missed.
        let (watcher, changes) = reloader.watch();
        reloader.seen = reloader.signatures();
        reloader.apply(files).await.map_err(StartError::Echo)?;
        state.ready.store(true, Ordering::Release);
        let task = tokio::spawn(async move {
            let _watcher = watcher;
            reloader.run(changes).await;
        });
        Ok(Self {
            state,
            applied,
            task,
            admin,
        })
    }

    /// What the outside may see.
    pub fn state(&self) -> Arc<State> {
        self.state.clone()
    }

    /// What was last applied; it tells when that changes.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.clone()
    }

    /// Where the admin pages are.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Stops: what is in flight ends first, for as long as the options allow.
    pub async fn shutdown(self) {
        self.state.draining.store(true, Ordering::Release);
        self.task.abort();
        let _ = self.task.await;
        self.state.proxy().shutdown().await;
    }
}

/// What makes a file look changed.
type Signature = (SystemTime, u64);

struct Reloader {
    sources: Sources,
    files: BTreeMap<PathBuf, File>,
    loaded: Loaded,
    translator: Translator,
    echo: Option<Echo>,
    proxy: Arc<Proxy>,
    /// What the data plane does not take, in its own words.
    refused: HashMap<Key, String>,
    applied: watch::Sender<Applied>,
    seen: HashMap<PathBuf, Signature>,
}

impl Reloader {
    /// Asks the system to say when something changes. Folders are watched, not files: editors and mounted ConfigMaps
    /// replace files rather than write to them.
    fn watch(&self) -> (Option<notify::RecommendedWatcher>, mpsc::Receiver<()>) {
        let (sender, receiver) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // One sign is as good as many.
                let _ = sender.try_send(());
            }
        });
        let Ok(mut watcher) = watcher else {
            return (None, receiver);
        };
        for path in self.sources.paths().iter().filter(|path| path.as_os_str() != "-") {
            let folder = if path.is_dir() {
                path.as_path()
            } else {
                path.parent().unwrap_or(Path::new("."))
            };
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            let mode = if path.is_dir() {
                RecursiveMode::Recursive
            } else {
                RecursiveMode::NonRecursive
            };
            if let Err(error) = watcher.watch(folder, mode) {
                tracing::warn!(folder = %folder.display(), %error, "changes are only seen every few seconds");
            }
        }
        (Some(watcher), receiver)
    }

    async fn run(&mut self, mut changes: mpsc::Receiver<()>) {
        loop {
            tokio::select! {
                sign = changes.recv() => if sign.is_none() {
                    // Without a watcher, looking now and then has to do.
                    tokio::time::sleep(LOOK).await;
                },
                () = tokio::time::sleep(LOOK) => {}
            }
            tokio::time::sleep(SETTLE).await;
            while changes.try_recv().is_ok() {}
            let seen = self.signatures();
            if seen == self.seen {
                continue;
            }
            self.seen = seen;
            match self.sources.files() {
                Ok(files) => {
                    if let Err(error) = self.apply(files).await {
                        tracing::error!(%error, "the echo backend could not take over a change");
                    }
                }
                Err(error) => tracing::error!(%error, "what was read before stays in use"),
            }
        }
    }

    /// What the files look like from outside.
    fn signatures(&self) -> HashMap<PathBuf, Signature> {
        let mut signatures = HashMap::new();
        let mut folders: Vec<PathBuf> = self.sources.paths().to_vec();
        while let Some(path) = folders.pop() {
            let Ok(metadata) = std::fs::metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
                folders.extend(entries.map(|entry| entry.path()));
            } else {
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                signatures.insert(path, (modified, metadata.len()));
            }
        }
        signatures
    }

    /// Serves what the files hold now.
    async fn apply(&mut self, mut files: BTreeMap<PathBuf, File>) -> io::Result<()> {
        for (path, file) in &mut files {
            if file.broken
                && let Some(before) = self.files.get(path)
            {
                // What cannot be read now is not gone: the last that could be stays.
                file.objects = before.objects.clone();
            }
        }
        self.files = files;
        let loaded = Loaded::join(self.files.values());
        let mut edits = Vec::new();
        for (reference, located) in &loaded.objects {
            if self
                .loaded
                .objects
                .get(reference)
                .is_none_or(|before| before.object != located.object)
            {
                edits.push(Edit::Put(located.object.clone()));
            }
        }
        let gone = self
            .loaded
            .objects
            .keys()
            .filter(|reference| !loaded.objects.contains_key(*reference));
        edits.extend(gone.cloned().map(Edit::Delete));
        self.loaded = loaded;
        let mut changes = self.translator.apply(edits).changes;
        for change in &changes {
            let key = match change {
                weft_model::Change::Upsert(resource) => resource.key(),
                weft_model::Change::Remove(key) => key.clone(),
            };
            self.refused.remove(&key);
        }
        if let Some(echo) = &mut self.echo {
            changes = echo.complete(changes).await?;
        }
        for Rejected { key, reason } in self.proxy.apply(changes).await {
            self.refused.insert(key, reason);
        }
        let generation = self.applied.borrow().generation + 1;
        let mut problems = analyze::problems(&self.loaded, &self.translator);
        problems.extend(
            self.refused
                .iter()
                .map(|(key, reason)| refused(&key.to_string(), reason)),
        );
        self.applied.send_replace(Applied {
            generation,
            problems,
            statuses: self.statuses(),
            unknown: self.loaded.unknown.clone(),
        });
        Ok(())
    }

    /// The statuses, with the data plane's word on listeners.
    fn statuses(&self) -> BTreeMap<ObjectRef, Status> {
        let mut statuses: BTreeMap<ObjectRef, Status> = self
            .translator
            .statuses()
            .map(|(reference, status)| (reference.clone(), status.clone()))
            .collect();
        for (reference, status) in &mut statuses {
            let Status::Gateway(gateway) = status else { continue };
            let mut refused = 0;
            for listener in &mut gateway.listeners {
                let key = ListenerKey::from(format!("{}/{}/{}", reference.namespace, reference.name, listener.name));
                let Some(reason) = self.refused.get(&Key::Listener(key)) else {
                    continue;
                };
                refused += 1;
                for condition in listener
                    .conditions
                    .iter_mut()
                    .filter(|c| c.condition_type == "Programmed")
                {
                    condition.status = "False".into();
                    condition.reason = "Invalid".into();
                    condition.message.clone_from(reason);
                }
            }
            if refused > 0 && refused == gateway.listeners.len() {
                for condition in gateway
                    .conditions
                    .iter_mut()
                    .filter(|c| c.condition_type == "Programmed")
                {
                    condition.status = "False".into();
                    condition.reason = "Invalid".into();
                    condition.message = "the data plane serves none of the listeners".into();
                }
            }
        }
        statuses
    }
}
