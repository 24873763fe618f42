//! A connection between workloads that have proven to each other who they are.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{PeerError, peers::Connected};
use crate::io::Stream;

/// It breaks off once its peer is believed no longer. It comes boxed: a session is more than a kilobyte.
pub(crate) struct Mutual<S> {
    stream: S,
    connected: Connected,
}

impl<S> Mutual<S> {
    pub(crate) fn new(stream: S, connected: Connected) -> Box<Self> {
        Box::new(Self { stream, connected })
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    fn stands(&self) -> io::Result<()> {
        self.connected.is_over().map_or(Ok(()), |error| Err(broken(error)))
    }
}

fn broken(error: PeerError) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, error)
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Stream for Box<Mutual<S>> {}

impl<S: AsyncRead + Unpin> AsyncRead for Mutual<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            // It may be for ever: then it must be heard of.
            Poll::Pending => this.connected.poll_over(cx).map(|error| Err(broken(error))),
            Poll::Ready(read) => Poll::Ready(this.stands().and(read)),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mutual<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.stands()?;
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.stands()?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
