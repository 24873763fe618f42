//! The chunked coding (RFC 9112, 7.1), both ways.

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Refusal;

/// Bytes of a chunk's head, extensions included, which nobody uses but to make work.
const CHUNK_LINE: usize = 256;
/// Bytes of all trailers together.
const TRAILERS: usize = 8 * 1024;

/// Reads a body that comes in chunks.
#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    /// A line that has not all come yet.
    line: Vec<u8>,
    trailer_bytes: usize,
    trailers: HeaderMap,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailer,
}

/// What bytes turned out to be.
#[derive(Debug)]
pub enum Step {
    /// `data` is the body's next part; `consumed` bytes are done with. If `data` is empty, more bytes are needed.
    Data {
        /// Bytes done with, those of `data` included.
        consumed: usize,
        /// Where the part stands among the bytes given.
        data: Range<usize>,
    },
    /// The body has ended.
    Done {
        /// Bytes done with.
        consumed: usize,
        /// What followed the last chunk. Fields that have no place there are dropped.
        trailers: HeaderMap,
    },
}

impl Chunked {
    /// Reads on.
    ///
    /// # Errors
    /// The bytes are not chunks.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Step, Refusal> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if rest.is_empty() {
                return Ok(Step::Data {
                    consumed: at,
                    data: 0..0,
                });
            }
            match self.state {
                State::Data(left) => {
                    let length = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - length as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Step::Data {
                        consumed: at + length,
                        data: at..at + length,
                    });
                }
                State::Size => {
                    let Some(length) = self.line(rest, CHUNK_LINE)? else {
                        continue_at(&mut at, rest);
                        continue;
                    };
                    at += length;
                    let size = chunk_size(&self.line)?;
                    self.line.clear();
                    self.state = if size == 0 { State::Trailer } else { State::Data(size) };
                }
                State::DataEnd => {
                    let Some(length) = self.line(rest, 2)? else {
                        continue_at(&mut at, rest);
                        continue;
                    };
                    at += length;
                    if !self.line.is_empty() {
                        return Err(Refusal::MalformedChunk);
                    }
                    self.state = State::Size;
                }
                State::Trailer => {
                    let Some(length) = self.line(rest, TRAILERS)? else {
                        continue_at(&mut at, rest);
                        continue;
                    };
                    at += length;
                    if self.line.is_empty() {
                        return Ok(Step::Done {
                            consumed: at,
                            trailers: std::mem::take(&mut self.trailers),
                        });
                    }
                    self.trailer_bytes += self.line.len();
                    if self.trailer_bytes > TRAILERS {
                        return Err(Refusal::TrailersTooLarge);
                    }
                    let line = std::mem::take(&mut self.line);
                    self.trailer(&line)?;
                }
            }
        }
    }

    /// Gathers a line, without its end. Returns how many bytes it took, if it is all there.
    fn line(&mut self, rest: &[u8], most: usize) -> Result<Option<usize>, Refusal> {
        let end = memchr::memchr(b'\n', rest);
        self.line
            .extend_from_slice(&rest[..end.map_or(rest.len(), |end| end + 1)]);
        if self.line.len() > most + 2 {
            let trailer = self.state == State::Trailer;
            return Err(if trailer {
                Refusal::TrailersTooLarge
            } else {
                Refusal::MalformedChunk
            });
        }
        let Some(end) = end else { return Ok(None) };
        // A line that ends with LF alone is read in two ways by two readers.
        if !self.line.ends_with(b"\r\n") {
            return Err(Refusal::BareLineEnd);
        }
        self.line.truncate(self.line.len() - 2);
        if self.line.contains(&b'\r') || self.line.contains(&0) {
            return Err(Refusal::MalformedChunk);
        }
        Ok(Some(end + 1))
    }

    fn trailer(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .ok_or(Refusal::MalformedHead)?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| Refusal::MalformedHead)?;
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let value = &line[colon + 1..];
        let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
        let end = value
            .iter()
            .rposition(|byte| !blank(byte))
            .map_or(start, |last| last + 1);
        let value = HeaderValue::from_bytes(&value[start..end]).map_err(|_| Refusal::MalformedHead)?;
        if is_trailer(&name) {
            self.trailers.append(name, value);
        }
        Ok(())
    }
}

