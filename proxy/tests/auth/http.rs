//! By HTTP.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use weft_model::{AuthProtocol, BackendProtocol, Cors, ExternalAuth, Filter, Redirect, Resource};
use weft_proxy::Flag;

use crate::{
    common::{Fixture, free_port, service},
    scene::{Scene, asking, patient},
};

/// What a server was asked.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// An authorization server that answers as a function says, and what it was asked.
fn server(
    fixture: &Fixture,
    answer: impl Fn(&Asked) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
) -> (SocketAddr, Log) {
    let log = Log::default();
    let (listener, address) = fixture.listening();
    let logged = log.clone();
    fixture.runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, log) = (answer.clone(), logged.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, log) = (answer.clone(), log.clone());
                async move {
                    let (head, body) = request.into_parts();
                    let asked = Asked {
                        method: head.method.to_string(),
                        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                        headers: head.headers,
                        body: body.collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
                    };
                    let answer = answer(&asked);
                    log.lock().expect("no test panics with it").push(asked);
                    Ok::<_, Infallible>(answer)
                }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await });
        }
    });
    (address, log)
}

fn answer(status: u16, headers: &[(&str, &str)], body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .expect("a response")
}

fn by_http(told: &[&str], heard: &[&str]) -> ExternalAuth {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    asking(AuthProtocol::Http {
        path_prefix: "/check".into(),
        allowed_headers: names(told),
        allowed_response_headers: names(heard),
    })
}

fn asked(log: &Log) -> Vec<Asked> {
    log.lock().expect("no test panics with it").clone()
}

#[test]
fn a_request_that_is_allowed_passes_with_what_the_server_says_of_it() {
    let fixture = Fixture::new();
    let (address, log) = server(&fixture, |_| {
        answer(
            200,
            &[
                ("x-user", "ann"),
                ("x-secret", "kept"),
                ("x-groups", "a"),
                ("x-groups", "b"),
            ],
            "ignored",
        )
    });
    let filter = by_http(&["x-tenant"], &["x-user", "x-groups", "x-role"]);
    let scene = Scene::of(fixture, Some(address), filter, |_| {});
    let response = scene.get(
        "/items?page=2",
        "Authorization: Bearer t\r\nX-Tenant: blue\r\nX-User: forged\r\nX-Role: forged\r\nCookie: a=b\r\n",
    );
    assert_eq!(response.status, 200);
    let seen = response.text();
    assert!(seen.starts_with("GET /items?page=2 HTTP/1.1\r\n"), "{seen}");
    let lower = seen.to_lowercase();
    for line in [
        "x-user: ann\r\n",
        "x-groups: a\r\n",
        "x-groups: b\r\n",
        "authorization: bearer t\r\n",
        "cookie: a=b\r\n",
    ] {
        assert!(lower.contains(line), "{line} in {lower}");
    }
    assert!(!lower.contains("forged") && !lower.contains("x-secret"), "{lower}");

    let [asked] = asked(&log).try_into().expect("it was asked once");
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("GET", "/check/items?page=2")
    );
    let header = |name: &str| {
        asked
            .headers
            .get(name)
            .map(|value| value.to_str().expect("text").to_owned())
    };
    assert_eq!(header("host").as_deref(), Some("shop.example"));
    assert_eq!(header("authorization").as_deref(), Some("Bearer t"));
    assert_eq!(header("x-tenant").as_deref(), Some("blue"));
    assert_eq!(header("content-length").as_deref(), Some("0"));
    assert_eq!(asked.headers.len(), 4, "{:?}", asked.headers);
}

#[test]
fn without_a_list_the_backend_is_told_all_that_is_not_about_the_answer() {
    let fixture = Fixture::new();
    let (address, _) = server(&fixture, |_| {
        answer(
            200,
            &[
                ("x-any", "thing"),
                ("content-type", "text/html"),
                ("host", "evil.example"),
            ],
            "",
        )
    });
    let scene = Scene::of(fixture, Some(address), by_http(&[], &[]), |_| {});
    let seen = scene
        .send("POST", "/", "Content-Type: text/plain\r\nContent-Length: 2\r\n", b"hi")
        .text()
        .to_lowercase();
    assert!(
        seen.contains("x-any: thing\r\n") && seen.contains("content-type: text/plain\r\n"),
        "{seen}"
    );
    assert!(
        !seen.contains("text/html") && !seen.contains("evil.example") && seen.ends_with("hi"),
        "{seen}"
    );
}

