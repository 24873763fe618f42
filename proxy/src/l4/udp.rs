//! Flows of datagrams: all that come from one address of a client go to one endpoint, and what it answers goes back, until
//! neither has sent anything for a while. The kernel gives the datagrams of a client to the same worker each time.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Poll, ready},
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{io::ReadBuf, net::UdpSocket, task::AbortHandle};

use super::{
    Ended, Story,
    backend::{choose, endpoint},
};
use crate::{
    authorization::edge::Passage,
    balance::{EndpointState, InFlight, Outcome},
    config::{ServiceEntry, Snapshot},
    flag::Flag,
    watchdog::Watchdog,
    worker::Worker,
};

/// At most this often it is written down that datagrams of a port go nowhere.
const QUIET: Duration = Duration::from_secs(1);

/// The flows of one socket.
pub(crate) struct Flows {
    worker: Rc<Worker>,
    port: u16,
    by_client: RefCell<HashMap<SocketAddr, Rc<UdpFlow>>>,
    /// When it was last written down that a datagram went nowhere.
    told: Cell<Option<Instant>>,
}

struct UdpFlow {
    story: Rc<Story>,
    passage: Passage,
    /// Connected to the endpoint: only what that one sends is taken.
    upstream: UdpSocket,
    endpoint: Rc<EndpointState>,
    watchdog: Watchdog,
    /// The configuration by which it was last found to be right.
    generation: Cell<u64>,
    /// Counts it as load of its endpoint, until it has ended.
    load: Cell<Option<InFlight>>,
    /// Passes answers on.
    task: Cell<Option<AbortHandle>>,
}

/// How a flow stands.
enum Stand {
    /// It goes on.
    Here,
    /// It has ended: what comes now is for another.
    Elsewhere,
    /// It has ended, and there is to be no other.
    Denied,
}

impl UdpFlow {
    /// Whether policies would not let it in any more.
    fn is_barred(&self, snapshot: &Snapshot) -> bool {
        self.passage.is_barred(snapshot, self.story.client, None, None)
    }

    /// Sends a datagram to the endpoint, past the runtime: what cannot be sent now is lost, as datagrams may be.
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = SockRef::from(&self.upstream).send(bytes)?;
        self.story.received.set(self.story.received.get() + sent as u64);
        self.watchdog.touch();
        Ok(())
    }
}

/// Passes datagrams on until the task is dropped.
pub(crate) async fn serve(worker: Rc<Worker>, socket: UdpSocket, port: u16) {
    let socket = Rc::new(socket);
    let flows = Rc::new(Flows {
        worker: worker.clone(),
        port,
        by_client: RefCell::default(),
        told: Cell::new(None),
    });
    worker.standing.listen(&flows);
    loop {
        let received = poll_fn(|cx| {
            loop {
                let mut scratch = worker.scratch.borrow_mut();
                let mut buffer = ReadBuf::new(&mut scratch);
                let client = ready!(socket.poll_recv_from(cx, &mut buffer));
                match client {
                    Ok(client) => flows.take(&socket, canonical(client), buffer.filled()),
                    Err(error) => return Poll::Ready(error),
                }
            }
        });
        // Of an answer that did not reach its client, most likely.
        let error = received.await;
        tracing::debug!(port, %error, "a datagram could not be received");
        tokio::task::yield_now().await;
    }
}

