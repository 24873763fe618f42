//! HTTP/2 read along: frames are told apart, and of header blocks what is counted, without a byte being held back. What is not
//! clear beyond doubt ends the reading, never the connection.

mod frames;
#[cfg(test)]
mod tests;

use self::frames::{BLOCK, Reader, Told};
pub(super) use self::frames::{go_away, is_settings};
use super::http1::{Line, Pending};
use crate::{
    hpack::{Fields, Kept, Unclear},
    spans,
    worker::ById,
};

/// Streams of a connection that are followed at a time.
const STREAMS: usize = 1024;
/// No stream has a larger number.
pub(super) const MOST: u32 = u32::MAX >> 1;

/// Why reading along is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Over {
    #[error("the client does not speak HTTP/2")]
    Other,
    #[error("{0}")]
    Fields(#[from] Unclear),
    #[error("frames do not follow each other as they must")]
    Frames,
    #[error("a block of header fields is longer than {BLOCK} bytes")]
    Long,
    #[error("more than {STREAMS} requests wait for an answer")]
    Many,
    #[error("the server answers what was not asked")]
    Unasked,
    #[error("the server pushes answers")]
    Push,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The answer is whole.
    Answered,
    /// The client wants no answer any more.
    Cancelled,
    /// The server has broken off.
    Reset,
}

/// Both sides of a connection.
pub(super) struct Conversation {
    client: Reader,
    server: Reader,
    pending: ById<Pending>,
    /// The last stream that the client has begun.
    last: u32,
    /// The last stream that the server takes, once it has said so.
    taken: Option<u32>,
    /// Of what the server has said last, as much as is before the first place where there could be another frame.
    border: Option<usize>,
    /// Whether there is a log.
    logged: bool,
}

impl Conversation {
    /// Of which nothing has been read. `logged` says whether lines are kept for the log, `traced` whether there are spans.
    pub(super) fn new(logged: bool, traced: bool) -> Self {
        Self {
            client: Reader::new(true, kept(logged, traced)),
            server: Reader::new(false, Kept::default()),
            pending: ById::default(),
            last: 0,
            taken: None,
            border: None,
            logged,
        }
    }

    /// The client has said that it speaks HTTP/2.
    pub(super) fn begun(logged: bool, traced: bool) -> Self {
        Self {
            client: Reader::new(false, kept(logged, traced)),
            ..Self::new(logged, traced)
        }
    }

    /// Whether the client has said so.
    pub(super) fn recognised(&self) -> bool {
        self.client.recognised()
    }

    /// The last stream that the client has begun.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// The last stream of the client's that the server takes, as far as that is known.
    pub(super) fn last_taken(&self) -> u32 {
        self.taken.map_or(self.last, |taken| taken.min(self.last))
    }

    /// Whether the server has told the client to go.
    pub(super) fn is_leaving(&self) -> bool {
        self.taken.is_some()
    }

    /// Of what the server has said last, as much as comes before a place where there could be another frame; none if there is no
    /// such place, or the client does not know yet that HTTP/2 is spoken.
    pub(super) fn border(&self) -> Option<usize> {
        self.border.filter(|_| self.recognised())
    }

    /// Whether another frame could be put after all that the server has said.
    pub(super) fn is_between(&self) -> bool {
        self.recognised() && self.server.is_between()
    }

