//! Calls of gRPC whose sides speak in turn, through a Gateway of manifests.

mod support;

use std::{future::poll_fn, net::Ipv4Addr};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, Request, Response};
use support::free_port;
use tokio::net::{TcpListener, TcpStream};

/// Turns of each call.
const TURNS: u32 = 100;
/// Calls at the same time, on one connection.
const CALLS: u32 = 10;

/// A backend that says each message back as soon as it has heard it, until the client has no more to say. Returns its port.
async fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    // It ends with the runtime of its test.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.expect("the Gateway speaks HTTP/2");
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let head = Response::builder().header("content-type", "application/grpc");
                    let said = respond.send_response(head.body(()).expect("valid"), false);
                    tokio::spawn(say_back(request.into_body(), said.expect("open")));
                }
            });
        }
    });
    port
}

async fn say_back(mut heard: RecvStream, mut said: SendStream<Bytes>) {
    while let Some(data) = heard.data().await {
        let data = data.expect("whole");
        heard.flow_control().release_capacity(data.len()).expect("within");
        say(&mut said, data).await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("valid"));
    said.send_trailers(trailers).expect("open");
}

async fn say(said: &mut SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        said.reserve_capacity(data.len());
        let granted = poll_fn(|cx| said.poll_capacity(cx)).await.expect("open").expect("open");
        let part = data.split_to(granted.min(data.len()));
        said.send_data(part, false).expect("open");
    }
}

/// A message as gRPC frames it: of another length each turn.
fn message(call: u32, turn: u32) -> Bytes {
    let content = vec![(call + turn) as u8; (call * 1000 + turn * 37) as usize];
    let mut framed = vec![0];
    framed.extend_from_slice(&(content.len() as u32).to_be_bytes());
    framed.extend_from_slice(&content);
    framed.into()
}

/// One call: each message is said once the one before has come back.
async fn talk(client: &client::SendRequest<Bytes>, call: u32) {
    let mut client = client.clone().ready().await.expect("open");
    let request = Request::post("http://grpc.example/echo.Echo/Talk")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (answer, mut ping) = client
        .send_request(request.body(()).expect("valid"), false)
        .expect("valid");
    let answer = answer.await.expect("answered before anything is said");
    assert_eq!(answer.status(), 200);
    let mut pong = answer.into_body();
    for turn in 0..TURNS {
        let said = message(call, turn);
        say(&mut ping, said.clone()).await;
        let mut heard = Vec::with_capacity(said.len());
        while heard.len() < said.len() {
            let data = pong.data().await.expect("it goes on").expect("whole");
            pong.flow_control().release_capacity(data.len()).expect("within");
            heard.extend_from_slice(&data);
        }
        assert!(heard == said, "call {call}, turn {turn}");
    }
    ping.send_data(Bytes::new(), true).expect("open");
    assert!(pong.data().await.is_none(), "nothing more was said");
    let trailers = pong.trailers().await.expect("whole").expect("there are some");
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_back_and_forth_side_by_side() {
    let port = free_port();
    let manifests = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge}}
spec: {{gatewayClassName: weft, listeners: [{{name: http, protocol: HTTP, port: {port}}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: echo}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [grpc.example]
  rules:
  - matches: [{{method: {{service: echo.Echo, method: Talk}}}}]
    backendRefs: [{{name: echo, port: 80}}]
---
"
    ) + &support::service("echo", echo().await, "kubernetes.io/h2c");
    let (standalone, _folder) = support::standalone(&manifests).await;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .expect("connected");
    let (client, connection) = client::handshake(stream).await.expect("HTTP/2");
    let driven = tokio::spawn(connection);
    let calls: Vec<_> = (0..CALLS)
        .map(|call| {
            let client = client.clone();
            tokio::spawn(async move { talk(&client, call).await })
        })
        .collect();
    for call in calls {
        call.await.expect("all was said and heard");
    }
    driven.abort();
    standalone.shutdown().await;
}
