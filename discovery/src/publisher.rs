//! What is published, and who has taken it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use weft_model::{Change, GatewayKey, Key, Resource};

use crate::{
    audience::Audiences,
    party::{DataPlane, Party},
    wire::Encoded,
};

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
    refused: watch::Sender<BTreeMap<Key, String>>,
    sidecars: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    epoch: Epoch,
    resources: HashMap<Key, Arc<Encoded>>,
    audiences: Audiences,
    mailboxes: HashMap<u64, Mailbox>,
    /// Who looks into which.
    of_party: HashMap<Party, BTreeSet<u64>>,
    /// The namespaces in the mesh.
    mesh: BTreeSet<String>,
    /// What sidecars refuse: how many, and in the words of the last.
    refused: BTreeMap<Key, (usize, String)>,
    last_mailbox: u64,
}

/// The names of what has changed for one session since it last looked. Names that wait are the same name once, so it is
/// bounded by what there is.
struct Mailbox {
    of: DataPlane,
    changed: BTreeSet<Key>,
    mail: Arc<Notify>,
}

/// One session's view: what its data plane uses.
pub(crate) struct Subscription {
    publisher: Publisher,
    id: u64,
    of: DataPlane,
    mail: Arc<Notify>,
    /// What the data plane said last.
    said: Mutex<Replica>,
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
            refused: watch::Sender::new(BTreeMap::new()),
            sidecars: watch::Sender::new(0),
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
            audiences,
            mailboxes,
            of_party,
            ..
        } = &mut *state;
        let mut due = BTreeSet::new();
        for (key, parties) in audiences.update(&changed) {
            for id in parties.iter().filter_map(|party| of_party.get(party)).flatten() {
                if let Some(mailbox) = mailboxes.get_mut(id) {
                    mailbox.changed.insert(key.clone());
                    due.insert(*id);
                }
            }
        }
        for (id, mailbox) in mailboxes {
            // Data planes of Gateways for which nothing has changed have taken the epoch at once, which they learn here too.
            if due.contains(id) || matches!(mailbox.of, DataPlane::Gateway { .. }) {
                mailbox.mail.notify_one();
            }
        }
        state.epoch
    }

    /// Says which namespaces are in the mesh: sidecars in others are told nothing.
    pub fn set_mesh(&self, namespaces: BTreeSet<String>) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.mesh, namespaces);
        let State {
            audiences,
            mailboxes,
            of_party,
            mesh,
            ..
        } = &mut *state;
        for namespace in before.symmetric_difference(mesh) {
            let of = Party::Sidecars(namespace.as_str().into());
            for id in of_party.get(&of).into_iter().flatten() {
                if let Some(mailbox) = mailboxes.get_mut(id) {
                    let parties = mailbox.of.parties();
                    let used = parties.iter().flat_map(|party| audiences.used_by(party));
                    mailbox.changed.extend(used.cloned());
                    mailbox.mail.notify_one();
                }
            }
        }
    }

    /// What sidecars that are connected refuse, in the words of one of them.
    pub fn refused_by_sidecars(&self) -> watch::Receiver<BTreeMap<Key, String>> {
        self.0.refused.subscribe()
    }

    /// How many sidecars are connected.
    pub fn sidecars(&self) -> watch::Receiver<usize> {
        self.0.sidecars.subscribe()
    }

    /// What the data planes have said; it tells when that changes. A data plane is in it while it is connected.
    pub fn replicas(&self) -> watch::Receiver<Replicas> {
        self.0.replicas.subscribe()
    }

    /// Opens a session's view, everything that the data plane uses being mail to begin with.
    pub(crate) fn subscribe(&self, of: DataPlane) -> Subscription {
        let mail = Arc::new(Notify::new());
        let mut state = self.state();
        let parties = of.parties();
        let used = parties.iter().flat_map(|party| state.audiences.used_by(party));
        let changed = used.cloned().collect();
        state.last_mailbox += 1;
        let id = state.last_mailbox;
        for party in parties {
            state.of_party.entry(party).or_default().insert(id);
        }
        state.mailboxes.insert(
            id,
            Mailbox {
                of: of.clone(),
                changed,
                mail: mail.clone(),
            },
        );
        self.count_sidecars(&state);
        drop(state);
        mail.notify_one();
        Subscription {
            publisher: self.clone(),
            id,
            of,
            mail,
            said: Mutex::default(),
        }
    }

    /// Takes over that a sidecar refuses other things than before.
    fn count_refused(&self, before: &BTreeMap<Key, String>, now: &BTreeMap<Key, String>) {
        let mut state = self.state();
        let refused = &mut state.refused;
        for (key, reason) in now {
            let (count, said) = refused.entry(key.clone()).or_default();
            *count += 1;
            said.clone_from(reason);
        }
        for key in before.keys() {
            if let Some((count, _)) = refused.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    refused.remove(key);
                }
            }
        }
        let all: BTreeMap<Key, String> = refused
            .iter()
            .map(|(key, (_, reason))| (key.clone(), reason.clone()))
            .collect();
        // Told while nobody else counts, so that what is told last is what holds.
        self.0.refused.send_if_modified(|known| {
            let differs = *known != all;
            *known = all;
            differs
        });
    }

    fn count_sidecars(&self, state: &State) {
        let count = state.of_party.get(&Party::Mesh).map_or(0, BTreeSet::len);
        self.0.sidecars.send_if_modified(|known| {
            let differs = *known != count;
            *known = count;
            differs
        });
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

    /// Who subscribes.
    pub(crate) fn data_plane(&self) -> &DataPlane {
        &self.of
    }

    /// A resource, if it is there and the data plane uses it.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Encoded>> {
        let state = self.publisher.state();
        let users = state.audiences.of(key)?;
        let used = match &self.of {
            DataPlane::Gateway { gateway, .. } => users.contains(&Party::Gateway(gateway.clone())),
            DataPlane::Sidecar { namespace, pod } => {
                let own = |party: &Party| match party {
                    Party::Gateway(_) => false,
                    Party::Mesh => true,
                    Party::Sidecars(of) => **of == **namespace,
                    Party::Sidecar(of) => of.as_str().split_once('/') == Some((namespace, pod)),
                };
                state.mesh.contains(namespace) && users.iter().any(own)
            }
        };
        used.then(|| state.resources.get(key).cloned()).flatten()
    }

    /// Says what the data plane has said.
    pub(crate) fn report(&self, replica: &Replica) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.of {
            DataPlane::Gateway { gateway, replica: name } => {
                self.publisher.0.replicas.send_if_modified(|replicas| {
                    let known = replicas.entry(gateway.clone()).or_default();
                    if known.get(name) == Some(replica) {
                        return false;
                    }
                    known.insert(name.clone(), replica.clone());
                    true
                });
            }
            // There are many, of which only what is wrong is kept.
            DataPlane::Sidecar { .. } if said.refused != replica.refused => {
                self.publisher.count_refused(&said.refused, &replica.refused);
                said.refused.clone_from(&replica.refused);
            }
            DataPlane::Sidecar { .. } => {}
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.publisher.state();
        state.mailboxes.remove(&self.id);
        for party in self.of.parties() {
            if let Some(ids) = state.of_party.get_mut(&party) {
                ids.remove(&self.id);
                if ids.is_empty() {
                    state.of_party.remove(&party);
                }
            }
        }
        self.publisher.count_sidecars(&state);
        let DataPlane::Gateway { gateway, replica } = &self.of else {
            drop(state);
            return self.report(&Replica::default());
        };
        // A data plane that has come back before its old session was seen to end has another.
        let other = state.of_party.contains_key(&Party::Gateway(gateway.clone()));
        drop(state);
        self.publisher.0.replicas.send_if_modified(|replicas| {
            let Some(known) = replicas.get_mut(gateway) else {
                return false;
            };
            let gone = known.remove(replica).is_some();
            if known.is_empty() && !other {
                replicas.remove(gateway);
            }
            gone
        });
    }
}
