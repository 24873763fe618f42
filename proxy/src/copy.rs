//! Bytes from one socket to another, as they are. All flows of a worker use one buffer: what was read is written before
//! anything else runs, and only what the receiver does not take at once is kept.

use std::{
    cell::Cell,
    future::poll_fn,
    task::{Poll, ready},
};

use crate::{
    body::{BodyError, Broken},
    io::{Shared, Stream},
    splice,
    watchdog::Watchdog,
    worker::Worker,
};

/// With so much left to move, or so much moved already where nobody knows, a flow is long.
const LONG: u64 = 64 * 1024;

/// Copies `length` bytes, or all until `from` ends, and counts in `moved` those that have gone over. Says whether `from` sent nothing beyond that.
pub(crate) async fn copy<A: Stream, B: Stream>(
    worker: &Worker,
    from: &Shared<A>,
    to: &Shared<B>,
    length: Option<u64>,
    moved: &Cell<u64>,
    watchdog: &Watchdog,
) -> Result<bool, Broken> {
    let spliced = splice::possible(from, to);
    if spliced && length.is_some_and(|length| length >= LONG) {
        splice::relay(worker, from, to, length, moved, watchdog).await?;
        return Ok(true);
    }
    let mut copied = 0;
    let proved = |bytes: &[u8]| {
        copied += bytes.len() as u64;
        if spliced && length.is_none() && copied >= LONG {
            Next::Last
        } else {
            Next::More
        }
    };
    match pump(worker, from, to, length, moved, watchdog, proved).await? {
        Stop::Whole { clean } => return Ok(clean),
        // Nothing is held back here.
        Stop::Ended | Stop::Held => {}
        Stop::Enough => splice::relay(worker, from, to, None, moved, watchdog).await?,
    }
    Ok(true)
}

/// What is to be done with bytes that were read, and after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// They go over, and so does what comes after them.
    More,
    /// They go over, but no more need come by way of a buffer.
    Last,
    /// So many of them go over, and nothing after them: whoever says so has kept the rest.
    Only(usize),
    /// They do not go over: whoever says so has kept them.
    Hold,
}

/// Where a copy that was watched stopped.
pub(crate) enum Watched {
    /// The sender has ended.
    Ended,
    /// After the last that had to be seen, or was to go over.
    Seen,
    /// Before what was held.
    Held,
}

/// Copies until `from` ends, or until `next` says so of what goes over next: of nothing, if the sender pauses.
pub(crate) async fn watch<A: Stream, B: Stream>(
    worker: &Worker,
    from: &Shared<A>,
    to: &Shared<B>,
    moved: &Cell<u64>,
    watchdog: &Watchdog,
    next: impl FnMut(&[u8]) -> Next,
) -> Result<Watched, Broken> {
    Ok(match pump(worker, from, to, None, moved, watchdog, next).await? {
        Stop::Ended => Watched::Ended,
        Stop::Enough | Stop::Whole { .. } => Watched::Seen,
        Stop::Held => Watched::Held,
    })
}

/// Where a copy stopped.
enum Stop {
    /// All that was asked for has gone over.
    Whole { clean: bool },
    /// The sender has ended.
    Ended,
    /// No more needs to go by way of a buffer.
    Enough,
    /// What was read last has not gone over.
    Held,
}

fn pump<A: Stream, B: Stream>(
    worker: &Worker,
    from: &Shared<A>,
    to: &Shared<B>,
    length: Option<u64>,
    moved: &Cell<u64>,
    watchdog: &Watchdog,
    mut next: impl FnMut(&[u8]) -> Next,
) -> impl Future<Output = Result<Stop, Broken>> {
    let mut clean = true;
    let mut left = length.unwrap_or(u64::MAX);
    let mut stop = false;
    let mut kept = Kept {
        bytes: Vec::new(),
        sent: 0,
        worker,
    };
    poll_fn(move |cx| {
        loop {
            while kept.sent < kept.bytes.len() {
                if watchdog.poll_expired(cx).is_ready() {
                    return Poll::Ready(Err(Broken::Client(BodyError::Stalled)));
                }
                let sent = ready!(to.poll_write(cx, &kept.bytes[kept.sent..])).map_err(Broken::client)?;
                kept.sent += sent;
                moved.set(moved.get() + sent as u64);
                watchdog.touch();
            }
            kept.release();
            if stop {
                return Poll::Ready(Ok(Stop::Enough));
            }
            if left == 0 {
                ready!(to.poll_flush(cx)).map_err(Broken::client)?;
                return Poll::Ready(Ok(Stop::Whole { clean }));
            }
            if watchdog.poll_expired(cx).is_ready() {
                return Poll::Ready(Err(Broken::Backend(BodyError::Stalled)));
            }
            let mut scratch = worker.scratch.borrow_mut();
            // More room than is needed: a short read tells the runtime that the socket is empty.
            let read = match from.poll_read(cx, &mut scratch) {
                Poll::Ready(read) => read.map_err(Broken::backend)?,
                Poll::Pending => {
                    // The sender pauses: what TLS holds back goes out meanwhile.
                    let _ = to.poll_flush(cx).map_err(Broken::client)?;
                    if matches!(next(&[]), Next::Only(_)) {
                        return Poll::Ready(Ok(Stop::Enough));
                    }
                    return Poll::Pending;
                }
            };
            if read == 0 {
                if length.is_some() {
                    return Poll::Ready(Err(Broken::Backend(BodyError::Truncated)));
                }
                ready!(to.poll_flush(cx)).map_err(Broken::client)?;
                return Poll::Ready(Ok(Stop::Ended));
            }
            let read = if read as u64 > left {
                clean = false;
                usize::try_from(left).unwrap_or(read)
            } else {
                read
            };
            left -= read as u64;
            watchdog.touch();
            let read = match next(&scratch[..read]) {
                Next::More => read,
                Next::Last => {
                    stop = true;
                    read
                }
                Next::Only(first) => {
                    stop = true;
                    first
                }
                Next::Hold => return Poll::Ready(Ok(Stop::Held)),
            };
            let mut sent = 0;
            while sent < read {
                match to.poll_write(cx, &scratch[sent..read]) {
                    Poll::Ready(more) => {
                        let more = more.map_err(Broken::client)?;
                        sent += more;
                        moved.set(moved.get() + more as u64);
                    }
                    Poll::Pending => {
                        kept.bytes = worker.outgoing.take();
                        kept.bytes.extend_from_slice(&scratch[sent..read]);
                        break;
                    }
                }
            }
        }
    })
}

/// What was read but not yet written.
struct Kept<'w> {
    bytes: Vec<u8>,
    sent: usize,
    worker: &'w Worker,
}

impl Kept<'_> {
    fn release(&mut self) {
        if self.bytes.capacity() > 0 {
            self.sent = 0;
            self.worker.outgoing.give(std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.release();
    }
}
