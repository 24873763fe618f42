//! Heads in. httparse finds the lines; what they mean, and whether they may mean it, is decided here in one pass.

use std::mem::MaybeUninit;

use super::{
    Framing, Limits, Message, Parse, Refusal,
    grammar::{decimal, is_authority, is_authority_of_tunnel, is_name, is_token, is_upgrade, tokens},
    message::{Field, HEAD, Span},
};

/// More fields than any limit allows.
const MOST_FIELDS: usize = 256;
/// Bytes of a request's target; RFC 9112, 3 asks for at least 8,000 of a request line.
const TARGET: usize = 16 * 1024;

/// What the fields of a head say of the connection and the body.
#[derive(Default)]
struct Framed {
    length: Option<u64>,
    chunked: bool,
    host: Option<Span>,
    close: bool,
    keep_alive: bool,
    upgrade_token: bool,
    upgrade: Option<Span>,
    expects_continue: bool,
    te_trailers: bool,
    /// Whether `Connection` names further fields, which stay on this hop.
    names_fields: bool,
}

impl Message {
    /// Parses the head of a request, if all of it has been read.
    ///
    /// # Errors
    /// The bytes are not a request that may be passed on.
    pub fn parse_request(&mut self, limits: &Limits) -> Result<Parse, Refusal> {
        self.skip_empty_lines();
        let mut slots = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let head = &self.buffer[..self.head_so_far(limits)];
        let parsed = request.parse_with_uninit_headers(head, &mut slots);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return partial(head, limits, true),
            Err(error) => return Err(malformed(head, error)),
        };
        let base = self.buffer.as_ptr() as usize;
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(Refusal::MalformedHead);
        };
        let method_span = span(base, method.as_bytes());
        let target_span = span(base, target.as_bytes());
        let http10 = version == 0;
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        collect(&mut fields, request.headers, base, limits)?;
        self.forget_head();
        self.fields = fields;
        strict_lines(&self.buffer[..length])?;
        self.method = method_span;
        self.target = target_span;
        self.http10 = http10;
        let framed = self.frame(true)?;
        if framed.chunked && http10 {
            return Err(Refusal::InvalidTransferEncoding);
        }
        self.framing = match (framed.chunked, framed.length) {
            (true, Some(_)) => return Err(Refusal::ConflictingLengths),
            (true, None) => Framing::Chunked,
            (false, Some(0) | None) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
        };
        self.keep_alive = if http10 {
            framed.keep_alive && !framed.close
        } else {
            !framed.close
        };
        self.expects_continue = framed.expects_continue && !http10;
        self.te_trailers = framed.te_trailers;
        self.upgrade = framed
            .upgrade
            .filter(|upgrade| framed.upgrade_token && !http10 && is_upgrade(&self.buffer[upgrade.range()]));
        if (self.upgrade.is_some() || self.is_connect()) && self.framing != Framing::None {
            return Err(Refusal::UpgradeWithBody);
        }
        self.host = framed.host.unwrap_or_default();
        if framed.host.is_none() && !http10 {
            return Err(Refusal::MissingHost);
        }
        self.aim()?;
        self.head_end = length;
        self.at = length;
        Ok(Parse::Complete)
    }

    /// Parses the head of a response to a request of this method, if all of it has been read.
    ///
    /// # Errors
    /// The bytes are not a response that may be passed on.
    pub fn parse_response(&mut self, limits: &Limits, method: &str) -> Result<Parse, Refusal> {
        let mut slots = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let head = &self.buffer[..self.head_so_far(limits)];
        if matches!(head.first(), Some(b'\r' | b'\n')) {
            // httparse skips empty lines. Here they are what is left of an answer that was longer than it said.
            return Err(Refusal::MalformedHead);
        }
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, head, &mut slots);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return partial(head, limits, false),
            Err(error) => return Err(malformed(head, error)),
        };
        let base = self.buffer.as_ptr() as usize;
        let (Some(status), Some(version)) = (response.code, response.version) else {
            return Err(Refusal::MalformedHead);
        };
        let reason = span(base, response.reason.unwrap_or_default().as_bytes());
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        collect(&mut fields, response.headers, base, limits)?;
        self.forget_head();
        self.fields = fields;
        strict_lines(&self.buffer[..length])?;
        if !(100..=999).contains(&status) {
            return Err(Refusal::MalformedHead);
        }
        self.status = status;
        self.reason = reason;
        self.http10 = version == 0;
        let framed = self.frame(false)?;
        if framed.chunked && self.http10 {
            return Err(Refusal::InvalidTransferEncoding);
        }
        let bodiless = method == "HEAD" || status < 200 || status == 204 || status == 304;
        self.framing = match (framed.chunked, framed.length) {
            (true, Some(_)) => return Err(Refusal::ConflictingLengths),
            _ if bodiless => Framing::None,
            (true, None) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        };
        self.keep_alive = if self.http10 {
            framed.keep_alive && !framed.close
        } else {
            !framed.close
        };
        if (status < 200 || status == 204) && (framed.chunked || framed.length.is_some_and(|length| length > 0)) {
            // There is no body, and the backend says there is (RFC 9112, 6.1): what it sends next may be that.
            self.keep_alive = false;
        }
        self.upgrade = framed
            .upgrade
            .filter(|upgrade| status == 101 && is_upgrade(&self.buffer[upgrade.range()]));
        self.head_end = length;
        self.at = length;
        Ok(Parse::Complete)
    }

    /// Drops empty lines before a request: a client may send one (RFC 9112, 2.2).
    fn skip_empty_lines(&mut self) {
        if self.at > 0 || self.buffer[..self.end].first() != Some(&b'\r') {
            return;
        }
        let lines = self.buffer[..self.end].chunks(2).take_while(|line| *line == b"\r\n");
        let skipped = 2 * lines.count();
        self.buffer.copy_within(skipped..self.end, 0);
        self.end -= skipped;
    }

    /// How many of the bytes read can be part of the head. What is beyond the limit is not looked at, so that the answer
    /// is the same however the bytes come in.
    fn head_so_far(&self, limits: &Limits) -> usize {
        self.end.min(limits.head_bytes).min(HEAD)
    }

    /// Reads the fields that say how the body is delimited and what the connection does.
    fn frame(&mut self, request: bool) -> Result<Framed, Refusal> {
        let mut framed = Framed::default();
        let mut fields = std::mem::take(&mut self.fields);
        let result = fields
            .iter_mut()
            .try_for_each(|field| self.classify(field, &mut framed, request));
        if framed.names_fields {
            self.mark_named(&mut fields);
        }
        self.fields = fields;
        result.map(|()| framed)
    }

    fn classify(&self, field: &mut Field, framed: &mut Framed, request: bool) -> Result<(), Refusal> {
        let (name, value) = self.field(field);
        // Most fields are told apart by their length alone.
        match name.len() {
            2 if request && is_name(name, b"te") => {
                framed.te_trailers |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
                field.hop = true;
            }
            4 if request && is_name(name, b"host") => {
                if framed.host.is_some() || !is_authority(value) {
                    return Err(Refusal::InvalidHost);
                }
                framed.host = Some(field.value);
                field.hop = true;
            }
            6 if request && is_name(name, b"expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::UnknownExpectation);
                }
                framed.expects_continue = true;
                field.hop = true;
            }
            7 if is_name(name, b"upgrade") => {
                framed.upgrade = Some(field.value);
                field.hop = true;
            }
            10 if is_name(name, b"connection") => {
                field.hop = true;
                for token in tokens(value) {
                    if token.eq_ignore_ascii_case(b"keep-alive") {
                        framed.keep_alive = true;
                    } else if token.eq_ignore_ascii_case(b"close") {
                        framed.close = true;
                    } else {
                        framed.upgrade_token |= token.eq_ignore_ascii_case(b"upgrade");
                        framed.names_fields = true;
                    }
                }
            }
            10 if is_name(name, b"keep-alive") => field.hop = true,
            14 if is_name(name, b"content-length") => {
                let length = decimal(value).ok_or(Refusal::InvalidContentLength)?;
                if framed.length.is_some_and(|known| known != length) {
                    return Err(Refusal::InvalidContentLength);
                }
                framed.length = Some(length);
                field.hop = true;
            }
            16 if is_name(name, b"proxy-connection") => field.hop = true,
            17 if is_name(name, b"transfer-encoding") => {
                if framed.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::InvalidTransferEncoding);
                }
                framed.chunked = true;
                field.hop = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps fields on this hop that `Connection` names (RFC 9110, 7.6.1).
    fn mark_named(&self, fields: &mut [Field]) {
        for at in 0..fields.len() {
            let (name, value) = self.field(&fields[at]);
            if !name.eq_ignore_ascii_case(b"connection") {
                continue;
            }
            for token in tokens(value) {
                if token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
                    continue;
                }
                for field in fields.iter_mut() {
                    field.hop |= self.field(field).0.eq_ignore_ascii_case(token);
                }
            }
        }
    }

    /// Takes the target apart (RFC 9112, 3.2).
    fn aim(&mut self) -> Result<(), Refusal> {
        let target = &self.buffer[self.target.range()];
        if target.len() > TARGET {
            return Err(Refusal::TargetTooLong);
        }
        if self.is_connect() {
            // Whose tunnel it is to be says the target, whatever `Host` says.
            if !is_authority_of_tunnel(target) {
                return Err(Refusal::InvalidTarget);
            }
            self.host = self.target;
            self.path = Span {
                start: self.target.end,
                end: self.target.end,
            };
            return Ok(());
        }
        if !target.iter().all(|byte| (0x21..0x7f).contains(byte) && *byte != b'#') {
            return Err(Refusal::InvalidTarget);
        }
        let start = self.target.start;
        let mut path_start = start;
        if target == b"*" {
            if self.buffer[self.method.range()] != *b"OPTIONS" {
                return Err(Refusal::InvalidTarget);
            }
        } else if target.first() != Some(&b'/') {
            let scheme = [&b"http://"[..], b"https://"].into_iter().find(|scheme| {
                target
                    .get(..scheme.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            });
            let scheme = scheme.ok_or(Refusal::InvalidTarget)?.len();
            let rest = &target[scheme..];
            let length = rest
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?'))
                .unwrap_or(rest.len());
            if length == 0 || !is_authority(&rest[..length]) {
                return Err(Refusal::InvalidHost);
            }
            path_start = start + (scheme + length) as u32;
            self.host = Span {
                start: start + scheme as u32,
                end: path_start,
            };
        }
        let question = memchr::memchr(b'?', &self.buffer[path_start as usize..self.target.end as usize]);
        let path_end = question.map_or(self.target.end, |at| path_start + at as u32);
        self.path = Span {
            start: path_start,
            end: path_end,
        };
        self.query = question.map(|_| Span {
            start: path_end + 1,
            end: self.target.end,
        });
        Ok(())
    }
}

