//! A gateway on files: read, translate, serve, and do so again when a file changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
use weft_crds::{Condition, Object, ObjectRef};
use weft_model::{Change, Key, ListenerKey};
use weft_proxy::{Options, Proxy, Rejected};
use weft_translate::{Code, Edit, Status, Translator};

use crate::{
    admin,
    analyze::{self, refused},
    echo::Echo,
    files::{File, Loaded, Problem, Sources, SourcesError},
};

/// After a file has changed, further changes are waited for this long: editors write in several steps.
const SETTLE: Duration = Duration::from_millis(5);
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
    pub problems: Arc<Vec<Problem>>,
    /// The statuses that this change has changed, with the data plane's word; at first, all of them.
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
            loaded: Loaded::default(),
            translator: analyze::translator(),
            echo: options.echo.then(Echo::default),
            proxy,
            refused: HashMap::new(),
            placed: BTreeMap::new(),
            applied: sender,
            seen: HashMap::new(),
        };
        // Signs of change are gathered from before the first reading on, so that none is missed.
        let (watcher, changes) = reloader.watch();
        let all = reloader.changed(&files);
        reloader.apply(all).await.map_err(StartError::Echo)?;
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
    loaded: Loaded,
    translator: Translator,
    echo: Option<Echo>,
    proxy: Arc<Proxy>,
    /// What the data plane does not take, in its own words.
    refused: HashMap<Key, String>,
    /// What is wrong with each object, at its place.
    placed: BTreeMap<ObjectRef, Vec<Problem>>,
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
            let files = match self.sources.files() {
                Ok(files) => files,
                Err(error) => {
                    tracing::error!(%error, "what was read before stays in use");
                    continue;
                }
            };
            let changed = self.changed(&files);
            if !changed.is_empty()
                && let Err(error) = self.apply(changed).await
            {
                tracing::error!(%error, "the echo backend could not take over a change");
            }
        }
    }

    /// The files that look other than before, or are gone.
    fn changed(&mut self, files: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
        let mut seen = HashMap::new();
        for path in files {
            // Standard input is read once.
            let signature = match std::fs::metadata(path) {
                Ok(metadata) => (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len()),
                Err(_) => (SystemTime::UNIX_EPOCH, 0),
            };
            seen.insert(path.clone(), signature);
        }
        let mut changed: Vec<PathBuf> = self
            .seen
            .keys()
            .filter(|path| !seen.contains_key(*path))
            .cloned()
            .collect();
        changed.extend(
            seen.iter()
                .filter(|(path, now)| self.seen.get(*path) != Some(now))
                .map(|(path, _)| path.clone()),
        );
        self.seen = seen;
        changed
    }

    /// Serves what these files hold now.
    async fn apply(&mut self, paths: Vec<PathBuf>) -> io::Result<()> {
        let mut before: BTreeMap<ObjectRef, Option<Object>> = BTreeMap::new();
        for path in paths {
            let mut file = self.seen.contains_key(&path).then(|| File::read(&path));
            if let Some(file) = file.as_mut().filter(|file| file.broken)
                && let Some(known) = self.loaded.file(&path)
            {
                // What cannot be read now is not gone: the last that could be stays.
                file.keep_objects_of(known);
            }
            let new = file
                .iter()
                .flat_map(|file| &file.objects)
                .map(|located| located.object.reference());
            let old = self
                .loaded
                .file(&path)
                .into_iter()
                .flat_map(|file| &file.objects)
                .map(|l| l.object.reference());
            for reference in new.chain(old).collect::<Vec<_>>() {
                let known = self.loaded.get(&reference).map(|located| located.object.clone());
                before.entry(reference).or_insert(known);
            }
            self.loaded.replace(&path, file);
        }
        let edits = before
            .iter()
            .filter_map(|(reference, before)| match (before, self.loaded.get(reference)) {
                (Some(before), Some(after)) if *before == after.object => None,
                (_, Some(after)) => Some(Edit::Put(after.object.clone())),
                (Some(_), None) => Some(Edit::Delete(reference.clone())),
                (None, None) => None,
            });
        let output = self.translator.apply(edits.collect());
        for change in &output.changes {
            let key = match change {
                Change::Upsert(resource) => resource.key(),
                Change::Remove(key) => key.clone(),
            };
            self.refused.remove(&key);
        }
        let mut changes = output.changes;
        if let Some(echo) = &mut self.echo {
            changes = echo.complete(changes).await?;
        }
        for Rejected { key, reason } in self.proxy.apply(changes).await {
            self.refused.insert(key, reason);
        }
        // Places move with the files; what is wrong changes with the translation.
        let diagnosed: BTreeMap<_, _> = output.diagnostics.into_iter().collect();
        let touched: BTreeSet<ObjectRef> = before.into_keys().chain(diagnosed.into_keys()).collect();
        for reference in touched {
            self.place(reference);
        }
        let mut problems = self.loaded.problems();
        problems.extend(self.placed.values().flatten().cloned());
        problems.extend(
            self.refused
                .iter()
                .map(|(key, reason)| refused(&key.to_string(), reason)),
        );
        analyze::sort(&mut problems);
        let mut statuses: BTreeMap<ObjectRef, Status> = output.statuses.into_iter().collect();
        self.say_refused(&mut statuses);
        let generation = self.applied.borrow().generation + 1;
        let unknown = self.loaded.unknown();
        self.applied.send_replace(Applied {
            generation,
            problems: Arc::new(problems),
            statuses,
            unknown,
        });
        Ok(())
    }

    /// Finds the places of what is wrong with an object.
    fn place(&mut self, reference: ObjectRef) {
        let Some(located) = self.loaded.get(&reference) else {
            self.placed.remove(&reference);
            return;
        };
        let diagnostics = self.translator.diagnostics_of(&reference).iter();
        // The echo backend answers for what has no endpoints.
        let shown = diagnostics.filter(|diagnostic| self.echo.is_none() || diagnostic.code != Code::NoEndpoints);
        let problems: Vec<Problem> = shown.map(|diagnostic| located.problem(diagnostic)).collect();
        if problems.is_empty() {
            self.placed.remove(&reference);
        } else {
            self.placed.insert(reference, problems);
        }
    }

    /// Puts the data plane's word on listeners into statuses.
    fn say_refused(&self, statuses: &mut BTreeMap<ObjectRef, Status>) {
        for (reference, status) in statuses {
            let Status::Gateway(gateway) = status else { continue };
            let mut refused = 0;
            for listener in &mut gateway.listeners {
                let key = ListenerKey::from(format!("{}/{}/{}", reference.namespace, reference.name, listener.name));
                let Some(reason) = self.refused.get(&Key::Listener(key)) else {
                    continue;
                };
                refused += 1;
                unprogram(&mut listener.conditions, reason);
            }
            if refused > 0 && refused == gateway.listeners.len() {
                unprogram(&mut gateway.conditions, "the data plane serves none of the listeners");
            }
        }
    }
}

fn unprogram(conditions: &mut [Condition], why: &str) {
    for condition in conditions
        .iter_mut()
        .filter(|condition| condition.condition_type == "Programmed")
    {
        condition.status = "False".into();
        condition.reason = "Invalid".into();
        condition.message = why.into();
    }
}
