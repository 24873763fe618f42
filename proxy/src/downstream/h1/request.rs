//! A request that came by HTTP/1, and how it is answered.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    body::{BodyError, H1Body, Piece, SMALL, write_piece},
    downstream::{Downstream, FORWARDED, Outgoing, RequestBody, Responder, ResponseFields},
    fields::RequestView,
    h1::{self, Framing, Message, Pooled, RequestLine, chunk_head},
    io::{Shared, Stream},
    l4::{Admitted, Ended},
    tunnel,
    upstream::BackendStream,
    watchdog::Watchdog,
    worker::Worker,
};

/// A request that came by HTTP/1.
pub(crate) struct H1Request<'c, S> {
    pub(super) worker: &'c Rc<Worker>,
    pub(super) stream: &'c Shared<S>,
    pub(super) watchdog: &'c Watchdog,
    pub(super) message: Pooled,
    pub(super) body: H1Body,
    /// All of the body came with the head.
    pub(super) whole: bool,
    /// The body, if it was read before the request went on.
    pub(super) held: Option<Vec<u8>>,
    /// The client waits to be told before it sends the body.
    pub(super) continue_pending: bool,
    pub(super) reply: Reply,
}

/// How the response goes out.
pub(super) struct Reply {
    /// The connection is closed after it.
    pub(super) close: bool,
    pub(super) begun: bool,
    pub(super) chunked: bool,
    /// Its end is the connection's.
    pub(super) until_close: bool,
    pub(super) aborted: bool,
}

pub(crate) struct H1RequestBody<'d, S> {
    stream: &'d Shared<S>,
    message: &'d mut Message,
    body: &'d mut H1Body,
    continue_pending: &'d mut bool,
}

pub(crate) struct H1Responder<'d, S> {
    worker: &'d Worker,
    stream: &'d Shared<S>,
    reply: &'d mut Reply,
    http10: bool,
    head: bool,
    connect: bool,
}

impl<S: Stream> Downstream for H1Request<'_, S> {
    const HTTP2: bool = false;
    type Head = Message;
    type Body<'d>
        = H1RequestBody<'d, S>
    where
        Self: 'd;
    type Responder<'d>
        = H1Responder<'d, S>
    where
        Self: 'd;

    fn protocol(&self) -> &'static str {
        if self.message.is_http10() {
            "HTTP/1.0"
        } else {
            "HTTP/1.1"
        }
    }

    fn view(&self) -> RequestView<'_, Message> {
        let message = &*self.message;
        RequestView {
            method: message.method(),
            host: message.host(),
            path: message.path(),
            query: message.query(),
            fields: message,
        }
    }

    fn head_mut(&mut self) -> &mut Message {
        &mut self.message
    }

    fn is_head(&self) -> bool {
        self.message.is_head()
    }

    fn is_connect(&self) -> bool {
        self.message.is_connect()
    }

    fn framing(&self) -> Framing {
        self.message.framing()
    }

    fn upgrade(&self) -> Option<&str> {
        self.message.upgrade()
    }

    fn buffered(&self) -> Option<&[u8]> {
        if let Some(held) = &self.held {
            return Some(held);
        }
        match self.message.framing() {
            Framing::Length(length) if self.whole => {
                self.message.rest().get(..usize::try_from(length).unwrap_or(usize::MAX))
            }
            _ => None,
        }
    }

    fn hold(&mut self, body: Vec<u8>) {
        self.message.reframe(body.len());
        self.held = Some(body);
    }

    fn encode(&self, out: &mut Vec<u8>, line: &Outgoing<'_>) {
        let mut forwarded = [0; FORWARDED];
        let line = RequestLine {
            target: line.target,
            host: line.host,
            upgrade: line.upgrade,
            extra: line.client.forwarded(&mut forwarded),
        };
        self.message.encode_request(out, &line);
    }

    fn headers(&self, line: &Outgoing<'_>) -> HeaderMap {
        let mut headers = to_map(&self.message);
        line.client.insert_forwarded(&mut headers);
        if let Framing::Length(length) = self.message.framing() {
            headers.insert(http::header::CONTENT_LENGTH, length.into());
        }
        headers
    }

    fn split(&mut self) -> (H1RequestBody<'_, S>, H1Responder<'_, S>) {
        let responder = H1Responder {
            worker: self.worker,
            stream: self.stream,
            reply: &mut self.reply,
            http10: self.message.is_http10(),
            head: self.message.is_head(),
            connect: self.message.is_connect(),
        };
        let body = H1RequestBody {
            stream: self.stream,
            message: &mut self.message,
            body: &mut self.body,
            continue_pending: &mut self.continue_pending,
        };
        (body, responder)
    }

    async fn tunnel(
        &mut self,
        backend: &Shared<BackendStream>,
        early: &[u8],
        admitted: Option<&Admitted>,
    ) -> Option<Ended> {
        let sent = self.message.rest().to_vec();
        self.watchdog.disarm();
        let denied = tunnel::join(self.stream, &sent, backend, early, admitted).await;
        self.reply.aborted |= denied.is_some();
        denied
    }
}