/// Whether a field may follow the body. What says how to read a message, where it goes, who sent it and what for comes
/// too late there (RFC 9110, 6.5.1), and a backend that took it for a header field would be led astray.
fn is_trailer(name: &HeaderName) -> bool {
    const NOT: [&str; 36] = [
        "age",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "forwarded",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "retry-after",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        "warning",
        "www-authenticate",
    ];
    NOT.binary_search(&name.as_str()).is_err() && !name.as_str().starts_with("x-forwarded-")
}

/// All that is there has been gathered into a line that has not ended.
fn continue_at(at: &mut usize, rest: &[u8]) {
    *at += rest.len();
}

/// The number before any extension: hexadecimal digits and nothing else.
fn chunk_size(line: &[u8]) -> Result<u64, Refusal> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = if digits.len() < line.len() {
        digits.trim_ascii_end()
    } else {
        digits
    };
    if digits.is_empty() {
        return Err(Refusal::MalformedChunk);
    }
    if digits.len() > 15 {
        return Err(Refusal::ChunkTooLarge);
    }
    digits.iter().try_fold(0u64, |size, byte| {
        let digit = char::from(*byte).to_digit(16).ok_or(Refusal::MalformedChunk)?;
        Ok(size * 16 + u64::from(digit))
    })
}

/// The head of a chunk of this length.
pub fn chunk_head(length: usize, buffer: &mut [u8; 18]) -> &[u8] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut at = buffer.len() - 2;
    buffer[at..].copy_from_slice(b"\r\n");
    let mut left = length;
    loop {
        at -= 1;
        buffer[at] = DIGITS[left & 15];
        left >>= 4;
        if left == 0 {
            return &buffer[at..];
        }
    }
}

/// Writes the last chunk and the trailers, but for fields that have no place there.
pub fn encode_trailers(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| is_trailer(name)) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a body given in pieces of the same size.
    fn decode(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, HeaderMap, usize), Refusal> {
        let mut decoder = Chunked::default();
        let (mut body, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let part = &bytes[at..(at + piece).min(bytes.len())];
            match decoder.feed(part)? {
                Step::Data { consumed, data } => {
                    body.extend_from_slice(&part[data]);
                    at += consumed;
                }
                Step::Done { consumed, trailers } => return Ok((body, trailers, at + consumed)),
            }
        }
        Err(Refusal::MalformedChunk)
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let bytes = b"5\r\nhello\r\nA;ext=1\r\n0123456789\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\nnext";
        for piece in 1..bytes.len() {
            let (body, trailers, consumed) = decode(bytes, piece).expect("valid");
            assert_eq!(body, b"hello0123456789", "{piece}");
            assert_eq!(trailers["x-sum"], "1");
            assert_eq!(trailers.len(), 1, "a length has no place among trailers");
            assert_eq!(&bytes[consumed..], b"next");
        }
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        for (bytes, refusal) in [
            (&b"5\nhello\r\n0\r\n\r\n"[..], Refusal::BareLineEnd),
            (b"0x5\r\nhello\r\n0\r\n\r\n", Refusal::MalformedChunk),
            (b"+5\r\nhello\r\n0\r\n\r\n", Refusal::MalformedChunk),
            (b" 5\r\nhello\r\n0\r\n\r\n", Refusal::MalformedChunk),
            (b"5 \r\nhello\r\n0\r\n\r\n", Refusal::MalformedChunk),
            (b"\r\n", Refusal::MalformedChunk),
            (b"5\r\nhelloX\r\n0\r\n\r\n", Refusal::MalformedChunk),
            (b"5\r\nhello0\r\n\r\n", Refusal::MalformedChunk),
            (b"10000000000000000\r\n", Refusal::ChunkTooLarge),
            (b"0\r\nbad trailer\r\n\r\n", Refusal::MalformedHead),
        ] {
            assert_eq!(decode(bytes, 3).err(), Some(refusal), "{}", bytes.escape_ascii());
        }
        let long = format!("5;{}\r\n", "x".repeat(1000));
        assert_eq!(decode(long.as_bytes(), 64).err(), Some(Refusal::MalformedChunk));
        let long = format!("0\r\nx: {}\r\n", "x".repeat(20_000));
        assert_eq!(decode(long.as_bytes(), 64).err(), Some(Refusal::TrailersTooLarge));
    }

    #[test]
    fn chunk_heads_are_hexadecimal() {
        let mut buffer = [0; 18];
        for length in [0, 1, 15, 16, 255, 65_536, usize::MAX] {
            assert_eq!(chunk_head(length, &mut buffer), format!("{length:x}\r\n").as_bytes());
        }
    }
}
