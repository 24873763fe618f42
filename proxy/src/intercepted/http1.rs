//! HTTP/1 read along: what both sides say is told apart into requests and answers, without a byte being held back. What is
//! not clear beyond doubt ends the reading, never the connection.

use std::{cell::Cell, collections::VecDeque, time::Instant};

use crate::{
    downstream::h1::{PREFACE, is_preface},
    h1::{Chunked, Framing, Limits, Message, MessagePool, Parse, Pooled, Refusal, Step},
    spans,
};

/// Requests of a connection that wait for an answer; whoever sends more is not followed.
const PIPELINED: usize = 128;

/// Why reading along is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Over {
    #[error("the client speaks HTTP/2")]
    Http2,
    #[error("{0}")]
    Unclear(#[from] Refusal),
    #[error("the server spoke without being asked")]
    Unasked,
    #[error("more than {PIPELINED} requests wait for an answer")]
    Pipelined,
    #[error("the client went on before it knew what is spoken next")]
    Hasty,
    #[error("both sides go on with another protocol")]
    Upgraded,
}

/// What is needed to read heads.
pub(super) struct Heads<'a> {
    pub(super) pool: &'a MessagePool,
    pub(super) limits: Limits,
}

/// A request that waits for its answer to be whole.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) started: Instant,
    head: bool,
    /// The status, once it is known.
    pub(super) status: Option<u16>,
    /// The code of gRPC, if there is one.
    pub(super) grpc: Option<u16>,
    /// What the log says of it, if there is one.
    pub(super) line: Option<Box<Line>>,
    /// What its span says of it, if it is to have one.
    pub(super) span: Option<Box<spans::Seen>>,
}

impl Pending {
    /// One that begins now.
    pub(super) fn new(head: bool, line: Option<Box<Line>>) -> Self {
        Self {
            started: Instant::now(),
            head,
            status: None,
            grpc: None,
            line,
            span: None,
        }
    }
}

/// The first line of a request.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) path: String,
}

impl Line {
    fn of(message: &Message) -> Box<Self> {
        Box::new(Self {
            method: message.method().to_owned(),
            host: message.host().to_owned(),
            path: message.path().to_owned(),
        })
    }
}

/// Both sides of a connection.
#[derive(Default)]
pub(super) struct Conversation {
    requests: Reader,
    answers: Reader,
    pending: VecDeque<Pending>,
    /// Whether the client has begun with something else than HTTP/2, to which it then does not go over.
    begun: Cell<bool>,
    /// Whether there has been a request.
    pub(super) recognised: bool,
}

impl Conversation {
    /// Reads what the client says, and tells of each request; what is answered is kept for its span. `logged` says whether lines
    /// are kept for the log.
    pub(super) fn client(
        &mut self,
        mut bytes: &[u8],
        heads: &Heads<'_>,
        logged: bool,
        begun: &mut dyn FnMut(&Message) -> Option<Box<spans::Seen>>,
    ) -> Result<(), Over> {
        let other = &self.begun;
        let parse = |message: &mut Message| {
            let so_far = message.rest_unparsed();
            if !other.get() && is_preface(so_far) {
                return if so_far.len() >= PREFACE.len() {
                    Err(Over::Http2)
                } else {
                    Ok(Parse::Partial)
                };
            }
            other.set(true);
            let parsed = message.parse_request(&heads.limits)?;
            if parsed == Parse::Complete && message.is_connect() {
                // What follows is of a protocol of its own, if the server agrees.
                return Err(Refusal::ConnectRefused.into());
            }
            Ok(parsed)
        };
        while !bytes.is_empty() {
            let Some(message) = self.requests.next_head(&mut bytes, heads.pool, parse)? else {
                continue;
            };
            if self.pending.len() == PIPELINED {
                return Err(Over::Pipelined);
            }
            self.recognised = true;
            let span = begun(&message);
            let line = logged.then(|| Line::of(&message));
            self.pending.push_back(Pending {
                span,
                ..Pending::new(message.is_head(), line)
            });
            self.requests = match message.upgrade() {
                Some(_) => Reader::Waiting,
                None => Reader::of(message.framing()),
            };
        }
        Ok(())
    }

    /// Reads what the server says, and tells of each answer that is whole.
    pub(super) fn server(
        &mut self,
        mut bytes: &[u8],
        heads: &Heads<'_>,
        answered: &mut impl FnMut(Pending),
    ) -> Result<(), Over> {
        while !bytes.is_empty() {
            let front = self.pending.front_mut().ok_or(Over::Unasked)?;
            let method = if front.head { "HEAD" } else { "GET" };
            let within = !matches!(self.answers, Reader::Head(_));
            let parse = |message: &mut Message| Ok(message.parse_response(&heads.limits, method)?);
            match self.answers.next_head(&mut bytes, heads.pool, parse)? {
                None if within && self.answers.is_between() => self.answer_ended(answered),
                None => {}
                Some(message) => {
                    let status = message.status();
                    if status == 101 {
                        front.status = Some(status);
                        self.answer_ended(answered);
                        return Err(Over::Upgraded);
                    }
                    if status < 200 {
                        continue;
                    }
                    front.status = Some(status);
                    self.answers = Reader::of(message.framing());
                    if self.answers.is_between() {
                        self.answer_ended(answered);
                    }
                }
            }
        }
        Ok(())
    }