impl<S: Stream> RequestBody for H1RequestBody<'_, S> {
    async fn next(&mut self, watchdog: &Watchdog) -> Result<Piece<'_>, BodyError> {
        if std::mem::take(self.continue_pending) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        self.body.next(self.stream, self.message, watchdog).await
    }
}

impl<S: Stream> Responder for H1Responder<'_, S> {
    type Stream = S;

    async fn respond(
        &mut self,
        status: u16,
        fields: ResponseFields<'_>,
        framing: Framing,
        first: &[u8],
        end: bool,
    ) -> Result<(), BodyError> {
        let bodiless = self.head || status == 204 || status == 304 || status < 200;
        let framing = match framing {
            // A client of HTTP/1.0 knows no chunks.
            Framing::Chunked if self.http10 && !bodiless => Framing::UntilClose,
            Framing::UntilClose if !self.http10 => Framing::Chunked,
            framing => framing,
        };
        self.reply.begun = true;
        self.reply.chunked = framing == Framing::Chunked && !bodiless;
        self.reply.until_close = framing == Framing::UntilClose && !bodiless;
        self.reply.close |= self.worker.draining.get() || self.reply.until_close || self.connect;
        // What a tunnel begins with is the last that is said of the connection.
        let close = self.reply.close && !(self.connect && (200..300).contains(&status));
        let mut out = self.worker.outgoing.take();
        match &fields {
            ResponseFields::H1(message) => message.encode_response(&mut out, framing, close),
            ResponseFields::Map(map) => h1::encode_response_from(&mut out, status, map, framing, close),
        }
        let sent = if self.reply.chunked {
            if !first.is_empty() {
                let mut head = [0; 18];
                out.extend_from_slice(chunk_head(first.len(), &mut head));
                out.extend_from_slice(first);
                out.extend_from_slice(b"\r\n");
            }
            if end {
                h1::encode_trailers(&mut out, None);
            }
            self.stream.write_all(&out).await
        } else if bodiless || first.len() <= SMALL {
            out.extend_from_slice(if bodiless { b"" } else { first });
            self.stream.write_all(&out).await
        } else {
            self.stream.write_parts([&out, first]).await
        };
        self.worker.outgoing.give(out);
        Ok(sent?)
    }

    async fn send(&mut self, piece: Piece<'_>) -> Result<(), BodyError> {
        Ok(write_piece(self.stream, self.reply.chunked, piece).await?)
    }

    fn raw(&self) -> Option<&Shared<S>> {
        (!self.reply.chunked).then_some(self.stream)
    }

    fn abort(&mut self) {
        self.reply.aborted = true;
    }

    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// The end-to-end fields of an HTTP/1 message, as HTTP/2 has them.
pub(crate) fn to_map(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    // One allocation holds all the values, instead of one each.
    let mut values = BytesMut::with_capacity(message.head_length());
    message.each_end_to_end(&mut |name, value| {
        values.extend_from_slice(value);
        let value = HeaderValue::from_maybe_shared(values.split().freeze());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value)
            && name != http::header::HOST
        {
            headers.append(name, value);
        }
    });
    headers
}
