//! Whoever does not read stops the other side from writing: what is on its way through the proxy is bounded by the buffers of
//! sockets and by windows, whatever the length of a body. Once it is read, all of it comes.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{Request, Response};
use tokio::sync::oneshot;
use weft_model::{BackendProtocol, RouteKind};

use super::scene::{PROTOCOLS, lead, lead_by};
use crate::common::{
    Fixture, PATIENCE,
    h2c::{H2Client, get, h2_backend},
    raw_backend, route,
};

/// More than all sockets between client and backend take without a reader.
const BODY: usize = 40 * 1024 * 1024;
/// More than these do take: what has gone out beyond it lies in the proxy.
const BOUND: usize = 30 * 1024 * 1024;
const PIECE: usize = 64 * 1024;
/// The windows for a stream that the proxy gives on either side, and a little for what is under way.
const WINDOWS: usize = 1024 * 1024;

/// What may be on its way of a client of HTTP/2: to a backend that speaks it too, windows bound it and not the buffers of sockets.
fn bound_of_http2(backend: BackendProtocol) -> usize {
    if backend == BackendProtocol::H2c {
        WINDOWS
    } else {
        BOUND
    }
}

/// Bytes that somebody has got rid of, or has read.
type Count = Arc<AtomicUsize>;

/// Waits until nothing is added any more, and says how much there is.
fn standstill(count: &Count) -> usize {
    let (mut last, mut looks) = (0, 0);
    for _ in 0..PATIENCE.as_millis() / 20 {
        let now = count.load(Ordering::SeqCst);
        looks = if now == last && now > 0 { looks + 1 } else { 0 };
        if looks == 30 {
            return now;
        }
        last = now;
        thread::sleep(Duration::from_millis(20));
    }
    panic!("bytes go out on and on: {last}");
}

fn write_on(stream: &mut TcpStream, count: &Count) {
    let piece = [b'x'; PIECE];
    for _ in 0..BODY / PIECE {
        if stream.write_all(&piece).is_err() {
            return;
        }
        count.fetch_add(PIECE, Ordering::SeqCst);
    }
}

/// Sends as far as the other side lets it.
async fn send_on(stream: &mut SendStream<Bytes>, count: &Count) {
    let mut left = BODY;
    while left > 0 {
        stream.reserve_capacity(left.min(PIECE));
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(granted)) = granted else { return };
        let piece = granted.min(left);
        left -= piece;
        if stream.send_data(Bytes::from(vec![b'x'; piece]), left == 0).is_err() {
            return;
        }
        count.fetch_add(piece, Ordering::SeqCst);
    }
}

async fn read_on(body: &mut RecvStream) -> usize {
    let mut read = 0;
    while let Some(data) = body.data().await {
        let data = data.expect("whole");
        read += data.len();
        body.flow_control().release_capacity(data.len()).expect("within");
    }
    read
}

/// A backend of HTTP/2 that does something with one request.
fn h2c_backend<F: Future<Output = ()> + Send + 'static>(
    fixture: &Fixture,
    serve: impl FnOnce(RecvStream, SendResponse<Bytes>) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("it can be set");
    fixture.runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
        let (stream, _) = listener.accept().await.expect("the proxy comes");
        let mut connection = h2::server::handshake(stream).await.expect("the proxy speaks HTTP/2");
        let (request, respond) = connection.accept().await.expect("a request").expect("valid");
        let mut serving = Box::pin(serve(request.into_body(), respond));
        // The connection is driven along.
        tokio::select! {
            () = &mut serving => {}
            _ = connection.accept() => serving.await,
        }
        while connection.accept().await.is_some() {}
    });
    address
}

/// A backend that answers with a long body, and what it has got rid of.
fn pouring(fixture: &Fixture, protocol: BackendProtocol) -> (SocketAddr, Count) {
    let count = Count::default();
    let counted = count.clone();
    let address = match protocol {
        BackendProtocol::H2c => h2c_backend(fixture, move |_, mut respond| async move {
            let head = Response::builder().body(()).expect("valid");
            let mut stream = respond.send_response(head, false).expect("open");
            send_on(&mut stream, &counted).await;
        }),
        _ => raw_backend(move |mut stream| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("the proxy reads");
            write_on(&mut stream, &counted);
        }),
    };
    (address, count)
}

