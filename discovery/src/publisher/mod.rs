//! What is published, and who has taken it.

mod subscription;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use weft_model::{Change, GatewayKey, Key, Resource};

pub(crate) use self::subscription::{Found, Subscription};
use crate::{
    audience::Audiences,
    party::{DataPlane, Party},
    whose::{Asked, Directory},
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
    directory: Directory,
    /// Who has asked about which address.
    askers: HashMap<IpAddr, BTreeSet<u64>>,
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
    /// What it belongs to.
    parties: BTreeSet<Party>,
    changed: BTreeSet<Key>,
    asked: Asked,
    /// Addresses that it has asked about and that have become somebody's.
    found: Vec<Found>,
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
        let mut new = Vec::new();
        for (key, resource) in &changed {
            new.extend(state.directory.update(key, resource.as_ref()));
        }
        for (address, namespace) in new {
            let askers: Vec<u64> = state.askers.get(&address).into_iter().flatten().copied().collect();
            for id in askers {
                state.join(id, address, vec![namespace.clone()]);
                due.insert(id);
            }
        }
        for (id, mailbox) in &mut state.mailboxes {
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
                    let used = mailbox.parties.iter().flat_map(|party| audiences.used_by(party));
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

    /// Opens a session's view, everything that the data plane uses being mail to begin with. `talks` are the namespaces that a
    /// sidecar talks to beside its own; one that does not say so is told of all.
    pub(crate) fn subscribe(&self, of: DataPlane, talks: Option<&[String]>) -> Subscription {
        let mail = Arc::new(Notify::new());
        let mut state = self.state();
        let parties = of.parties(talks);
        let used = parties.iter().flat_map(|party| state.audiences.used_by(party));
        let changed = used.cloned().collect();
        state.last_mailbox += 1;
        let id = state.last_mailbox;
        for party in &parties {
            state.of_party.entry(party.clone()).or_default().insert(id);
        }
        state.mailboxes.insert(
            id,
            Mailbox {
                of: of.clone(),
                parties,
                changed,
                asked: Asked::default(),
                found: Vec::new(),
                mail: mail.clone(),
            },
        );
        self.count_sidecars(&state);
        drop(state);
        mail.notify_one();
        Subscription::new(self.clone(), id, of, mail)
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

impl State {
    /// Has a session belong to those who talk to some namespaces, and says so once what is told of them has been.
    fn join(&mut self, id: u64, address: IpAddr, namespaces: Vec<Arc<str>>) {
        let Some(mailbox) = self.mailboxes.get_mut(&id) else {
            return;
        };
        let mut keys = BTreeSet::new();
        for namespace in &namespaces {
            let party = Party::Talking(namespace.clone());
            let used: Vec<Key> = self.audiences.used_by(&party).cloned().collect();
            // Who is told of everything asks nothing, but then it is told of these too.
            if mailbox.parties.insert(party.clone()) {
                mailbox.changed.extend(used.iter().cloned());
                self.of_party.entry(party).or_default().insert(id);
            }
            keys.extend(used);
        }
        mailbox.found.push(Found {
            address,
            namespaces,
            keys,
        });
    }

    fn not_of(&mut self, id: u64, party: &Party) {
        if let Some(ids) = self.of_party.get_mut(party) {
            ids.remove(&id);
            if ids.is_empty() {
                self.of_party.remove(party);
            }
        }
    }

    fn no_asker(&mut self, id: u64, address: IpAddr) {
        if let Some(ids) = self.askers.get_mut(&address) {
            ids.remove(&id);
            if ids.is_empty() {
                self.askers.remove(&address);
            }
        }
    }
}
