//! A TCP connection to the oldest TCPRoute of its listener.

use std::{net::SocketAddr, rc::Rc};

use tokio::net::TcpStream;

use super::{
    Ended, Story,
    backend::{self, Security},
    relay::relay,
    standing::Admitted,
};
use crate::{
    authorization::{Entry, edge::Passage},
    balance::InFlight,
    config::{Flow, Port},
    flag::Flag,
    io::Shared,
    upstream::BackendStream,
    worker::Worker,
};

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, port: u16) {
    let story = Story::new(peer, port, "TCP");
    // Boxed, so that a connection does not hold the space for what comes before it for its whole life.
    let ended = match Box::pin(backend_for(&worker, &stream, port, &story)).await {
        Ok((admitted, backend, _load)) => {
            let (client, backend) = (Shared::new(stream), Shared::new(backend));
            relay(&worker, &client, Vec::new(), &backend, &admitted, &story).await
        }
        Err(ended) => ended,
    };
    story.close(&worker, &ended);
}

async fn backend_for(
    worker: &Worker,
    stream: &TcpStream,
    port: u16,
    story: &Rc<Story>,
) -> Result<(Rc<Admitted>, BackendStream, InFlight), Ended> {
    let snapshot = worker.snapshot();
    let port = snapshot.port(port).filter(|_| stream.set_nodelay(true).is_ok());
    let Some((port, flow)) = port.and_then(|port| Some((port, port.flow(None)?))) else {
        return Err(Ended::new(Flag::NoRoute, "no TCPRoute is attached to the listener"));
    };
    let entry = Entry::Gateway {
        client: story.client(),
        passage: Passage::of(flow),
        tls: None,
        request: None,
    };
    let admitted = worker.standing.admit(worker, entry, stream)?;
    let entry = backend::choose(worker, &snapshot, flow.rule, story)?;
    let security = Security::Service(identity(port, flow));
    let (backend, load) = backend::connect(worker, &entry, security, story).await?;
    Ok((admitted, backend, load))
}

/// What a backend that asks for a certificate is shown.
pub(super) fn identity<'p>(port: &'p Port, flow: Flow<'_>) -> Option<&'p std::sync::Arc<rustls::sign::CertifiedKey>> {
    port.identity(flow.listener)
}
