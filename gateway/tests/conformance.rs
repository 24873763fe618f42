//! What the conformance suite of Gateway API asks of traffic from v1.7 on, by manifests and real sockets. Each test has the
//! name of the suite's.

mod support;

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use support::{ask, free_port};
use tempfile::TempDir;
use weft_gateway::Standalone;

/// What a backend does with the requests of a path before it answers them.
#[derive(Clone, Copy)]
enum Trouble {
    /// It closes the connection.
    Reset,
    /// It answers with this status.
    Status(u16),
    /// It says nothing, for as long as it is listened to.
    Silence,
}

/// The path of a request says what goes wrong, and how often before it goes well: `/retry/reset/2`.
fn trouble(path: &str) -> Option<(Trouble, usize)> {
    let mut parts = path.rsplit('/');
    let times = parts.next()?.parse().ok()?;
    let trouble = match parts.next()? {
        "reset" => Trouble::Reset,
        "silence" => Trouble::Silence,
        status => Trouble::Status(status.parse().ok()?),
    };
    Some((trouble, times))
}

/// A backend that answers with its name and the path it was asked for.
fn backend(name: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let seen = seen.clone();
            thread::spawn(move || serve(name, BufReader::new(stream), &seen));
        }
    });
    port
}

fn serve(name: &str, mut stream: BufReader<TcpStream>, seen: &Mutex<HashMap<String, usize>>) -> Option<()> {
    loop {
        let mut first = String::new();
        if stream.read_line(&mut first).ok()? == 0 {
            return None;
        }
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 || line == "\r\n" {
                break;
            }
        }
        let path = first.split(' ').nth(1)?.to_owned();
        let before = {
            let mut seen = seen.lock().expect("nobody panics with it");
            let count = seen.entry(path.clone()).or_default();
            *count += 1;
            *count - 1
        };
        let status = match trouble(&path).filter(|(_, times)| before < *times) {
            None => 200,
            Some((Trouble::Status(status), _)) => status,
            Some((Trouble::Reset, _)) => return None,
            Some((Trouble::Silence, _)) => {
                stream.read_line(&mut String::new()).ok()?;
                return None;
            }
        };
        let body = format!("{name} {path}");
        let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all(format!("{head}{body}").as_bytes()).ok()?;
    }
}

struct Scene {
    port: u16,
    standalone: Standalone,
    _folder: TempDir,
}

impl Scene {
    /// The Services `one` and `two` behind a Gateway for `shop.example`, and these routes.
    async fn start(routes: &str) -> Self {
        let port = free_port();
        let gateway = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  gatewayClassName: weft
  listeners: [{{name: http, protocol: HTTP, port: {port}, hostname: shop.example}}]
---
"
        );
        let service = |name| support::service(name, backend(name), "http");
        let text = gateway + &service("one") + &service("two") + routes;
        let (standalone, folder) = support::standalone(&text).await;
        Self {
            port,
            standalone,
            _folder: folder,
        }
    }

    /// The same, where one HTTPRoute has these rules.
    async fn of_rules(rules: &str) -> Self {
        let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{name: edge}]
  rules:
";
        Self::start(&format!("{route}{rules}")).await
    }

    /// The status and the body of an answer.
    async fn get(&self, path: &str) -> (u16, String) {
        let answer = ask(self.port, path).await.expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        (status.expect("a status"), body.expect("a body"))
    }

    async fn end(self) {
        self.standalone.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_rule_order() {
    let scene = Scene::of_rules(
        "    - matches: [{path: {value: /broken}}]
      backendRefs: [{name: missing, port: 80}]
    - matches: [{path: {value: /broken}}, {path: {value: /well}}]
      backendRefs: [{name: one, port: 80}]
    - matches: [{path: {value: /well}}]
      backendRefs: [{name: two, port: 80}]
",
    )
    .await;
    for _ in 0..5 {
        assert_eq!(scene.get("/broken").await.0, 500, "the later rule does not stand in");
        assert_eq!(scene.get("/well").await, (200, "one /well".to_owned()));
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_backend_url_rewrite() {
    let scene = Scene::of_rules(
        "    - matches: [{path: {value: /full}}]
      backendRefs:
        - name: one
          port: 80
          filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /rewritten-full}}}]
    - matches: [{path: {value: /prefix}}]
      backendRefs:
        - name: one
          port: 80
          filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /rewritten-prefix}}}]
",
    )
    .await;
    assert_eq!(
        scene.get("/full/original").await,
        (200, "one /rewritten-full".to_owned())
    );
    let answer = scene.get("/prefix/original").await;
    assert_eq!(answer, (200, "one /rewritten-prefix/original".to_owned()));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_multiple_routes_attachment_same_hostname_intersection() {
    // What both are for at the listener is the same host, though they name it differently.
    let route = |name: &str, hostname: &str, path: &str, to: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [{hostname:?}]
  rules:
    - matches: [{{path: {{value: {path}}}}}]
      backendRefs: [{{name: {to}, port: 80}}]
---
"
        )
    };
    let routes = [
        route("a", "shop.example", "/a", "one"),
        route("b", "*.example", "/b", "two"),
        route("c", "shop.example", "/a/deeper", "two"),
    ];
    let scene = Scene::start(&routes.concat()).await;
    assert_eq!(scene.get("/a").await, (200, "one /a".to_owned()));
    assert_eq!(scene.get("/b").await, (200, "two /b".to_owned()));
    assert_eq!(scene.get("/a/deeper").await, (200, "two /a/deeper".to_owned()));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_retry_connection_error() {
    let scene = Scene::of_rules(
        "    - matches: [{path: {value: /retry}}]
      retry: {attempts: 3}
      backendRefs: [{name: one, port: 80}]
",
    )
    .await;
    // A connection that was open before tells nothing of the backend, so none may be.
    assert_eq!(scene.get("/retry/reset/2").await.0, 200);
    assert_eq!(scene.get("/retry/more/reset/5").await.0, 503);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_retry_with_backend_and_request_timeout() {
    let scene = Scene::of_rules(
        "    - matches: [{path: {value: /backend}}]
      retry: {attempts: 2}
      timeouts: {backendRequest: 200ms}
      backendRefs: [{name: one, port: 80}]
    - matches: [{path: {value: /request}}]
      retry: {codes: [500], attempts: 100}
      timeouts: {backendRequest: 5s, request: 5s}
      backendRefs: [{name: one, port: 80}]
    - matches: [{path: {value: /late}}]
      retry: {codes: [500], attempts: 100}
      timeouts: {backendRequest: 200ms, request: 400ms}
      backendRefs: [{name: one, port: 80}]
",
    )
    .await;
    assert_eq!(
        scene.get("/backend/silence/2").await.0,
        200,
        "tried again after each timeout"
    );
    assert_eq!(scene.get("/backend/more/silence/3").await.0, 504);
    assert_eq!(scene.get("/request/500/1").await.0, 200, "tried again within the whole");
    assert_eq!(
        scene.get("/late/silence/100").await.0,
        504,
        "the whole is over before the tries are"
    );
    scene.end().await;
}
