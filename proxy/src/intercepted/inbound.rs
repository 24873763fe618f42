//! What comes to the pod: from a workload of the mesh, which proves who it is, or in clear, as far as the stage of the pod's
//! namespace lets it.
//!
//! A workload says first that it is one, by a ClientHello with a protocol of ours. Whoever speaks otherwise speaks to the
//! application, also if that is TLS. Nobody waits for that who need not: a server that speaks first is heard first, unless it
//! is a workload that comes, or nobody else may.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, time::Duration};

use rustls::server::Accepted;
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{StartHandshake, server::TlsStream};
use weft_model::SpiffeId;

use super::{
    Direction,
    book::Destination,
    guarded::{self, Admitted},
    open, original,
};
use crate::{
    authorization::Guard,
    flag::Flag,
    io::Prefixed,
    l4::{Ended, Story, hello::Partial, relay::abort},
    mesh::{self, Inbound, Mutual, NAMES, Talking},
    traffic::Cells,
    worker::Worker,
};

/// How long it is waited for what a workload says first, and for the rest of a ClientHello.
const PATIENCE: Duration = Duration::from_secs(1);
/// Room for what is read at once: most ClientHellos fit.
const ROOM: usize = 2048;

/// A connection of a workload that has proven who it is.
type FromWorkload = Box<Mutual<TlsStream<Prefixed<TcpStream>>>>;

/// Who comes.
enum Client {
    Clear(TcpStream),
    Workload(FromWorkload),
}

/// What somebody has said first.
enum Heard {
    /// That it is a workload of the mesh; what came after that is there too.
    Workload(Box<Accepted>, Vec<u8>),
    /// Something else; nothing, if its server has spoken first or it says no more.
    Clear(Vec<u8>),
    /// Nothing for as long as was waited.
    Nothing,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    client: TcpStream,
    peer: SocketAddr,
    port: u16,
    cells: Rc<Cells>,
    story: Rc<Story>,
) {
    // Boxed, so that a connection does not hold the space for what it is not, or not any more.
    match Box::pin(admit(worker, client, peer, port, &story)).await {
        Ok((Client::Clear(client), admitted, _talking)) => {
            Box::pin(guarded::serve(worker, client, admitted, port, cells, story)).await;
        }
        Ok((Client::Workload(client), admitted, _talking)) => {
            Box::pin(guarded::serve(worker, client, admitted, port, cells, story)).await;
        }
        Err(ended) => story.close(worker, &ended),
    }
}

