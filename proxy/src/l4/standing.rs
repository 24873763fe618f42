//! What is passed on as it is for as long as it is open, from its beginning or since a request has become it: once policies would
//! not let it in any more, it ends. At a Gateway a connection gets some time to do so by itself; a flow of datagrams has no end of
//! its own, and ends at once.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::{Rc, Weak},
    task::Poll,
    time::Instant,
};

use tokio::net::TcpStream;

use super::{Ended, relay::abort, udp::Flows};
use crate::{authorization::Entry, config::Snapshot, flag::Flag, intercepted::Alarm, worker::Worker};

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
    /// What protects the pod that this is beside.
    protection: u64,
    /// What is known of workloads, and so who may come there in clear.
    workloads: u64,
}

impl Looked {
    fn now(worker: &Worker, snapshot: &Snapshot) -> Self {
        Self {
            snapshot: snapshot.generation,
            guards: snapshot.guards().generation(),
            credentials: worker.mesh.credentials().generation,
            protection: worker.mesh.protection().generation,
            workloads: worker.mesh.generation(),
        }
    }

    /// Whether something may be judged otherwise than `before`.
    fn concerns(self, before: Self, entry: &Entry) -> bool {
        if entry.is_of_pod() {
            return (self.protection, self.workloads) != (before.protection, before.workloads);
        }
        let policies = (self.guards, self.credentials) != (before.guards, before.credentials);
        policies || (entry.is_of_tls() && self.snapshot != before.snapshot)
    }
}

/// A connection that was let in, for as long as it is open.
pub(crate) struct Admitted {
    entry: Entry,
    /// Since when it would not be let in.
    barred: Cell<Option<Instant>>,
    /// Why there is no more time.
    over: RefCell<Option<String>>,
    alarm: Alarm,
}

impl Standing {
    /// Lets a connection in, if policies do. Else its client gets a reset.
    pub(super) fn admit(&self, worker: &Worker, entry: Entry, stream: &TcpStream) -> Result<Rc<Admitted>, Ended> {
        // The latest: a handshake may have taken its time, and what is decided from here on is told to who is among these.
        let snapshot = worker.snapshot();
        entry.decide(worker, &snapshot).map_err(|reason| {
            abort(stream);
            Ended::new(Flag::PolicyDenied, reason)
        })?;
        let admitted = Rc::new(Admitted::new(entry));
        self.keep(&admitted);
        Ok(admitted)
    }

    /// Has what a request has become looked at as well. It was let in with its request, which may be a while ago.
    pub(crate) fn upgraded(&self, worker: &Worker, admitted: &Rc<Admitted>) {
        admitted.judge(worker, &worker.snapshot(), Instant::now());
        if admitted.barred.get().is_some() {
            self.waiting.set(true);
        }
        self.keep(admitted);
    }

    fn keep(&self, admitted: &Rc<Admitted>) {
        let mut connections = self.connections.borrow_mut();
        // Each time as many have come as there were, those that are gone are forgotten.
        if connections.len() == connections.capacity() {
            connections.retain(|connection| connection.strong_count() > 0);
        }
        connections.push(Rc::downgrade(admitted));
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
        let looked = Looked::now(worker, &snapshot);
        let before = self.looked.replace(looked);
        if before == looked && !self.waiting.get() {
            return;
        }
        if before.guards != looked.guards {
            let known = self.flows.borrow();
            known
                .iter()
                .filter_map(Weak::upgrade)
                .for_each(|flows| flows.bar(&snapshot));
        }
        let mut waiting = false;
        self.connections.borrow_mut().retain(|connection| {
            let Some(connection) = connection.upgrade() else {
                return false;
            };
            if looked.concerns(before, &connection.entry) {
                connection.judge(worker, &snapshot, now);
            }
            waiting |= connection.end(worker, &snapshot, now);
            true
        });
        self.waiting.set(waiting);
    }
}

impl Admitted {
    pub(crate) fn new(entry: Entry) -> Self {
        Self {
            entry,
            barred: Cell::new(None),
            over: RefCell::default(),
            alarm: Alarm::default(),
        }
    }

    /// Notes whether it would be let in now.
    fn judge(&self, worker: &Worker, snapshot: &Snapshot, now: Instant) {
        let since = self.barred.get().unwrap_or(now);
        self.barred.set(self.entry.is_barred(worker, snapshot).then_some(since));
    }

    /// Ends it if it has had its time; says whether it has some left of it.
    fn end(&self, worker: &Worker, snapshot: &Snapshot, now: Instant) -> bool {
        let Some(since) = self.barred.get() else { return false };
        if now.saturating_duration_since(since) < self.entry.grace(worker) {
            return true;
        }
        let mut over = self.over.borrow_mut();
        if over.is_none() {
            let untrusted = || "the certificate that it has shown is trusted no longer".to_owned();
            *over = Some(self.entry.decide(worker, snapshot).err().unwrap_or_else(untrusted));
            self.alarm.ring();
        }
        false
    }

    /// Goes on with something for as long as there is time.
    pub(crate) fn during<T>(
        &self,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = Result<T, Ended>> {
        poll_fn(move |cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if let Some(reason) = &*self.over.borrow() {
                return Poll::Ready(Err(Ended::new(Flag::PolicyDenied, reason.clone())));
            }
            self.alarm.wake(cx);
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        pin::pin,
        task::{Context, Waker},
        time::Duration,
    };

    use tokio::net::TcpListener;
    use weft_model::{Change, Key};

    use super::*;
    use crate::{authorization::edge::Passage, config::Configuration};

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
        let work = pin!(std::future::pending::<()>());
        let during = pin!(admitted.during(work));
        during.poll(&mut Context::from_waker(Waker::noop())).is_ready()
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
            let entry = Entry::Gateway {
                client,
                passage: Passage::of(flow),
                tls: None,
                request: None,
            };
            worker.standing.admit(&worker, entry, stream)
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