impl Flows {
    /// Takes a datagram of a client.
    fn take(self: &Rc<Self>, socket: &Rc<UdpSocket>, client: SocketAddr, bytes: &[u8]) {
        let known = self.by_client.borrow().get(&client).cloned();
        let mut failed = None;
        if let Some(flow) = known {
            match self.look_at(&flow) {
                Stand::Denied => return self.lost(),
                Stand::Elsewhere => {}
                Stand::Here => match flow.send(bytes) {
                    // It is of the datagram before: the endpoint's host says that nobody is there.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        self.end(&flow, &gone());
                        failed = Some(flow.endpoint.clone());
                    }
                    Err(_) => return self.lost(),
                    Ok(()) => return,
                },
            }
        }
        match self.open(socket, client, failed.as_ref()) {
            Ok(flow) if flow.send(bytes).is_ok() => {}
            Ok(_) => self.lost(),
            Err((story, ended)) => self.refuse(&story, &ended),
        }
    }

    /// Looks whether a flow may still be, and goes where it should: to an endpoint that its Service has. Else it is ended.
    fn look_at(&self, flow: &Rc<UdpFlow>) -> Stand {
        let snapshot = self.worker.snapshot();
        if flow.generation.replace(snapshot.generation) == snapshot.generation {
            return Stand::Here;
        }
        if flow.is_barred(&snapshot) {
            self.deny(flow, &snapshot);
            return Stand::Denied;
        }
        let service = flow.story.service.borrow();
        let entry = service.as_ref().and_then(|key| snapshot.service(key));
        let address = flow.endpoint.address;
        if entry.is_some_and(|entry| entry.endpoints.iter().any(|endpoint| endpoint.address == address)) {
            return Stand::Here;
        }
        self.end(flow, &Ended::well());
        Stand::Elsewhere
    }

    /// Ends those that would not be let in any more.
    pub(super) fn bar(&self, snapshot: &Snapshot) {
        let flows = self.by_client.borrow();
        let barred: Vec<_> = flows
            .values()
            .filter(|flow| flow.is_barred(snapshot))
            .cloned()
            .collect();
        drop(flows);
        barred.iter().for_each(|flow| self.deny(flow, snapshot));
    }

    fn deny(&self, flow: &Rc<UdpFlow>, snapshot: &Snapshot) {
        let decided = flow.passage.decide(snapshot, flow.story.client, None, None);
        self.end(flow, &Ended::new(Flag::PolicyDenied, decided.err().unwrap_or_default()));
    }

    /// Ends a flow that has not ended yet.
    fn end(&self, flow: &Rc<UdpFlow>, ended: &Ended) {
        let Some(load) = flow.load.take() else { return };
        let outcome = match ended.flag {
            Flag::None | Flag::PolicyDenied => Outcome::Cancelled,
            _ => Outcome::ConnectFailed,
        };
        load.finish(Instant::now(), outcome);
        self.by_client.borrow_mut().remove(&flow.story.client);
        self.worker.count_connections(|stats| stats.flows_open -= 1);
        flow.story.close(&self.worker, ended);
        if let Some(task) = flow.task.take() {
            task.abort();
        }
    }

    /// Opens a flow, but not to the endpoint that has just failed if there is another.
    fn open(
        self: &Rc<Self>,
        socket: &Rc<UdpSocket>,
        client: SocketAddr,
        failed: Option<&Rc<EndpointState>>,
    ) -> Result<Rc<UdpFlow>, (Rc<Story>, Ended)> {
        let story = Story::new(client, self.port, "UDP");
        let opened = self.try_open(&story, failed);
        let flow = Rc::new(opened.map_err(|ended| (story, ended))?);
        self.by_client.borrow_mut().insert(client, flow.clone());
        self.worker.count_connections(|stats| {
            stats.flows += 1;
            stats.flows_open += 1;
        });
        let answers = tokio::task::spawn_local(answers(self.clone(), Rc::downgrade(socket), flow.clone()));
        flow.task.set(Some(answers.abort_handle()));
        Ok(flow)
    }

    fn try_open(&self, story: &Rc<Story>, failed: Option<&Rc<EndpointState>>) -> Result<UdpFlow, Ended> {
        let worker = &self.worker;
        let limits = &worker.options.limits;
        if worker.connections.get().flows_open >= limits.flows as u64 {
            return Err(Ended::new(Flag::Overloaded, "there are too many flows"));
        }
        let snapshot = worker.snapshot();
        let Some(flow) = snapshot.udp_port(self.port).and_then(|port| port.flow(None)) else {
            return Err(Ended::new(Flag::NoRoute, "no UDPRoute is attached to the listener"));
        };
        let passage = Passage::of(flow);
        let decided = passage.decide(&snapshot, story.client, None, None);
        decided.map_err(|reason| Ended::new(Flag::PolicyDenied, reason))?;
        let entry: Arc<ServiceEntry> = choose(worker, &snapshot, flow.rule, story)?;
        let endpoint = endpoint(&worker.upstream(&entry), failed, story)?;
        let upstream = connected(endpoint.address)
            .map_err(|error| Ended::new(Flag::ConnectFailed, format!("no socket to the backend: {error}")))?;
        let watchdog = worker.watchdogs.watch();
        watchdog.arm(worker.coarse_now(), limits.udp_idle_timeout);
        let load = EndpointState::start(&endpoint, story.started);
        Ok(UdpFlow {
            story: story.clone(),
            passage,
            upstream,
            endpoint,
            watchdog,
            generation: Cell::new(snapshot.generation),
            load: Cell::new(Some(load)),
            task: Cell::new(None),
        })
    }

    /// Counts a datagram that goes nowhere, and writes it down unless that was done just before.
    fn refuse(&self, story: &Story, ended: &Ended) {
        self.lost();
        let now = self.worker.coarse_now();
        let quiet = |told: Instant| now.saturating_duration_since(told) < QUIET;
        if self.told.get().is_some_and(quiet) {
            return self.worker.count_flag(ended.flag);
        }
        self.told.set(Some(now));
        story.close(&self.worker, ended);
    }

    fn lost(&self) {
        self.worker.count_connections(|stats| stats.datagrams_lost += 1);
    }
}