/// A backend that reads a body only when it is told to, and answers with how long that was.
fn patient(fixture: &Fixture, protocol: BackendProtocol) -> (SocketAddr, oneshot::Sender<()>) {
    let (release, released) = oneshot::channel::<()>();
    let address = match protocol {
        BackendProtocol::H2c => h2c_backend(fixture, move |mut body, mut respond| async move {
            released.await.expect("the test goes on");
            let read = read_on(&mut body).await;
            let head = Response::builder().header("x-read", read).body(()).expect("valid");
            respond.send_response(head, true).expect("open");
        }),
        _ => {
            let released = Mutex::new(Some(released));
            raw_backend(move |mut stream| {
                let released = released.lock().expect("nobody panics with it").take();
                released
                    .expect("one request comes")
                    .blocking_recv()
                    .expect("the test goes on");
                let mut read = 0;
                let mut piece = vec![0; PIECE];
                while read < BODY {
                    match stream.read(&mut piece).expect("the proxy writes") {
                        0 => break,
                        more => read += more,
                    }
                }
                let head = format!("HTTP/1.1 200 OK\r\nX-Read: {read}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).expect("the proxy reads");
            })
        }
    };
    (address, release)
}

#[test]
fn a_client_of_http1_that_does_not_read_stops_its_backend() {
    for protocol in PROTOCOLS {
        let fixture = Fixture::new();
        let (backend, count) = pouring(&fixture, protocol);
        lead(&fixture, protocol, backend);
        let mut client = fixture.connect();
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let gone = standstill(&count);
        assert!(gone < BOUND, "{protocol:?}: {gone} bytes went out to nobody");
        let answer = client.response("GET");
        assert_eq!((answer.status, answer.body.len()), (200, BODY), "{protocol:?}");
    }
}

#[test]
fn a_client_of_http2_that_does_not_read_stops_its_backend() {
    for protocol in PROTOCOLS {
        let fixture = Fixture::new();
        let (backend, count) = pouring(&fixture, protocol);
        lead(&fixture, protocol, backend);
        let client = fixture.runtime.block_on(H2Client::to(fixture.port));
        let mut sender = fixture.runtime.block_on(client.0.clone().ready()).expect("open");
        let (asked, _) = sender.send_request(get("/"), true).expect("valid");
        let gone = standstill(&count);
        let bound = bound_of_http2(protocol);
        assert!(gone < bound, "{protocol:?}: {gone} bytes went out to nobody");
        let read = fixture.runtime.block_on(async {
            let mut answer = asked.await.expect("answered").into_body();
            read_on(&mut answer).await
        });
        assert_eq!(read, BODY, "{protocol:?}");
    }
}

#[test]
fn a_backend_that_does_not_read_stops_a_client_of_http1() {
    for protocol in PROTOCOLS {
        let fixture = Fixture::new();
        let (backend, release) = patient(&fixture, protocol);
        lead(&fixture, protocol, backend);
        let mut client = fixture.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {BODY}\r\n\r\n"
        ));
        let count = Count::default();
        let mut stream = client.stream().try_clone().expect("a socket can be shared");
        let counted = count.clone();
        let upload = thread::spawn(move || write_on(&mut stream, &counted));
        let gone = standstill(&count);
        assert!(gone < BOUND, "{protocol:?}: {gone} bytes went out to nobody");
        release.send(()).expect("the backend waits");
        let answer = client.response("POST");
        assert_eq!(
            (answer.status, answer.header("x-read")),
            (200, Some(BODY.to_string())),
            "{protocol:?}"
        );
        upload.join().expect("all was sent");
    }
}

#[test]
fn a_backend_that_does_not_read_stops_a_client_of_http2() {
    for protocol in PROTOCOLS {
        let fixture = Fixture::new();
        let (backend, release) = patient(&fixture, protocol);
        lead(&fixture, protocol, backend);
        let client = fixture.runtime.block_on(H2Client::to(fixture.port));
        let (answer, mut stream) = fixture.runtime.block_on(async {
            let mut sender = client.0.clone().ready().await.expect("open");
            let request = Request::post("http://a.example/");
            let request = request.header("content-length", BODY).body(()).expect("valid");
            sender.send_request(request, false).expect("valid")
        });
        let count = Count::default();
        let counted = count.clone();
        let upload = fixture
            .runtime
            .spawn(async move { send_on(&mut stream, &counted).await });
        let gone = standstill(&count);
        let bound = bound_of_http2(protocol);
        assert!(gone < bound, "{protocol:?}: {gone} bytes went out to nobody");
        release.send(()).expect("the backend waits");
        fixture.runtime.block_on(async {
            let answer = answer.await.expect("answered");
            assert_eq!(answer.status(), 200, "{protocol:?}");
            assert_eq!(answer.headers()["x-read"], BODY.to_string(), "{protocol:?}");
            upload.await.expect("all was sent");
        });
    }
}

/// A call of gRPC whose sides speak in turn: nothing of it may wait for more.
#[test]
fn a_stream_of_grpc_goes_back_and_forth() {
    let fixture = Fixture::new();
    let mut wanted = route("web", "/", "web");
    wanted.owner.kind = RouteKind::Grpc;
    lead_by(&fixture, BackendProtocol::Undeclared, h2_backend(&fixture), wanted);
    fixture.runtime.block_on(async {
        let client = H2Client::to(fixture.port).await;
        let mut sender = client.0.clone().ready().await.expect("open");
        let request = Request::post("http://a.example/echo.Echo/Talk")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let (answer, mut ping) = sender
            .send_request(request.body(()).expect("valid"), false)
            .expect("valid");
        let mut pong = answer.await.expect("answered before anything was said").into_body();
        for turn in 0..200_u32 {
            let mut said = vec![0; 5 + 4];
            said[4] = 4;
            said[5..].copy_from_slice(&turn.to_be_bytes());
            ping.send_data(Bytes::from(said.clone()), false).expect("open");
            let mut heard = Vec::new();
            while heard.len() < said.len() {
                let data = pong.data().await.expect("it goes on").expect("whole");
                pong.flow_control().release_capacity(data.len()).expect("within");
                heard.extend_from_slice(&data);
            }
            assert_eq!(heard, said);
        }
        ping.send_data(Bytes::new(), true).expect("open");
        assert!(pong.data().await.is_none());
        let trailers = pong.trailers().await.expect("whole").expect("there are some");
        assert_eq!(trailers["grpc-status"], "0");
    });
}
