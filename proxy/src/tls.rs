//! TLS from clients: which certificate they are shown, what is asked of them, and whether that still holds.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{CertificateDer, UnixTime},
    server::{Acceptor, ClientHello, ResolvesServerCert, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsAcceptor, server::TlsStream};

use crate::{
    authorization::Shown,
    config::{ClientVerification, Snapshot, provider},
    mesh::{End, Mesh},
};

/// The TLS side of a port.
#[derive(Clone)]
pub(crate) struct PortTls {
    port: u16,
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// The protocols that clients may choose from; none where nothing is known of what connections carry.
    alpn: &'static [&'static [u8]],
    /// For handshakes in which nothing is asked of the client.
    open: Arc<ServerConfig>,
}

/// What HTTPS offers.
pub(crate) const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What a handshake said.
pub(crate) struct Tls {
    pub(crate) sni: Option<Rc<str>>,
    /// The certificates that the client showed where it was asked for some, its own first.
    chain: Option<Box<[CertificateDer<'static>]>>,
    /// What it was let in by last.
    asked: RefCell<Option<Arc<ClientVerification>>>,
    /// The configuration that was in use when this was last looked at, and what came of it.
    generation: Cell<u64>,
    trusted: Cell<bool>,
    /// What policies were told of the certificate last.
    told: RefCell<Option<Told>>,
}

/// What a client has shown of itself, and by whose word that is so.
struct Told {
    asked: Arc<ClientVerification>,
    /// That of what is trusted in the mesh.
    generation: u64,
    shown: Option<Rc<Shown>>,
}

impl PortTls {
    pub(crate) fn new(
        port: u16,
        alpn: &'static [&'static [u8]],
        snapshot: Arc<ArcSwap<Snapshot>>,
    ) -> Result<Self, rustls::Error> {
        let open = server_config(port, alpn, snapshot.clone(), None)?;
        Ok(Self {
            port,
            snapshot,
            alpn,
            open,
        })
    }

    /// By what a handshake for this SNI is done, and what is asked of the client.
    fn config(
        &self,
        before: &Snapshot,
        sni: Option<&str>,
    ) -> io::Result<(Arc<ServerConfig>, Option<Arc<ClientVerification>>)> {
        let port = before.port(self.port);
        let asked = port.and_then(|port| port.client_verification(sni)).cloned();
        let config = match &asked {
            None => self.open.clone(),
            Some(asked) => asked
                .config(|verifier| server_config(self.port, self.alpn, self.snapshot.clone(), Some(verifier)))
                .map_err(io::Error::other)?,
        };
        Ok((config, asked))
    }

    /// Shakes hands with a client whose ClientHello has been read.
    pub(crate) async fn terminate<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        hello: StartHandshake<S>,
    ) -> io::Result<(TlsStream<S>, Tls)> {
        let sni = hello.client_hello().server_name().map(str::to_ascii_lowercase);
        let before = self.snapshot.load_full();
        let (config, asked) = self.config(&before, sni.as_deref())?;
        let stream = hello.into_stream(config).await?;
        let tls = Tls::of(stream.get_ref().1, asked, &before);
        Ok((stream, tls))
    }

    /// Shakes hands. What is asked of the client is chosen by its SNI, as the certificate is. An ACME CA gets its answer, and
    /// there is nothing else to be served to it.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Option<(TlsStream<TcpStream>, Tls)>> {
        let before = self.snapshot.load_full();
        let challenges = before.challenges();
        let asks = challenges.is_some() || before.port(self.port).is_some_and(|port| port.asks_clients());
        let (stream, asked) = if asks {
            let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            if let Some(config) = challenges.and_then(|challenges| challenges.config(&hello.client_hello())) {
                return prove(hello, config).await.map(|()| None);
            }
            let sni = hello.client_hello().server_name().map(str::to_ascii_lowercase);
            let (config, asked) = self.config(&before, sni.as_deref())?;
            (hello.into_stream(config).await?, asked)
        } else {
            (TlsAcceptor::from(self.open.clone()).accept(stream).await?, None)
        };
        let tls = Tls::of(stream.get_ref().1, asked, &before);
        Ok(Some((stream, tls)))
    }
}

/// Answers an ACME CA by a handshake.
pub(crate) async fn prove<S: AsyncRead + AsyncWrite + Unpin>(
    hello: StartHandshake<S>,
    config: Arc<ServerConfig>,
) -> io::Result<()> {
    hello.into_stream(config).await?.shutdown().await
}

impl Tls {
    fn of(session: &ServerConnection, asked: Option<Arc<ClientVerification>>, snapshot: &Snapshot) -> Self {
        let chain = asked.as_ref().and_then(|_| session.peer_certificates());
        Self {
            sni: session.server_name().map(|name| Rc::from(name.to_ascii_lowercase())),
            chain: chain.map(Box::from),
            asked: RefCell::new(asked),
            generation: Cell::new(snapshot.generation),
            trusted: Cell::new(true),
            told: RefCell::default(),
        }
    }

    /// The names in the client's certificate; none if it has shown none that is trusted by what is asked of it now.
    pub(crate) fn shown(&self, mesh: &Mesh) -> Option<Rc<Shown>> {
        let chain = self.chain.as_deref()?;
        let asked = self.asked.borrow();
        let asked = asked.as_ref()?;
        let generation = mesh.credentials().generation;
        let mut told = self.told.borrow_mut();
        let known = told.as_ref().filter(|told| Arc::ptr_eq(&told.asked, asked));
        if let Some(told) = known.filter(|told| told.generation == generation) {
            return told.shown.clone();
        }
        let shown = asked.proves(chain).then(|| {
            let believed = mesh
                .trust()
                .and_then(|trust| trust.verify(chain, End::Client, UnixTime::now()).ok());
            Shown::read(&chain[0], believed.map(|(id, _)| id)).map(Rc::new)
        });
        *told = Some(Told {
            asked: asked.clone(),
            generation,
            shown: shown.flatten(),
        });
        told.as_ref()?.shown.clone()
    }

    /// The most telling of these names, if they were asked for; empty otherwise.
    pub(crate) fn peer(&self) -> Option<Rc<Shown>> {
        self.told.borrow().as_ref()?.shown.clone()
    }

    /// Whether the client would be let in by the configuration in use now as well. Certificates and trust bundles change
    /// under connections that are open.
    pub(crate) fn is_trusted(&self, snapshot: &Snapshot, port: u16) -> bool {
        if self.generation.replace(snapshot.generation) != snapshot.generation {
            let port = snapshot.port(port);
            let now = port.and_then(|port| port.client_verification(self.sni.as_deref()));
            let mut asked = self.asked.borrow_mut();
            let same = match (now, &*asked) {
                (Some(now), Some(before)) => Arc::ptr_eq(now, before),
                (None, _) => true,
                (Some(_), None) => false,
            };
            if !same {
                self.trusted
                    .set(now.is_none_or(|now| now.trusts(self.chain.as_deref())));
                *asked = now.cloned();
            }
        }
        self.trusted.get()
    }
}

/// The certificate is chosen by each handshake from the configuration then in use.
pub(crate) fn server_config(
    port: u16,
    alpn: &[&[u8]],
    snapshot: Arc<ArcSwap<Snapshot>>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(clients),
    };
    let mut config = builder.with_cert_resolver(Arc::new(BySni { port, snapshot }));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

struct BySni {
    port: u16,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.snapshot.load().port(self.port)?.certificate(name.as_deref())
    }
}

impl std::fmt::Debug for BySni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BySni")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
