//! Connections that others make to the operator over TLS: a bounded number at once, and time to end when the process does.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Connections at once. An API server keeps a few, and so do the other replicas.
const CONNECTIONS: usize = 256;
/// How long TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long answers may take that are on their way when the process ends.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves each connection until `stop` is true, and waits then for those that are there.
pub(crate) async fn serve<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
    connection: impl Fn(TcpStream) -> F,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // One too many is closed at once.
        let Ok(place) = connections.clone().try_acquire_owned() else {
            continue;
        };
        let connection = connection(stream);
        tasks.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    let ended = async { while tasks.join_next().await.is_some() {} };
    let _ = timeout(DRAIN, ended).await;
}

/// Makes TLS of a connection to `what`; nothing if that cannot be, or takes too long.
pub(crate) async fn shake(stream: TcpStream, acceptor: &TlsAcceptor, what: &str) -> Option<TlsStream<TcpStream>> {
    let _ = stream.set_nodelay(true);
    match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            // Most often an API server that does not know our roots yet, or no longer.
            tracing::debug!(%error, "a connection to {what} was not made");
            None
        }
        Err(_) => None,
    }
}
