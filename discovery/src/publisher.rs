//! What is published, and who has taken it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use weft_model::{Change, GatewayKey, Key, Resource};

use crate::{audience::Audience, wire::Encoded};

/// Counts what was published, from 1. A data plane that has taken an epoch has taken all before it.
pub type Epoch = u64;

/// What the data planes of every Gateway have said, by the name of each (its pod's).
pub type Replicas = BTreeMap<GatewayKey, BTreeMap<String, Replica>>;

/// What one data plane has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replica {
    /// The last epoch of which it has answered for everything.
    pub taken: Epoch,
    /// What it does not serve, in its own words.
    pub refused: BTreeMap<Key, String>,
}

impl Replica {
    /// Whether it serves everything of an epoch.
    pub fn serves(&self, epoch: Epoch) -> bool {
        self.taken >= epoch && self.refused.is_empty()
    }
}

/// Publishes resources to the data planes that are connected.
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    replicas: watch::Sender<Replicas>,
}

#[derive(Default)]
struct State {
    epoch: Epoch,
    resources: HashMap<Key, Arc<Encoded>>,
    audience: Audience,
    mailboxes: HashMap<u64, Mailbox>,
    last_mailbox: u64,
}

/// The names of what has changed for one session since it last looked. Names that wait are the same name once, so it is
/// bounded by what there is.
struct Mailbox {
    gateway: GatewayKey,
    changed: BTreeSet<Key>,
    mail: Arc<Notify>,
}

/// One session's view: what its Gateway uses.
pub(crate) struct Subscription {
    publisher: Publisher,
    id: u64,
    gateway: GatewayKey,
    replica: String,
    mail: Arc<Notify>,
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Publisher {
    /// Nothing is published yet.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            replicas: watch::Sender::new(Replicas::new()),
        }))
    }

    /// Publishes changes, and returns the epoch that a data plane must have taken to have taken them.
    pub fn publish(&self, changes: Vec<Change>) -> Epoch {
        let mut changed: Vec<(Key, Option<Resource>)> = Vec::with_capacity(changes.len());
        let mut encoded = Vec::with_capacity(changes.len());
        for change in changes {
            match change {
                Change::Upsert(resource) => match Encoded::new(&resource) {
                    Ok(form) => {
                        encoded.push((resource.key(), Some(Arc::new(form))));
                        changed.push((resource.key(), Some(resource)));
                    }
                    Err(error) => tracing::error!(key = %resource.key(), %error, "a resource cannot be published"),
                },
                Change::Remove(key) => {
                    encoded.push((key.clone(), None));
                    changed.push((key, None));
                }
            }
        }
        let mut state = self.state();
        state.epoch += 1;
        for (key, form) in encoded {
            match form {
                Some(form) => state.resources.insert(key, form),
                None => state.resources.remove(&key),
            };
        }
        let State {
            audience, mailboxes, ..
        } = &mut *state;
        let affected = audience.update(&changed);
        for mailbox in mailboxes.values_mut() {
            let keys = affected
                .iter()
                .filter(|(_, gateways)| gateways.contains(&mailbox.gateway));
            mailbox.changed.extend(keys.map(|(key, _)| key.clone()));
            // Those for whom nothing has changed have taken the epoch at once, which they learn here too.
            mailbox.mail.notify_one();
        }
        state.epoch
    }

    /// What the data planes have said; it tells when that changes. A data plane is in it while it is connected.
    pub fn replicas(&self) -> watch::Receiver<Replicas> {
        self.0.replicas.subscribe()
    }

    /// Opens a session's view, everything that the Gateway uses being mail to begin with.
    pub(crate) fn subscribe(&self, gateway: GatewayKey, replica: &str) -> Subscription {
        let mail = Arc::new(Notify::new());
        let mut state = self.state();
        let used = |key: &&Key| state.audience.of(key).is_some_and(|users| users.contains(&gateway));
        let changed = state.resources.keys().filter(used).cloned().collect();
        state.last_mailbox += 1;
        let id = state.last_mailbox;
        state.mailboxes.insert(
            id,
            Mailbox {
                gateway: gateway.clone(),
                changed,
                mail: mail.clone(),
            },
        );
        drop(state);
        mail.notify_one();
        Subscription {
            publisher: self.clone(),
            id,
            gateway,
            replica: replica.to_owned(),
            mail,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in it is left half-done by a panic that could be met here.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// Waits until something may have changed.
    pub(crate) fn mail(&self) -> Arc<Notify> {
        self.mail.clone()
    }

    /// What has changed since it was last asked, and the epoch up to which that is all.
    pub(crate) fn take(&self) -> (BTreeSet<Key>, Epoch) {
        let mut state = self.publisher.state();
        let epoch = state.epoch;
        let mailbox = state.mailboxes.get_mut(&self.id);
        let changed = mailbox.map(|mailbox| std::mem::take(&mut mailbox.changed));
        (changed.unwrap_or_default(), epoch)
    }

    /// A resource, if it is there and the Gateway uses it.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Encoded>> {
        let state = self.publisher.state();
        let used = state
            .audience
            .of(key)
            .is_some_and(|users| users.contains(&self.gateway));
        used.then(|| state.resources.get(key).cloned()).flatten()
    }

    /// Says what the data plane has said.
    pub(crate) fn report(&self, replica: &Replica) {
        self.publisher.0.replicas.send_if_modified(|replicas| {
            let known = replicas.entry(self.gateway.clone()).or_default();
            if known.get(&self.replica) == Some(replica) {
                return false;
            }
            known.insert(self.replica.clone(), replica.clone());
            true
        });
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.publisher.state().mailboxes.remove(&self.id);
        let other = {
            let state = self.publisher.state();
            // A data plane that has come back before its old session was seen to end has another.
            state.mailboxes.values().any(|mailbox| mailbox.gateway == self.gateway)
        };
        self.publisher.0.replicas.send_if_modified(|replicas| {
            let Some(known) = replicas.get_mut(&self.gateway) else {
                return false;
            };
            let gone = known.remove(&self.replica).is_some();
            if known.is_empty() && !other {
                replicas.remove(&self.gateway);
            }
            gone
        });
    }
}
