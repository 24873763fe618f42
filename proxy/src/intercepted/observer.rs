//! Sees what a connection carries, as it goes over, and counts what can be told of it.

mod counted;
mod judged;
mod leaving;
mod unseen;

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    task::Context,
};

use weft_model::ListenerProtocol;

pub(super) use self::unseen::Unseen;
use self::unseen::unseen;
use super::{
    Direction, Protocol,
    alarm::Alarm,
    book::Destination,
    first::is_http,
    http1::{Conversation, Heads, Over, Pending},
    http2,
    parting::Parting,
};
use crate::{
    authorization::{Guard, Kept},
    config::Snapshot,
    copy::Next,
    downstream::h1::PREFACE,
    edges::EdgeCells,
    flag::Flag,
    h1::{Limits, Message, Refusal},
    hpack::Fields,
    l4::{
        Story,
        hello::{Partial, sni},
    },
    spans,
    traffic::Cells,
    worker::Worker,
};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// Sees one connection.
pub(super) struct Observer<'a> {
    worker: &'a Worker,
    direction: Direction,
    /// Where requests of the port are counted.
    port: &'a Cells,
    destination: &'a Destination,
    /// The same as between workloads.
    edge: &'a EdgeCells,
    story: &'a Story,
    decided: Cell<bool>,
    state: RefCell<State>,
    /// Bytes of the client that were seen.
    said: Cell<u64>,
    /// Bytes of the server that were seen; all of them have gone over once its story has as many.
    heard: Cell<u64>,
    /// Whether either side says no more.
    ended: Cell<bool>,
    /// The configuration by which it was last looked whether there are routes.
    generation: Cell<u64>,
    taken: Cell<Option<Vec<u8>>>,
    /// Who the client is, where policies decide what it may do.
    guard: Option<&'a Guard>,
    /// Made once there may be a reason to be woken by it.
    alarm: OnceCell<Rc<Alarm>>,
    /// The policies by which it was last looked.
    protection: Cell<u64>,
    /// The last request of HTTP/1, if it asks for another protocol: what it becomes is judged by it.
    upgrade: RefCell<Option<Box<Kept>>>,
    /// What is spoken, once that is known.
    spoken: Cell<Option<Protocol>>,
    denied: RefCell<Option<String>>,
    /// Present once its client is to go.
    parting: OnceCell<Box<Parting>>,
}

enum State {
    /// Nobody has said anything.
    Quiet,
    /// The client has begun as TLS does.
    Hello(Box<Partial>),
    /// The client has begun as HTTP/1 may.
    Http(Box<Conversation>),
    /// The client speaks HTTP/2, or the server has begun as if it did.
    Http2(Box<http2::Conversation>),
    /// There is nothing that could be told of the rest.
    Blind,
}

impl<'a> Observer<'a> {
    pub(super) fn new(
        worker: &'a Worker,
        direction: Direction,
        port: &'a Cells,
        destination: &'a Destination,
        edge: &'a EdgeCells,
        story: &'a Story,
        guard: Option<&'a Guard>,
    ) -> Self {
        Self {
            guard,
            alarm: OnceCell::new(),
            protection: Cell::new(guard.map_or(0, |guard| guard.judged.get())),
            upgrade: RefCell::default(),
            spoken: Cell::new(None),
            denied: RefCell::default(),
            parting: OnceCell::new(),
            worker,
            direction,
            port,
            destination,
            edge,
            story,
            decided: Cell::new(false),
            state: RefCell::new(State::Quiet),
            said: Cell::new(0),
            heard: Cell::new(0),
            ended: Cell::new(false),
            // None yet: routes may have come since it was decided that there are none, and who was silent for too long to be
            // told for whom they are may speak by now.
            generation: Cell::new(0),
            taken: Cell::default(),
        }
    }