    fn answer_ended(&mut self, answered: &mut impl FnMut(Pending)) {
        if let Some(pending) = self.pending.pop_front() {
            answered(pending);
        }
        // The last request was the one to upgrade; it was not granted.
        if self.pending.is_empty() && matches!(self.requests, Reader::Waiting) {
            self.requests = Reader::default();
        }
    }

    /// Whether there was a request, and all there were have been answered.
    pub(super) fn is_between(&self) -> bool {
        let quiet = self.requests.is_between() && self.answers.is_between();
        self.recognised && quiet && self.pending.is_empty()
    }

    /// How the client goes on.
    pub(super) fn requests(&mut self) -> &mut Reader {
        &mut self.requests
    }

    /// How the server goes on.
    pub(super) fn answers(&mut self) -> &mut Reader {
        &mut self.answers
    }

    /// The server's body has been passed over to its end.
    pub(super) fn answer_passed(&mut self, answered: &mut impl FnMut(Pending)) {
        self.answers = Reader::default();
        self.answer_ended(answered);
    }

    /// The server says no more.
    pub(super) fn server_ended(&mut self, answered: &mut impl FnMut(Pending)) {
        if matches!(self.answers, Reader::UntilClose) {
            self.answer_passed(answered);
        }
    }

    /// What has not been answered, or not to the end.
    pub(super) fn unanswered(&mut self) -> impl Iterator<Item = Pending> + '_ {
        self.pending.drain(..)
    }
}

/// Where one side is.
pub(super) enum Reader {
    /// Between messages, or within a head.
    Head(Option<Pooled>),
    /// Within a body of which so much is left.
    Length(u64),
    Chunks(Box<Chunked>),
    UntilClose,
    /// After a request to upgrade: what comes next depends on the answer.
    Waiting,
}

impl Default for Reader {
    fn default() -> Self {
        Self::Head(None)
    }
}

