//! HTTP/2 by prior knowledge.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::{net::TcpStream, runtime::Runtime, task::JoinHandle};

use super::client::Answer;

/// A connection, driven by a runtime of its own.
pub struct H2c {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// An answer under way.
pub struct Pending(JoinHandle<Answer>);

impl H2c {
    pub fn connect(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let (sender, connection) = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.expect("weft listens");
            h2::client::handshake(stream).await.expect("weft speaks HTTP/2")
        });
        let connection = runtime.spawn(connection);
        Self {
            runtime,
            sender,
            connection,
        }
    }

    /// Sends a request without a body.
    pub fn start(&self, method: &str, url: &str) -> Pending {
        let request = Request::builder().method(method).uri(url).body(()).expect("valid");
        let mut sender = self.ready().expect("the connection takes requests");
        let (response, _) = sender.send_request(request, true).expect("valid");
        Pending(self.runtime.spawn(async move {
            let (head, mut stream) = response.await.expect("it is answered").into_parts();
            let mut body = Vec::new();
            while let Some(data) = stream.data().await {
                let data = data.expect("the body is whole");
                stream
                    .flow_control()
                    .release_capacity(data.len())
                    .expect("within the window");
                body.extend_from_slice(&data);
            }
            let lines = head.headers.iter();
            let lines = lines.map(|(name, value)| format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
            Answer {
                status: head.status.as_u16(),
                head: lines.collect(),
                body,
            }
        }))
    }

    pub fn finish(&self, pending: Pending) -> Answer {
        self.runtime.block_on(pending.0).expect("nothing panicked")
    }

    pub fn request(&self, method: &str, url: &str) -> Answer {
        self.finish(self.start(method, url))
    }

    /// Whether the connection takes another request; if not, the error says why.
    pub fn ready(&self) -> Result<SendRequest<Bytes>, h2::Error> {
        self.runtime.block_on(self.sender.clone().ready())
    }

    /// Waits until the other side ends the connection. A GOAWAY of our own might meet a socket that is closed already.
    pub fn closed(self) -> Result<(), h2::Error> {
        let ended = self.runtime.block_on(self.connection).expect("nothing panicked");
        drop(self.sender);
        ended
    }
}
