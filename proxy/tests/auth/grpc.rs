//! By Envoy's ext_authz v3.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tonic::{Code, Request, Response, Status};
use weft_model::{AuthProtocol, ExternalAuth};
use weft_proxy::Flag;

use self::proto::{
    BoolValue, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
    OkHttpResponse,
    attribute_context::HttpRequest,
    authorization_server::{Authorization, AuthorizationServer},
    check_response::HttpResponse,
    header_value_option::HeaderAppendAction,
};
use crate::{
    common::{Fixture, header},
    scene::{Scene, asking},
};

/// The messages and the server, generated from `proto/`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated"
)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/server/envoy.service.auth.v3.rs"));
}

type Answer = Result<CheckResponse, Status>;
type Log = Arc<Mutex<Vec<CheckRequest>>>;

struct Server<F> {
    answer: F,
    log: Log,
}

#[tonic::async_trait]
impl<F: Fn() -> Answer + Send + Sync + 'static> Authorization for Server<F> {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        self.log
            .lock()
            .expect("no test panics with it")
            .push(request.into_inner());
        (self.answer)().map(Response::new)
    }
}

/// An authorization server, and what it was asked.
fn server(fixture: &Fixture, answer: impl Fn() -> Answer + Send + Sync + 'static) -> (SocketAddr, Log) {
    let log = Log::default();
    let (listener, address) = fixture.listening();
    let service = AuthorizationServer::new(Server {
        answer,
        log: log.clone(),
    });
    fixture.runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await });
        }
    });
    (address, log)
}

fn by_grpc(told: &[&str]) -> ExternalAuth {
    asking(AuthProtocol::Grpc {
        allowed_headers: told.iter().map(|name| (*name).to_owned()).collect(),
    })
}

fn status(code: i32) -> Option<proto::Status> {
    Some(proto::Status {
        code,
        message: String::new(),
    })
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.into(),
            value: value.into(),
            raw_value: Default::default(),
        }),
        append: None,
        append_action: HeaderAppendAction::AppendIfExistsOrAdd.into(),
    }
}

fn allowed(ok: OkHttpResponse) -> CheckResponse {
    CheckResponse {
        status: status(0),
        http_response: Some(HttpResponse::OkResponse(ok)),
    }
}

fn asked(log: &Log) -> HttpRequest {
    let check = log.lock().expect("no test panics with it").pop().expect("it was asked");
    let attributes = check.attributes.expect("it has attributes");
    let source = attributes
        .source
        .and_then(|peer| peer.address?.socket_address)
        .expect("a source");
    assert_eq!(source.address, "127.0.0.1");
    let request = attributes.request.expect("a request");
    assert!(request.time.is_some_and(|time| time.seconds > 1_600_000_000));
    request.http.expect("an HTTP request")
}

#[test]
fn a_request_that_is_allowed_passes_with_what_the_server_says_of_it() {
    let fixture = Fixture::new();
    let (address, log) = server(&fixture, || {
        let mut appended = option("x-list", "more");
        appended.append = Some(BoolValue { value: true });
        let mut absent = option("x-present", "not this");
        absent.append_action = HeaderAppendAction::AddIfAbsent.into();
        let mut present = option("x-absent", "not this");
        present.append_action = HeaderAppendAction::OverwriteIfExists.into();
        Ok(allowed(OkHttpResponse {
            headers: vec![
                option("x-user", "ann"),
                appended,
                absent,
                present,
                option("host", "evil.example"),
            ],
            headers_to_remove: vec!["authorization".into(), "host".into(), ":path".into()],
            response_headers_to_add: vec![option("x-checked", "yes"), option("set-cookie", "a=b")],
        }))
    });
    let mut filter = by_grpc(&[]);
    filter.max_body = 100;
    let scene = Scene::of(fixture, Some(address), filter, |_| {});
    let fields = "Authorization: Bearer t\r\nX-User: forged\r\nX-List: one\r\nX-List: two\r\nX-Present: p\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Length: 4\r\n";
    let response = scene.send("POST", "/items?page=2", fields, b"body");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-checked").as_deref(), Some("yes"));
    assert_eq!(response.header("set-cookie").as_deref(), Some("a=b"));
    let seen = response.text();
    assert_eq!(header(&seen, "x-user").as_deref(), Some("ann"));
    assert_eq!(header(&seen, "x-present").as_deref(), Some("p"));
    assert_eq!(header(&seen, "host").as_deref(), Some("shop.example"));
    let lower = seen.to_lowercase();
    assert!(
        !lower.contains("authorization") && !lower.contains("forged") && !lower.contains("not this"),
        "{seen}"
    );
    for line in ["x-list: one\r\n", "x-list: two\r\n", "x-list: more\r\n"] {
        assert!(lower.contains(line), "{line} in {seen}");
    }
    assert!(seen.ends_with("body"), "{seen}");

    let http = asked(&log);
    let told = (
        http.method.as_str(),
        http.path.as_str(),
        http.host.as_str(),
        http.scheme.as_str(),
    );
    assert_eq!(told, ("POST", "/items?page=2", "shop.example", "http"));
    assert_eq!(
        (http.protocol.as_str(), http.body.as_str(), http.size),
        ("HTTP/1.1", "body", 4)
    );
    assert_eq!(http.headers.get("authorization").map(String::as_str), Some("Bearer t"));
    assert_eq!(http.headers.get("x-list").map(String::as_str), Some("one,two"));
    assert_eq!(http.headers.get("x-forwarded-for"), None, "a client is not believed");
}

