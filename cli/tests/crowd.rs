//! Edits of each kind while clients ask on and on, each on a connection that it keeps: none of their requests is lost.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use support::{
    Backend,
    client::Http,
    eventually,
    folder::{Folder, certificate, service, slice},
    h2c::H2c,
};

/// Clients of each kind: HTTP/1.1 in clear and over TLS, and HTTP/2.
const EACH: usize = 3;
/// Requests of each client between two edits.
const BETWEEN: usize = 5;

/// Clients that ask for `/crowd` until they are told to stop.
struct Crowd {
    stop: Arc<AtomicBool>,
    clients: Vec<(Arc<AtomicUsize>, JoinHandle<()>)>,
}

impl Crowd {
    fn new(clear: SocketAddr, tls: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..3 * EACH)
            .map(|at| {
                let count = Arc::new(AtomicUsize::new(0));
                let (stop, counted) = (stop.clone(), count.clone());
                let client = thread::spawn(move || match at / EACH {
                    0 => ask_on(&stop, &counted, || Http::connect(clear)),
                    1 => ask_on(&stop, &counted, || Http::secure(tls, "a.example")),
                    _ => {
                        let connection = H2c::connect(clear);
                        while !stop.load(Ordering::SeqCst) {
                            let answer = connection.request("GET", "http://a.example/crowd");
                            assert_eq!(answer.status, 200, "{answer:?}");
                            counted.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
                (count, client)
            })
            .collect();
        Self { stop, clients }
    }

    /// Waits until each client has been answered some more. One that lost a request has ended.
    fn goes_on(&self, edit: &str) {
        let before: Vec<usize> = self.counts();
        eventually(&format!("answers after: {edit}"), || {
            let lost = self.clients.iter().any(|(_, client)| client.is_finished());
            assert!(!lost, "a request was lost with: {edit}");
            let counts = self.counts();
            before.iter().zip(counts).all(|(before, now)| now >= before + BETWEEN)
        });
    }

    fn counts(&self) -> Vec<usize> {
        let counts = self.clients.iter().map(|(count, _)| count.load(Ordering::SeqCst));
        counts.collect()
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for (_, client) in self.clients {
            client.join().expect("no request was lost");
        }
    }
}

/// Asks on one connection for as long as it lasts; the next is made when the last has been ended with an answer.
fn ask_on<S: Read + Write>(stop: &AtomicBool, count: &AtomicUsize, connect: impl Fn() -> Http<S>) {
    while !stop.load(Ordering::SeqCst) {
        let mut connection = connect();
        loop {
            let answer = connection.get("a.example", "/crowd");
            assert_eq!(answer.status, 200, "{answer:?}");
            count.fetch_add(1, Ordering::SeqCst);
            if answer.header("connection").as_deref() == Some("close") || stop.load(Ordering::SeqCst) {
                break;
            }
        }
    }
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weft
  listeners:
  - {name: http, protocol: HTTP, port: 80}
  - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: tls}]}}
";

/// The rule of the crowd: what it has beside its match, and its backends.
fn crowd(more: &str, backends: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: crowd}}
spec:
  parentRefs: [{{name: edge}}]
  rules:
  - matches: [{{path: {{value: /crowd}}}}]
    backendRefs: [{backends}]
{more}"
    )
}