/// A socket that speaks with one endpoint.
fn connected(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    UdpSocket::from_std(socket)
}

/// A client's address as it is: where a socket is for both families, one of IPv4 is told as one of IPv6.
fn canonical(client: SocketAddr) -> SocketAddr {
    match client.ip().to_canonical() {
        IpAddr::V4(address) => (address, client.port()).into(),
        IpAddr::V6(_) => client,
    }
}

/// The same as a socket takes it that may be for both families.
fn as_of(socket: &UdpSocket, client: SocketAddr) -> SocketAddr {
    match (client.ip(), socket.local_addr()) {
        (IpAddr::V4(address), Ok(SocketAddr::V6(_))) => (address.to_ipv6_mapped(), client.port()).into(),
        _ => client,
    }
}

/// The endpoint's host has said so.
fn gone() -> Ended {
    Ended::new(Flag::ConnectFailed, "nobody is at the endpoint")
}

/// Passes on what the endpoint answers, until the flow has ended.
async fn answers(flows: Rc<Flows>, socket: Weak<UdpSocket>, flow: Rc<UdpFlow>) {
    let worker = &flows.worker;
    let client = flow.story.client;
    let client = socket.upgrade().map_or(client, |socket| as_of(&socket, client)).into();
    let ended = poll_fn(|cx| {
        loop {
            if flow.watchdog.poll_expired(cx).is_ready() {
                return Poll::Ready(Ended::well());
            }
            let mut scratch = worker.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            if ready!(flow.upstream.poll_recv(cx, &mut buffer)).is_err() {
                return Poll::Ready(gone());
            }
            // The port is no longer listened on.
            let Some(socket) = socket.upgrade() else {
                return Poll::Ready(Ended::well());
            };
            match SockRef::from(&*socket).send_to(buffer.filled(), &client) {
                Ok(sent) => {
                    flow.story.sent.set(flow.story.sent.get() + sent as u64);
                    flow.watchdog.touch();
                }
                Err(_) => flows.lost(),
            }
        }
    })
    .await;
    flows.end(&flow, &ended);
}
