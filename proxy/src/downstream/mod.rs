//! Towards the clients. HTTP/1.1 and HTTP/2 differ in how they read and write; what is done with a request
//! ([`crate::exchange`]) is written once, against [`Downstream`].

pub(crate) mod h1;
pub(crate) mod h2;
mod tunnelled;

use std::{
    cell::OnceCell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    authorization::Guard,
    body::{BodyError, Piece},
    config::Snapshot,
    fields::{Fields, RequestView},
    flag::Flag,
    h1::{Framing, Message},
    intercepted::Outbound,
    io::{Shared, Stream},
    l4::{Admitted, Ended},
    tls::Tls,
    traffic::Cells,
    upstream::BackendStream,
    watchdog::Watchdog,
    worker::Worker,
};

/// Who sends requests, and by what way they came in.
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    /// The port of the manifest, whatever the one that was bound.
    pub(crate) port: u16,
    /// Present on a TLS connection. What its requests become is judged by it too.
    pub(crate) tls: Option<Rc<Tls>>,
    /// Present where it was on its way to a Service, or to the application here, and was turned.
    pub(crate) outbound: Option<Box<Outbound>>,
    /// When its connection has grown old; none where that is for others to say.
    until: Option<Instant>,
    /// Where the requests of the port are counted.
    pub(crate) cells: Rc<Cells>,
    /// The value of `X-Forwarded-For`, made for the first request that goes on by HTTP/2.
    forwarded_for: OnceCell<Box<HeaderValue>>,
}

/// The longest lines of [`Client::forwarded`].
pub(crate) const FORWARDED: usize = 96;

impl Client {
    pub(crate) fn new(peer: SocketAddr, port: u16, tls: Option<Tls>, cells: Rc<Cells>) -> Self {
        Self {
            peer,
            port,
            tls: tls.map(Rc::new),
            outbound: None,
            until: None,
            cells,
            forwarded_for: OnceCell::new(),
        }
    }

    /// The same, on a connection that grows old.
    pub(crate) fn aging(self, worker: &Worker) -> Self {
        let age = worker.options.limits.connection_age;
        let less = age.mul_f64((worker.random() as u32 as f64) / f64::from(u32::MAX) / 8.0);
        Self {
            until: worker.coarse_now().checked_add(age - less),
            ..self
        }
    }

    /// One that was on its way to a Service.
    pub(crate) fn turned(peer: SocketAddr, port: u16, outbound: Outbound, cells: Rc<Cells>) -> Self {
        Self {
            outbound: Some(Box::new(outbound)),
            ..Self::new(peer, port, None, cells)
        }
    }

    /// Whether its backends are told who it is. At the edge nobody else could tell them; in the mesh they are told what it
    /// says itself, and nothing else.
    pub(crate) fn is_told(&self) -> bool {
        self.outbound.is_none()
    }

    /// Where it sends its requests, as far as is known.
    pub(crate) fn destination(&self) -> SocketAddr {
        let here = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port));
        self.outbound.as_ref().map_or(here, |outbound| outbound.address)
    }

    /// Who it is, where policies decide what it may do.
    pub(crate) fn guard(&self) -> Option<&Guard> {
        self.outbound.as_ref().and_then(|outbound| outbound.guard.as_deref())
    }

    /// Whether what it sends is still served by routes, or by the application here, and by this connection. If not, that ends
    /// with the next request.
    pub(crate) fn is_served(&self, worker: &Worker) -> bool {
        match &self.outbound {
            None => worker.serves(self.port) && self.until.is_none_or(|until| worker.coarse_now() < until),
            // Who comes in clear to where nobody else may so any more is answered, and may come again with proof.
            Some(outbound) => {
                let unproven = outbound
                    .guard
                    .as_ref()
                    .is_some_and(|guard| guard.is_unproven(&worker.mesh));
                !unproven && outbound.is_routed(&worker.snapshot())
            }
        }
    }

    /// How long its connection may lie idle between requests. In the mesh it is for the application to end it: one that it
    /// has just lost is a request that fails.
    pub(crate) fn idle_timeout(&self, worker: &Worker) -> Duration {
        let limits = &worker.options.limits;
        if self.outbound.is_some() {
            limits.tcp_idle_timeout
        } else {
            limits.idle_timeout
        }
    }

    /// The field lines that tell an HTTP/1.1 backend who asked.
    pub(crate) fn forwarded<'l>(&self, lines: &'l mut [u8; FORWARDED]) -> &'l [u8] {
        if !self.is_told() {
            return &[];
        }
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            lines[length..length + bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        put(b"X-Forwarded-For: ");
        self.write_address(&mut put);
        put(b"\r\nX-Forwarded-Proto: ");
        put(self.scheme().as_bytes());
        put(b"\r\n");
        &lines[..length]
    }

    /// The same for an HTTP/2 backend.
    pub(crate) fn insert_forwarded(&self, headers: &mut HeaderMap) {
        if !self.is_told() {
            return;
        }
        let address = self.forwarded_for.get_or_init(|| {
            let mut text = Vec::with_capacity(40);
            self.write_address(&mut |bytes| text.extend_from_slice(bytes));
            // The text of an address is always a field value.
            Box::new(HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(HeaderValue::from_static("")))
        });
        headers.insert(HeaderName::from_static("x-forwarded-for"), (**address).clone());
        let scheme = HeaderValue::from_static(self.scheme());
        headers.insert(HeaderName::from_static("x-forwarded-proto"), scheme);
    }

    /// Written by hand: the formatting machinery costs more than the rest of a head.
    fn write_address(&self, put: &mut impl FnMut(&[u8])) {
        let IpAddr::V4(address) = self.peer.ip().to_canonical() else {
            return put(self.peer.ip().to_string().as_bytes());
        };
        for (at, octet) in address.octets().into_iter().enumerate() {
            let digits = [b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10];
            let skipped = if octet >= 100 {
                0
            } else if octet >= 10 {
                1
            } else {
                2
            };
            if at > 0 {
                put(b".");
            }
            put(&digits[skipped..]);
        }
    }

    /// Whether it would be let in now as well.
    pub(crate) fn is_trusted(&self, snapshot: &Snapshot) -> bool {
        let tls = self.tls.as_ref();
        tls.is_none_or(|tls| tls.is_trusted(snapshot, self.port))
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    pub(crate) fn sni(&self) -> Option<&str> {
        self.tls.as_ref().map(|tls| tls.sni.as_deref().unwrap_or(""))
    }
}

