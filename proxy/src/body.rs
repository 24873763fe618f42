//! Message bodies on their way through: read from one side piece by piece, written to the other before more is read,
//! so that a slow reader slows the sender down and nothing piles up here.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::Poll,
};

use bytes::Bytes;
use http::HeaderMap;

use crate::{
    h1::{Chunked, Framing, Message, Refusal, Step, chunk_head, encode_trailers},
    io::{Shared, Stream},
    watchdog::Watchdog,
};

/// A body this small goes into the buffer of its head: copying it costs less than a second part in the system call.
pub(crate) const SMALL: usize = 4 * 1024;

/// A piece of a body.
#[derive(Debug)]
pub(crate) enum Piece<'m> {
    /// Bytes in the buffer they were read into.
    Slice(&'m [u8]),
    /// Bytes that came with an HTTP/2 frame.
    Shared(Bytes),
    /// There are no more, but perhaps trailers.
    End(Option<HeaderMap>),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the connection closed in the middle of the body")]
    Truncated,
    #[error("the body stood still for too long")]
    Stalled,
    #[error("the client took the request back")]
    Gone,
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    H2(#[from] h2::Error),
}

/// Why an answer that had begun did not end well, and on which side.
#[derive(Debug)]
pub(crate) enum Broken {
    Backend(BodyError),
    Client(BodyError),
}

impl Broken {
    pub(crate) fn backend(error: io::Error) -> Self {
        Self::Backend(error.into())
    }

    /// What went wrong while the backend was waited for.
    pub(crate) fn waiting(error: BodyError) -> Self {
        match error {
            BodyError::Gone => Self::Client(error),
            error => Self::Backend(error),
        }
    }

    pub(crate) fn client(error: io::Error) -> Self {
        Self::Client(error.into())
    }
}

impl From<BodyError> for Broken {
    fn from(error: BodyError) -> Self {
        Self::Client(error)
    }
}

/// Reads the body that follows an HTTP/1 head.
#[derive(Debug)]
pub(crate) struct H1Body {
    state: State,
    /// Bytes of the message's rest that were handed out last and can be dropped now.
    owed: usize,
}

#[derive(Debug)]
enum State {
    Length(u64),
    Chunked(Box<Chunked>),
    UntilClose,
    Done,
}

impl H1Body {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(left) => State::Length(left),
            Framing::Chunked => State::Chunked(Box::default()),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, owed: 0 }
    }

    /// Whether the whole body has been handed out.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes over what is left of a body that has no framing within: its length, or none if it ends with the
    /// connection. Nothing of it may be left in the buffer.
    pub(crate) fn take_raw(&mut self) -> Option<Option<u64>> {
        let left = match self.state {
            State::Length(left) => Some(left),
            State::UntilClose => None,
            State::Chunked(_) | State::Done => return None,
        };
        self.state = State::Done;
        Some(left)
    }

    /// Drops what was handed out last, so that the message's rest begins with what came after the body.
    pub(crate) fn settle(&mut self, message: &mut Message) {
        message.consume(std::mem::take(&mut self.owed));
    }

    /// What of the body came with the head, if it can be passed on as it is.
    pub(crate) fn at_hand<'m>(&mut self, message: &'m Message) -> &'m [u8] {
        let rest = message.rest();
        match &mut self.state {
            State::Length(left) => {
                let length = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
                self.owed = length;
                &rest[..length]
            }
            State::UntilClose => {
                self.owed = rest.len();
                rest
            }
            State::Chunked(_) | State::Done => &[],
        }
    }

    /// The next piece, out of what `message` holds beyond its head, else out of `stream`.
    pub(crate) async fn next<'m, S: Stream>(
        &mut self,
        stream: &Shared<S>,
        message: &'m mut Message,
        watchdog: &Watchdog,
    ) -> Result<Piece<'m>, BodyError> {
        self.settle(message);
        loop {
            let rest = message.rest();
            match &mut self.state {
                State::Done => return Ok(Piece::End(None)),
                _ if rest.is_empty() => {}
                State::Length(left) => {
                    let length = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= length as u64;
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    self.owed = length;
                    return Ok(Piece::Slice(&message.rest()[..length]));
                }
                State::UntilClose => {
                    self.owed = rest.len();
                    return Ok(Piece::Slice(message.rest()));
                }
                State::Chunked(decoder) => match decoder.feed(rest)? {
                    Step::Data { consumed, data } => {
                        self.owed = consumed;
                        if !data.is_empty() {
                            return Ok(Piece::Slice(&message.rest()[data]));
                        }
                        self.settle(message);
                    }
                    Step::Done { consumed, trailers } => {
                        self.owed = consumed;
                        self.state = State::Done;
                        return Ok(Piece::End((!trailers.is_empty()).then_some(trailers)));
                    }
                },
            }
            let read = poll_fn(|cx| {
                if watchdog.poll_expired(cx).is_ready() {
                    return Poll::Ready(Err(BodyError::Stalled));
                }
                stream.poll_read(cx, message.space()).map_err(BodyError::Io)
            })
            .await?;
            if read == 0 {
                return match self.state {
                    State::UntilClose => {
                        self.state = State::Done;
                        Ok(Piece::End(None))
                    }
                    _ => Err(BodyError::Truncated),
                };
            }
            watchdog.touch();
            message.filled(read);
        }
    }
}

/// Writes a piece of a body as HTTP/1.1 frames it.
pub(crate) async fn write_piece<S: Stream>(stream: &Shared<S>, chunked: bool, piece: Piece<'_>) -> io::Result<()> {
    let bytes: &[u8] = match &piece {
        Piece::Slice(slice) => slice,
        Piece::Shared(bytes) => bytes,
        Piece::End(trailers) if chunked => {
            let mut out = Vec::with_capacity(64);
            encode_trailers(&mut out, trailers.as_ref());
            return stream.write_all(&out).await;
        }
        Piece::End(_) => return Ok(()),
    };
    if bytes.is_empty() {
        return Ok(());
    }
    if !chunked {
        return stream.write_all(bytes).await;
    }
    let mut head = [0; 18];
    let head = chunk_head(bytes.len(), &mut head);
    stream.write_parts([head, bytes, b"\r\n"]).await
}

/// Waits for either side, but not for ever.
pub(crate) fn guarded<T, E: Into<BodyError>>(
    watchdog: &Watchdog,
    mut frame: Pin<&mut impl Future<Output = Result<T, E>>>,
) -> impl Future<Output = Result<T, BodyError>> {
    poll_fn(move |cx| {
        if let Poll::Ready(result) = frame.as_mut().poll(cx) {
            watchdog.touch();
            return Poll::Ready(result.map_err(Into::into));
        }
        watchdog.poll_expired(cx).map(|_| Err(BodyError::Stalled))
    })
}
