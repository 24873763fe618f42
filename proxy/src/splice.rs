//! Bytes from one socket to another without a copy: pages go by way of a pipe (splice(2)). It pays only for flows that
//! have much to move, so a flow comes here once it is known to be long.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll, ready},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::{io::Interest, net::TcpStream};

use crate::{
    body::{BodyError, Broken},
    io::{Shared, Stream},
    watchdog::Watchdog,
    worker::Worker,
};

/// What a pipe holds. More than a socket has at once gains nothing.
const CAPACITY: usize = 256 * 1024;
/// Pipes kept for later; each is two descriptors.
const KEPT: usize = 64;

/// The pipes of one worker, all of them empty.
#[derive(Default)]
pub(crate) struct Pipes(RefCell<Vec<Pipe>>);

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes in it.
    held: usize,
}

impl Pipes {
    fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.borrow_mut().pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // There is a limit to what all pipes of a user may hold; a smaller one serves as well, in more steps.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Ok(Pipe { read, write, held: 0 })
    }

    /// Takes back a pipe, if nothing is left in it that another flow would get.
    fn give(&self, pipe: Pipe) {
        let mut kept = self.0.borrow_mut();
        if pipe.held == 0 && kept.len() < KEPT {
            kept.push(pipe);
        }
    }
}

/// Whether both are sockets between which the kernel can move pages.
pub(crate) fn possible<A: Stream, B: Stream>(from: &Shared<A>, to: &Shared<B>) -> bool {
    from.tcp(|_| ()).is_some() && to.tcp(|_| ()).is_some()
}

/// Moves up to `length` bytes, or all until `from` ends, and counts them in `moved`.
pub(crate) async fn relay<A: Stream, B: Stream>(
    worker: &Worker,
    from: &Shared<A>,
    to: &Shared<B>,
    length: Option<u64>,
    moved: &Cell<u64>,
    watchdog: &Watchdog,
) -> Result<(), Broken> {
    let mut left = length.unwrap_or(u64::MAX);
    let mut held: Option<Pipe> = None;
    let relayed = poll_fn(|cx| {
        loop {
            if let Some(pipe) = &mut held {
                while pipe.held > 0 {
                    if watchdog.poll_expired(cx).is_ready() {
                        return Poll::Ready(Err(Broken::Client(BodyError::Stalled)));
                    }
                    let sent = ready!(poll_move(cx, to, Interest::WRITABLE, |socket| {
                        Ok(splice(&pipe.read, None, socket.as_fd(), None, pipe.held, FLAGS)?)
                    }));
                    match sent.map_err(Broken::client)? {
                        0 => return Poll::Ready(Err(Broken::client(io::ErrorKind::WriteZero.into()))),
                        sent => pipe.held -= sent,
                    }
                    watchdog.touch();
                }
            }
            if left == 0 {
                return Poll::Ready(Ok(()));
            }
            if watchdog.poll_expired(cx).is_ready() {
                return Poll::Ready(Err(Broken::Backend(BodyError::Stalled)));
            }
            let mut pipe = match held.take() {
                Some(pipe) => pipe,
                None => worker.pipes.take().map_err(Broken::backend)?,
            };
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(CAPACITY);
            let read = poll_move(cx, from, Interest::READABLE, |socket| {
                Ok(splice(socket.as_fd(), None, &pipe.write, None, most, FLAGS)?)
            });
            match read {
                Poll::Pending => {
                    // A flow that waits for more holds no pipe.
                    worker.pipes.give(pipe);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) if length.is_none() => {
                    worker.pipes.give(pipe);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Broken::Backend(BodyError::Truncated))),
                Poll::Ready(Ok(read)) => {
                    pipe.held = read;
                    left -= read as u64;
                    moved.set(moved.get() + read as u64);
                    watchdog.touch();
                    held = Some(pipe);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::backend(error))),
            }
        }
    });
    let relayed = relayed.await;
    if let Some(pipe) = held {
        worker.pipes.give(pipe);
    }
    relayed
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Calls the kernel once the socket is ready, as often as it takes until it really was.
fn poll_move<S: Stream>(
    cx: &mut Context<'_>,
    socket: &Shared<S>,
    interest: Interest,
    mut call: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        let moved = socket.tcp(|socket| {
            let ready = if interest.is_readable() {
                socket.poll_read_ready(cx)
            } else {
                socket.poll_write_ready(cx)
            };
            ready!(ready)?;
            Poll::Ready(socket.try_io(interest, || call(socket)))
        });
        match moved {
            Some(Poll::Ready(Err(error))) if error.kind() == io::ErrorKind::WouldBlock => {}
            Some(moved) => return moved,
            None => return Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }
}