/// Lets somebody in; the namespace it comes from is told of for as long as it stays. Where no policy decides what may come,
/// where it was going is connected to meanwhile.
async fn admit(
    worker: &Worker,
    client: TcpStream,
    peer: SocketAddr,
    port: u16,
    story: &Story,
) -> Result<(Client, Admitted, Talking), Ended> {
    // The answer comes while it is heard what the client says.
    worker.mesh.inquire(peer.ip());
    // Until it is let in, all it gets is a reset.
    abort(&client);
    let gone = |error: io::Error| Ended::new(Flag::ClientGone, error.to_string());
    let address = original::destination(&client, port, Direction::Inbound);
    let address = address.map_err(|error| Ended::new(Flag::Refused, error.to_string()))?;
    story.endpoint.set(Some(address));
    client.set_nodelay(true).map_err(gone)?;
    let destination = worker
        .book
        .destination(Direction::Inbound, address, worker.coarse_now());
    let wanted = worker.mesh.inbound(address.port());
    let concerned = {
        let protection = worker.mesh.protection();
        protection.concerns(address.port()) || protection.takes_probes_only(address.port())
    };
    let mut guard = Guard {
        client: peer,
        port: address.port(),
        identity: None,
        supposed: None,
        judged: Cell::default(),
    };
    let mut server = match wanted {
        // The application need not know of who is not let in.
        Inbound::Strict => None,
        _ if concerned => None,
        _ => Some(connect(worker, address, &destination).await?),
    };
    let is_peer = worker.mesh.is_peer(peer.ip());
    let heard = match wanted {
        // Without a certificate nobody can be answered, and everybody may come as it is.
        Inbound::Open if !worker.mesh.can_prove() => Heard::Clear(Vec::new()),
        Inbound::Secure if is_peer => hear(&client, None, PATIENCE).await.map_err(gone)?,
        Inbound::Strict => hear(&client, None, PATIENCE).await.map_err(gone)?,
        Inbound::Open | Inbound::Secure if server.is_none() => {
            match hear(&client, None, guarded::AHEAD).await.map_err(gone)? {
                Heard::Nothing if guarded::is_hidden(worker, &guard) => {
                    hear(&client, None, PATIENCE).await.map_err(gone)?
                }
                Heard::Nothing => {
                    server = Some(connect(worker, address, &destination).await?);
                    hear(&client, server.as_ref(), PATIENCE).await.map_err(gone)?
                }
                heard => heard,
            }
        }
        Inbound::Open | Inbound::Secure => hear(&client, server.as_ref(), PATIENCE).await.map_err(gone)?,
    };
    // A server that has spoken first is heard first, unless it is a workload that comes: then the client is.
    let (heard, talking) = match heard {
        Heard::Clear(first) if first.is_empty() && wanted == Inbound::Secure && server.is_some() && !is_peer => {
            let talking = worker.mesh.meet(peer, PATIENCE).await;
            let heard = if worker.mesh.is_peer(peer.ip()) {
                hear(&client, None, PATIENCE).await.map_err(gone)?
            } else if worker.mesh.may_be_peer(peer.ip()) {
                // A workload would say so at once.
                hear(&client, None, NAMES).await.map_err(gone)?
            } else {
                Heard::Clear(first)
            };
            (heard, talking)
        }
        // Who it is matters only to how it is counted.
        heard => (heard, worker.mesh.meet(peer, NAMES).await),
    };
    if !worker.mesh.protection().enforced {
        guard.supposed = worker.mesh.supposed(peer.ip());
    }
    let now = worker.coarse_now();
    let edge = |proven: Option<&SpiffeId>| {
        let edges = &worker.edges;
        edges.inbound(&worker.mesh, peer.ip(), proven, address.port(), now)
    };
    let (client, first) = match heard {
        Heard::Workload(accepted, rest) => {
            let (client, identity) = shake(worker, client, *accepted, rest, story).await.inspect_err(|_| {
                worker.count_connections(|stats| stats.handshakes_failed += 1);
            })?;
            worker.count_connections(|stats| stats.mutual_inbound += 1);
            guard.identity = Some(identity);
            (Client::Workload(client), Vec::new())
        }
        // A probe that only connects has seen what it wanted.
        Heard::Clear(first) if wanted == Inbound::Strict && first.is_empty() => return Err(Ended::well()),
        Heard::Clear(_) | Heard::Nothing if wanted == Inbound::Strict => {
            worker.count_connections(|stats| stats.clear_refused += 1);
            edge(None).refused();
            let reason = "it does not prove who it is, and the namespace is strict: only workloads with a sidecar and Gateways may come";
            return Err(Ended::new(Flag::Refused, reason));
        }
        Heard::Clear(first) => (Client::Clear(admitted(client)?), first),
        Heard::Nothing => (Client::Clear(admitted(client)?), Vec::new()),
    };
    if guard.identity.is_none() && worker.mesh.is_closing(address.port()) {
        worker.count_connections(|stats| stats.clear_late += 1);
        tracing::debug!(client = %peer, %address, "it comes in clear, and is let in since the namespace has become strict just now");
    }
    let edge = edge(guard.identity.as_ref());
    let admitted = Admitted {
        address,
        destination,
        guard,
        first,
        edge,
        server,
    };
    Ok((client, admitted, talking))
}

