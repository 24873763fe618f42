//! What a client says first, where that decides what is done with its connection.
//!
//! It is waited for a second, no longer: a client that waits for its server to speak first would wait for ever. After that,
//! the server may speak too, and whoever of the two does first is heard.

use std::{future::Future, io, pin::pin, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use crate::{
    downstream::h1::{PREFACE, is_preface},
    flag::Flag,
    l4::{
        Ended,
        hello::{Partial, sni},
    },
    mesh::Reached,
};

/// How long a client has to say enough.
const PATIENCE: Duration = Duration::from_secs(1);
/// A client that has said so much of the first line of a request says no other thing.
const LINE: usize = 8 * 1024;
/// No method is longer.
const METHOD: usize = 32;
/// Room for what is read at once.
const ROOM: usize = 2048;

/// What was heard. What the client has said is not lost: it is there too.
pub(super) enum First<T> {
    /// The client has said this.
    Known(T, Vec<u8>),
    /// The client has begun something, and not gone on.
    Undecided(Vec<u8>),
    /// The client says no more.
    Ended(Vec<u8>),
    /// The client has said nothing, and the server something, or has ended; or it says nothing to somebody who has not proven
    /// who it is, which is not done here.
    Server(Reached),
}

/// Waits for the client to say enough for `judge`, which is shown all that it has said so far. `connect` makes a connection to
/// its server, if it is silent; one that cannot be made has nothing to say.
pub(super) async fn hear<T, E, C: Future<Output = Result<Reached, E>>>(
    client: &TcpStream,
    connect: impl Fn() -> C,
    mut judge: impl FnMut(&[u8]) -> Option<T>,
) -> Result<First<T>, Ended> {
    let gone = |error: io::Error| Ended::new(Flag::ClientGone, error.to_string());
    let mut bytes = Vec::new();
    loop {
        match timeout(PATIENCE, read(client, &mut bytes, &mut judge)).await {
            Ok(Ok(Some(known))) => return Ok(First::Known(known, bytes)),
            Ok(Ok(None)) => return Ok(First::Ended(bytes)),
            Ok(Err(error)) => return Err(gone(error)),
            Err(_) if !bytes.is_empty() => return Ok(First::Undecided(bytes)),
            Err(_) => {}
        }
        let server = pin!(async {
            let Ok(server) = connect().await else {
                return std::future::pending().await;
            };
            if server.expected.is_none() {
                // That it has ended, or failed, is for the client to know too.
                let _ = server.stream.peek(&mut [0]).await;
            }
            server
        });
        tokio::select! {
            biased;
            readable = client.readable() => readable.map_err(gone)?,
            server = server => return Ok(First::Server(server)),
        }
    }
}

/// Reads until enough was said; none if the client ends before.
async fn read<T>(
    client: &TcpStream,
    bytes: &mut Vec<u8>,
    judge: &mut impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    loop {
        client.readable().await?;
        bytes.reserve(ROOM);
        match client.try_read_buf(bytes) {
            Ok(0) => return Ok(None),
            Ok(_) => {
                if let Some(known) = judge(bytes) {
                    return Ok(Some(known));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a client that begins like this speaks HTTP: a request of HTTP/1, well-formed or not, or HTTP/2 by prior knowledge.
/// None while its first line could become either.
pub(crate) fn is_http(bytes: &[u8]) -> Option<bool> {
    // Empty lines may come before it (RFC 9112, 2.2).
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte))?;
    let bytes = &bytes[start..];
    if is_preface(bytes) {
        return (bytes.len() >= PREFACE.len()).then_some(true);
    }
    if let Some(end) = memchr::memchr(b'\n', bytes) {
        return Some(is_request_line(&bytes[..end]));
    }
    let method = memchr::memchr(b' ', bytes).unwrap_or(bytes.len());
    let plain = bytes[..method].iter().all(|byte| is_token(*byte))
        && bytes[method..]
            .iter()
            .all(|byte| !byte.is_ascii_control() || *byte == b'\r');
    if !plain || method == 0 || method > METHOD {
        return Some(false);
    }
    (bytes.len() >= LINE).then_some(true)
}

/// Whether a line is `method target HTTP/1.x`.
fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ');
    let (method, version) = (words.next().unwrap_or_default(), words.next_back().unwrap_or_default());
    let named = !method.is_empty() && method.len() <= METHOD && method.iter().all(|byte| is_token(*byte));
    named && version.strip_prefix(b"HTTP/1.").is_some_and(|minor| minor.len() == 1)
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Judges whether a client speaks TLS, and if so, what name it asks for.
pub(super) fn is_tls() -> impl FnMut(&[u8]) -> Option<Option<String>> {
    let mut partial = Partial::default();
    let mut fed = 0;
    move |bytes| {
        if bytes[0] != 22 {
            return Some(None);
        }
        let piece = &bytes[std::mem::replace(&mut fed, bytes.len())..];
        match partial.feed(piece) {
            Ok(None) => None,
            // A name that is none stands for its absence: see `sni`.
            Ok(Some(hello)) => Some(Some(sni(&hello).unwrap_or_default())),
            Err(_) => Some(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_by_its_first_line() {
        for text in [
            "GET / HTTP/1.1\r\n",
            "get /a?b HTTP/1.0\n",
            "OPTIONS * HTTP/1.1\r\nHost",
            "\r\nGET / HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            // It is for the parser to say what is wrong with these.
            "GET /a b HTTP/1.1\r\n",
            "PROPFIND http://a.example/ HTTP/1.9\r\n",
            "BREW\t/ x HTTP/1.1",
        ] {
            let whole = is_http(text.as_bytes());
            assert_eq!(whole, Some(!text.contains('\t')), "{text:?}");
            // Whatever the pieces it comes in, it never seems to be something else before.
            if whole == Some(true) {
                for length in 1..text.len() {
                    assert_ne!(
                        is_http(&text.as_bytes()[..length]),
                        Some(false),
                        "{:?}",
                        &text[..length]
                    );
                }
            }
        }
        for text in [
            "GET /\r\n",
            "GET key\r\n",
            "PING\r\n",
            "*1\r\n$4\r\n",
            "\r\nPING\r\n",
            "\u{16}\u{3}\u{1}",
            "SSH-2.0-x\r\n",
            " / HTTP/1.1\r\n",
            "GET / HTTP/2.0\r\n",
            "PRI * HTTP/2.0\r\n\r\nXX",
            "\0",
            "a-method-that-is-longer-than-any-that-there-is",
            "GET \u{1}",
        ] {
            assert_eq!(is_http(text.as_bytes()), Some(false), "{text:?}");
        }
        for text in [
            "\r\n",
            "G",
            "GET",
            "GET /",
            "GET / HTTP/1.1",
            "GET / HTTP/1.1\r",
            "PRI",
            "PRI * HTTP/2.0\r\n",
        ] {
            assert_eq!(is_http(text.as_bytes()), None, "{text:?}");
        }
        let long = format!("GET /{}", "a".repeat(LINE));
        assert_eq!(is_http(long.as_bytes()), Some(true));
    }
}
