//! A gateway on files: read, translate, serve, and do so again when a file changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use tokio::{sync::watch, task::JoinHandle};
use weft_crds::{Condition, GatewayStatus, Kind, Object, ObjectRef};
use weft_model::{Change, Key, ListenerKey, Rejected};
use weft_proxy::{
    Options, Proxy,
    admin::{self, State},
};
use weft_translate::{Code, Edit, Status, Translator};

use crate::{
    analyze::{self, refused},
    echo::Echo,
    files::{File, Level, Loaded, Problem, Sources, SourcesError},
    names::{self, NamesOptions},
    watch::{Looks, Watch},
};

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
    /// How names of destinations are resolved.
    pub names: NamesOptions,
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
}

/// What was last applied.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Grows with every change.
    pub generation: u64,
    /// Everything that is wrong.
    pub problems: Arc<Vec<Problem>>,
    /// The statuses that this change has changed, with the data plane's word; at first, all of them.
    pub statuses: BTreeMap<ObjectRef, Arc<Status>>,
    /// Kinds that are not read, and how many objects of each there are.
    pub unknown: BTreeMap<String, usize>,
}

/// A gateway that runs on files.
pub struct Standalone {
    state: Arc<State>,
    applied: watch::Receiver<Applied>,
    task: JoinHandle<()>,
    names: JoinHandle<()>,
    admin: Option<SocketAddr>,
}

