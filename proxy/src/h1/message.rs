//! A message: the bytes as they were read, and where in them everything stands.

use std::ops::Range;

use http::{HeaderName, HeaderValue};

use crate::fields::Fields;

/// Bytes of a head, whatever the limit.
pub(super) const HEAD: usize = 64 * 1024;
/// Bytes a message can hold: a head, and what of the body is under way, for which there is room beside any head.
pub(super) const CAPACITY: usize = HEAD + 16 * 1024;

/// Bytes read at once while the head is awaited. What of the body comes with it is copied; what is left of a long one
/// need not be.
const HEAD_ROOM: usize = 16 * 1024;

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes, the empty line included.
    pub head_bytes: usize,
    /// Fields.
    pub fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: HEAD,
            fields: 100,
        }
    }
}

/// Whether a head is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parse {
    /// More bytes are needed.
    Partial,
    /// The head is parsed; [`Message::rest`] begins after it.
    Complete,
}

/// How a body is delimited (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// It has this many bytes.
    Length(u64),
    /// It comes in chunks, perhaps with trailers.
    Chunked,
    /// It ends with the connection. Responses only.
    UntilClose,
}

/// Where a piece of text stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A header field, in the buffer or, if it was put there by a filter, in the side bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
    pub(super) aside: bool,
    /// It does not go further than this hop (RFC 9110, 7.6.1), or it is written anew.
    pub(super) hop: bool,
}

/// A request or a response, with its bytes.
#[derive(Debug)]
pub struct Message {
    pub(super) buffer: Box<[u8]>,
    /// Where the bytes read so far end.
    pub(super) end: usize,
    /// Where the bytes not yet consumed begin; 0 until a head is parsed.
    pub(super) at: usize,
    /// Where the head ends; 0 until it is parsed.
    pub(super) head_end: usize,
    pub(super) fields: Vec<Field>,
    pub(super) aside: Vec<u8>,
    pub(super) method: Span,
    pub(super) target: Span,
    pub(super) path: Span,
    pub(super) query: Option<Span>,
    pub(super) host: Span,
    pub(super) upgrade: Option<Span>,
    pub(super) status: u16,
    pub(super) reason: Span,
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
    pub(super) http10: bool,
    pub(super) expects_continue: bool,
    /// `TE: trailers` was sent, which gRPC wants passed on.
    pub(super) te_trailers: bool,
}

impl Default for Message {
    fn default() -> Self {
        Self {
            // Zeroed pages come from the kernel untouched, so a buffer costs what has been written to it.
            buffer: vec![0; CAPACITY].into_boxed_slice(),
            end: 0,
            at: 0,
            head_end: 0,
            fields: Vec::new(),
            aside: Vec::new(),
            method: Span::default(),
            target: Span::default(),
            path: Span::default(),
            query: None,
            host: Span::default(),
            upgrade: None,
            status: 0,
            reason: Span::default(),
            framing: Framing::None,
            keep_alive: false,
            http10: false,
            expects_continue: false,
            te_trailers: false,
        }
    }
}

impl Message {
    /// Where to read to.
    pub fn space(&mut self) -> &mut [u8] {
        if self.at == self.end && self.head_end > 0 {
            // All of the body that was read is consumed: its place is free again.
            self.at = self.head_end;
            self.end = self.head_end;
        }
        if self.end == CAPACITY && self.at > self.head_end {
            self.buffer.copy_within(self.at..self.end, self.head_end);
            self.end -= self.at - self.head_end;
            self.at = self.head_end;
        }
        let room = if self.head_end == 0 {
            self.end + HEAD_ROOM
        } else {
            CAPACITY
        };
        &mut self.buffer[self.end..room.min(CAPACITY)]
    }

