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

/// Copies `length` bytes, or all until `from` ends, and counts them in `moved`. Says whether `from` sent nothing beyond that.
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
    let mut clean = true;
    let mut left = length.unwrap_or(u64::MAX);
    let mut proved = false;
    let mut kept = Kept::default();
    let copied = poll_fn(|cx| {
        loop {
            while kept.sent < kept.bytes.len() {
                if watchdog.poll_expired(cx).is_ready() {
                    return Poll::Ready(Err(Broken::Client(BodyError::Stalled)));
                }
                let sent = ready!(to.poll_write(cx, &kept.bytes[kept.sent..])).map_err(Broken::client)?;
                kept.sent += sent;
                watchdog.touch();
            }
            kept.release(worker);
            if spliced && length.is_none() && u64::MAX - left >= LONG {
                proved = true;
                return Poll::Ready(Ok(()));
            }
            if left == 0 {
                return to.poll_flush(cx).map_err(Broken::client);
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
                    return Poll::Pending;
                }
            };
            if read == 0 {
                return if length.is_some() {
                    Poll::Ready(Err(Broken::Backend(BodyError::Truncated)))
                } else {
                    to.poll_flush(cx).map_err(Broken::client)
                };
            }
            let read = if read as u64 > left {
                clean = false;
                usize::try_from(left).unwrap_or(read)
            } else {
                read
            };
            left -= read as u64;
            moved.set(moved.get() + read as u64);
            watchdog.touch();
            let mut sent = 0;
            while sent < read {
                match to.poll_write(cx, &scratch[sent..read]) {
                    Poll::Ready(more) => sent += more.map_err(Broken::client)?,
                    Poll::Pending => {
                        kept.bytes = worker.outgoing.take();
                        kept.bytes.extend_from_slice(&scratch[sent..read]);
                        break;
                    }
                }
            }
        }
    });
    let copied = copied.await;
    kept.release(worker);
    copied?;
    if proved {
        splice::relay(worker, from, to, None, moved, watchdog).await?;
    }
    Ok(clean)
}

/// What was read but not yet written.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    sent: usize,
}

impl Kept {
    fn release(&mut self, worker: &Worker) {
        if self.bytes.capacity() > 0 {
            self.sent = 0;
            worker.outgoing.give(std::mem::take(&mut self.bytes));
        }
    }
}