    /// Takes a request that begins now, if it is for routes by which its connection does not go, and if all that was said before
    /// has been answered and the answers have gone over. Says whether it has.
    pub(super) fn takes_over(&self, bytes: &[u8]) -> bool {
        let snapshot = self.worker.snapshot();
        let due = match self.guard {
            Some(guard) => {
                let protection = self.worker.mesh.protection();
                protection.enforced && protection.guards(guard)
            }
            None => self.direction == Direction::Outbound && self.generation.get() != snapshot.generation,
        };
        if !due {
            return false;
        }
        // Who has been silent for too long to be told for whom it is may begin by now.
        let begins = || {
            let quiet = self.guard.is_none() && matches!(*self.state.borrow(), State::Quiet) && self.heard.get() == 0;
            quiet && is_http(bytes) == Some(true)
        };
        if self.ended.get() || !(self.rests() || begins()) {
            return false;
        }
        self.generation.set(snapshot.generation);
        let takes = self.guard.is_some() || self.destination_has_routes(&snapshot);
        if takes {
            self.taken.set(Some(bytes.to_vec()));
            self.said.update(|said| said + bytes.len() as u64);
        }
        takes
    }

    /// Whether nothing is under way: all that was asked has been answered, and the answers have gone over.
    pub(super) fn rests(&self) -> bool {
        let between = match &*self.state.borrow() {
            State::Http(conversation) => conversation.is_between(),
            _ => false,
        };
        between && self.has_sent_all()
    }

    /// Whoever polls is woken when policies or routes are others.
    fn wakes(&self, cx: &Context<'_>) {
        self.alarm.get_or_init(|| self.worker.alarms.set()).wake(cx);
    }

    /// Whether it is HTTP/2 that is read along.
    fn is_http2(&self) -> bool {
        matches!(&*self.state.borrow(), State::Http2(conversation) if conversation.recognised())
    }

    /// Whether all that was seen of the server has gone over.
    fn has_sent_all(&self) -> bool {
        self.heard.get() == self.story.sent.get()
    }

    /// Sees bytes before they go over, and says what is to be done with them. Where a side pauses, there are none.
    pub(super) fn next(&self, side: Side, bytes: &[u8]) -> Next {
        if bytes.is_empty() {
            let interrupts = side == Side::Server && self.interrupts();
            return if interrupts { Next::Only(0) } else { Next::More };
        }
        if side == Side::Client && self.takes_over(bytes) {
            return Next::Hold;
        }
        // Where no request may begin any more, the last that has.
        let closed = self.parting.get().filter(|parting| parting.is_closed(self.worker));
        let before = closed.and_then(|_| self.last_stream());
        let unseen = self.see(side, bytes);
        if let (Some(parting), Some(before)) = (closed, before) {
            self.keeps_out(parting, before);
            if parting.is_over() {
                return Next::Hold;
            }
        }
        if self.is_denied() {
            return Next::Hold;
        }
        if side == Side::Server
            && let Some(border) = self.border()
            && self.tells(&bytes[border..])
        {
            return Next::Only(border);
        }
        if unseen { Next::Last } else { Next::More }
    }

    /// What was taken over.
    pub(super) fn taken(&self) -> Option<Vec<u8>> {
        self.taken.take()
    }

    fn destination_has_routes(&self, snapshot: &Snapshot) -> bool {
        let address = self.story.endpoint.get();
        let frontend = address.and_then(|address| snapshot.frontend(address));
        frontend.is_some_and(|frontend| frontend.protocol() == ListenerProtocol::Http)
    }