#[test]
fn what_the_server_answers_to_a_request_that_may_not_pass_goes_to_the_client() {
    let fixture = Fixture::new();
    let (address, _) = server(&fixture, |asked| match asked.target.as_str() {
        "/check/login" => answer(302, &[("location", "https://id.example/")], ""),
        "/check/nothing" => answer(204, &[], ""),
        _ => answer(
            401,
            &[("www-authenticate", "Bearer"), ("set-cookie", "a=b")],
            "who are you?",
        ),
    });
    let scene = Scene::of(fixture, Some(address), by_http(&[], &[]), |_| {});
    let mut client = scene.fixture.connect();
    for _ in 0..2 {
        // The connection stays open.
        client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        let denied = client.response("GET");
        assert_eq!((denied.status, denied.text().as_str()), (401, "who are you?"));
        assert_eq!(denied.header("www-authenticate").as_deref(), Some("Bearer"));
        assert_eq!(denied.header("set-cookie").as_deref(), Some("a=b"));
    }
    client.send("HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response("HEAD").status, 401);
    let redirected = scene.get("/login", "");
    assert_eq!(redirected.status, 302);
    assert_eq!(redirected.header("location").as_deref(), Some("https://id.example/"));
    assert_eq!(
        scene.get("/nothing", "").status,
        403,
        "only 200 allows, and no denial may look like success"
    );
    assert_eq!((scene.reached(), scene.flagged(Flag::AuthDenied)), (0, 5));
}

#[test]
fn whatever_keeps_the_server_from_answering_keeps_requests_from_passing() {
    let refused = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let closing = crate::common::Backend1::new(|_, _| None);
    let nonsense = crate::common::Backend1::new(|_, _| Some(b"nonsense\r\n\r\n".to_vec()));
    let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let silent = (silent.local_addr().expect("it is bound"), silent);
    for (what, address) in [
        ("no endpoint", None),
        ("nobody listens", Some(refused)),
        ("it closes", Some(closing.address)),
        ("it talks nonsense", Some(nonsense.address)),
        ("it is silent", Some(silent.0)),
    ] {
        let scene = Scene::new(address, by_http(&[], &[]), |route| {
            patient(route, Duration::from_millis(300))
        });
        let response = scene.get("/", "");
        assert_eq!(
            (response.status, response.text().as_str()),
            (503, "auth_failed\n"),
            "{what}"
        );
        assert_eq!((scene.reached(), scene.flagged(Flag::AuthFailed)), (0, 1), "{what}");
    }
    // The time that the request may take as a whole is the client's to lose.
    let scene = Scene::new(Some(silent.0), by_http(&[], &[]), |route| {
        route.timeouts.request = Some(Duration::from_millis(300));
    });
    assert_eq!(scene.get("/", "").status, 504);
    assert_eq!((scene.reached(), scene.flagged(Flag::RequestTimeout)), (0, 1));
}

#[test]
fn a_server_that_is_back_is_asked_again() {
    let fixture = Fixture::new();
    let (address, log) = server(&fixture, |_| answer(200, &[], ""));
    let scene = Scene::of(fixture, None, by_http(&[], &[]), |_| {});
    assert_eq!(scene.get("/", "").status, 503);
    scene
        .fixture
        .apply(service("authz", BackendProtocol::Undeclared, &[address]));
    for _ in 0..3 {
        assert_eq!(scene.get("/", "").status, 200);
    }
    assert_eq!(asked(&log).len(), 3);
}

#[test]
fn a_body_is_told_only_if_that_is_asked_for_and_reaches_the_backend_in_any_case() {
    let long = vec![b'x'; 100_000];
    for most in [0_u32, 200_000] {
        let fixture = Fixture::new();
        let (address, log) = server(&fixture, |_| answer(200, &[], ""));
        let mut filter = by_http(&[], &[]);
        filter.max_body = most;
        let scene = Scene::of(fixture, Some(address), filter, |_| {});
        let length = format!("Content-Length: {}\r\n", long.len());
        let mut chunked = Vec::new();
        for chunk in long.chunks(30_000) {
            chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunked.extend_from_slice(chunk);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        for (fields, sent, wanted) in [
            ("Content-Length: 5\r\n", &b"short"[..], &b"short"[..]),
            (&length, &long, &long),
            ("Transfer-Encoding: chunked\r\n", &chunked, &long),
            ("", b"", b""),
        ] {
            let response = scene.send("POST", "/", fields, sent);
            assert_eq!(response.status, 200, "{fields}");
            assert!(
                response.body.ends_with(wanted),
                "{fields}: {} bytes",
                response.body.len()
            );
            let last = asked(&log).pop().expect("it was asked");
            let told = if most == 0 { &b""[..] } else { wanted };
            assert!(last.body == told, "{fields}: {} bytes were told", last.body.len());
        }
        // A client that waits to be asked for its body is asked.
        let mut client = scene.fixture.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        assert_eq!(client.response("POST").status, 100);
        client.send("body");
        assert!(client.response("POST").text().ends_with("body"));
    }
}

#[test]
fn a_body_that_is_too_large_to_be_told_is_refused() {
    let fixture = Fixture::new();
    let (address, log) = server(&fixture, |_| answer(200, &[], ""));
    let mut filter = by_http(&[], &[]);
    filter.max_body = 4;
    let scene = Scene::of(fixture, Some(address), filter, |_| {});
    assert_eq!(scene.send("POST", "/", "Content-Length: 4\r\n", b"fits").status, 200);
    for (fields, body) in [
        ("Content-Length: 5\r\n", "large"),
        ("Content-Length: 1000000\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "5\r\nlarge\r\n0\r\n\r\n"),
    ] {
        assert_eq!(scene.send("POST", "/", fields, body.as_bytes()).status, 413, "{fields}");
    }
    assert_eq!((asked(&log).len(), scene.reached()), (1, 1));
}

#[test]
fn requests_by_http2_are_asked_about_too_and_so_may_the_server_be() {
    let fixture = Fixture::new();
    let (address, log) = server(&fixture, |_| answer(200, &[("x-user", "ann")], ""));
    let mut filter = by_http(&[], &["x-user"]);
    filter.max_body = 1000;
    let scene = Scene::of(fixture, None, filter, |_| {});
    scene.fixture.apply(service("authz", BackendProtocol::H2c, &[address]));
    let port = scene.fixture.port;
    let text = scene.fixture.runtime.block_on(async move {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .expect("the proxy listens");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        let request =
            Request::post(format!("http://shop.example:{port}/a")).body(Full::new(Bytes::from_static(b"told")));
        let response = sender
            .send_request(request.expect("a request"))
            .await
            .expect("an answer");
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    });
    assert!(
        text.to_lowercase().contains("x-user: ann\r\n") && text.ends_with("told"),
        "{text}"
    );
    let last = asked(&log).pop().expect("it was asked");
    assert_eq!((last.target.as_str(), &last.body[..]), ("/check/a", &b"told"[..]));
}

#[test]
fn preflights_are_not_asked_about_and_redirects_are() {
    let fixture = Fixture::new();
    let (address, log) = server(&fixture, |_| answer(403, &[], ""));
    let scene = Scene::of(fixture, Some(address), by_http(&[], &[]), |route| {
        route.filters.push(Filter::Cors(Cors {
            allow_origins: vec!["*".into()],
            allow_methods: vec!["PUT".into()],
            max_age: 5,
            ..Cors::default()
        }));
        route.filters.push(Filter::Redirect(Redirect {
            scheme: None,
            hostname: Some("other.example".into()),
            path: None,
            port: None,
            status: 302,
        }));
    });
    let preflight = scene.send(
        "OPTIONS",
        "/",
        "Origin: https://a.example\r\nAccess-Control-Request-Method: PUT\r\n",
        b"",
    );
    assert!((200..300).contains(&preflight.status), "{}", preflight.head);
    assert_eq!(asked(&log).len(), 0);
    assert_eq!(scene.get("/", "").status, 403);
    assert_eq!(asked(&log).len(), 1);
}

#[test]
fn of_a_backend_only_its_own_requests_are_asked_about() {
    let fixture = Fixture::new();
    let (address, log) = server(&fixture, |_| answer(403, &[], ""));
    let scene = Scene::of(fixture, Some(address), by_http(&[], &[]), |route| {
        let mut open = route.backends[0].clone();
        std::mem::swap(&mut route.filters, &mut route.backends[0].filters);
        open.weight = 1;
        route.backends.push(open);
    });
    let mut statuses: Vec<u16> = (0..4).map(|_| scene.get("/", "").status).collect();
    statuses.sort_unstable();
    assert_eq!((statuses, asked(&log).len()), (vec![200, 200, 403, 403], 2));
}

#[test]
fn a_rule_whose_server_does_not_exist_answers_nothing_but_500() {
    let scene = Scene::new(None, by_http(&[], &[]), |route| {
        route.filters = vec![Filter::Redirect(Redirect {
            scheme: None,
            hostname: Some("other.example".into()),
            path: None,
            port: None,
            status: 302,
        })];
        route.broken = Some("there is no Service default/authz".into());
    });
    assert_eq!(scene.get("/", "").status, 500);
    // Nor does one whose Service the data plane has never heard of.
    let mut filter = by_http(&[], &[]);
    filter.service = weft_model::ServiceKey::new("default", "unheard", 80);
    let mut guarded = crate::common::route("web", "/", "web");
    guarded.filters = vec![Filter::ExternalAuth(filter)];
    scene.fixture.apply(vec![Resource::Route(Arc::new(guarded))]);
    assert_eq!(scene.get("/", "").status, 503);
    assert_eq!(scene.reached(), 0);
}
