//! The connections of one worker that stand by who their peers are: they end when a peer is believed no longer.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::{
    Mesh,
    trust::{Peer, PeerError},
};
use crate::worker::ById;

/// Connections that are open.
#[derive(Clone, Default)]
pub(crate) struct Peers(Rc<Open>);

#[derive(Default)]
struct Open {
    connections: RefCell<ById<Rc<Standing>>>,
    last: Cell<u64>,
    /// The credentials by which they were last looked at.
    generation: Cell<u64>,
}

struct Standing {
    peer: Peer,
    over: RefCell<Option<PeerError>>,
    /// Whoever waits to read.
    waiting: RefCell<Option<Waker>>,
}

/// A connection, for as long as it is open.
pub(crate) struct Connected {
    peers: Peers,
    id: u64,
    standing: Rc<Standing>,
}

impl Peers {
    /// A connection whose handshake was made with the credentials of that generation. Trust may have changed meanwhile.
    pub(crate) fn connected(&self, mesh: &Mesh, generation: u64, peer: Peer) -> Result<Connected, PeerError> {
        let now = mesh.credentials();
        if now.generation != generation
            && let Some(trust) = &now.trust
        {
            trust.stands_by(&peer)?;
        }
        let id = self.0.last.get() + 1;
        self.0.last.set(id);
        let standing = Rc::new(Standing {
            peer,
            over: RefCell::default(),
            waiting: RefCell::default(),
        });
        self.0.connections.borrow_mut().insert(id, standing.clone());
        Ok(Connected {
            peers: self.clone(),
            id,
            standing,
        })
    }

    /// Looks at all of them if trust has changed, and tells those whose peers are believed no longer.
    pub(crate) fn check(&self, mesh: &Mesh) {
        let now = mesh.credentials();
        if self.0.generation.replace(now.generation) == now.generation {
            return;
        }
        let Some(trust) = &now.trust else { return };
        for standing in self.0.connections.borrow().values() {
            if let Err(error) = trust.stands_by(&standing.peer) {
                standing.over.replace(Some(error));
                if let Some(waker) = standing.waiting.take() {
                    waker.wake();
                }
            }
        }
    }
}

impl Connected {
    /// Why the peer is believed no longer, if it is not.
    pub(crate) fn is_over(&self) -> Option<PeerError> {
        self.standing.over.borrow().clone()
    }

    /// Ready once the peer is believed no longer, with why. One waits at a time.
    pub(crate) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<PeerError> {
        if let Some(error) = self.is_over() {
            return Poll::Ready(error);
        }
        let mut waiting = self.standing.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until the peer is believed no longer, and says why.
    #[cfg(test)]
    pub(crate) async fn over(&self) -> PeerError {
        std::future::poll_fn(|cx| self.poll_over(cx)).await
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.peers.0.connections.borrow_mut().remove(&self.id);
    }
}