/// The first line of a request on its way to a backend.
pub(crate) struct Outgoing<'a> {
    pub(crate) target: Option<&'a str>,
    pub(crate) host: Option<&'a str>,
    /// Whether the backend is asked to upgrade as the client asked.
    pub(crate) upgrade: bool,
    /// Who asked, which the backend is told.
    pub(crate) client: &'a Client,
}

/// The fields of a response, from wherever it came.
pub(crate) enum ResponseFields<'a> {
    H1(&'a Message),
    Map(HeaderMap),
}

/// A request under way, whatever the protocol it came by.
pub(crate) trait Downstream {
    /// Whether it came by HTTP/2.
    const HTTP2: bool;
    /// Its header fields.
    type Head: Fields;
    /// Its body, while the response is under way too.
    type Body<'d>: RequestBody
    where
        Self: 'd;
    /// Where the response goes.
    type Responder<'d>: Responder
    where
        Self: 'd;

    /// `HTTP/1.1` or `HTTP/2`, for the log.
    fn protocol(&self) -> &'static str;
    fn view(&self) -> RequestView<'_, Self::Head>;
    fn head_mut(&mut self) -> &mut Self::Head;
    /// Whether the method is HEAD, to which the answer has no body.
    fn is_head(&self) -> bool;
    /// Whether the method is CONNECT, which asks for a tunnel.
    fn is_connect(&self) -> bool;
    /// How the body is delimited.
    fn framing(&self) -> Framing;
    /// The protocol the client asks to upgrade to.
    fn upgrade(&self) -> Option<&str>;
    /// The body, if all of it has come: then the request can be sent again.
    fn buffered(&self) -> Option<&[u8]>;
    /// Keeps a body that has been read to its end, so that it is [`Downstream::buffered`]. Its trailers are lost.
    fn hold(&mut self, body: Vec<u8>);
    /// Writes the head as an HTTP/1.1 backend reads it.
    fn encode(&self, out: &mut Vec<u8>, line: &Outgoing<'_>);
    /// The head as an HTTP/2 backend reads it; the URI is set by the caller.
    fn headers(&self, line: &Outgoing<'_>) -> HeaderMap;
    fn split(&mut self) -> (Self::Body<'_>, Self::Responder<'_>);
    /// Joins client and backend for as long as that is allowed, after an answer of 101, or of 200 to CONNECT. `early` is what the
    /// backend sent with its head. Returns why it has not ended by itself.
    async fn tunnel(
        &mut self,
        backend: &Shared<BackendStream>,
        early: &[u8],
        admitted: Option<&Admitted>,
    ) -> Option<Ended>;
}

/// The body of a request.
pub(crate) trait RequestBody {
    /// The next piece. The time of the `watchdog` runs anew whenever something has come.
    async fn next(&mut self, watchdog: &Watchdog) -> Result<Piece<'_>, BodyError>;
}

/// Where a response goes.
pub(crate) trait Responder {
    type Stream: Stream;

    /// Sends the head and the first piece of the body. `framing` is that of the body; `end` says that no more comes.
    async fn respond(
        &mut self,
        status: u16,
        fields: ResponseFields<'_>,
        framing: Framing,
        first: &[u8],
        end: bool,
    ) -> Result<(), BodyError>;
    /// Sends a further piece; [`Piece::End`] is the last.
    async fn send(&mut self, piece: Piece<'_>) -> Result<(), BodyError>;
    /// The client's connection, if what is left of the body may be written to it without framing.
    fn raw(&self) -> Option<&Shared<Self::Stream>>;
    /// Breaks off, so that the client can tell that the body is not whole.
    fn abort(&mut self);
    /// Whether the client has taken the request back. One that only closes its own direction of an HTTP/1.1 connection
    /// has not: it may well read the answer.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// What came where a request was expected, and is none.
pub(crate) struct Unserved<'a> {
    pub(crate) flag: Flag,
    /// What is answered; 0 if nothing is.
    pub(crate) status: u16,
    pub(crate) reason: &'a str,
}
