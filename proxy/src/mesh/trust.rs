//! Whom to believe, ready to be asked.

use std::{sync::Arc, time::Duration};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
};
use weft_model::{MeshTrust, Serial, SpiffeId, TrustDomain};

use super::error::MeshError;
use crate::config::provider;

/// Clocks may differ by this much.
const SKEW: Duration = Duration::from_secs(300);

/// Whom a workload believes.
#[derive(Debug)]
pub struct Trust {
    source: MeshTrust,
    roots: Arc<RootCertStore>,
}

/// Which end of a connection a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Client,
    Server,
}

/// Who is at the other end of a connection, as a handshake has proven.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: SpiffeId,
    serial: Serial,
    chain: Arc<[CertificateDer<'static>]>,
    end: End,
    /// When it was.
    at: UnixTime,
}

/// Why a peer is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It has shown nothing.
    #[error("it has shown no certificate")]
    Nothing,
    /// Nobody who is trusted has signed it, or it is out of its time, or for something else.
    #[error("its certificate is not trusted: {0}")]
    Untrusted(String),
    /// It is no SPIFFE identity of the mesh's form, or it is several.
    #[error("its certificate does not say who it is: {0}")]
    Nameless(String),
    /// It is of another mesh.
    #[error("it is {id}, which is not of the trust domain {domain}")]
    Foreign {
        /// Who it is.
        id: SpiffeId,
        /// Ours.
        domain: TrustDomain,
    },
    /// It is somebody else.
    #[error("it is {0}")]
    Other(SpiffeId),
    /// It is believed no longer.
    #[error("{0} is revoked")]
    Revoked(SpiffeId),
    /// Its certificate is believed no longer.
    #[error("the certificate {serial} of {id} is revoked")]
    RevokedCertificate {
        /// Who it is.
        id: SpiffeId,
        /// The certificate's number.
        serial: Serial,
    },
}

impl Trust {
    pub(super) fn new(source: MeshTrust) -> Result<Self, MeshError> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(source.roots_pem.as_bytes()) {
            let root = root.map_err(|error| MeshError::Roots(error.to_string()))?;
            roots.add(root).map_err(|error| MeshError::Roots(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(MeshError::Roots("there are none".to_owned()));
        }
        Ok(Self {
            source,
            roots: Arc::new(roots),
        })
    }

    /// As it was said.
    pub fn source(&self) -> &MeshTrust {
        &self.source
    }

    /// How many roots there are.
    pub fn roots(&self) -> usize {
        self.roots.len()
    }

    /// Who it is that has shown these certificates, if that is to be believed.
    pub(crate) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        end: End,
        at: UnixTime,
    ) -> Result<(SpiffeId, Serial), PeerError> {
        let (leaf, above) = chain.split_first().ok_or(PeerError::Nothing)?;
        let untrusted = |error: webpki::Error| PeerError::Untrusted(error.to_string());
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(untrusted)?;
        let usage = match end {
            End::Client => webpki::KeyUsage::client_auth(),
            End::Server => webpki::KeyUsage::server_auth(),
        };
        let algorithms = provider().signature_verification_algorithms.all;
        let holds = |at| leaf.verify_for_usage(algorithms, &self.roots.roots, above, at, usage, None, None);
        let verified = match holds(at) {
            // Who signs may count from this very moment, by a clock that is ahead of the one here.
            Err(webpki::Error::CertNotValidYet { .. }) => {
                let ahead = Duration::from_secs(at.as_secs()) + SKEW;
                holds(UnixTime::since_unix_epoch(ahead))
            }
            verified => verified,
        };
        verified.map(drop).map_err(untrusted)?;
        let mut names = leaf.valid_uri_names();
        let (name, more) = (names.next(), names.next());
        let name = name.filter(|_| more.is_none());
        let name = name.ok_or_else(|| PeerError::Nameless("it has none or several URIs".to_owned()))?;
        let id = SpiffeId::parse(name).map_err(|error| PeerError::Nameless(error.to_string()))?;
        if *id.trust_domain() != self.source.trust_domain {
            return Err(PeerError::Foreign {
                id,
                domain: self.source.trust_domain.clone(),
            });
        }
        let serial = Serial::of(leaf.serial());
        self.is_revoked(&id, &serial)?;
        Ok((id, serial))
    }

    fn is_revoked(&self, id: &SpiffeId, serial: &Serial) -> Result<(), PeerError> {
        let revoked = &self.source.revoked;
        if revoked.identities.contains(id) {
            return Err(PeerError::Revoked(id.clone()));
        }
        if revoked.serials.contains(serial) {
            return Err(PeerError::RevokedCertificate {
                id: id.clone(),
                serial: serial.clone(),
            });
        }
        Ok(())
    }

    /// Who a handshake has just proven the peer to be.
    pub(crate) fn peer(&self, chain: &[CertificateDer<'_>], end: End) -> Result<Peer, PeerError> {
        self.peer_at(chain, end, UnixTime::now())
    }

    pub(super) fn peer_at(&self, chain: &[CertificateDer<'_>], end: End, at: UnixTime) -> Result<Peer, PeerError> {
        let (id, serial) = self.verify(chain, end, at)?;
        Ok(Peer {
            id,
            serial,
            chain: chain
                .iter()
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
            end,
            at,
        })
    }

    /// Whether a peer that was believed at its handshake would still be. That its certificate has ended since does not
    /// count: connections may last longer than certificates.
    pub(crate) fn stands_by(&self, peer: &Peer) -> Result<(), PeerError> {
        self.verify(&peer.chain, peer.end, peer.at).map(drop)
    }
}

impl Peer {
    /// The number of its certificate.
    pub(crate) fn serial(&self) -> &Serial {
        &self.serial
    }
}