    /// Sees bytes before they go over; says whether what comes next may go over unseen.
    pub(super) fn see(&self, side: Side, bytes: &[u8]) -> bool {
        let seen = match side {
            Side::Client => &self.said,
            Side::Server => &self.heard,
        };
        let before = seen.replace(seen.get() + bytes.len() as u64);
        let logged = || self.worker.log().is_some() || self.tells_probes();
        let traced = self.worker.spans.is_some();
        let mut state = self.state.borrow_mut();
        if matches!(*state, State::Quiet) {
            *state = match (side, bytes) {
                // A handshake record of any version of TLS.
                (Side::Client, [22, 3, ..] | [22]) => State::Hello(Box::default()),
                (Side::Client, _) => State::Http(Box::default()),
                (Side::Server, _) if http2::is_settings(bytes) => {
                    State::Http2(Box::new(http2::Conversation::new(logged(), traced)))
                }
                (Side::Server, _) => State::Quiet,
            };
        }
        let blind = match (&mut *state, side) {
            (State::Quiet, _) => {
                self.decide(Protocol::ServerFirst);
                true
            }
            (State::Hello(partial), Side::Client) => match partial.feed(bytes) {
                Ok(None) => false,
                Ok(Some(hello)) => {
                    self.story.sni.replace(sni(&hello).unwrap_or_default());
                    self.decide(Protocol::Tls);
                    true
                }
                Err(_) => {
                    self.decide(Protocol::Opaque);
                    true
                }
            },
            (State::Hello(_), Side::Server) => {
                self.decide(Protocol::Opaque);
                true
            }
            (State::Http(conversation), _) => match self.follow(conversation, side, bytes) {
                Ok(()) => {
                    if conversation.recognised {
                        self.decide(Protocol::Http1);
                    }
                    false
                }
                Err(Over::Http2) => {
                    self.decide(Protocol::Http2);
                    // Of the preface, so much came before.
                    let rest = PREFACE
                        .len()
                        .checked_sub(before as usize)
                        .and_then(|had| bytes.get(had..));
                    match rest {
                        Some(rest) => {
                            let mut conversation = Box::new(http2::Conversation::begun(logged(), traced));
                            let blind = !self.follow2(&mut conversation, side, rest);
                            *state = State::Http2(conversation);
                            blind
                        }
                        None => true,
                    }
                }
                Err(over) => {
                    self.over(conversation.recognised, over);
                    true
                }
            },
            (State::Http2(conversation), _) => !self.follow2(conversation, side, bytes),
            (State::Blind, _) => true,
        };
        if blind {
            *state = State::Blind;
            self.loses_sight();
        }
        unseen(&mut state, side) != Unseen::Nothing
    }

    fn follow(&self, conversation: &mut Conversation, side: Side, bytes: &[u8]) -> Result<(), Over> {
        let limits = &self.worker.options.limits;
        let heads = Heads {
            pool: &self.worker.messages,
            limits: Limits {
                head_bytes: limits.head_bytes,
                fields: limits.fields,
            },
        };
        match side {
            Side::Client => {
                let mut begun = |message: &Message| self.begun(message);
                conversation.client(bytes, &heads, self.worker.log().is_some(), &mut begun)
            }
            Side::Server => conversation.server(bytes, &heads, &mut |pending| self.count(pending, Flag::None)),
        }
    }

    /// Says whether it can be followed further.
    fn follow2(&self, conversation: &mut http2::Conversation, side: Side, bytes: &[u8]) -> bool {
        let mut ended = |pending: Pending, how| self.ended2(pending, how);
        let read = match side {
            Side::Client => {
                let mut begun = |fields: &Fields| {
                    self.begun2(fields);
                    spans::Seen::of_fields(self.worker, fields)
                };
                conversation.client(bytes, &mut begun, &mut ended)
            }
            Side::Server => conversation.server(bytes, &mut ended),
        };
        let recognised = conversation.recognised();
        if recognised {
            self.decide(Protocol::Http2);
        }
        read.map_err(|over| self.over2(recognised, over)).is_ok()
    }

    /// HTTP/2 cannot be followed any more, or it was something else.
    fn over2(&self, recognised: bool, over: http2::Over) {
        if recognised {
            tracing::debug!(reason = %over, "a connection is carried on without its requests being counted");
            self.worker.book.lost(self.direction);
        } else {
            self.decide(Protocol::ServerFirst);
        }
    }

    /// HTTP/1 has ended, or it was something else.
    fn over(&self, recognised: bool, over: Over) {
        if over == Over::Upgraded {
            // There may have been other policies since it was asked for.
            self.protection.set(0);
        } else {
            self.upgrade.take();
        }
        let http1 = match over {
            Over::Upgraded => true,
            // What is not HTTP is refused by these; the others are of HTTP that is not as it should be.
            Over::Unclear(Refusal::NotHttp | Refusal::MalformedHead) | Over::Unasked if !recognised => false,
            _ => {
                tracing::debug!(reason = %over, "a connection is carried on without its requests being counted");
                self.worker.book.lost(self.direction);
                true
            }
        };
        self.decide(if http1 { Protocol::Http1 } else { Protocol::Opaque });
    }

    /// A side says no more.
    pub(super) fn ended(&self, side: Side) {
        self.ended.set(true);
        if let (State::Http(conversation), Side::Server) = (&mut *self.state.borrow_mut(), side) {
            conversation.server_ended(&mut |pending| self.count(pending, Flag::None));
        }
    }
}
