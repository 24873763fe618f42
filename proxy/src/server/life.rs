//! The life of a worker: it does what it is told until it is to end.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};
use weft_model::RouteKey;

use crate::{
    config::{Place, Snapshot},
    listen::{self, Speaks},
    traffic::Tally,
    worker::Worker,
};

/// What it is told.
pub(super) enum Command {
    Replace {
        snapshot: Arc<Snapshot>,
        open: Vec<Opened>,
        close: Vec<Place>,
        done: oneshot::Sender<()>,
    },
    Tally {
        routes: Arc<HashSet<RouteKey>>,
        done: oneshot::Sender<Tally>,
    },
    Drain(oneshot::Sender<()>),
}

/// A socket handed to a worker.
pub(super) struct Opened {
    pub(super) place: Place,
    pub(super) socket: socket2::Socket,
    pub(super) speaks: Speaks,
}

/// Takes commands until one ends it, or nobody is there any more to give one.
pub(super) async fn run(worker: Rc<Worker>, mut commands: mpsc::Receiver<Command>, ticks: Arc<Notify>) {
    // Several where a port is bound on several addresses.
    let mut accepting: HashMap<Place, Vec<JoinHandle<()>>> = HashMap::new();
    let deadlines = worker.clone();
    tokio::task::spawn_local(async move { deadlines.deadlines.keep().await });
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            () = ticks.notified() => {
                worker.tick(Instant::now());
                continue;
            }
        };
        match command {
            Some(Command::Replace {
                snapshot,
                open,
                close,
                done,
            }) => {
                for place in close {
                    for task in accepting.remove(&place).unwrap_or_default() {
                        task.abort();
                        // Aborted is not yet closed: the port may be bound anew right after.
                        let _ = task.await;
                    }
                }
                worker.replace(snapshot);
                for Opened { place, socket, speaks } in open {
                    match listen::start(&worker, socket, place.0, speaks) {
                        Ok(task) => accepting.entry(place).or_default().push(task),
                        Err(error) => tracing::error!(port = place.0, %error, "a socket could not be used"),
                    }
                }
                let _ = done.send(());
            }
            Some(Command::Tally { routes, done }) => {
                let _ = done.send(worker.tally(&routes));
            }
            Some(Command::Drain(done)) => {
                drain(&worker, &mut accepting).await;
                let _ = done.send(());
                return;
            }
            None => return,
        }
    }
}

/// Takes no more connections and waits until those that are open have ended, or the time is over.
async fn drain(worker: &Rc<Worker>, accepting: &mut HashMap<Place, Vec<JoinHandle<()>>>) {
    for task in accepting.drain().flat_map(|(_, tasks)| tasks) {
        task.abort();
    }
    worker.start_drain();
    let end = Instant::now() + worker.options.drain;
    let mut look = tokio::time::interval(Duration::from_millis(20));
    while worker.connections.get().open > 0 && Instant::now() < end {
        let now = look.tick().await.into_std();
        worker.tick(now);
        worker.watchdogs.expire_idle();
    }
    let open = worker.connections.get().open;
    if open > 0 {
        tracing::warn!(open, "connections were cut since their requests outlasted the drain");
    }
}