#[test]
fn no_edit_of_any_kind_loses_a_request_of_anybody() {
    let [one, two, three] = ["one", "two", "three"].map(Backend::new);
    let (_, secret) = certificate("a.example");
    let only_a = crowd("", "{name: a, port: 80}");
    let files = [
        ("gateway.yaml", GATEWAY.to_owned()),
        ("services.yaml", service("a") + &service("b")),
        ("slice-a.yaml", slice("a", &one)),
        ("slice-b.yaml", slice("b", &two)),
        ("secret.yaml", secret),
        ("crowd.yaml", only_a.clone()),
    ];
    let folder = Folder::new(&files, &[80, 81, 443]);
    let weft = folder.weft();
    let (clear, tls) = (weft.address(80), weft.address(443));
    let clients = Crowd::new(clear, tls);
    clients.goes_on("nothing");
    let asked = |path: &str| folder.get(path);
    let body = |text: &str| asked("/crowd").text() == text;
    let edit = |what: &str, file: &str, text: &str, took_effect: &dyn Fn() -> bool| {
        folder.write(file, text);
        eventually(what, took_effect);
        clients.goes_on(what);
    };
    let remove = |what: &str, file: &str, took_effect: &dyn Fn() -> bool| {
        fs::remove_file(folder.path(file)).expect("removed");
        eventually(what, took_effect);
        clients.goes_on(what);
    };
    let route = |path: &str, to: &str| support::folder::route("other", path, to);
    for _ in 0..2 {
        edit("a route", "other.yaml", &route("/other", "b"), &|| {
            asked("/other").text() == "two"
        });
        edit("another path of it", "other.yaml", &route("/moved", "b"), &|| {
            asked("/moved").status == 200 && asked("/other").status == 404
        });
        edit("another backend of it", "other.yaml", &route("/moved", "a"), &|| {
            asked("/moved").text() == "one"
        });
        // More specific than the rule of the crowd, and gone again.
        edit(
            "a rule that comes first",
            "other.yaml",
            &route("/crowd/below", "b"),
            &|| asked("/crowd/below").text() == "two",
        );
        remove("the end of a route", "other.yaml", &|| {
            asked("/crowd/below").text() == "one"
        });
        let filters = "    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-edited, value: edited}]}}]\n";
        edit(
            "a filter",
            "crowd.yaml",
            &crowd(filters, "{name: a, port: 80}"),
            &|| asked("/crowd").header("x-edited").is_some(),
        );
        let timeouts = "    timeouts: {request: 60s}\n    retry: {attempts: 1, codes: [503]}\n";
        edit(
            "timeouts and retries",
            "crowd.yaml",
            &crowd(timeouts, "{name: a, port: 80}"),
            &|| asked("/crowd").header("x-edited").is_none(),
        );
        edit(
            "weights",
            "crowd.yaml",
            &crowd("", "{name: a, port: 80, weight: 1}, {name: b, port: 80, weight: 3}"),
            &|| body("two"),
        );
        edit(
            "all weight on one",
            "crowd.yaml",
            &crowd("", "{name: a, port: 80, weight: 0}, {name: b, port: 80}"),
            &|| (0..8).all(|_| body("two")),
        );
        edit("another backend", "crowd.yaml", &only_a, &|| body("one"));
        edit("another endpoint", "slice-a.yaml", &slice("a", &three), &|| {
            body("three")
        });
        let both = slice("a", &three) + &slice("a", &one).replace("metadata: {name: a", "metadata: {name: a-more");
        edit("one endpoint more", "slice-a.yaml", &both, &|| body("one"));
        edit("one endpoint less", "slice-a.yaml", &slice("a", &one), &|| {
            (0..8).all(|_| body("one"))
        });
        let (shown, secret) = certificate("a.example");
        edit("a certificate", "secret.yaml", &secret, &|| {
            Http::secure(tls, "a.example").certificate() == shown
        });
        let more = format!(
            "{GATEWAY}  - {{name: more, protocol: HTTP, port: 81}}\n  - {{name: named, protocol: HTTP, port: 80, hostname: named.example}}\n"
        );
        let named = || weft.get(80, "named.example", "/crowd").status;
        let listens = || std::net::TcpStream::connect(weft.address(81)).is_ok();
        edit("listeners", "gateway.yaml", &more, &listens);
        edit("their end", "gateway.yaml", GATEWAY, &|| !listens() && named() == 200);
        let policy = "apiVersion: weft.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  action: DENY
  rules: [{httpAttributes: {paths: [{value: /denied}]}}]
";
        edit("a policy", "policy.yaml", policy, &|| asked("/denied").status == 403);
        remove("its end", "policy.yaml", &|| asked("/denied").status == 404);
        let said = |what: &str| weft.stderr.text().matches(what).count();
        let (wrong, corrected) = ("error[M0002]", "no longer wrong: error[M0002]");
        let before = (said(wrong), said(corrected));
        let broken = format!("{only_a}    filters: [\n");
        edit("a file that does not parse", "crowd.yaml", &broken, &|| {
            said(wrong) > before.0
        });
        edit("its correction", "crowd.yaml", &only_a, &|| said(corrected) > before.1);
    }
    clients.end();
}
