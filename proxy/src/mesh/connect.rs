//! Connections to workloads of the mesh.

use std::{io, net::SocketAddr};

use rustls::{CertificateError, OtherError};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Expected, Mesh, Mutual, PATIENCE, PeerError, trust::End};
use crate::worker::Worker;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    Http,
    Anything,
}

/// Why a workload of the mesh is not spoken to. Nothing has been said to it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MutualError {
    #[error("this workload has no certificate yet, and the other one wants to see one: is the operator reached?")]
    NoCertificate,
    #[error("who is at {address} has not proven to be {expected}: {error}")]
    Unproven {
        address: SocketAddr,
        expected: String,
        error: PeerError,
    },
    #[error("no TLS with {expected} at {address}: {}", in_words(.error))]
    Tls {
        address: SocketAddr,
        expected: String,
        error: io::Error,
    },
}

/// Why hands were not shaken: rustls tells what was found out here as the program sees it, and not as people do.
pub(crate) fn in_words(error: &io::Error) -> String {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match rustls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(found)))) => found.to_string(),
        _ => error.to_string(),
    }
}

/// A connection to a workload.
pub(crate) type ToWorkload = Box<Mutual<TlsStream<TcpStream>>>;

/// Shakes hands with who is at an address, and sees whether it is who must be there.
pub(crate) async fn shake(
    worker: &Worker,
    stream: TcpStream,
    address: SocketAddr,
    expected: &Expected,
    carries: Carries,
) -> Result<ToWorkload, MutualError> {
    let failed = |error: io::Error| MutualError::Tls {
        address,
        expected: expected.to_string(),
        error,
    };
    let credentials = worker.mesh.ready(PATIENCE).await.ok_or(MutualError::NoCertificate)?;
    let (Some(tls), Some(trust)) = (&credentials.tls, &credentials.trust) else {
        return Err(MutualError::NoCertificate);
    };
    let config = match carries {
        Carries::Http => &tls.http,
        Carries::Anything => &tls.tcp,
    };
    let handshake = TlsConnector::from(config.clone()).connect(address.ip().into(), stream);
    let shaken = timeout(worker.options.limits.connect_timeout, handshake).await;
    let stream = shaken
        .map_err(io::Error::from)
        .and_then(|shaken| shaken)
        .map_err(failed)?;
    let unproven = |error| MutualError::Unproven {
        address,
        expected: expected.to_string(),
        error,
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let found = trust.peer(chain, End::Server).map_err(unproven)?;
    if !expected.includes(&found.id, &trust.source().trust_domain) {
        return Err(unproven(PeerError::Other(found.id.clone())));
    }
    tracing::debug!(peer = %found.id, serial = %found.serial(), %address, "a workload has proven who it is");
    let connected = worker.peers.connected(&worker.mesh, credentials.generation, found);
    let connected = connected.map_err(unproven)?;
    worker.count_connections(|stats| stats.mutual_outbound += 1);
    Ok(Mutual::new(stream, connected))
}

impl Mesh {
    /// Who has to prove at an address that it is there; none where nobody has to.
    pub(crate) fn expected(&self, to: SocketAddr) -> Option<Expected> {
        self.workloads.load().expected(to, self.own_key())
    }

    /// Whether somebody has to.
    pub(crate) fn is_expected(&self, to: SocketAddr) -> bool {
        self.workloads.load().is_expected(to, self.own_key())
    }
}
