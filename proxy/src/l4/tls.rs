//! A TLS connection to the TLSRoute for its SNI: passed through as it is, or terminated, as its listener says.

use std::{net::SocketAddr, rc::Rc};

use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{StartHandshake, server::TlsStream};

use super::{
    Ended, Story,
    backend::{self, Security},
    hello::{Hello, HelloError},
    relay::{abort, relay},
    standing::Admitted,
    tcp::identity,
};
use crate::{
    authorization::{Entry, edge::Passage},
    balance::InFlight,
    flag::Flag,
    io::{Prefixed, Shared, Stream as _},
    tls::{self, PortTls},
    upstream::BackendStream,
    worker::Worker,
};

/// Serves a connection to its end. One that nobody takes is closed without an alert.
pub(crate) async fn serve(worker: Rc<Worker>, tls: PortTls, stream: TcpStream, peer: SocketAddr, port: u16) {
    let story = Story::new(peer, port, "TLS");
    // Boxed, so that a connection does not hold the space for what comes before it for its whole life.
    let ended = match Box::pin(prepare(&worker, tls, stream, port, &story)).await {
        Ok(Prepared {
            client: Client::Through(client, first),
            admitted,
            backend,
            load: _load,
        }) => {
            let (client, backend) = (Shared::new(client), Shared::new(backend));
            relay(&worker, &client, first, &backend, &admitted, &story).await
        }
        Ok(Prepared {
            client: Client::Terminated(client),
            admitted,
            backend,
            load: _load,
        }) => {
            let (client, backend) = (Shared::new(client), Shared::new(backend));
            relay(&worker, &client, Vec::new(), &backend, &admitted, &story).await
        }
        Err(ended) => ended,
    };
    story.close(&worker, &ended);
}

/// A client and its backend, to be joined.
struct Prepared {
    client: Client,
    admitted: Rc<Admitted>,
    backend: BackendStream,
    load: InFlight,
}

enum Client {
    /// With what was read of it.
    Through(TcpStream, Vec<u8>),
    Terminated(Box<TlsStream<Prefixed<TcpStream>>>),
}

async fn prepare(
    worker: &Worker,
    tls: PortTls,
    mut stream: TcpStream,
    port: u16,
    story: &Rc<Story>,
) -> Result<Prepared, Ended> {
    if let Err(error) = stream.set_nodelay(true) {
        return Err(Ended::new(Flag::ClientGone, error.to_string()));
    }
    let patience = worker.options.limits.head_timeout;
    let hello = match timeout(patience, Hello::read(&mut stream)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => {
            worker.count_connections(|stats| stats.handshakes_failed += 1);
            let flag = match error {
                HelloError::Closed | HelloError::Io(_) => Flag::ClientGone,
                HelloError::NotTls(_) | HelloError::TooLong => Flag::Refused,
            };
            return Err(Ended::new(flag, error.to_string()));
        }
        Err(_) => {
            worker.count_connections(|stats| stats.handshakes_failed += 1);
            return Err(Ended::new(Flag::ClientTimeout, "its ClientHello took too long"));
        }
    };
    story.sni.replace(hello.sni.clone().unwrap_or_default());
    let snapshot = worker.snapshot();
    if let Some(challenges) = snapshot.challenges()
        && let Some(config) = challenges.config(&hello.accepted.client_hello())
    {
        let prefixed = Prefixed::new(hello.rest().to_vec(), stream);
        let proven = tls::prove(StartHandshake::from_parts(hello.accepted, prefixed), config);
        let proven = timeout(patience, proven).await.map_err(std::io::Error::from);
        return Err(match proven.and_then(|proven| proven) {
            Ok(()) => Ended::well(),
            Err(error) => Ended::new(Flag::ClientGone, error.to_string()),
        });
    }
    let port = snapshot.port(port);
    let Some((port, flow)) = port.and_then(|port| Some((port, port.flow(hello.sni.as_deref())?))) else {
        return Err(Ended::new(Flag::NoRoute, "no TLSRoute is for this SNI"));
    };
    let (passage, standing) = (Passage::of(flow), &worker.standing);
    let is_guarded = passage.is_guarded(&snapshot);
    let by = |tls: Option<tls::Tls>| Entry::Gateway {
        client: story.client(),
        passage,
        tls: tls.map(Rc::new),
        request: None,
    };
    if flow.listener.tls.is_none() {
        let admitted = standing.admit(worker, by(None), &stream)?;
        let entry = backend::choose(worker, &snapshot, flow.rule, story)?;
        let (backend, load) = backend::connect(worker, &entry, Security::Clients, story).await?;
        return Ok(Prepared {
            client: Client::Through(stream, hello.bytes),
            admitted,
            backend,
            load,
        });
    }
    let prefixed = Prefixed::new(hello.rest().to_vec(), stream);
    let handshake = StartHandshake::from_parts(hello.accepted, prefixed);
    // Who comes is known by its handshake: where policies ask for that, it comes before the backend.
    if is_guarded {
        let (client, shown) = shaken(worker, &tls, handshake).await?;
        let peer = shown.shown(&worker.mesh).map(|shown| shown.name().to_owned());
        story.peer.replace(peer.unwrap_or_default());
        let admitted = standing.admit(worker, by(Some(shown)), client.get_ref().0.get_ref())?;
        let entry = backend::choose(worker, &snapshot, flow.rule, story)?;
        let security = Security::Service(identity(port, flow));
        let (backend, load) = backend::connect(worker, &entry, security, story).await?;
        return Ok(Prepared {
            client: Client::Terminated(Box::new(client)),
            admitted,
            backend,
            load,
        });
    }
    // The backend first: a client whose backend is not there is not told that it is.
    let entry = backend::choose(worker, &snapshot, flow.rule, story)?;
    let security = Security::Service(identity(port, flow));
    let (backend, load) = backend::connect(worker, &entry, security, story).await?;
    drop((entry, snapshot));
    let client = shaken(worker, &tls, handshake).await.and_then(|(client, shown)| {
        let admitted = standing.admit(worker, by(Some(shown)), client.get_ref().0.get_ref())?;
        Ok((client, admitted))
    });
    match client {
        Ok((client, admitted)) => Ok(Prepared {
            client: Client::Terminated(Box::new(client)),
            admitted,
            backend,
            load,
        }),
        Err(ended) => {
            // It must not take this for a client that has come and gone.
            backend.tcp().map(abort);
            Err(ended)
        }
    }
}

/// Shakes hands.
async fn shaken(
    worker: &Worker,
    tls: &PortTls,
    handshake: StartHandshake<Prefixed<TcpStream>>,
) -> Result<(TlsStream<Prefixed<TcpStream>>, tls::Tls), Ended> {
    let shaken = timeout(worker.options.limits.head_timeout, tls.terminate(handshake)).await;
    let shaken = shaken.map_err(std::io::Error::from).and_then(|shaken| shaken);
    shaken.map_err(|error| {
        worker.count_connections(|stats| stats.handshakes_failed += 1);
        Ended::new(Flag::Refused, format!("the TLS handshake failed: {error}"))
    })
}
