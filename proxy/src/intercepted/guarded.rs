//! What comes to the application here where policies decide what may come. Each request of HTTP is asked about, and anything
//! else as a connection.
//!
//! What is spoken is heard from the client's first bytes. A server that speaks first is heard too, unless what is not HTTP
//! is denied anyway: then the application never sees the connection.

use std::{future::poll_fn, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{net::TcpStream, time::sleep};

use super::{
    Direction, Outbound, Protocol,
    book::Destination,
    carry::{Carried, Left, carry},
    first::is_http,
    inbound::connect,
    outbound,
};
use crate::{
    authorization::Guard,
    downstream::{Client, h1},
    edges::EdgeCells,
    flag::Flag,
    io::{Shared, Stream},
    l4::{Ended, Story, relay::abort},
    traffic::Cells,
    upstream::BackendStream,
    worker::Worker,
};

/// How long a client has to go on that has begun something.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it is waited for a client before the server may speak first. Who speaks first does so at once.
pub(super) const AHEAD: Duration = Duration::from_millis(100);
/// Room for what is read at once.
const ROOM: usize = 2048;

/// Somebody who has been let in as far as mutual TLS goes.
pub(super) struct Admitted {
    pub(super) address: SocketAddr,
    pub(super) destination: Rc<Destination>,
    pub(super) guard: Guard,
    /// Where it is counted as between workloads.
    pub(super) edge: Rc<EdgeCells>,
    /// What it has said already.
    pub(super) first: Vec<u8>,
    /// Where it was going, if that has been connected to already.
    pub(super) server: Option<TcpStream>,
}

/// How a connection goes on.
enum Goes<S> {
    /// As it is.
    On(S, Carried),
    /// Request by request; this is what has been read of them.
    Requests(S, Outbound, Vec<u8>),
}

/// What is spoken on a connection.
enum Spoken {
    Http,
    /// Something else.
    Other,
    /// Nothing, and the client has ended.
    Nothing,
}

/// Serves a connection to its end.
pub(super) async fn serve<S: Stream>(
    worker: &Rc<Worker>,
    client: S,
    admitted: Admitted,
    port: u16,
    cells: Rc<Cells>,
    story: Rc<Story>,
) {
    let peer = admitted.guard.client;
    // Boxed, so that a connection does not hold the space for what it is not, or not any more.
    let (client, requests, first) = match Box::pin(way(worker, client, admitted, &story)).await {
        Ok(Goes::Requests(client, requests, first)) => (client, requests, first),
        Ok(Goes::On(client, carried)) => {
            match Box::pin(carry(worker, client, carried, Direction::Inbound, &cells, &story)).await {
                Left::Ended(ended) => return story.close(worker, &ended),
                Left::Requests(client, requests, first) => {
                    story.close(worker, &Ended::well());
                    (client, requests, first)
                }
            }
        }
        Err(ended) => return story.close(worker, &ended),
    };
    drop(story);
    let of = Client::turned(peer, port, requests, cells);
    Box::pin(outbound::requests(worker, of, client, first)).await;
}

/// Finds out how a connection goes on: carried, or request by request.
async fn way<S: Stream>(worker: &Worker, client: S, admitted: Admitted, story: &Story) -> Result<Goes<S>, Ended> {
    let Admitted {
        address,
        destination,
        guard,
        edge,
        mut first,
        mut server,
    } = admitted;
    let guard = Rc::new(guard);
    let client = Shared::new(client);
    let protection = worker.mesh.protection().clone();
    guard.judged.set(protection.generation);
    if protection.guards(&guard) {
        let hidden = is_hidden(worker, &guard);
        let heard = hear(worker, &client, &mut first, &mut server, address, &destination, hidden).await;
        let spoken = heard.inspect_err(|_| client.tcp(abort).unwrap_or_default())?;
        let http2 = h1::is_preface(&first);
        match spoken {
            // In `observe`, what HTTP/1 says is read along, so that it is what it was to the last byte.
            Spoken::Http if protection.enforced || http2 => {
                let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
                worker.book.decided(Direction::Inbound, protocol);
                edge.connected();
                let requests = Outbound::guarded(address, Destination::open(destination), guard, edge);
                return Ok(Goes::Requests(client.into_inner(), requests, first));
            }
            Spoken::Http => {}
            Spoken::Nothing if hidden => return Err(Ended::well()),
            Spoken::Nothing => {}
            Spoken::Other => {
                if let Err(reason) = guard.opaque(&worker.mesh, &edge) {
                    client.tcp(abort);
                    story.protocol.set("TCP");
                    return Err(Ended::new(Flag::PolicyDenied, reason));
                }
            }
        }
    }
    let server = match server {
        Some(server) => server,
        None => connect(worker, address, &destination)
            .await
            .inspect_err(|_| client.tcp(abort).unwrap_or_default())?,
    };
    let clear = guard.identity.is_none().then(|| worker.clears.connected(guard.port));
    let carried = Carried {
        server: BackendStream::Plain(server),
        first,
        destination: Destination::open(destination),
        edge,
        load: None,
        clear,
        guard: Some(guard),
    };
    Ok(Goes::On(client.into_inner(), carried))
}

/// Whether the application is not to see a connection before it is known what it carries.
pub(super) fn is_hidden(worker: &Worker, guard: &Guard) -> bool {
    let protection = worker.mesh.protection();
    protection.enforced && protection.denies_opaque(guard)
}

/// Hears what is spoken.
async fn hear<S: Stream>(
    worker: &Worker,
    client: &Shared<S>,
    first: &mut Vec<u8>,
    server: &mut Option<TcpStream>,
    address: SocketAddr,
    destination: &Destination,
    hidden: bool,
) -> Result<Spoken, Ended> {
    let mut buffer = vec![0; ROOM];
    loop {
        match is_http(first) {
            Some(true) => return Ok(Spoken::Http),
            Some(false) => return Ok(Spoken::Other),
            None => {}
        }
        let silent = first.is_empty();
        let wait = match server {
            _ if !silent => PATIENCE,
            _ if hidden => worker.options.limits.head_timeout,
            Some(_) => Duration::MAX,
            None => AHEAD,
        };
        let spoken = async {
            match server {
                // That it has ended, or failed, is for the client to know too.
                Some(server) if silent => drop(server.readable().await),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            read = poll_fn(|cx| client.poll_read(cx, &mut buffer)) => {
                match read.map_err(|error| Ended::new(Flag::ClientGone, error.to_string()))? {
                    0 if silent => return Ok(Spoken::Nothing),
                    0 => return Ok(Spoken::Other),
                    read => first.extend_from_slice(&buffer[..read]),
                }
            }
            () = spoken => return Ok(Spoken::Other),
            () = sleep(wait) => {
                if !silent || hidden {
                    return Ok(Spoken::Other);
                }
                *server = Some(connect(worker, address, destination).await?);
            }
        }
    }
}
