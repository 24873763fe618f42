//! Connections are used again and again, though not for ever.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use weft_model::{BackendProtocol, Resource};

use super::scene::lead;
use crate::common::{
    Backend1, Fixture, PATIENCE,
    h2c::{H2Client, get},
    ok, route, service,
};

/// A backend that counts requests.
fn counting() -> (Backend1, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let backend = Backend1::new(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        Some(ok(b"x"))
    });
    (backend, count)
}

/// Of a hundred requests, ninety-nine go by a connection that is there.
fn reused(fixture: &Fixture, backends: &[(Backend1, Arc<AtomicUsize>)], requests: usize) {
    let count = |of: fn(&(Backend1, Arc<AtomicUsize>)) -> usize| backends.iter().map(of).sum::<usize>();
    assert_eq!(count(|(_, got)| got.load(Ordering::SeqCst)), requests);
    let opened = count(|(backend, _)| backend.connections.load(Ordering::SeqCst));
    assert!(opened * 100 <= requests, "{opened} connections for {requests} requests");
    let told = fixture.stats().connections;
    let sums = (told.upstream_opened, told.upstream_reused);
    assert_eq!(sums, (opened as u64, (requests - opened) as u64));
}

#[test]
fn clients_of_http1_that_come_and_go_use_the_same_connections_to_backends() {
    const CLIENTS: usize = 8;
    const VISITS: usize = 10;
    const REQUESTS: usize = 150;
    for workers in [1, 4] {
        let workers = NonZeroUsize::new(workers).expect("some");
        let fixture = Fixture::with(|options| options.workers = workers);
        let backends = [counting(), counting()];
        let addresses = backends.each_ref().map(|(backend, _)| backend.address);
        let mut resources = service("web", BackendProtocol::Http1, &addresses);
        resources.push(Resource::Route(Arc::new(route("web", "/", "web"))));
        assert!(fixture.apply(resources).is_empty());
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    for _ in 0..VISITS {
                        let mut client = fixture.connect();
                        for _ in 0..REQUESTS {
                            client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
                            assert_eq!(client.response("GET").status, 200);
                        }
                    }
                });
            }
        });
        reused(&fixture, &backends, CLIENTS * VISITS * REQUESTS);
    }
}

#[test]
fn streams_of_http2_use_the_same_connections_to_backends() {
    const STREAMS: usize = 16;
    const ROUNDS: usize = 200;
    let fixture = Fixture::new();
    let backends = [counting()];
    lead(&fixture, BackendProtocol::Http1, backends[0].0.address);
    fixture.runtime.block_on(async {
        let client = H2Client::to(fixture.port).await;
        for _ in 0..ROUNDS {
            let requests = (0..STREAMS).map(|_| client.request(get("/"), b"", None));
            for (head, ..) in futures::future::join_all(requests).await {
                assert_eq!(head.status(), 200);
            }
        }
    });
    reused(&fixture, &backends, STREAMS * ROUNDS);
}

/// So that they find data planes that were added since.
#[test]
fn a_connection_that_has_grown_old_ends_with_an_answer() {
    let fixture = Fixture::with(|options| options.limits.connection_age = Duration::from_millis(100));
    let (backend, count) = counting();
    lead(&fixture, BackendProtocol::Http1, backend.address);
    let mut client = fixture.connect();
    let mut sent = 0;
    loop {
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        sent += 1;
        let answer = client.response("GET");
        assert_eq!(answer.status, 200);
        match answer.header("connection").as_deref() {
            None => {}
            Some("close") => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(client.is_closed());
    // Over HTTP/2 it is told to go, and what it has asked for by then is answered.
    let answered = fixture.runtime.block_on(async {
        let client = H2Client::to(fixture.port).await;
        let mut answered = 0;
        let going = async {
            loop {
                let mut sender = match client.0.clone().ready().await {
                    Ok(sender) => sender,
                    Err(error) => return error,
                };
                let Ok((answer, _)) = sender.send_request(get("/"), true) else {
                    continue;
                };
                match answer.await {
                    Ok(answer) => {
                        assert_eq!(answer.status(), 200);
                        answered += 1;
                    }
                    Err(error) => return error,
                }
            }
        };
        let error = tokio::time::timeout(PATIENCE, going).await.expect("it is told to go");
        assert!(
            error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR),
            "{error}"
        );
        answered
    });
    assert!(answered > 0);
    assert_eq!(
        count.load(Ordering::SeqCst),
        sent + answered,
        "no request was lost or sent twice"
    );
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1, "those to backends go on");
}