#[test]
fn the_server_is_told_no_more_than_is_allowed() {
    let fixture = Fixture::new();
    let (address, log) = server(&fixture, || Ok(allowed(OkHttpResponse::default())));
    let scene = Scene::of(fixture, Some(address), by_grpc(&["x-tenant"]), |_| {});
    let fields = "Authorization: Bearer t\r\nX-Tenant: blue\r\nContent-Length: 4\r\n";
    assert!(scene.send("POST", "/", fields, b"body").text().ends_with("body"));
    let http = asked(&log);
    assert_eq!(http.headers, HashMap::from([("x-tenant".into(), "blue".into())]));
    assert_eq!((http.body.as_str(), http.raw_body.len()), ("", 0));
}

#[test]
fn a_body_that_is_no_text_is_told_as_bytes() {
    let fixture = Fixture::new();
    let (address, log) = server(&fixture, || Ok(allowed(OkHttpResponse::default())));
    let mut filter = by_grpc(&[]);
    filter.max_body = 100;
    let scene = Scene::of(fixture, Some(address), filter, |_| {});
    let response = scene.send("POST", "/", "Content-Length: 3\r\n", b"\xff\x00\xfe");
    assert!(response.body.ends_with(b"\xff\x00\xfe"));
    let http = asked(&log);
    assert_eq!((http.body.as_str(), &http.raw_body[..]), ("", &b"\xff\x00\xfe"[..]));
}

#[test]
fn what_the_server_answers_to_a_request_that_may_not_pass_goes_to_the_client() {
    let fixture = Fixture::new();
    let (address, _) = server(&fixture, || {
        Ok(CheckResponse {
            status: status(Code::Unauthenticated.into()),
            http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                status: Some(HttpStatus { code: 401 }),
                headers: vec![option("www-authenticate", "Bearer")],
                body: "who are you?".into(),
            })),
        })
    });
    let scene = Scene::of(fixture, Some(address), by_grpc(&[]), |_| {});
    let denied = scene.get("/", "");
    assert_eq!((denied.status, denied.text().as_str()), (401, "who are you?"));
    assert_eq!(denied.header("www-authenticate").as_deref(), Some("Bearer"));
    assert_eq!((scene.reached(), scene.flagged(Flag::AuthDenied)), (0, 1));
}

#[test]
fn a_server_that_says_no_and_no_more_means_403() {
    let fixture = Fixture::new();
    let (address, _) = server(&fixture, || {
        Ok(CheckResponse {
            // What would make an allowed request different does not make this one allowed.
            status: status(Code::PermissionDenied.into()),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
        })
    });
    let scene = Scene::of(fixture, Some(address), by_grpc(&[]), |_| {});
    assert_eq!(scene.get("/", "").status, 403);
    assert_eq!(scene.reached(), 0);
}

#[test]
fn a_server_that_fails_lets_nothing_pass() {
    let answers: [fn() -> Answer; 2] = [
        || Err(Status::unavailable("its database is away")),
        || {
            Ok(CheckResponse {
                status: None,
                http_response: None,
            })
        },
    ];
    for answer in answers {
        let fixture = Fixture::new();
        let (address, _) = server(&fixture, answer);
        let scene = Scene::of(fixture, Some(address), by_grpc(&[]), |_| {});
        let response = scene.get("/", "");
        assert_eq!((response.status, response.text().as_str()), (503, "auth_failed\n"));
        assert_eq!((scene.reached(), scene.flagged(Flag::AuthFailed)), (0, 1));
    }
    // Nor does one that does not speak gRPC at all.
    let http1 = crate::common::Backend1::echo();
    let scene = Scene::new(Some(http1.address), by_grpc(&[]), |_| {});
    assert_eq!(scene.get("/", "").status, 503);
    assert_eq!(scene.reached(), 0);
}