impl Standalone {
    /// Reads everything, serves it, and goes on to serve what changes.
    ///
    /// # Errors
    /// A source cannot be read, or an address of our own cannot be bound. What is wrong within manifests is not an error
    /// here: see [`Applied::problems`].
    pub async fn start(options: StandaloneOptions) -> Result<Self, StartError> {
        // What cannot be read at all is said before anything is started.
        options.sources.files()?;
        let proxy = Arc::new(Proxy::start(options.proxy.clone()).map_err(StartError::Proxy)?);
        let state = Arc::new(State::new(proxy.clone()));
        let admin = match options.admin {
            Some(address) => {
                let bound = admin::start(address, admin::Pages::All, state.clone()).await;
                Some(bound.map_err(|error| StartError::Admin(address, error))?)
            }
            None => None,
        };
        let (sender, applied) = watch::channel(Applied::default());
        let mut reloader = Reloader {
            loaded: Loaded::default(),
            translator: analyze::translator(false),
            echo: options.echo.then(Echo::default),
            proxy: proxy.clone(),
            refused: HashMap::new(),
            placed: BTreeMap::new(),
            applied: sender,
        };
        let mut watch = Watch::new(options.sources);
        let all = watch.changed()?;
        let names = names::start(proxy, options.names);
        reloader.apply(all).await;
        state.set_ready();
        let task = tokio::spawn(async move { reloader.run(watch).await });
        Ok(Self {
            state,
            applied,
            task,
            names,
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
        self.state.set_draining();
        self.task.abort();
        self.names.abort();
        let _ = self.task.await;
        self.state.proxy().shutdown().await;
    }
}

struct Reloader {
    loaded: Loaded,
    translator: Translator,
    echo: Option<Echo>,
    proxy: Arc<Proxy>,
    /// What the data plane does not take, in its own words.
    refused: HashMap<Key, String>,
    /// What is wrong with each object, at its place.
    placed: BTreeMap<ObjectRef, Vec<Problem>>,
    applied: watch::Sender<Applied>,
}

impl Reloader {
    async fn run(&mut self, mut watch: Watch) {
        loop {
            watch.wait().await;
            let changed = match watch.changed() {
                Ok(changed) => changed,
                Err(error) => {
                    tracing::error!(%error, "what was read before stays in use");
                    continue;
                }
            };
            // A port that another process had may be free by now.
            let waits_for_port = self.refused.keys().any(|key| matches!(key, Key::Listener(_)));
            if !changed.is_empty() || waits_for_port {
                self.apply(changed).await;
            }
        }
    }

    /// Serves what these files hold now; those that are not there any more hold nothing.
    async fn apply(&mut self, files: Vec<(PathBuf, Looks)>) {
        let mut before: BTreeMap<ObjectRef, Option<Object>> = BTreeMap::new();
        let mut read_anew = false;
        for (path, looks) in files {
            let mut file = if looks == Looks::Gone {
                None
            } else {
                match File::read_anew(&path, looks == Looks::Filled, self.loaded.file(&path)) {
                    None => continue,
                    read => read,
                }
            };
            read_anew = true;
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
        let were_refused = self.refused.clone();
        self.serve(output.changes).await;
        if !read_anew && were_refused == self.refused {
            return;
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
        problems.extend(self.echo.iter().filter_map(unanswered));
        analyze::sort(&mut problems);
        let mut statuses: BTreeMap<ObjectRef, Arc<Status>> = output.statuses.into_iter().collect();
        if were_refused != self.refused {
            // The data plane's word on any listener may be another now.
            let owners = self.translator.statuses();
            let owners = owners.filter(|(reference, _)| matches!(reference.kind, Kind::Gateway | Kind::ListenerSet));
            statuses.extend(owners.map(|(reference, status)| (reference.clone(), Arc::new(status.clone()))));
        }
        self.say_refused(&mut statuses);
        let generation = self.applied.borrow().generation + 1;
        let unknown = self.loaded.unknown();
        self.applied.send_replace(Applied {
            generation,
            problems: Arc::new(problems),
            statuses,
            unknown,
        });
    }

    /// Tells the data plane what has changed, and keeps what it says to that.
    async fn serve(&mut self, mut changes: Vec<Change>) {
        for change in &changes {
            let key = match change {
                Change::Upsert(resource) => resource.key(),
                Change::Remove(key) => key.clone(),
            };
            self.refused.remove(&key);
        }
        if let Some(echo) = &mut self.echo {
            changes = echo.complete(changes).await;
        }
        for Rejected { key, reason } in self.proxy.apply(changes).await {
            self.refused.insert(key, reason);
        }
        if self.refused.is_empty() {
            return;
        }
        // A listener that was refused may be served by now though it is the same: its port is free, or another
        // listener has left it.
        let served = self.proxy.listening().await;
        self.refused
            .retain(|key, _| !matches!(key, Key::Listener(key) if served.contains(key)));
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
    fn say_refused(&self, statuses: &mut BTreeMap<ObjectRef, Arc<Status>>) {
        let owners = statuses
            .iter_mut()
            .filter(|(reference, _)| matches!(reference.kind, Kind::Gateway | Kind::ListenerSet));
        for (reference, status) in owners {
            let (conditions, listeners, key): (_, _, fn(&str, &str, &str) -> ListenerKey) = match Arc::make_mut(status)
            {
                Status::Gateway(gateway) => {
                    let GatewayStatus {
                        conditions, listeners, ..
                    } = gateway;
                    (conditions, listeners, ListenerKey::of_gateway)
                }
                Status::ListenerSet(set) => (&mut set.conditions, &mut set.listeners, ListenerKey::of_set),
                _ => continue,
            };
            let mut refused = 0;
            for listener in listeners.iter_mut() {
                let key = key(&reference.namespace, &reference.name, &listener.name);
                let Some(reason) = self.refused.get(&Key::Listener(key)) else {
                    continue;
                };
                refused += 1;
                unprogram(&mut listener.conditions, reason);
            }
            if refused > 0 && refused == listeners.len() {
                unprogram(conditions, "the data plane serves none of the listeners");
            }
        }
    }
}

/// Says that the echo backend is not what it is to be.
fn unanswered(echo: &Echo) -> Option<Problem> {
    let (count, error) = echo.unanswered()?;
    Some(Problem {
        code: "M0102".into(),
        level: Level::Warning,
        place: None,
        object: None,
        message: format!("the echo backend answers for {count} Services less than it should: {error}"),
        remedy: "let the process have more open files, say with `ulimit -n 65536`".into(),
        snippet: None,
    })
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
