//! CONNECT: a tunnel for what a rule takes that names the method, and nothing for anybody else.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use bytes::Bytes;
use h2::Reason;
use http::Request;
use weft_model::{BackendProtocol, PathMatch, Resource, Route};

use super::scene::{lead_by, logging};
use crate::common::{
    Backend1, Fixture, PATIENCE, eventually,
    h2c::{H2Client, get},
    route, service,
};

/// What the backend says before it is asked.
const GREETING: &[u8] = b"220 ready\r\n";

/// A backend that speaks no HTTP: it greets, says everything back, and takes leave when it is told that nothing more comes. At
/// the word `fail` it breaks off.
struct Talker {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// How its connections ended: with all that was heard, or in the middle.
    ended: Mutex<mpsc::Receiver<bool>>,
}

impl Talker {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let (tell, ended) = mpsc::channel();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                let tell = tell.clone();
                thread::spawn(move || {
                    stream.write_all(GREETING).expect("the proxy reads");
                    let mut heard = [0; 1024];
                    let well = loop {
                        match stream.read(&mut heard) {
                            Ok(0) => break stream.write_all(b"bye").is_ok(),
                            Ok(_) if heard.starts_with(b"fail") => {
                                socket2::SockRef::from(&stream)
                                    .set_linger(Some(std::time::Duration::ZERO))
                                    .expect("it can be set");
                                break true;
                            }
                            Ok(read) => match stream.write_all(&heard[..read]) {
                                Ok(()) => {}
                                Err(_) => break false,
                            },
                            Err(_) => break false,
                        }
                    };
                    let _ = tell.send(well);
                });
            }
        });
        Self {
            address,
            connections,
            ended: Mutex::new(ended),
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn ended_well(&self) -> bool {
        let ended = self.ended.lock().expect("nobody panics with it");
        ended.recv_timeout(PATIENCE).expect("it ends")
    }
}

/// A route for tunnels to the Service `web`.
fn tunnels() -> Route {
    let mut wanted = route("tunnels", "/", "web");
    wanted.matches[0].method = Some("CONNECT".into());
    wanted
}

/// A stream that has become a tunnel.
async fn open(client: &H2Client, authority: &str) -> (u16, h2::RecvStream, h2::SendStream<Bytes>) {
    let mut sender = client.0.clone().ready().await.expect("open");
    let request = Request::connect(authority).body(()).expect("valid");
    let (answer, stream) = sender.send_request(request, false).expect("valid");
    let answer = answer.await.expect("answered");
    (answer.status().as_u16(), answer.into_body(), stream)
}

async fn hear(body: &mut h2::RecvStream, length: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < length {
        let data = body.data().await.expect("it goes on").expect("whole");
        body.flow_control().release_capacity(data.len()).expect("within");
        heard.extend_from_slice(&data);
    }
    heard
}

/// Whether the proxy's end of each connection from one port or to another asks, after so many seconds at most, whether its peer is
/// still there. The kernel's table says it: which timer runs, and for how many hundredths of a second.
fn notices(from: u16, to: u16, within: u64) -> bool {
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("it is told");
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let ends = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_open = fields.get(3) == Some(&"01");
        let ends = is_open.then(|| (port(fields[1]), port(fields[2])))?;
        let (timer, left) = fields[5].split_once(':')?;
        let left = u64::from_str_radix(left, 16).ok()?;
        let is_its = ends.0 == Some(from) || ends.1 == Some(to);
        is_its.then_some(timer == "02" && left <= 100 * within)
    });
    let notices: Vec<bool> = ends.collect();
    notices.len() == 2 && notices.into_iter().all(|notices| notices)
}

#[test]
fn a_peer_that_is_gone_without_a_word_is_noticed() {
    let (fixture, _log) = logging();
    let talker = Talker::new();
    lead_by(&fixture, BackendProtocol::Undeclared, talker.address, tunnels());
    let mut client = fixture.connect();
    client.send("CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n");
    assert_eq!(client.response("HEAD").status, 200);
    assert_eq!(client.read_exact(GREETING.len()), GREETING);
    // Nothing ends it but its peers: it may be silent for as long as they like.
    eventually("both are asked", || notices(fixture.port, talker.address.port(), 60));
}

