//! HTTP/1.1 by hand, in clear and over TLS: a client that sees every byte.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use super::{
    PATIENCE,
    message::{header, read_head},
    unverified::unverified,
};

/// A connection and what was read from it ahead.
pub struct Http<S>(BufReader<S>);

/// A response as the client saw it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON: what an echo backend was asked.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The Service whose echo backend answered.
    pub fn service(&self) -> String {
        let said = self.json();
        format!(
            "{}/{}",
            said["namespace"].as_str().expect("it is said"),
            said["service"].as_str().expect("it is said")
        )
    }
}

impl Http<TcpStream> {
    pub fn connect(address: SocketAddr) -> Self {
        Self(BufReader::new(connect(address)))
    }
}

impl Http<StreamOwned<ClientConnection, TcpStream>> {
    /// Over TLS, with HTTP/1.1 by ALPN. Any certificate will do: see [`Http::certificate`].
    pub fn secure(address: SocketAddr, name: &str) -> Self {
        Self(BufReader::new(secure(address, name, &[b"http/1.1"])))
    }

    /// The certificate the server has shown.
    pub fn certificate(&self) -> Vec<u8> {
        shown(self.0.get_ref())
    }
}

impl<S: Read + Write> Http<S> {
    pub fn get(&mut self, host: &str, path: &str) -> Answer {
        self.request("GET", host, path, "")
    }

    /// Sends a request with more header lines, each with its line end, and reads the answer.
    pub fn request(&mut self, method: &str, host: &str, path: &str, lines: &str) -> Answer {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n"));
        self.answer().expect("it is answered")
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stream = self.0.get_mut();
        stream
            .write_all(bytes.as_ref())
            .and_then(|()| stream.flush())
            .expect("weft reads");
    }

    /// Reads an answer; none when the connection has ended before it.
    pub fn answer(&mut self) -> Option<Answer> {
        let head = read_head(&mut self.0)?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = header(&head, "content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body).ok()?;
        Some(Answer { status, head, body })
    }

    /// Whether the connection ends without another byte.
    pub fn is_closed(&mut self) -> bool {
        self.0.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("weft listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// A TLS connection, its handshake done.
pub fn secure(address: SocketAddr, name: &str, alpn: &[&[u8]]) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(name.to_owned()).expect("it is a name");
    let mut connection = ClientConnection::new(unverified(alpn), name).expect("it is configured");
    let mut stream = connect(address);
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).expect("the handshake succeeds");
    }
    StreamOwned::new(connection, stream)
}

/// The certificate that a server has shown.
pub fn shown(stream: &StreamOwned<ClientConnection, TcpStream>) -> Vec<u8> {
    let chain = stream.conn.peer_certificates().expect("a certificate was shown");
    chain[0].to_vec()
}
