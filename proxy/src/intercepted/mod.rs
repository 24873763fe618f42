//! Connections that were on their way elsewhere and that the network rules of a pod have turned to this process: carried on
//! to where they were going, as they are, and observed. Not a byte is changed, held back or added, whatever they speak, but for
//! one frame that tells a client to begin anew ([`parting`]); what is seen of it is counted. What goes to a Service that has
//! routes goes by these ([`outbound`]).
//!
//! The original destination decides where a connection goes, never what it says of itself.

mod alarm;
mod book;
mod carry;
mod clear;
pub(crate) mod first;
mod guarded;
pub(crate) mod http1;
pub(crate) mod http2;
mod inbound;
mod observer;
mod original;
mod outbound;
mod parting;
mod spoken;

use std::{io, net::SocketAddr, rc::Rc, sync::Arc};

use tokio::net::TcpStream;

pub(crate) use self::{
    alarm::{Alarm, Alarms},
    book::{Book, Seen},
    clear::Clears,
    outbound::Outbound,
};
use self::{
    book::Destination,
    carry::{Carried, Left, carry},
};
pub use self::{
    outbound::Outcome,
    spoken::{Direction, Protocol},
};
use crate::{
    dial::tune,
    downstream::Client,
    flag::Flag,
    l4::{Ended, Story, relay::abort},
    mesh::{self, Carries, DECIDES, NAMES, Reached, Talking, Workloads},
    traffic::Cells,
    upstream::BackendStream,
    worker::Worker,
};

/// The ports that network rules turn connections to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intercept {
    /// Of connections that leave the pod.
    pub outbound: u16,
    /// Of connections that come to it.
    pub inbound: u16,
}

/// Where a connection goes.
enum Way {
    /// On, as it is.
    On(Carried),
    /// Each of its requests by the routes of the Service to which it was made; this is what has been read of them.
    Requests(Outbound, Vec<u8>),
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    client: TcpStream,
    peer: SocketAddr,
    port: u16,
    direction: Direction,
    cells: Rc<Cells>,
) {
    let story = Story::new(peer, port, "TCP");
    if direction == Direction::Inbound {
        return Box::pin(inbound::serve(&worker, client, peer, port, cells, story)).await;
    }
    // Boxed, here and below, so that a connection does not hold the space for what it is not, or not any more.
    let mut talking = Talking::default();
    let found = Box::pin(way(&worker, &client, port, &story, &mut talking)).await;
    let (client, outbound, first) = match found {
        Ok(Way::Requests(outbound, first)) => (client, outbound, first),
        Ok(Way::On(carried)) => {
            match Box::pin(carry(&worker, client, carried, Direction::Outbound, &cells, &story)).await {
                Left::Ended(ended) => return story.close(&worker, &ended),
                Left::Requests(client, outbound, first) => {
                    story.close(&worker, &Ended::well());
                    (client, outbound, first)
                }
            }
        }
        Err(ended) => {
            abort(&client);
            return story.close(&worker, &ended);
        }
    };
    drop(story);
    let requests = Client::turned(peer, port, outbound, cells);
    Box::pin(outbound::requests(&worker, requests, client, first)).await;
}

/// Finds the way of a connection that leaves the pod, and connects to where it goes. The namespace it goes to is told of for as long as it lasts.
async fn way(
    worker: &Worker,
    client: &TcpStream,
    port: u16,
    story: &Story,
    talking: &mut Talking,
) -> Result<Way, Ended> {
    let address = original::destination(client, port, Direction::Outbound);
    let address = address.map_err(|error| Ended::new(Flag::Refused, error.to_string()))?;
    story.endpoint.set(Some(address));
    client
        .set_nodelay(true)
        .map_err(|error| Ended::new(Flag::ClientGone, error.to_string()))?;
    // Whether there are routes, and who has to prove what, is known only then; where there are, they decide.
    let is_routed = worker.snapshot().frontend(address).is_some();
    let (met, known) = worker.mesh.met(address, if is_routed { NAMES } else { DECIDES }).await;
    *talking = met;
    let destination = worker
        .book
        .destination(Direction::Outbound, address, worker.coarse_now());
    let protocol = worker.snapshot().frontend(address).map(|frontend| frontend.protocol());
    match protocol {
        None if !is_routed => {
            let server = reached_by(worker, address, known).await;
            onward_by(worker, destination, Vec::new(), server).await
        }
        None => onward(worker, address, destination, Vec::new(), None).await,
        Some(protocol) => outbound::routed(worker, client, address, protocol, destination, story).await,
    }
}

/// Where a connection was going, connected to unless that was done already.
async fn onward(
    worker: &Worker,
    address: SocketAddr,
    destination: Rc<Destination>,
    first: Vec<u8>,
    server: Option<Reached>,
) -> Result<Way, Ended> {
    let server = match server {
        Some(server) => Ok(server),
        None => reached(worker, address).await,
    };
    onward_by(worker, destination, first, server).await
}

/// The same, once that has been tried.
async fn onward_by(
    worker: &Worker,
    destination: Rc<Destination>,
    first: Vec<u8>,
    server: io::Result<Reached>,
) -> Result<Way, Ended> {
    match server {
        Ok(mut reached) => {
            let (at, service) = (reached.address, reached.service.take());
            let proven = proven(worker, reached).await;
            let server = proven.inspect_err(|_| destination.failed())?;
            let secured = matches!(server, BackendStream::Mutual(_));
            let now = worker.coarse_now();
            let edge = match service {
                Some(service) => worker.edges.chosen(&worker.mesh, &service, at, now),
                None => worker.edges.outbound(&worker.mesh, at, secured, now),
            };
            Ok(Way::On(Carried {
                server,
                first,
                destination: Destination::open(destination),
                edge,
                load: None,
                clear: None,
                guard: None,
            }))
        }
        Err(error) => {
            destination.failed();
            Err(Ended::new(Flag::ConnectFailed, error.to_string()))
        }
    }
}

/// Has who is at an address prove that it is there, if that is a workload of the mesh that has to.
async fn proven(worker: &Worker, reached: Reached) -> Result<BackendStream, Ended> {
    let Some(peer) = &reached.expected else {
        return Ok(BackendStream::Plain(reached.stream));
    };
    let shaken = mesh::shake(worker, reached.stream, reached.address, peer, Carries::Anything);
    let proven = Box::pin(shaken).await;
    proven
        .map(BackendStream::Mutual)
        .map_err(|error| Ended::new(Flag::TlsFailed, error.to_string()))
}

/// Connects to where a connection from the pod was going.
async fn reached(worker: &Worker, address: SocketAddr) -> io::Result<Reached> {
    let limit = worker.options.limits.carried_connect_timeout;
    mesh::reach(worker, address, limit).await
}

/// The same, of where it is known who is there.
async fn reached_by(worker: &Worker, address: SocketAddr, known: Arc<Workloads>) -> io::Result<Reached> {
    let limit = worker.options.limits.carried_connect_timeout;
    mesh::reach_by(worker, address, limit, known).await
}

/// Connects to the application here.
async fn open(worker: &Worker, address: SocketAddr) -> io::Result<TcpStream> {
    let limit = worker.options.limits.carried_connect_timeout;
    let server = tokio::time::timeout(limit, TcpStream::connect(address)).await??;
    tune(&server)?;
    worker.count_connections(|stats| stats.upstream_opened += 1);
    Ok(server)
}