    /// Whether nothing is under way: all requests have been answered, and nobody is in the middle of saying something.
    pub(super) fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.is_between() && self.client.is_between()
    }

    /// What the client has begun after a stream has not gone over.
    pub(super) fn forget_after(&mut self, last: u32) {
        self.pending.retain(|stream, _| *stream <= u64::from(last));
        self.last = self.last.min(last);
    }

    /// Reads what the client says, and tells of each request, of which is kept what its span says, and of each that it gives up.
    pub(super) fn client(
        &mut self,
        mut bytes: &[u8],
        begun: &mut impl FnMut(&Fields) -> Option<Box<spans::Seen>>,
        ended: &mut impl FnMut(Pending, How),
    ) -> Result<(), Over> {
        while let Some(told) = self.client.next(&mut bytes)? {
            match told {
                Told::Message { stream, end: _, fields } if stream > self.last => {
                    if stream.is_multiple_of(2) || !fields.is_request {
                        return Err(Over::Frames);
                    }
                    if self.pending.len() == STREAMS {
                        return Err(Over::Many);
                    }
                    self.last = stream;
                    let line = self.logged.then(|| line(&fields));
                    let mut pending = Pending::new(false, line);
                    pending.span = begun(&fields);
                    self.pending.insert(u64::from(stream), pending);
                }
                Told::Reset(stream) => {
                    if let Some(pending) = self.pending.remove(&u64::from(stream)) {
                        ended(pending, How::Cancelled);
                    }
                }
                Told::Table(size) => self.server.decoder.allow(size),
                // Trailers, bodies, and what it says of pushes.
                Told::Message { .. } | Told::End(_) | Told::GoAway(_) | Told::Nothing => {}
            }
        }
        Ok(())
    }

    /// Reads what the server says, and tells of each request that has ended.
    pub(super) fn server(&mut self, mut bytes: &[u8], ended: &mut impl FnMut(Pending, How)) -> Result<(), Over> {
        let length = bytes.len();
        self.border = self.server.is_between().then_some(0);
        while let Some(told) = self.server.next(&mut bytes)? {
            self.answered(told, ended)?;
            if self.border.is_none() && self.server.is_between() {
                self.border = Some(length - bytes.len());
            }
        }
        Ok(())
    }

    fn answered(&mut self, told: Told, ended: &mut impl FnMut(Pending, How)) -> Result<(), Over> {
        let (stream, how) = match told {
            Told::Message { stream, end, fields } => {
                let Some(pending) = self.pending.get_mut(&u64::from(stream)) else {
                    // The client may have given up what is still answered.
                    return if stream > self.last { Err(Over::Unasked) } else { Ok(()) };
                };
                pending.grpc = fields.grpc.or(pending.grpc);
                if pending.status.is_none() {
                    match fields.status {
                        // That is not the answer yet.
                        Some(..200) if !end => return Ok(()),
                        Some(status) => pending.status = Some(status),
                        None => return Err(Over::Frames),
                    }
                }
                if !end {
                    return Ok(());
                }
                (stream, How::Answered)
            }
            Told::End(stream) => (stream, How::Answered),
            Told::Reset(stream) => (stream, How::Reset),
            Told::Table(size) => {
                self.client.decoder.allow(size);
                return Ok(());
            }
            Told::GoAway(last) => {
                // What comes after that has not been looked at, and is asked again elsewhere.
                self.taken = Some(last);
                self.pending.retain(|stream, _| *stream <= u64::from(last));
                return Ok(());
            }
            Told::Nothing => return Ok(()),
        };
        if let Some(pending) = self.pending.remove(&u64::from(stream)) {
            if how == How::Answered && pending.status.is_none() {
                return Err(Over::Frames);
            }
            ended(pending, how);
        }
        Ok(())
    }

    /// How much of what the client says next tells nothing.
    pub(super) fn client_skips(&self) -> u64 {
        self.client.skips()
    }

    /// The same of the server.
    pub(super) fn server_skips(&self) -> u64 {
        self.server.skips()
    }

    /// All of that has gone over.
    pub(super) fn client_passed(&mut self) {
        // What the client's bodies end with tells nothing either.
        let _ = self.client.passed();
    }

    /// The same of the server.
    pub(super) fn server_passed(&mut self, ended: &mut impl FnMut(Pending, How)) -> Result<(), Over> {
        match self.server.passed() {
            Some(told) => self.answered(told, ended),
            None => Ok(()),
        }
    }

    /// What has not been answered, or not to the end.
    pub(super) fn unanswered(&mut self) -> impl Iterator<Item = Pending> + '_ {
        self.pending.drain().map(|(_, pending)| pending)
    }
}

/// What is kept of what the client says; of answers there is nothing beside what is counted.
fn kept(logged: bool, traced: bool) -> Kept {
    Kept {
        line: logged || traced,
        trace: traced,
    }
}

fn line(fields: &Fields) -> Box<Line> {
    let text = |text: &Option<std::rc::Rc<str>>| text.as_deref().unwrap_or_default().to_owned();
    Box::new(Line {
        method: text(&fields.method),
        host: text(&fields.authority),
        path: text(&fields.path),
    })
}

/// Reads a dialogue to its end, or until reading is over: the requests that have ended, by their statuses, codes of gRPC and how
/// they have ended. Of each piece, it is said whether it is the client's.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read(pieces: &[(bool, &[u8])]) -> (Vec<Ended>, Result<(), Over>) {
    let mut conversation = Conversation::new(true, true);
    let mut told = Vec::new();
    for (client, bytes) in pieces {
        let mut ended = |pending: Pending, how| told.push((pending.status, pending.grpc, how));
        let result = match client {
            true => conversation.client(bytes, &mut |_| None, &mut ended),
            false => conversation.server(bytes, &mut ended),
        };
        if result.is_err() {
            return (told, result);
        }
    }
    (told, Ok(()))
}

/// A request that has ended.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) type Ended = (Option<u16>, Option<u16>, How);