/// More is to come, unless there is too much already.
fn partial(head: &[u8], limits: &Limits, request: bool) -> Result<Parse, Refusal> {
    if head.len() < limits.head_bytes.min(HEAD) {
        return Ok(Parse::Partial);
    }
    Err(if request && memchr::memchr(b'\n', head).is_none() {
        Refusal::TargetTooLong
    } else {
        Refusal::HeadTooLarge
    })
}

/// Says what is wrong with a head that httparse does not take.
fn malformed(head: &[u8], error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::TooManyFields,
        httparse::Error::Version => {
            let line = head.trim_ascii_start().split(|byte| *byte == b'\r').next();
            let version = line.unwrap_or_default().splitn(3, |byte| *byte == b' ').nth(2);
            if version.is_some_and(|version| version.starts_with(b"HTTP/")) {
                Refusal::UnsupportedVersion
            } else {
                Refusal::NotHttp
            }
        }
        httparse::Error::HeaderName | httparse::Error::HeaderValue => head
            .trim_ascii_start()
            .split(|byte| *byte == b'\n')
            .skip(1)
            .find_map(malformed_field)
            .unwrap_or(Refusal::MalformedHead),
        httparse::Error::NewLine => Refusal::BareLineEnd,
        _ => Refusal::MalformedHead,
    }
}

