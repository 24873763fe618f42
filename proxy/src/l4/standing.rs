//! What is passed on as it is for as long as it is open: once policies would not let it in any more, it ends. A connection gets
/// some time to do so by itself; a flow of datagrams has no end of its own, and ends at once.
use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{Ended, Story, relay::abort, udp::Flows};
use crate::{authorization::edge::Passage, config::Snapshot, flag::Flag, intercepted::Alarm, tls::Tls, worker::Worker};

/// What is open on one worker.
#[derive(Default)]
pub(crate) struct Standing {
    connections: RefCell<Vec<Weak<Admitted>>>,
    /// Those of each socket.
    flows: RefCell<Vec<Weak<Flows>>>,
    looked: Cell<Looked>,
    /// Whether some are in their grace.
    waiting: Cell<bool>,
}

/// By what it was looked at last. Each number is another once something is another.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Looked {
    snapshot: u64,
    guards: u64,
    /// What of certificates is believed in the mesh.
    credentials: u64,
}

/// A connection that was let in, for as long as it is open.
pub(crate) struct Admitted {
    story: Rc<Story>,
    passage: Passage,
    /// Where TLS ends here: what the client has shown.
    tls: Option<Box<Tls>>,
    /// Since when it would not be let in.
    barred: Cell<Option<Instant>>,
    /// Why there is no more time.
    over: RefCell<Option<String>>,
    alarm: Alarm,
}

impl Standing {
    /// Lets a connection in, if policies do. Else its client gets a reset.
    pub(super) fn admit(
        &self,
        worker: &Worker,
        passage: Passage,
        stream: &TcpStream,
        story: &Rc<Story>,
        tls: Option<Tls>,
    ) -> Result<Rc<Admitted>, Ended> {
        // The latest: a handshake may have taken its time, and what is decided from here on is told to who is among these.
        let snapshot = worker.snapshot();
        let admitted = Admitted {
            story: story.clone(),
            passage,
            tls: tls.map(Box::new),
            barred: Cell::new(None),
            over: RefCell::default(),
            alarm: Alarm::default(),
        };
        admitted.decide(worker, &snapshot).map_err(|reason| {
            abort(stream);
            Ended::new(Flag::PolicyDenied, reason)
        })?;
        let admitted = Rc::new(admitted);
        let mut connections = self.connections.borrow_mut();
        // Each time as many have come as there were, those that are gone are forgotten.
        if connections.len() == connections.capacity() {
            connections.retain(|connection| connection.strong_count() > 0);
        }
        connections.push(Rc::downgrade(&admitted));
        Ok(admitted)
    }

    /// Has the flows of a socket looked at, too.
    pub(super) fn listen(&self, flows: &Rc<Flows>) {
        let mut known = self.flows.borrow_mut();
        known.retain(|flows| flows.strong_count() > 0);
        known.push(Rc::downgrade(flows));
    }

    /// Looks at all that is open if something has changed by which it might be denied, and ends what has had its time.
    pub(crate) fn check(&self, worker: &Worker, now: Instant) {
        let snapshot = worker.snapshot();
        let looked = Looked {
            snapshot: snapshot.generation,
            guards: snapshot.guards().generation(),
            credentials: worker.mesh.credentials().generation,
        };
        let before = self.looked.replace(looked);
        if before == looked && !self.waiting.get() {
            return;
        }
        let judge = before.guards != looked.guards || before.credentials != looked.credentials;
        if before.guards != looked.guards {
            let known = self.flows.borrow();
            known
                .iter()
                .filter_map(Weak::upgrade)
                .for_each(|flows| flows.bar(&snapshot));
        }
        let grace = worker.options.limits.denied_grace;
        let mut waiting = false;
        self.connections.borrow_mut().retain(|connection| {
            let Some(connection) = connection.upgrade() else {
                return false;
            };
            if judge || connection.tls.is_some() {
                connection.judge(worker, &snapshot, now);
            }
            waiting |= connection.end(worker, &snapshot, now, grace);
            true
        });
        self.waiting.set(waiting);
    }
}

impl Admitted {
    pub(super) fn story(&self) -> &Story {
        &self.story
    }

    /// Whether it may be there; if not, why.
    fn decide(&self, worker: &Worker, snapshot: &Snapshot) -> Result<(), String> {
        let shown = self.tls.as_ref().and_then(|tls| tls.shown(&worker.mesh));
        self.passage.decide(snapshot, self.story.client(), shown.as_deref())
    }

