//! The first message of a TLS connection, read without an answer: whoever is not served hears nothing, not even an alert.

use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// More than any ClientHello has: TLS bounds a handshake message to 2^24, rustls to 2^16.
const MOST: usize = 80 * 1024;
/// Most have less, with a key share of X25519MLKEM768.
const USUAL: usize = 2048;

/// Why it could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("the connection was closed before its ClientHello")]
    Closed,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("what comes is no ClientHello: {0}")]
    NotTls(rustls::Error),
    #[error("the ClientHello is over {MOST} bytes")]
    TooLong,
}

/// A ClientHello of which not all has come.
#[derive(Default)]
pub(crate) struct Partial {
    acceptor: Acceptor,
    /// Bytes that are part of it so far.
    taken: usize,
}

impl Partial {
    /// How many of the bytes that it was fed are part of it.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Reads on; returns it once all has come. Then, [`Partial::taken`] says where it ends.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Option<Accepted>, HelloError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let took = self.acceptor.read_tls(&mut rest)?;
            self.taken += took;
            match self.acceptor.accept() {
                Ok(Some(accepted)) => return Ok(Some(accepted)),
                Ok(None) if took > 0 => {}
                Ok(None) => return Err(HelloError::TooLong),
                Err((error, _alert)) => return Err(HelloError::NotTls(error)),
            }
        }
        if self.taken > MOST {
            return Err(HelloError::TooLong);
        }
        Ok(None)
    }
}

/// The name a ClientHello asks for, in lower case.
pub(crate) fn sni(hello: &Accepted) -> Option<String> {
    hello.client_hello().server_name().map(str::to_ascii_lowercase)
}

/// A ClientHello.
pub(crate) struct Hello {
    /// For a handshake. It has consumed all but [`Hello::rest`] of the bytes.
    pub(super) accepted: Accepted,
    /// The name asked for, in lower case.
    pub(crate) sni: Option<String>,
    /// All bytes that were read.
    pub(crate) bytes: Vec<u8>,
    /// From here on they are not part of [`Hello::accepted`].
    rest: usize,
}

impl Hello {
    /// Reads it.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, HelloError> {
        let mut partial = Partial::default();
        let mut bytes = Vec::with_capacity(USUAL);
        loop {
            let before = bytes.len();
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(HelloError::Closed);
            }
            if let Some(accepted) = partial.feed(&bytes[before..])? {
                return Ok(Self {
                    sni: sni(&accepted),
                    accepted,
                    bytes,
                    rest: partial.taken,
                });
            }
        }
    }

    /// What came after it.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.rest..]
    }
}
