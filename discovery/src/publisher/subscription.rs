//! What one session is told, and what its data plane has said.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;
use weft_model::Key;

use super::{Epoch, Publisher, Replica, State};
use crate::{
    party::{DataPlane, Party},
    wire::Encoded,
};

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

impl Subscription {
    pub(super) fn new(publisher: Publisher, id: u64, of: DataPlane, mail: Arc<Notify>) -> Self {
        Self {
            publisher,
            id,
            of,
            mail,
            said: Mutex::default(),
        }
    }

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
    use weft_model::Change;

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