pub(super) async fn connect(
    worker: &Worker,
    address: SocketAddr,
    destination: &Destination,
) -> Result<TcpStream, Ended> {
    open(worker, address).await.map_err(|error| {
        destination.failed();
        Ended::new(Flag::ConnectFailed, error.to_string())
    })
}

/// From here on it ends as it wants to.
fn admitted(client: TcpStream) -> Result<TcpStream, Ended> {
    let lets = SockRef::from(&client).set_linger(None);
    lets.map_err(|error| Ended::new(Flag::ClientGone, error.to_string()))?;
    Ok(client)
}

/// Hears what a client says first. If there is a `server`, that may speak before it; if there is none, it is not waited for
/// longer than `patience`.
async fn hear(client: &TcpStream, server: Option<&TcpStream>, patience: Duration) -> io::Result<Heard> {
    match server {
        Some(server) => tokio::select! {
            biased;
            readable = client.readable() => readable?,
            // That it has failed is for the client to know too.
            _ = server.readable() => return Ok(Heard::Clear(Vec::new())),
        },
        None => match timeout(patience, client.readable()).await {
            Ok(readable) => readable?,
            Err(_) => return Ok(Heard::Nothing),
        },
    }
    let (mut partial, mut bytes) = (Partial::default(), Vec::new());
    let end = Instant::now() + PATIENCE;
    loop {
        let before = bytes.len();
        bytes.reserve(ROOM);
        match client.try_read_buf(&mut bytes) {
            Ok(0) => return Ok(Heard::Clear(bytes)),
            Ok(_) if bytes[0] != 22 => return Ok(Heard::Clear(bytes)),
            Ok(_) => match partial.feed(&bytes[before..]) {
                Ok(None) => {}
                Ok(Some(hello)) if mesh::is_ours(&hello) => {
                    let rest = bytes.split_off(partial.taken());
                    return Ok(Heard::Workload(Box::new(hello), rest));
                }
                Ok(Some(_)) | Err(_) => return Ok(Heard::Clear(bytes)),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        match timeout_at(end, client.readable()).await {
            Ok(readable) => readable?,
            Err(_) if bytes.is_empty() => return Ok(Heard::Nothing),
            // It has begun like TLS, and is something else or very slow.
            Err(_) => return Ok(Heard::Clear(bytes)),
        }
    }
}

/// Has a workload prove who it is.
async fn shake(
    worker: &Worker,
    client: TcpStream,
    accepted: Accepted,
    rest: Vec<u8>,
    story: &Story,
) -> Result<(FromWorkload, SpiffeId), Ended> {
    let refused = |why: String| Ended::new(Flag::Refused, format!("a workload of the mesh is not let in: {why}"));
    let unready = || refused("this workload has no certificate yet: is the operator reached?".to_owned());
    let credentials = worker.mesh.ready(mesh::PATIENCE).await.ok_or_else(unready)?;
    let (Some(tls), Some(trust)) = (&credentials.tls, &credentials.trust) else {
        return Err(unready());
    };
    // It is told why, by an alert.
    let prefixed = Prefixed::new(rest, admitted(client)?);
    let handshake = StartHandshake::from_parts(accepted, prefixed).into_stream(tls.server.clone());
    let shaken = timeout(worker.options.limits.head_timeout, handshake).await;
    let stream = shaken.map_err(io::Error::from).and_then(|shaken| shaken);
    let stream = stream.map_err(|error| refused(mesh::in_words(&error)))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = trust
        .peer(chain, mesh::End::Client)
        .map_err(|error| refused(error.to_string()))?;
    tracing::debug!(peer = %peer.id, serial = %peer.serial(), "a workload has proven who it is");
    story.peer.replace(peer.id.to_string());
    let identity = peer.id.clone();
    let connected = worker.peers.connected(&worker.mesh, credentials.generation, peer);
    let connected = connected.map_err(|error| refused(error.to_string()))?;
    Ok((Mutual::new(stream, connected), identity))
}