/// What is wrong with a field line, given without its LF. The first byte that is wrong decides, as it does for httparse.
fn malformed_field(line: &[u8]) -> Option<Refusal> {
    let name = line.iter().position(|byte| !is_token(*byte)).unwrap_or(line.len());
    match line.get(name) {
        Some(b' ' | b'\t') if name == 0 => return Some(Refusal::FoldedField),
        Some(b' ' | b'\t') => return Some(Refusal::SpaceBeforeColon),
        Some(b':') if name > 0 => {}
        None => return None,
        Some(_) => return Some(Refusal::MalformedHead),
    }
    let value = line[name..].strip_suffix(b"\r").unwrap_or(&line[name..]);
    let wrong = value.iter().find(|byte| byte.is_ascii_control() && **byte != b'\t')?;
    Some(match wrong {
        b'\r' | 0 => Refusal::BareLineEnd,
        _ => Refusal::MalformedHead,
    })
}

fn collect(
    fields: &mut Vec<Field>,
    headers: &[httparse::Header<'_>],
    base: usize,
    limits: &Limits,
) -> Result<(), Refusal> {
    if headers.len() > limits.fields {
        return Err(Refusal::TooManyFields);
    }
    fields.extend(headers.iter().map(|header| Field {
        name: span(base, header.name.as_bytes()),
        value: span(base, header.value),
        aside: false,
        hop: false,
    }));
    Ok(())
}

fn span(base: usize, part: &[u8]) -> Span {
    if part.is_empty() {
        return Span::default();
    }
    let start = part.as_ptr() as usize - base;
    Span {
        start: start as u32,
        end: (start + part.len()) as u32,
    }
}

/// httparse takes lines that end with LF alone; a peer that does not would see other lines. Lines are short: to look at
/// each byte, many at once, costs less than to search for each line's end.
fn strict_lines(head: &[u8]) -> Result<(), Refusal> {
    let after_first = head.get(1..).unwrap_or_default();
    let bare = head.iter().zip(after_first).fold(0, |bare, (before, byte)| {
        bare | (u8::from(*byte == b'\n') & u8::from(*before != b'\r'))
    });
    if bare != 0 || head.first() == Some(&b'\n') {
        return Err(Refusal::BareLineEnd);
    }
    Ok(())
}
