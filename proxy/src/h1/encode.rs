//! Heads out. What stands together in the buffer and goes out unchanged is copied in one piece.

use super::{Framing, Message, message::Field};
use crate::fields::Fields;

/// What of a request's head is written otherwise than it came.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestLine<'a> {
    /// Path and query, if they are to be others.
    pub target: Option<&'a str>,
    /// The host, if it is to be another.
    pub host: Option<&'a str>,
    /// Whether the request to upgrade is passed on.
    pub upgrade: bool,
    /// Field lines to add, each with its line end.
    pub extra: &'a [u8],
}

impl Message {
    /// Writes a request's head for the next hop.
    pub fn encode_request(&self, out: &mut Vec<u8>, line: &RequestLine<'_>) {
        out.reserve(self.head_end + 256);
        out.extend_from_slice(&self.buffer[self.method.range()]);
        out.push(b' ');
        match line.target {
            Some(target) => out.extend_from_slice(target.as_bytes()),
            None if self.buffer[self.target.range()] == *b"*" => out.push(b'*'),
            None if self.is_connect() => out.extend_from_slice(&self.buffer[self.target.range()]),
            None => {
                // Of an absolute target, the origin form is passed on (RFC 9112, 3.2.1).
                if self.path.start == self.path.end {
                    out.push(b'/');
                }
                out.extend_from_slice(&self.buffer[self.path.start as usize..self.target.end as usize]);
            }
        }
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        match line.host {
            Some(host) => out.extend_from_slice(host.as_bytes()),
            None => out.extend_from_slice(&self.buffer[self.host.range()]),
        }
        out.extend_from_slice(b"\r\n");
        self.encode_fields(out);
        if self.te_trailers {
            out.extend_from_slice(b"TE: trailers\r\n");
        }
        if line.upgrade
            && let Some(upgrade) = self.upgrade()
        {
            encode_upgrade(out, upgrade);
        }
        out.extend_from_slice(line.extra);
        let keeps_length =
            self.framing == Framing::None && matches!(&self.buffer[self.method.range()], b"POST" | b"PUT" | b"PATCH");
        encode_framing(out, if keeps_length { Framing::Length(0) } else { self.framing });
        out.extend_from_slice(b"\r\n");
    }

    /// Writes a response's head for the next hop.
    pub fn encode_response(&self, out: &mut Vec<u8>, framing: Framing, close: bool) {
        out.reserve(self.head_end + 128);
        encode_status(out, self.status);
        self.encode_fields(out);
        if self.status == 101
            && let Some(upgrade) = self.upgrade()
        {
            encode_upgrade(out, upgrade);
        } else if framing == Framing::None
            && self.status >= 200
            && self.status != 204
            && let Some(length) = self.get("content-length")
        {
            // The answer to HEAD, or 304: the length is that of a body that is not sent.
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(length);
            out.extend_from_slice(b"\r\n");
        } else if framing != Framing::None {
            encode_framing(out, framing);
        }
        if close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        // A run of fields from the buffer, with their line ends, that goes out as it came.
        let mut run: Option<(usize, usize)> = None;
        for field in self.fields.iter().filter(|field| !field.hop) {
            let line = if field.aside { None } else { self.whole_line(field) };
            match (line, &mut run) {
                (Some((start, end)), Some((_, run_end))) if start == *run_end => *run_end = end,
                (line, _) => {
                    if let Some((start, end)) = run.take() {
                        out.extend_from_slice(&self.buffer[start..end]);
                    }
                    match line {
                        Some(line) => run = Some(line),
                        None => {
                            let (name, value) = self.field(field);
                            encode_field(out, name, value);
                        }
                    }
                }
            }
        }
        if let Some((start, end)) = run {
            out.extend_from_slice(&self.buffer[start..end]);
        }
    }

    /// Where a field's line stands, if it is `name: value` and nothing else.
    fn whole_line(&self, field: &Field) -> Option<(usize, usize)> {
        let (name, value) = (field.name.range(), field.value.range());
        let tidy = value.start == name.end + 2
            && self.buffer[name.end..value.start] == *b": "
            && self.buffer.get(value.end..value.end + 2) == Some(b"\r\n");
        tidy.then_some((name.start, value.end + 2))
    }
}

/// Writes the head of a request whose fields came some other way, say by HTTP/2.
pub fn encode_request_from<F: Fields>(
    out: &mut Vec<u8>,
    method: &str,
    fields: &F,
    framing: Framing,
    line: &RequestLine<'_>,
) {
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(line.target.unwrap_or("/").as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(line.host.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    encode_foreign(out, fields);
    out.extend_from_slice(line.extra);
    encode_framing(out, framing);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a response whose fields came some other way, or were made here.
pub fn encode_response_from<F: Fields>(out: &mut Vec<u8>, status: u16, fields: &F, framing: Framing, close: bool) {
    encode_status(out, status);
    encode_foreign(out, fields);
    if framing == Framing::None
        && status >= 200
        && status != 204
        && let Some(length) = fields.get("content-length")
    {
        encode_field(out, b"Content-Length", length);
    } else if framing != Framing::None {
        encode_framing(out, framing);
    }
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes all fields but those that say how the body is delimited or what the connection does. HTTP/2 sends `Cookie` in
/// parts, which HTTP/1.1 joins (RFC 9113, 8.2.3).
fn encode_foreign<F: Fields>(out: &mut Vec<u8>, fields: &F) {
    const NOT_PASSED: [&[u8]; 9] = [
        b"host",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"expect",
        b"cookie",
    ];
    let mut cookies: Vec<u8> = Vec::new();
    fields.each(&mut |name, value| {
        if name.eq_ignore_ascii_case(b"cookie") {
            if !cookies.is_empty() {
                cookies.extend_from_slice(b"; ");
            }
            cookies.extend_from_slice(value);
        } else if !NOT_PASSED.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            encode_field(out, name, value);
        }
    });
    if !cookies.is_empty() {
        encode_field(out, b"Cookie", &cookies);
    }
}

fn encode_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn encode_upgrade(out: &mut Vec<u8>, upgrade: &str) {
    encode_field(out, b"Upgrade", upgrade.as_bytes());
    out.extend_from_slice(b"Connection: upgrade\r\n");
}

fn encode_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

fn encode_status(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(status));
    out.push(b' ');
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    out.extend_from_slice(reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
