//! Sockets as the proxy uses them: shared by the reading and the writing half of one task, without a lock.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// A connection to a client or a backend, in clear or over TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {
    /// The socket, if what is read and written goes through it as it is.
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

impl Stream for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

/// Boxed: a session is more than a kilobyte, and a future that hands it on would have room for it several times.
impl<S: Stream> Stream for Box<TlsStream<S>> {}
impl<S: Stream> Stream for Prefixed<S> {}

/// A stream whose two directions are driven by futures of the same task. Each borrows it only while it is polled.
pub(crate) struct Shared<S>(RefCell<S>);

impl<S: Stream> Shared<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(RefCell::new(stream))
    }

    pub(crate) fn into_inner(self) -> S {
        self.0.into_inner()
    }

    /// Does something with it.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&S) -> T) -> T {
        work(&self.0.borrow())
    }

    /// Does something with the socket itself, if there is nothing in between.
    pub(crate) fn tcp<T>(&self, work: impl FnOnce(&TcpStream) -> T) -> Option<T> {
        self.with(|stream| stream.tcp().map(work))
    }

    /// Reads what is there into `buffer`; 0 is the end.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes what is in `bytes` as far as the socket takes it now; says how much that was.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes))? {
            0 if !bytes.is_empty() => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            wrote => Poll::Ready(Ok(wrote)),
        }
    }

    /// Sends what is held back: TLS holds what it has sealed until then; on a plain socket this is nothing.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    /// Writes all of it.
    pub(crate) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        std::future::poll_fn(|cx| {
            while done < bytes.len() {
                done += ready!(self.poll_write(cx, &bytes[done..]))?;
            }
            self.poll_flush(cx)
        })
        .await
    }

    /// Writes all parts whole, in one system call where the socket takes them.
    pub(crate) async fn write_parts<const N: usize>(&self, parts: [&[u8]; N]) -> io::Result<()> {
        let mut parts = parts.map(IoSlice::new);
        let mut left = &mut parts[..];
        std::future::poll_fn(|cx| {
            // Empty parts at the front are passed over.
            IoSlice::advance_slices(&mut left, 0);
            while !left.is_empty() {
                let wrote = ready!(Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, left))?;
                if wrote == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                IoSlice::advance_slices(&mut left, wrote);
            }
            self.poll_flush(cx)
        })
        .await
    }

    /// Says that nothing more will be written.
    pub(crate) async fn shutdown(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)).await
    }
}

/// A stream of which some bytes have been read already and are read again first.
pub(crate) struct Prefixed<S> {
    prefix: Vec<u8>,
    at: usize,
    stream: S,
}

impl<S> Prefixed<S> {
    pub(crate) fn new(prefix: Vec<u8>, stream: S) -> Self {
        Self { prefix, at: 0, stream }
    }

    /// What is read once the prefix has been.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.at < this.prefix.len() {
            let part = &this.prefix[this.at..];
            let part = &part[..part.len().min(buffer.remaining())];
            buffer.put_slice(part);
            this.at += part.len();
            if this.at == this.prefix.len() {
                this.prefix = Vec::new();
                this.at = 0;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
