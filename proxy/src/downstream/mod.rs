//! Towards the clients. HTTP/1.1 and HTTP/2 differ in how they read and write; what is done with a request
//! ([`crate::exchange`]) is written once, against [`Downstream`].

pub(crate) mod h1;
pub(crate) mod h2;

use std::{net::SocketAddr, rc::Rc};

use http::HeaderMap;
use tokio::net::TcpStream;

use crate::{
    body::{BodyError, Piece},
    fields::{Fields, RequestView},
    h1::{Framing, Message},
    io::Shared,
};

/// Who sends requests, and by what way they came in.
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    /// The port of the manifest, whatever the one that was bound.
    pub(crate) port: u16,
    /// Present on a TLS connection.
    pub(crate) tls: Option<Tls>,
}

/// What a TLS handshake said.
pub(crate) struct Tls {
    pub(crate) sni: Option<Rc<str>>,
}

impl Client {
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
    /// Field lines to add, each with its line end.
    pub(crate) extra: &'a [u8],
}

/// The fields of a response, from wherever it came.
pub(crate) enum ResponseFields<'a> {
    H1(&'a Message),
    Map(HeaderMap),
}

/// A request under way, whatever the protocol it came by.
pub(crate) trait Downstream {
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
    /// How the body is delimited.
    fn framing(&self) -> Framing;
    /// The protocol the client asks to upgrade to.
    fn upgrade(&self) -> Option<&str>;
    /// The body, if all of it has come: then the request can be sent again.
    fn buffered(&self) -> Option<&[u8]>;
    /// Writes the head as an HTTP/1.1 backend reads it.
    fn encode(&self, out: &mut Vec<u8>, line: &Outgoing<'_>);
    /// The head as an HTTP/2 backend reads it; the URI is set by the caller.
    fn headers(&self, line: &Outgoing<'_>) -> HeaderMap;
    fn split(&mut self) -> (Self::Body<'_>, Self::Responder<'_>);
    /// Joins client and backend for good, after an answer of 101. `early` is what the backend sent with its head.
    async fn tunnel(&mut self, backend: &Shared<TcpStream>, early: &[u8]);
}

/// The body of a request.
pub(crate) trait RequestBody {
    async fn next(&mut self) -> Result<Piece<'_>, BodyError>;
}

/// Where a response goes.
pub(crate) trait Responder {
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
    /// Breaks off, so that the client can tell that the body is not whole.
    fn abort(&mut self);
}
