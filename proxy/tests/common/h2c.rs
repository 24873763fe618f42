//! HTTP/2 by prior knowledge: a client and a backend.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;

use super::Fixture;

/// A backend: it answers with the request's body and says what it saw.
pub fn h2_backend(fixture: &Fixture) -> SocketAddr {
    let (listener, address) = fixture.listening();
    fixture.runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("the proxy speaks HTTP/2");
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer(request, respond));
                }
            });
        }
    });
    address
}

async fn answer(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    let response = Response::builder()
        .header("x-path", head.uri.path_and_query().map_or("", |path| path.as_str()))
        .header(
            "x-authority",
            head.uri.authority().map_or("", |authority| authority.as_str()),
        )
        .header(
            "x-te",
            head.headers.get("te").map_or("", |te| te.to_str().unwrap_or("?")),
        )
        .body(())
        .expect("valid");
    let mut stream = respond.send_response(response, false).expect("open");
    while let Some(Ok(data)) = body.data().await {
        body.flow_control()
            .release_capacity(data.len())
            .expect("within the window");
        stream.reserve_capacity(data.len());
        stream.send_data(data, false).expect("open");
    }
    let mut trailers = body.trailers().await.expect("open").unwrap_or_default();
    trailers.insert("grpc-status", "0".parse().expect("valid"));
    stream.send_trailers(trailers).expect("open");
}

/// A client's connection.
pub struct H2Client(pub h2::client::SendRequest<Bytes>);

impl H2Client {
    /// Over a connection in clear to a port of this machine.
    pub async fn to(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("the proxy listens");
        Self::over(stream).await
    }

    pub async fn over<S>(stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = h2::client::handshake(stream).await.expect("the proxy speaks HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends a request whole, and reads the whole answer.
    pub async fn request(
        &self,
        request: Request<()>,
        body: &[u8],
        trailers: Option<HeaderMap>,
    ) -> (Response<()>, Vec<u8>, HeaderMap) {
        let mut sender = self.0.clone().ready().await.expect("open");
        let end = body.is_empty() && trailers.is_none();
        let (response, mut stream) = sender.send_request(request, end).expect("valid");
        let chunks: Vec<Bytes> = body.chunks(8000).map(Bytes::copy_from_slice).collect();
        let upload = async move {
            for chunk in chunks {
                stream.reserve_capacity(chunk.len());
                stream.send_data(chunk, false).expect("open");
            }
            match trailers {
                Some(trailers) => stream.send_trailers(trailers).expect("open"),
                None if !end => stream.send_data(Bytes::new(), true).expect("open"),
                None => {}
            }
        };
        let download = async {
            let (head, mut body) = response.await.expect("answered").into_parts();
            let mut all = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.expect("whole");
                body.flow_control()
                    .release_capacity(data.len())
                    .expect("within the window");
                all.extend_from_slice(&data);
            }
            let trailers = body.trailers().await.expect("whole").unwrap_or_default();
            (Response::from_parts(head, ()), all, trailers)
        };
        let ((), answer) = tokio::join!(upload, download);
        answer
    }
}

/// A GET without a body.
pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.example{path}")).body(()).expect("valid")
}
