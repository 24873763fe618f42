//! Writes gathered into few system calls. The h2 crate hands each DATA frame to the socket by itself; with sixteen
//! streams on a connection that is sixteen system calls, and over TLS sixteen records, where one would do.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{io::Stream, watchdog::Watchdog, worker::Worker};

/// Beyond this much, what is written waits for the socket.
const MOST: usize = 64 * 1024;
/// A piece this large goes out as it is, if nothing stands before it: copying it would cost more than it saves.
const LARGE: usize = 12 * 1024;
/// The most that is read and thrown away of a connection that has ended for us.
const THROWN_AWAY: usize = 256 * 1024;

/// A connection whose writes stay here until [`Flusher::poll`] sends them. To be given to the h2 crate.
pub(crate) struct Gathered<S>(Rc<Gather<S>>);

/// Sends what was gathered. To be polled by the task that drives the connection, each time it has nothing more to do.
pub(crate) struct Flusher<S>(Rc<Gather<S>>);

struct Gather<S> {
    worker: Rc<Worker>,
    stream: RefCell<S>,
    pending: RefCell<Pending>,
}

/// Bytes that have been written but not sent. The buffer is the worker's, and given back as soon as it is empty.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    sent: usize,
}

/// Makes the two ends.
pub(crate) fn gather<S: Stream>(worker: &Rc<Worker>, stream: S) -> (Gathered<S>, Flusher<S>) {
    let shared = Rc::new(Gather {
        worker: worker.clone(),
        stream: RefCell::new(stream),
        pending: RefCell::default(),
    });
    (Gathered(shared.clone()), Flusher(shared))
}

impl<S: Stream> Gather<S> {
    /// Sends until nothing, or no more than `left`, is pending.
    fn poll_send(&self, cx: &mut Context<'_>, left: usize) -> Poll<io::Result<()>> {
        let mut pending = self.pending.borrow_mut();
        if pending.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut stream = self.stream.borrow_mut();
        while pending.bytes.len() - pending.sent > left {
            let sent = ready!(Pin::new(&mut *stream).poll_write(cx, &pending.bytes[pending.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            pending.sent += sent;
        }
        if pending.sent == pending.bytes.len() {
            pending.sent = 0;
            self.worker.outgoing.give(std::mem::take(&mut pending.bytes));
            return Pin::new(&mut *stream).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if total >= LARGE {
            ready!(self.poll_send(cx, 0))?;
            return Pin::new(&mut *self.stream.borrow_mut()).poll_write_vectored(cx, parts);
        }
        ready!(self.poll_send(cx, MOST))?;
        let mut pending = self.pending.borrow_mut();
        if pending.bytes.is_empty() {
            pending.bytes = self.worker.outgoing.take();
        }
        for part in parts {
            pending.bytes.extend_from_slice(part);
        }
        Poll::Ready(Ok(total))
    }
}

impl<S: Stream> Flusher<S> {
    /// Sends all there is; an error is also seen by the one that reads.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_send(cx, 0)
    }

    /// Waits until the other side ends as well, or the watchdog has had enough, once nothing more will be sent. A socket
    /// that is closed while bytes still come is reset, and a reset may overtake what was sent last.
    pub(crate) async fn linger(&self, watchdog: &Watchdog) {
        let mut read = 0;
        poll_fn(|cx| {
            while read < THROWN_AWAY && watchdog.poll_expired(cx).is_pending() {
                let mut scratch = self.0.worker.scratch.borrow_mut();
                let mut buffer = ReadBuf::new(&mut scratch);
                match ready!(Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(cx, &mut buffer)) {
                    Ok(()) if !buffer.filled().is_empty() => read += buffer.filled().len(),
                    _ => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl<S: Stream> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(cx, buffer)
    }
}

impl<S: Stream> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: the h2 crate flushes between frames.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_send(cx, 0))?;
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_shutdown(cx)
    }
}
