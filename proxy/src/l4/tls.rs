//! A TLS connection to the TLSRoute for its SNI: passed through as it is, or terminated, as its listener says.

use std::{net::SocketAddr, rc::Rc};

use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::StartHandshake;

use super::{
    Ended, Story,
    backend::{self, Security},
    hello::{Hello, HelloError},
    relay,
    tcp::{identity, joined},
};
use crate::{flag::Flag, io::Prefixed, tls::PortTls, worker::Worker};

/// Serves a connection to its end. One that nobody takes is closed without an alert.
pub(crate) async fn serve(worker: Rc<Worker>, tls: PortTls, stream: TcpStream, peer: SocketAddr, port: u16) {
    let story = Story::new(peer, port, "TLS");
    let ended = pass_on(&worker, &tls, stream, port, &story).await;
    story.close(&worker, &ended.unwrap_or_else(|ended| ended));
}

async fn pass_on(
    worker: &Worker,
    tls: &PortTls,
    mut stream: TcpStream,
    port: u16,
    story: &Story,
) -> Result<Ended, Ended> {
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
    let port = snapshot.port(port);
    let Some((port, flow)) = port.and_then(|port| Some((port, port.flow(hello.sni.as_deref())?))) else {
        return Err(Ended::new(Flag::NoRoute, "no TLSRoute is for this SNI"));
    };
    let entry = backend::choose(worker, &snapshot, flow.rule, story)?;
    if flow.listener.tls.is_none() {
        let (backend, _load) = backend::connect(worker, &entry, Security::Clients, story).await?;
        drop((entry, snapshot));
        let Hello { bytes, accepted, .. } = hello;
        drop(accepted);
        return Ok(joined(worker, stream, bytes, backend, story).await);
    }
    // The backend first: a client whose backend is not there is not told that it is.
    let security = Security::Service(identity(port, flow));
    let (backend, _load) = backend::connect(worker, &entry, security, story).await?;
    drop((entry, snapshot));
    let prefixed = Prefixed::new(hello.rest().to_vec(), stream);
    let handshake = tls.terminate(StartHandshake::from_parts(hello.accepted, prefixed));
    // Boxed, so that a connection that is passed through does not hold the space for a handshake.
    let shaken = Box::pin(timeout(patience, handshake)).await;
    let client = match shaken.map_err(std::io::Error::from).and_then(|shaken| shaken) {
        Ok(client) => Box::new(client),
        Err(error) => {
            worker.count_connections(|stats| stats.handshakes_failed += 1);
            if let Some(socket) = crate::io::Stream::tcp(&backend) {
                relay::abort(socket);
            }
            return Err(Ended::new(Flag::Refused, format!("the TLS handshake failed: {error}")));
        }
    };
    Ok(Box::pin(joined(worker, client, Vec::new(), backend, story)).await)
}