#[test]
fn a_client_of_http1_gets_a_tunnel() {
    let (fixture, log) = logging();
    let talker = Talker::new();
    lead_by(&fixture, BackendProtocol::Undeclared, talker.address, tunnels());
    let mut client = fixture.connect();
    let early = "GET /not-a-request HTTP/1.1\r\n\r\n";
    // What is said before the answer goes through as well. Whose tunnel it is says the target.
    client.send(format!(
        "CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n{early}"
    ));
    // It ends with its head (RFC 9110, 9.3.6).
    assert_eq!(client.read_exact(19), b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(client.read_exact(GREETING.len()), GREETING);
    assert_eq!(client.read_exact(early.len()), early.as_bytes());
    for turn in 0..100 {
        let said = format!("turn {turn}\n");
        client.send(&said);
        assert_eq!(client.read_exact(said.len()), said.as_bytes());
    }
    // Each side ends for itself.
    client.stream().shutdown(Shutdown::Write).expect("open");
    assert_eq!(client.rest(), b"bye");
    assert!(talker.ended_well());
    assert_eq!(log.next(), "200 - - CONNECT a.example:443");
    let stats = fixture.stats();
    assert_eq!(stats.routes[0].traffic.requests(), 1);
    assert_eq!(stats.flags, []);
}

#[test]
fn a_stream_of_http2_becomes_a_tunnel_and_the_others_go_on() {
    let (fixture, log) = logging();
    let (talker, web) = (Talker::new(), Backend1::echo());
    lead_by(&fixture, BackendProtocol::H2c, talker.address, tunnels());
    let mut resources = service("other", BackendProtocol::Http1, &[web.address]);
    resources.push(Resource::Route(Arc::new(route("other", "/", "other"))));
    assert!(fixture.apply(resources).is_empty());
    fixture.runtime.block_on(async {
        let client = H2Client::to(fixture.port).await;
        let (status, mut body, mut stream) = open(&client, "a.example:443").await;
        assert_eq!(status, 200);
        assert_eq!(hear(&mut body, GREETING.len()).await, GREETING);
        for turn in 0..100 {
            let said = Bytes::from(format!("turn {turn}\n"));
            stream.send_data(said.clone(), false).expect("open");
            assert_eq!(hear(&mut body, said.len()).await, said);
        }
        let (head, echoed, _) = client.request(get("/beside"), b"", None).await;
        assert_eq!(head.status(), 200);
        assert!(echoed.starts_with(b"GET /beside HTTP/1.1\r\n"));
        stream.send_data(Bytes::new(), true).expect("open");
        assert_eq!(hear(&mut body, 3).await, b"bye");
        while let Some(data) = body.data().await {
            assert!(
                data.expect("it ends well").is_empty(),
                "the backend's end is the stream's"
            );
        }
    });
    assert!(talker.ended_well());
    assert_eq!(log.next(), "200 - - GET a.example");
    assert_eq!(log.next(), "200 - - CONNECT a.example:443");
}

#[test]
fn a_tunnel_of_http2_that_breaks_off_is_reset_on_the_other_side() {
    let fixture = Fixture::new();
    let talker = Talker::new();
    lead_by(&fixture, BackendProtocol::Undeclared, talker.address, tunnels());
    fixture.runtime.block_on(async {
        let client = H2Client::to(fixture.port).await;
        let (_, mut body, mut stream) = open(&client, "a.example:443").await;
        hear(&mut body, GREETING.len()).await;
        stream.send_data(Bytes::from_static(b"fail"), false).expect("open");
        let error = body.data().await.expect("not its end").expect_err("it broke off");
        assert_eq!(error.reason(), Some(Reason::CONNECT_ERROR));
        let (_, mut body, mut stream) = open(&client, "a.example:443").await;
        hear(&mut body, GREETING.len()).await;
        stream.send_reset(Reason::CANCEL);
        // Held until then: the client's end of it is not what ends it.
        tokio::task::spawn_blocking(move || {
            assert!(talker.ended_well(), "the first broke off itself");
            assert!(!talker.ended_well(), "the second is broken off");
        })
        .await
        .expect("it ends");
    });
}

#[test]
fn what_no_rule_takes_that_names_the_method_is_refused() {
    let (fixture, log) = logging();
    let (talker, web) = (Talker::new(), Backend1::echo());
    let mut named = tunnels();
    named.hostnames = vec!["tunnels.example".parse().expect("a name")];
    lead_by(&fixture, BackendProtocol::Undeclared, talker.address, named);
    let mut resources = service("other", BackendProtocol::Http1, &[web.address]);
    resources.push(Resource::Route(Arc::new(route("other", "/", "other"))));
    assert!(fixture.apply(resources).is_empty());
    // What follows was meant for the tunnel: it is no request, whatever it looks like.
    let mut client = fixture.connect();
    client.send("CONNECT a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let answer = client.response("CONNECT");
    assert_eq!((answer.status, answer.text().as_str()), (405, "refused\n"));
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(client.is_closed());
    assert_eq!(log.next(), "405 refused connect_refused CONNECT a.example:80");
    fixture.runtime.block_on(async {
        let client = H2Client::to(fixture.port).await;
        assert_eq!(open(&client, "a.example:80").await.0, 405);
        assert_eq!(open(&client, "a.example").await.0, 400, "without a port");
        assert_eq!(client.request(get("/"), b"", None).await.0.status(), 200);
        assert_eq!(open(&client, "tunnels.example:1").await.0, 200);
    });
    assert_eq!(log.next(), "405 refused connect_refused CONNECT a.example:80");
    assert_eq!(log.next(), "400 refused invalid_target CONNECT a.example");
    assert_eq!(log.next(), "200 - - GET a.example");
    for (lines, status, reason) in [
        (
            "CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n",
            400,
            "invalid_target",
        ),
        (
            "CONNECT a.example:0 HTTP/1.1\r\nHost: a.example\r\n",
            400,
            "invalid_target",
        ),
        ("CONNECT /path HTTP/1.1\r\nHost: a.example\r\n", 400, "invalid_target"),
        (
            "CONNECT http://a.example:80/ HTTP/1.1\r\nHost: a.example\r\n",
            400,
            "invalid_target",
        ),
        (
            "CONNECT tunnels.example:80 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n",
            400,
            "upgrade_with_body",
        ),
    ] {
        let mut client = fixture.connect();
        client.send(format!("{lines}\r\nhello"));
        assert_eq!(client.response("CONNECT").status, status, "{lines}");
        assert!(client.is_closed(), "{lines}");
        loop {
            let line = log.next();
            // The tunnel of before may end in between.
            if !line.starts_with("200 ") {
                assert_eq!(line, format!("{status} refused {reason} - -"), "{lines}");
                break;
            }
        }
    }
    assert_eq!(talker.connections(), 1, "none but the one that was asked for");
}

#[test]
fn a_tunnel_has_no_path_and_a_rule_that_names_the_method_takes_nothing_else() {
    let fixture = Fixture::new();
    let (talker, web) = (Talker::new(), Backend1::echo());
    lead_by(&fixture, BackendProtocol::Undeclared, talker.address, tunnels());
    let mut resources = service("other", BackendProtocol::Http1, &[web.address]);
    // By its path it would come first.
    let mut exact = route("exact", "/", "other");
    exact.matches[0].path = PathMatch::Exact("/".into());
    let mut below = route("below", "/below", "other");
    below.matches[0].method = Some("CONNECT".into());
    resources.extend([exact, below].map(|route| Resource::Route(Arc::new(route))));
    assert!(fixture.apply(resources).is_empty());
    let mut client = fixture.connect();
    client.send("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.read_exact(19), b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(client.read_exact(GREETING.len()), GREETING);
    assert!(fixture.get("/").text().starts_with("GET / HTTP/1.1\r\n"));
    assert_eq!(fixture.get("/elsewhere").status, 404);
    assert_eq!(talker.connections(), 1);
}

#[test]
fn a_tunnel_to_nobody_is_503() {
    let (fixture, log) = logging();
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, crate::common::free_port()));
    lead_by(&fixture, BackendProtocol::Undeclared, nobody, tunnels());
    let mut client = fixture.connect();
    client.send("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\nearly");
    let answer = client.response("CONNECT");
    assert_eq!((answer.status, answer.text().as_str()), (503, "connect_failed\n"));
    assert!(client.is_closed());
    assert!(log.next().starts_with("503 connect_failed "));
}