    /// Notes whether it would be let in now.
    fn judge(&self, worker: &Worker, snapshot: &Snapshot, now: Instant) {
        let is_trusted = |tls: &Tls| tls.is_trusted(snapshot, self.passage.port());
        let trusted = self.tls.as_deref().is_none_or(is_trusted);
        let shown = self.tls.as_ref().and_then(|tls| tls.shown(&worker.mesh));
        let barred = !trusted || self.passage.is_barred(snapshot, self.story.client(), shown.as_deref());
        let since = self.barred.get().unwrap_or(now);
        self.barred.set(barred.then_some(since));
    }

    /// Ends it if it has had its time; says whether it has some left of it.
    fn end(&self, worker: &Worker, snapshot: &Snapshot, now: Instant, grace: Duration) -> bool {
        let Some(since) = self.barred.get() else { return false };
        if now.saturating_duration_since(since) < grace {
            return true;
        }
        let mut over = self.over.borrow_mut();
        if over.is_none() {
            let untrusted = || "the certificate that it has shown is trusted no longer".to_owned();
            *over = Some(self.decide(worker, snapshot).err().unwrap_or_else(untrusted));
            self.alarm.ring();
        }
        false
    }

    /// Ready once there is no more time.
    pub(super) fn poll_over(&self, cx: &Context<'_>) -> Poll<Ended> {
        if let Some(reason) = &*self.over.borrow() {
            return Poll::Ready(Ended::new(Flag::PolicyDenied, reason.clone()));
        }
        self.alarm.wake(cx);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, task::Waker};

    use tokio::net::TcpListener;
    use weft_model::{Change, Key};

    use super::*;
    use crate::config::Configuration;

    fn read(json: serde_json::Value) -> Change {
        Change::Upsert(serde_json::from_value(json).expect("a resource"))
    }

    /// One that lets nobody in.
    fn policy() -> Change {
        read(
            serde_json::json!({"kind": "authorization", "key": "AuthorizationPolicy/n/p", "action": "allow",
            "targets": [{"gateway": "g/g"}]}),
        )
    }

    fn is_over(admitted: &Admitted) -> bool {
        admitted.poll_over(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test(flavor = "local")]
    async fn a_connection_has_its_time_to_end_and_all_of_it_again_once_it_might_stay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let connect = || async { TcpStream::connect(address).await.expect("it listens") };
        let (worker, mut configuration) = (Worker::of_nothing(), Configuration::new());
        let mut apply = |change| worker.replace(configuration.apply(vec![change]).snapshot);
        apply(read(
            serde_json::json!({"kind": "listener", "key": "g/g/l", "gateway": "g/g", "port": 9000,
            "protocol": "TCP"}),
        ));
        apply(read(
            serde_json::json!({"kind": "l4Route", "key": "r", "listeners": ["g/g/l"],
            "owner": {"kind": "TCPRoute", "namespace": "n", "name": "r", "rule": 0, "created": 0}}),
        ));
        let admit = |stream: &TcpStream| {
            let snapshot = worker.snapshot();
            let flow = snapshot
                .port(9000)
                .and_then(|port| port.flow(None))
                .expect("it is served");
            let client: SocketAddr = ([127, 0, 0, 1], 1).into();
            let story = Story::new(client, 9000, "TCP");
            worker.standing.admit(&worker, Passage::of(flow), stream, &story, None)
        };
        let stream = connect().await;
        let admitted = admit(&stream).expect("there is no policy");
        let (now, grace) = (Instant::now(), worker.options.limits.denied_grace);
        let almost = grace.saturating_sub(Duration::from_millis(1));
        let check = |after: Duration| worker.standing.check(&worker, now + after);
        check(Duration::ZERO);
        apply(policy());
        assert!(admit(&connect().await).is_err(), "nobody else comes");
        check(Duration::ZERO);
        check(almost);
        assert!(!is_over(&admitted));
        let removed = Change::Remove(Key::Authorization("AuthorizationPolicy/n/p".into()));
        apply(removed);
        check(grace);
        assert!(!is_over(&admitted), "it may stay");
        apply(policy());
        check(grace);
        check(grace + almost);
        assert!(!is_over(&admitted));
        check(2 * grace);
        assert!(is_over(&admitted));
        drop(admitted);
        check(2 * grace);
        apply(read(serde_json::json!({"kind": "service", "key": "n/s:80"})));
        check(2 * grace);
        assert!(worker.standing.connections.borrow().is_empty(), "it is forgotten");
    }
}
