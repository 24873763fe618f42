//! A server and a client of HTTP/2 by prior knowledge.

use std::net::{SocketAddr, TcpStream};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};
use tokio::{runtime::Runtime, task::JoinHandle};

use super::Namespace;

/// Serves HTTP/2 at an address: each answer says by whom it is, and ends as one of gRPC does, with the code that the last part of
/// the path says, and which fields `x-…` it was asked with.
pub fn serve(runtime: &Runtime, namespace: &Namespace, on: SocketAddr, name: &'static str) {
    let listener = namespace.listen(on);
    listener.set_nonblocking(true).expect("it is open");
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("it is open");
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("it speaks HTTP/2");
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let last = request.uri().path().rsplit('/').next().unwrap_or_default();
                    let code = last.parse::<u8>().unwrap_or(0).to_string();
                    let asked = format!("{} {}", request.uri(), request.headers().len());
                    let fields = request
                        .headers()
                        .iter()
                        .filter(|(field, _)| field.as_str().starts_with("x-"));
                    let fields = fields.map(|(field, value)| format!("{field}={}", value.to_str().unwrap_or_default()));
                    let mut fields: Vec<String> = fields.collect();
                    fields.sort();
                    let response = Response::builder().header("by", name).header("asked", asked);
                    let response = response.header("asked-x", fields.join(" "));
                    let sent = respond.send_response(response.body(()).expect("an answer"), false);
                    let Ok(mut stream) = sent else { continue };
                    let _ = stream.send_data(Bytes::from_static(name.as_bytes()), false);
                    let trailers = HeaderMap::from_iter([(
                        "grpc-status".parse().expect("a name"),
                        code.parse().expect("a value"),
                    )]);
                    let _ = stream.send_trailers(trailers);
                }
            });
        }
    });
}

pub struct Client {
    pub sender: SendRequest<Bytes>,
    /// Ends with the connection.
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn by(&self) -> &str {
        self.field("by")
    }

    pub fn field(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

impl Client {
    pub fn new(runtime: &Runtime, stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("it is open");
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream).expect("it is open");
            let (sender, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
            Self {
                sender,
                connection: tokio::spawn(connection),
            }
        })
    }

    /// Makes a request, if the connection still takes one.
    pub fn ask(&self, runtime: &Runtime, path: &str) -> Result<Answer, h2::Error> {
        self.ask_with(runtime, path, &[])
    }

    /// The same, with more fields.
    pub fn ask_with(&self, runtime: &Runtime, path: &str, fields: &[(&str, &str)]) -> Result<Answer, h2::Error> {
        runtime.block_on(async { answer(self.begin(path, fields).await?).await })
    }

    /// Begins a request, if the connection still takes one.
    pub async fn begin(&self, path: &str, fields: &[(&str, &str)]) -> Result<ResponseFuture, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let request = Request::post(format!("http://shop.example{path}")).header("te", "trailers");
        let request = fields
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        let (answer, _) = sender.send_request(request.body(()).expect("a request"), true)?;
        Ok(answer)
    }
}

/// Waits for all of an answer.
pub async fn answer(answer: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = answer.await?.into_parts();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        trailers: body.trailers().await?,
    })
}
