//! What follows a body reaches the other side, whatever both speak.

use std::net::SocketAddr;

use http::{HeaderMap, Request};
use weft_model::BackendProtocol;

use super::scene::{PROTOCOLS, lead};
use crate::common::{
    Backend1, Fixture,
    h2c::{H2Client, h2_backend},
    header,
};

/// Answers with the body and the trailers of the request, and a trailer of its own, as [`h2_backend`] does.
fn h1_backend() -> SocketAddr {
    let answer = |body: &[u8], trailers: &str| {
        let mut bytes =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, grpc-status\r\n\r\n".to_vec();
        bytes.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(body);
        let own = trailers.strip_suffix("\r\n").expect("they end with an empty line");
        bytes.extend_from_slice(format!("\r\n0\r\n{own}grpc-status: 0\r\n\r\n").as_bytes());
        bytes
    };
    Backend1::new(move |seen, _| Some(answer(&seen.body, &seen.trailers))).address
}

fn backend(fixture: &Fixture, protocol: BackendProtocol) -> SocketAddr {
    match protocol {
        BackendProtocol::H2c => h2_backend(fixture),
        _ => h1_backend(),
    }
}

#[test]
fn trailers_of_requests_and_answers_pass_from_and_to_a_client_of_http1() {
    for protocol in PROTOCOLS {
        let fixture = Fixture::new();
        lead(&fixture, protocol, backend(&fixture, protocol));
        let mut client = fixture.connect();
        // The second one shows that the connection goes on behind the trailers.
        for sum in ["41", "42"] {
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: {sum}\r\n\r\n"
            ));
            let answer = client.response("POST");
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{protocol:?}");
            let trailer = |name: &str| header(&answer.trailers, name);
            assert_eq!(trailer("x-sum").as_deref(), Some(sum), "{protocol:?}: {answer:?}");
            assert_eq!(trailer("grpc-status").as_deref(), Some("0"), "{protocol:?}: {answer:?}");
        }
        assert_eq!(fixture.stats().connections.upstream_opened, 1);
    }
}

#[test]
fn trailers_of_requests_and_answers_pass_from_and_to_a_client_of_http2() {
    for protocol in PROTOCOLS {
        let fixture = Fixture::new();
        lead(&fixture, protocol, backend(&fixture, protocol));
        fixture.runtime.block_on(async {
            let client = H2Client::to(fixture.port).await;
            for sum in ["41", "42"] {
                let request = Request::post("http://a.example/").header("te", "trailers");
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", sum.parse().expect("valid"));
                let request = request.body(()).expect("valid");
                let (head, body, trailers) = client.request(request, b"hello", Some(trailers)).await;
                assert_eq!((head.status().as_u16(), body.as_slice()), (200, &b"hello"[..]));
                assert_eq!(trailers["x-sum"], sum, "{protocol:?}");
                assert_eq!(trailers["grpc-status"], "0", "{protocol:?}");
            }
        });
        assert_eq!(fixture.stats().connections.upstream_opened, 1);
    }
}
