//! What is published, and who has taken it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use weft_model::{Change, GatewayKey, Key, Resource};

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

/// Whose an address is.
pub(crate) struct Found {
    pub(crate) address: IpAddr,
    pub(crate) namespaces: Vec<Arc<str>>,
    /// What is to be told before that is said, as far as it has not been told.
    pub(crate) keys: BTreeSet<Key>,
}

impl Found {
    /// Nothing is said of a namespace that is left: what is taken back is taken back before that would be heard. Returns the
    /// addresses of which nothing remains to be said.
    pub(crate) fn leave(all: &mut Vec<Self>, namespace: &str) -> Vec<IpAddr> {
        let ends = |found: &mut Self| {
            let before = found.namespaces.len();
            found.namespaces.retain(|name| **name != *namespace);
            before > 0 && found.namespaces.is_empty()
        };
        all.extract_if(.., ends).map(|found| found.address).collect()
    }
}

/// What came of a question.
pub(crate) struct Answer {
    pub(crate) found: Found,
    /// An address that nobody remembers any more to have been asked about.
    pub(crate) forgotten: Option<IpAddr>,
}

/// What has changed for a session.
pub(crate) struct Mail {
    pub(crate) changed: BTreeSet<Key>,
    pub(crate) found: Vec<Found>,
    /// All up to there.
    pub(crate) epoch: Epoch,
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

impl Subscription {
    /// Waits until something may have changed.
    pub(crate) fn mail(&self) -> Arc<Notify> {
        self.mail.clone()
    }

    /// What has changed since it was last asked.
    pub(crate) fn take(&self) -> Mail {
        let mut state = self.publisher.state();
        let epoch = state.epoch;
        let mailbox = state.mailboxes.get_mut(&self.id);
        let taken = mailbox.map(|mailbox| (std::mem::take(&mut mailbox.changed), std::mem::take(&mut mailbox.found)));
        let (changed, found) = taken.unwrap_or_default();
        Mail { changed, found, epoch }
    }

    /// Says whose an address is, and has the sidecar belong from now on to those who talk to these namespaces: what is told of
    /// them is among its mail.
    pub(crate) fn ask(&self, address: IpAddr) -> Option<Answer> {
        let address = address.to_canonical();
        let mut state = self.publisher.state();
        let mailbox = state.mailboxes.get_mut(&self.id)?;
        let forgotten = mailbox.asked.remember(address);
        state.askers.entry(address).or_default().insert(self.id);
        if let Some(forgotten) = forgotten {
            state.no_asker(self.id, forgotten);
        }
        let namespaces = state.directory.namespaces(address).cloned().collect();
        state.join(self.id, address, namespaces);
        let found = state.mailboxes.get_mut(&self.id)?.found.pop()?;
        Some(Answer { found, forgotten })
    }

    /// The sidecar does not talk to a namespace any more, which is not its own: what is told of that alone is not for it.
    /// Returns the addresses of which it would have been said that they are of that.
    pub(crate) fn leave(&self, namespace: &str) -> Vec<IpAddr> {
        if matches!(&self.of, DataPlane::Sidecar { namespace: own, .. } if own == namespace) {
            return Vec::new();
        }
        let party = Party::Talking(namespace.into());
        let mut state = self.publisher.state();
        let State {
            audiences, mailboxes, ..
        } = &mut *state;
        let Some(mailbox) = mailboxes.get_mut(&self.id) else {
            return Vec::new();
        };
        let unsaid = Found::leave(&mut mailbox.found, namespace);
        if mailbox.parties.remove(&party) {
            mailbox.changed.extend(audiences.used_by(&party).cloned());
            state.not_of(self.id, &party);
        }
        unsaid
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
            DataPlane::Sidecar { namespace, .. } => {
                let mailbox = state.mailboxes.get(&self.id)?;
                state.mesh.contains(namespace) && !users.is_disjoint(&mailbox.parties)
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
        if let Some(mailbox) = state.mailboxes.remove(&self.id) {
            for party in &mailbox.parties {
                state.not_of(self.id, party);
            }
            for address in mailbox.asked.iter() {
                state.no_asker(self.id, *address);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whose::tests::peer;

    #[test]
    fn what_was_found_of_a_namespace_is_not_said_once_that_is_left() {
        let publisher = Publisher::new();
        publisher.set_mesh(["web", "shop"].map(str::to_owned).into());
        let web = publisher.subscribe(DataPlane::sidecar("web", "w-1"), Some(&[]));
        let own = [10, 0, 0, 1];
        let address: IpAddr = own.into();
        let tell = |key: &str, address: [u8; 4]| publisher.publish(vec![Change::Upsert(peer(key, &[address]))]);
        let answer = web.ask(address).expect("it is open");
        assert!(answer.found.namespaces.is_empty());
        tell("shop/a", own);
        assert_eq!(web.leave("shop"), [address], "it has to be asked about again");
        assert!(web.take().found.is_empty());
        // Whose it is besides is said.
        tell("web/w-2", own);
        tell("shop/b", [10, 0, 0, 2]);
        let answer = web.ask(address).expect("it is open");
        let mut found = vec![answer.found];
        assert_eq!(found[0].namespaces.len(), 2);
        assert!(Found::leave(&mut found, "shop").is_empty());
        assert_eq!(found[0].namespaces, ["web".into()]);
        assert!(web.leave("web").is_empty(), "its own it cannot leave");
    }
}