    /// Says how many bytes were read into [`Message::space`].
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(CAPACITY);
    }

    /// Whether nothing has been read, or all of it is consumed.
    pub fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.end = 0;
        self.reset();
    }

    /// Forgets the head, and begins anew with what came after it.
    pub fn next(&mut self) {
        self.buffer.copy_within(self.at..self.end, 0);
        self.end -= self.at;
        self.reset();
    }

    fn reset(&mut self) {
        self.at = 0;
        self.head_end = 0;
        self.forget_head();
    }

    pub(super) fn forget_head(&mut self) {
        self.fields.clear();
        self.aside.clear();
        self.query = None;
        self.upgrade = None;
        self.host = Span::default();
        self.framing = Framing::None;
        self.expects_continue = false;
        self.te_trailers = false;
    }

    /// What has been read, while no head is parsed yet.
    pub fn rest_unparsed(&self) -> &[u8] {
        &self.buffer[self.at..self.end]
    }

    /// What has been read beyond the head and not consumed.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.at..self.end]
    }

    /// Drops the first bytes of the rest.
    pub fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.end);
    }

    /// A span of the head as text. Heads that are parsed hold nothing but ASCII where this is used.
    pub(super) fn text(&self, span: Span) -> &str {
        std::str::from_utf8(&self.buffer[span.range()]).unwrap_or_default()
    }

    /// The method, as sent.
    pub fn method(&self) -> &str {
        self.text(self.method)
    }

    /// Whether the method is HEAD.
    pub fn is_head(&self) -> bool {
        self.buffer[self.method.range()] == *b"HEAD"
    }

    /// Whether the method is CONNECT, which asks for a tunnel. Its target is a host and a port, and there is no path.
    pub fn is_connect(&self) -> bool {
        self.buffer[self.method.range()] == *b"CONNECT"
    }

    /// How many bytes the head has, the empty line included.
    pub fn head_length(&self) -> usize {
        self.head_end
    }

    /// The target's path.
    pub fn path(&self) -> &str {
        if self.path.start == self.path.end {
            "/"
        } else {
            self.text(self.path)
        }
    }

    /// What follows the target's `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|query| self.text(query))
    }

    /// The authority the request is for: of the target if that has one, else of `Host` (RFC 9112, 3.3).
    pub fn host(&self) -> &str {
        self.text(self.host)
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How the body is delimited.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Says that the body, which has been read, goes on with this length.
    pub(crate) fn reframe(&mut self, length: usize) {
        self.framing = Framing::Length(length as u64);
    }

    /// Whether the sender keeps the connection open.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the client waits for `100 Continue`.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether it is of HTTP/1.0.
    pub fn is_http10(&self) -> bool {
        self.http10
    }

    /// The protocol a request asks to upgrade to, or a 101 response upgrades to.
    pub fn upgrade(&self) -> Option<&str> {
        self.upgrade.map(|upgrade| self.text(upgrade))
    }

    pub(super) fn field(&self, field: &Field) -> (&[u8], &[u8]) {
        let bytes: &[u8] = if field.aside { &self.aside } else { &self.buffer };
        (&bytes[field.name.range()], &bytes[field.value.range()])
    }

    /// Every field that goes further than this hop.
    pub fn each_end_to_end(&self, visit: &mut dyn FnMut(&[u8], &[u8])) {
        for field in self.fields.iter().filter(|field| !field.hop) {
            let (name, value) = self.field(field);
            visit(name, value);
        }
        if self.te_trailers {
            visit(b"te", b"trailers");
        }
    }
}

impl Fields for Message {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find_map(|field| {
            // The length is in the span: most fields are passed over without touching their bytes.
            if (field.name.end - field.name.start) as usize != name.len() {
                return None;
            }
            let (key, value) = self.field(field);
            key.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
        })
    }

    fn each(&self, visit: &mut dyn FnMut(&[u8], &[u8])) {
        for field in &self.fields {
            let (name, value) = self.field(field);
            visit(name, value);
        }
    }

    fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.remove(&[name.as_str()]);
        self.append(name, value);
    }

    fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        let mut put = |bytes: &[u8]| {
            let start = self.aside.len() as u32;
            self.aside.extend_from_slice(bytes);
            Span {
                start,
                end: self.aside.len() as u32,
            }
        };
        let (name, value) = (put(name.as_str().as_bytes()), put(value.as_bytes()));
        self.fields.push(Field {
            name,
            value,
            aside: true,
            hop: false,
        });
    }

    fn remove(&mut self, names: &[&str]) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.retain(|field| {
            let length = (field.name.end - field.name.start) as usize;
            !names
                .iter()
                .any(|name| name.len() == length && self.field(field).0.eq_ignore_ascii_case(name.as_bytes()))
        });
        self.fields = fields;
    }
}