impl Reader {
    fn of(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::default(),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunks(Box::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    fn is_between(&self) -> bool {
        matches!(self, Self::Head(None))
    }

    /// Reads on until a head is there, a body has ended, or there are no more bytes.
    fn next_head(
        &mut self,
        bytes: &mut &[u8],
        pool: &MessagePool,
        parse: impl Fn(&mut Message) -> Result<Parse, Over>,
    ) -> Result<Option<Pooled>, Over> {
        match self {
            Self::Head(held) => {
                let mut message = held.take().unwrap_or_else(|| pool.take());
                while !bytes.is_empty() {
                    let taken = fill(&mut message, bytes);
                    if parse(&mut message)? == Parse::Complete {
                        // What follows the head has just been taken with it.
                        *bytes = &bytes[taken - message.rest().len()..];
                        return Ok(Some(message));
                    }
                    *bytes = &bytes[taken..];
                }
                if !message.is_empty() {
                    *held = Some(message);
                }
            }
            Self::Length(left) => {
                let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *bytes = &bytes[length..];
                *left -= length as u64;
                if *left == 0 {
                    *self = Self::default();
                }
            }
            Self::Chunks(chunks) => {
                let done = match chunks.feed(bytes)? {
                    Step::Data { consumed, .. } => {
                        *bytes = &bytes[consumed..];
                        false
                    }
                    Step::Done { consumed, .. } => {
                        *bytes = &bytes[consumed..];
                        true
                    }
                };
                if done {
                    *self = Self::default();
                }
            }
            Self::UntilClose => *bytes = &[],
            Self::Waiting => return Err(Over::Hasty),
        }
        Ok(None)
    }
}

/// Puts bytes into a message, up to the end of a head if that is among them; says how many.
fn fill(message: &mut Message, bytes: &[u8]) -> usize {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let space = message.space();
    let taken = head.min(space.len());
    space[..taken].copy_from_slice(&bytes[..taken]);
    message.filled(taken);
    taken
}

/// Reads a dialogue to its end, or until reading is over: the statuses of the answers that were whole. Of each piece, it is
/// said whether it is the client's.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read(pieces: &[(bool, &[u8])]) -> (Vec<u16>, Result<(), Over>) {
    let pool = MessagePool::default();
    let heads = Heads {
        pool: &pool,
        limits: Limits::default(),
    };
    let mut conversation = Conversation::default();
    let mut statuses = Vec::new();
    let mut answered = |pending: Pending| statuses.extend(pending.status);
    let mut result = Ok(());
    for (client, bytes) in pieces {
        result = match client {
            true => conversation.client(bytes, &heads, false, &mut |_| None),
            false => conversation.server(bytes, &heads, &mut answered),
        };
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        conversation.server_ended(&mut answered);
    }
    (statuses, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a dialogue is read as, whatever the pieces it comes in.
    fn reads(dialogue: &[(char, &str)]) -> (Vec<u16>, Result<(), Over>) {
        let cut = |piece| {
            let turns = dialogue.iter().flat_map(|(who, text)| {
                let pieces = text.as_bytes().chunks(piece);
                pieces.map(|bytes| (*who == '>', bytes))
            });
            read(&turns.collect::<Vec<_>>())
        };
        let whole = cut(usize::MAX);
        for piece in [1, 2, 7] {
            assert_eq!(cut(piece), whole, "in pieces of {piece}");
        }
        whole
    }

    #[test]
    fn requests_and_answers_are_told_apart_whatever_their_framing() {
        let dialogue = [
            (
                '>',
                "GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz",
            ),
            ('<', "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
            (
                '<',
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
            ),
            ('>', "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ('<', "HTTP/1.1 404 Not Found\r\nContent-Length: 500\r\n\r\n"),
            (
                '>',
                "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\nX: y\r\n\r\n",
            ),
            (
                '<',
                "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            ),
            ('>', "GET / HTTP/1.0\r\n\r\n"),
            ('<', "HTTP/1.0 302 Found\r\n\r\nuntil the end"),
        ];
        assert_eq!(reads(&dialogue), (vec![200, 201, 404, 500, 302], Ok(())));
    }

    #[test]
    fn after_an_upgrade_nothing_is_read() {
        let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let granted = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(reads(&[('>', ask), ('<', granted)]), (vec![101], Err(Over::Upgraded)));
        let refused = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let next = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let dialogue = [('>', ask), ('<', refused), ('>', next), ('<', refused)];
        assert_eq!(reads(&dialogue), (vec![200, 200], Ok(())));
        assert_eq!(reads(&[('>', ask), ('>', next)]), (vec![], Err(Over::Hasty)));
        // An earlier request's answer is not the one that is waited for.
        let dialogue = [('>', next), ('>', ask), ('<', refused), ('>', next)];
        assert_eq!(reads(&dialogue), (vec![200], Err(Over::Hasty)));
    }

    /// What dialogues are made of.
    const PARTS: [&str; 18] = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 204 No\r\n\r\n",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "hello",
        "\r\n",
        "\n",
        "a: b\r\n\r\n",
    ];

    proptest::proptest! {
        #[test]
        fn a_dialogue_is_read_alike_however_it_is_cut(
            turns in proptest::collection::vec((proptest::bool::ANY, proptest::sample::select(&PARTS[..])), 1..10),
            cuts in proptest::collection::vec(1..40_usize, 1..4),
        ) {
            let whole: Vec<(bool, &[u8])> = turns.iter().map(|(client, text)| (*client, text.as_bytes())).collect();
            let mut lengths = cuts.iter().cycle();
            let mut pieces = Vec::new();
            for (client, mut rest) in whole.iter().copied() {
                while !rest.is_empty() {
                    let length = lengths.next().copied().unwrap_or(1).min(rest.len());
                    pieces.push((client, &rest[..length]));
                    rest = &rest[length..];
                }
            }
            // What exactly is not clear about a head depends on how much of it has come when that shows.
            let told = |pieces: &[(bool, &[u8])]| {
                let (statuses, result) = read(pieces);
                (statuses, result.map_err(|over| std::mem::discriminant(&over)))
            };
            proptest::prop_assert_eq!(told(&whole), told(&pieces));
        }
    }

    #[test]
    fn a_connection_does_not_go_over_to_http2() {
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for before in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n"] {
            let said = format!("{before}{preface}");
            for piece in [said.len(), 1, 7] {
                let pieces: Vec<(bool, &[u8])> = said.as_bytes().chunks(piece).map(|bytes| (true, bytes)).collect();
                let (_, result) = read(&pieces);
                assert!(
                    matches!(result, Err(Over::Unclear(_))),
                    "{said:?} by {piece}: {result:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_clear_ends_the_reading() {
        let smuggled = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(reads(&[('>', smuggled)]).1, Err(Refusal::ConflictingLengths.into()));
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(
            reads(&[('>', get), ('<', "SSH-2.0-x\r\n\r\n")]).1,
            Err(Refusal::NotHttp.into())
        );
        assert_eq!(reads(&[('<', "220 mail.example\r\n")]).1, Err(Over::Unasked));
        assert_eq!(reads(&[('>', "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]).1, Err(Over::Http2));
        let many = get.repeat(PIPELINED + 1);
        assert_eq!(reads(&[('>', &many)]).1, Err(Over::Pipelined));
    }
}
