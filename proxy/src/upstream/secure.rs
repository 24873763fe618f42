//! TLS towards backends.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    ClientConfig,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    config::{BackendTls, provider},
    io::Stream,
    mesh::ToWorkload,
};

/// A connection to a backend, in clear or over TLS.
pub(crate) enum BackendStream {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
    /// To a workload of the mesh.
    Mutual(ToWorkload),
    /// To a workload of the mesh that speaks TLS itself.
    Nested(Box<TlsStream<ToWorkload>>),
}

/// By what a connection is secured. Connections of different ones are never taken for each other, nor are sessions of one
/// resumed by another: both remember that a certificate was checked.
pub(crate) struct Secure {
    /// Apart from all others of the Service; never 0.
    pub(super) id: u64,
    tls: Arc<BackendTls>,
    /// What is shown to a backend that asks.
    identity: Option<Arc<CertifiedKey>>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    none: Arc<ClientConfig>,
}

/// The protocol that is offered to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alpn {
    Http1,
    Http2,
    /// Nothing is known of what the connection carries.
    None,
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Tcp(#[from] io::Error),
    #[error("{0}")]
    Tls(io::Error),
}

impl Secure {
    pub(super) fn new(id: u64, tls: &Arc<BackendTls>, identity: Option<&Arc<CertifiedKey>>) -> Rc<Self> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3");
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(tls.verifier.clone());
        let mut http1 = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(identity))))
            }
        };
        let mut http2 = http1.clone();
        let none = http1.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        http2.alpn_protocols = vec![b"h2".to_vec()];
        Rc::new(Self {
            id,
            tls: tls.clone(),
            identity: identity.cloned(),
            http1: Arc::new(http1),
            http2: Arc::new(http2),
            none: Arc::new(none),
        })
    }

    /// Whether it is by this that a connection is to be secured.
    pub(super) fn is_of(&self, tls: &Arc<BackendTls>, identity: Option<&Arc<CertifiedKey>>) -> bool {
        Arc::ptr_eq(&self.tls, tls)
            && match (&self.identity, identity) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            }
    }

    pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        alpn: Alpn,
    ) -> io::Result<Box<TlsStream<S>>> {
        let config = match alpn {
            Alpn::Http1 => &self.http1,
            Alpn::Http2 => &self.http2,
            Alpn::None => &self.none,
        };
        let connector = TlsConnector::from(config.clone());
        let stream = connector.connect(self.tls.name.clone(), stream).await?;
        Ok(Box::new(stream))
    }
}

/// Whether an error is of TLS: in TLS 1.3 a backend says only after the handshake that it does not like the client's
/// certificate, or that there is none.
pub(crate) fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

impl BackendStream {
    /// Whether it is to a workload of the mesh that has proven who it is.
    pub(super) fn is_mutual(&self) -> bool {
        matches!(self, Self::Mutual(_) | Self::Nested(_))
    }

    /// Whether it is still open as far as is known without waiting.
    pub(super) fn is_open(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self {
            // Most are known to be open without a system call. Those that the runtime takes for readable were closed by
            // the backend, or it speaks out of turn, or the last read happened to fill its buffer.
            Self::Plain(stream) => {
                stream.poll_read_ready(&mut cx).is_pending()
                    || matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            // What is there may be of TLS itself, such as a ticket.
            stream => {
                let mut byte = [0];
                Pin::new(stream)
                    .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
                    .is_pending()
            }
        }
    }

    /// The socket, if there is TLS in between.
    pub(crate) fn beneath(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(stream) => Some(stream.get_ref().0),
            Self::Mutual(stream) => Some(stream.get_ref().get_ref().0),
            Self::Nested(stream) => Some(stream.get_ref().0.get_ref().get_ref().0),
        }
    }

    /// Ready once the other side has ended the connection itself. By TLS it has said so before, and something may still be on
    /// its way. What comes until then is nothing to anybody.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(socket) = self.beneath() else {
            return Poll::Ready(());
        };
        loop {
            if ready!(socket.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            match socket.try_read(&mut [0; 64]) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl Stream for BackendStream {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Secure(_) | Self::Mutual(_) | Self::Nested(_) => None,
        }
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Secure(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Mutual(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Nested(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Secure(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Mutual(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Nested(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Secure(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Mutual(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Nested(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secure(stream) => Pin::new(stream).poll_flush(cx),
            Self::Mutual(stream) => Pin::new(stream).poll_flush(cx),
            Self::Nested(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Mutual(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Nested(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
