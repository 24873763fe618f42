//! Who may come, by what clients have shown, where they come from and what they ask.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use weft_model::{
    BackendProtocol, Change, ClientValidationMode, Key, Listener, ListenerProtocol, MeshTrust, Resource, Route,
    TrustDomain,
};
use weft_proxy::{Flag, LogFormat, LogOutput};

use crate::{
    common::{Backend1, Fixture, PATIENCE, eventually, free_port, route, service},
    scene::{Authority, Client, bundle, client_config, get, listener, validation},
};

const STRICT: ClientValidationMode = ClientValidationMode::AllowValidOnly;
const FALLBACK: ClientValidationMode = ClientValidationMode::AllowInsecureFallback;
const ROOTS: &str = "ConfigMap/default/clients";
const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/front";

fn policy(name: &str, target: &Value, action: &str, rules: &Value) -> Resource {
    let policy = json!({"kind": "authorization", "key": format!("AuthorizationPolicy/default/{name}"),
        "targets": [target], "action": action, "rules": rules});
    serde_json::from_value(policy).expect("a policy")
}

fn gateway() -> Value {
    json!({"gateway": "default/gateway"})
}

fn of_route(name: &str, rule: Option<&str>) -> Value {
    json!({"route": {"kind": "HTTPRoute", "namespace": "default", "name": name, "rule": rule}})
}

fn to_paths(prefix: &str) -> Value {
    json!([{"to": [{"traffic": {"http": {"paths": [{"prefix": prefix}]}}}]}])
}

/// A proxy with the routes `web` (`/`, in clear and on `https`) and `admin` (`/admin`), and its access log.
struct Scene {
    fixture: Fixture,
    https: u16,
    edge: Authority,
    log: mpsc::Receiver<String>,
    _backend: Backend1,
}

impl Scene {
    fn new(clients: Vec<Resource>, mode: Option<ClientValidationMode>) -> Self {
        let (lines, log) = mpsc::channel();
        let fixture = Fixture::with(|options| {
            options.access_log.format = Some(LogFormat::Json);
            options.access_log.sample = 1.0;
            options.access_log.output = LogOutput::Channel(lines);
            options.limits.denied_grace = Duration::ZERO;
        });
        let (backend, edge, https) = (Backend1::echo(), Authority::new(), free_port());
        let mut resources = vec![edge.server(&["a.example"]).resource("default/edge")];
        resources.extend(clients);
        resources.extend(service("web", BackendProtocol::Undeclared, &[backend.address]));
        resources.push(listener(
            "https",
            https,
            None,
            mode.and_then(|mode| validation(ROOTS, mode)),
        ));
        for (name, path) in [("web", "/"), ("admin", "/admin")] {
            let mut rule = Route {
                listeners: vec!["default/gateway/http".into(), "default/gateway/https".into()],
                ..route(name, path, "web")
            };
            rule.owner.rule_name = Some("main".to_owned());
            resources.push(Resource::Route(Arc::new(rule)));
        }
        let scene = Self {
            fixture,
            https,
            edge,
            log,
            _backend: backend,
        };
        scene.put(resources);
        scene
    }

    fn put(&self, resources: Vec<Resource>) {
        let rejected = self.fixture.apply(resources);
        assert!(rejected.is_empty(), "{rejected:?}");
    }

    fn status(&self, path: &str) -> u16 {
        self.fixture.get(path).status
    }

    /// The status for a client that shows this.
    fn shown(&self, authority: &Authority, names: &[&str]) -> Option<u16> {
        let issued = authority.client_of(names);
        get(
            self.https,
            "a.example",
            "a.example",
            &client_config(&self.edge, Some(&issued)),
        )
        .ok()
    }

    fn metrics(&self) -> String {
        let proxy = self.fixture.proxy.as_ref().expect("it runs");
        self.fixture.runtime.block_on(proxy.metrics())
    }

    /// The next line of the log.
    fn logged(&self) -> Value {
        let line = self.log.recv_timeout(PATIENCE).expect("a line is written");
        serde_json::from_str(&line).expect("one line at a time")
    }
}

/// Asks from an address of this machine.
fn get_from(address: Ipv4Addr, port: u16) -> u16 {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::from((address, 0)).into())
        .expect("loopback is all of 127.0.0.0/8");
    socket
        .connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
        .expect("the proxy listens");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    // What it says of itself is not believed.
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 127.0.0.7\r\nForwarded: for=127.0.0.7\r\nConnection: close\r\n\r\n")
        .expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is answered");
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status")
}

#[test]
fn what_is_denied_gets_403_and_the_connection_goes_on() {
    let scene = Scene::new(Vec::new(), None);
    scene.put(vec![policy("p", &gateway(), "deny", &to_paths("/secret"))]);
    let mut client = scene.fixture.connect();
    for (path, status) in [("/", 200), ("/secret", 403), ("/%73ecret/x", 403), ("/", 200)] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        let response = client.response("GET");
        assert_eq!(response.status, status, "{path}");
        let line = scene.logged();
        if status == 403 {
            assert_eq!(response.text(), "policy_denied\n");
            assert_eq!(
                (line["flag"].as_str(), line["reason"].as_str(), line["route"].as_str()),
                (
                    Some("policy_denied"),
                    Some("AuthorizationPolicy/default/p denies it"),
                    Some("HTTPRoute/default/web/0")
                )
            );
        }
    }
    assert_eq!(scene.fixture.stats().flags, [(Flag::PolicyDenied, 2)]);
    let metrics = scene.metrics();
    let line = "weft_policy_verdicts_total{policy=\"AuthorizationPolicy/default/p\",verdict=\"denied\"} 2\n";
    assert!(metrics.contains(line), "{metrics}");
    // What was counted outlives an edit, and all of it ends with the policy.
    scene.put(vec![policy("p", &gateway(), "deny", &to_paths("/other"))]);
    assert_eq!((scene.status("/secret"), scene.status("/other")), (200, 403));
    assert!(scene.metrics().contains(&line.replace("} 2", "} 3")));
    scene.fixture.change(vec![Change::Remove(Key::Authorization(
        "AuthorizationPolicy/default/p".into(),
    ))]);
    assert_eq!(scene.status("/other"), 200);
    assert!(!scene.metrics().contains("weft_policy_verdicts"));
}

#[test]
fn what_comes_must_be_allowed_for_the_gateway_and_for_the_route() {
    let scene = Scene::new(Vec::new(), None);
    let method = |method: &str| json!([{"to": [{"traffic": {"http": {"methods": [method]}}}]}]);
    let ask = |method: &str, path: &str| {
        let mut client = scene.fixture.connect();
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n"
        ));
        client.response(method).status
    };
    scene.put(vec![
        policy("all", &gateway(), "allow", &method("GET")),
        policy(
            "more",
            &json!({"listener": {"gateway": "default/gateway", "listener": "default/gateway/http"}}),
            "allow",
            &method("POST"),
        ),
        policy("admin", &of_route("admin", None), "allow", &method("GET")),
    ]);
    // Those of one level add up; those of two must agree.
    for (method, path, status) in [
        ("GET", "/", 200),
        ("POST", "/", 200),
        ("PUT", "/", 403),
        ("GET", "/admin", 200),
        ("POST", "/admin", 403),
        ("PUT", "/admin", 403),
    ] {
        assert_eq!(ask(method, path), status, "{method} {path}");
    }
    // The other listener has the Gateway's alone.
    let config = client_config(&scene.edge, None);
    assert_eq!(get(scene.https, "a.example", "a.example", &config).ok(), Some(200));
    // A rule by its name.
    scene.put(vec![
        policy("admin", &of_route("admin", Some("other")), "allow", &json!([])),
        policy("rule", &of_route("admin", Some("main")), "deny", &method("GET")),
    ]);
    assert_eq!(
        (ask("GET", "/admin"), ask("POST", "/admin"), ask("GET", "/")),
        (403, 200, 200)
    );
    // A route that is attached later has what there is for it.
    scene.put(vec![policy("late", &of_route("late", None), "allow", &json!([]))]);
    assert_eq!(ask("GET", "/late"), 200);
    scene.put(vec![Resource::Route(Arc::new(route("late", "/late", "web")))]);
    assert_eq!(ask("GET", "/late"), 403);
    // What no route takes is no less the Gateway's to decide.
    scene
        .fixture
        .change(vec![Change::Remove(Key::Route("HTTPRoute/default/web/0".into()))]);
    assert_eq!((ask("GET", "/none"), ask("PUT", "/none")), (404, 403));
}

#[test]
fn what_cannot_be_compiled_is_on_the_safe_side() {
    let scene = Scene::new(Vec::new(), None);
    let bad = json!([{"to": [{"traffic": {"http": {"paths": [{"regex": "("}]}}}]}]);
    for action in ["allow", "deny"] {
        let rejected = scene
            .fixture
            .apply(vec![policy("p", &of_route("admin", None), action, &bad)]);
        assert_eq!(rejected.len(), 1, "it is told of");
        assert_eq!((scene.status("/admin"), scene.status("/")), (403, 200), "{action}");
    }
}

#[test]
fn clients_are_told_apart_by_their_addresses() {
    let scene = Scene::new(Vec::new(), None);
    let from = json!([{"from": [{"address": {"ranges": ["127.0.0.4/30", "::1/128"]}}]}]);
    scene.put(vec![policy("p", &gateway(), "allow", &from)]);
    let ask = |last| get_from(Ipv4Addr::new(127, 0, 0, last), scene.fixture.port);
    assert_eq!((ask(3), ask(4), ask(7), ask(8)), (403, 200, 200, 403));
    let both = json!([{"from": [{"address": {"ranges": ["127.0.0.4/30"], "who": ["authenticated"]}}]}]);
    scene.put(vec![policy("p", &gateway(), "allow", &both)]);
    assert_eq!(ask(4), 403, "it has shown no certificate");
    scene.put(vec![policy("p", &gateway(), "deny", &from)]);
    assert_eq!((ask(3), ask(4)), (200, 403));
}

#[test]
fn clients_are_told_apart_by_their_certificates() {
    let ours = Authority::new();
    let scene = Scene::new(vec![bundle(ROOTS, &[&ours])], Some(STRICT));
    for (source, front, partner) in [
        (json!("authenticated"), Some(200), Some(200)),
        (json!("unauthenticated"), Some(403), Some(403)),
        (json!({"identity": FRONT}), Some(200), Some(403)),
        (
            json!({"identityPrefix": "spiffe://cluster.local/ns/shop/"}),
            Some(200),
            Some(403),
        ),
        (
            json!({"certificate": {"dns": "*.partner.example"}}),
            Some(403),
            Some(200),
        ),
        (json!({"certificate": {"uri": FRONT}}), Some(200), Some(403)),
        // The mesh's roots have not said that it is one of its workloads.
        (json!({"namespace": "shop"}), Some(403), Some(403)),
        (
            json!({"serviceAccount": {"namespace": "shop", "name": "front"}}),
            Some(403),
            Some(403),
        ),
    ] {
        scene.put(vec![policy(
            "p",
            &gateway(),
            "allow",
            &json!([{"from": [source.clone()]}]),
        )]);
        assert_eq!(scene.shown(&ours, &[FRONT]), front, "{source}");
        assert_eq!(scene.shown(&ours, &["billing.partner.example"]), partner, "{source}");
    }
    let lines: Vec<Value> = scene
        .log
        .try_iter()
        .map(|line| serde_json::from_str(&line).expect("JSON"))
        .collect();
    assert!(lines.iter().any(|line| line["peer"] == FRONT));
    assert!(lines.iter().any(|line| line["peer"] == "billing.partner.example"));
    // Who comes by the other listener has nothing to show.
    scene.put(vec![policy(
        "p",
        &gateway(),
        "allow",
        &json!([{"from": ["authenticated"]}]),
    )]);
    assert_eq!(scene.status("/"), 403);
}

#[test]
fn a_certificate_counts_only_while_it_is_trusted() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let scene = Scene::new(vec![bundle(ROOTS, &[&ours])], Some(FALLBACK));
    scene.put(vec![policy(
        "p",
        &gateway(),
        "allow",
        &json!([{"from": ["authenticated"]}]),
    )]);
    // All are let in, and those who are not trusted have proven nothing.
    assert_eq!(scene.shown(&ours, &[FRONT]), Some(200));
    assert_eq!(scene.shown(&theirs, &[FRONT]), Some(403));
    let config = client_config(&scene.edge, Some(&ours.client(FRONT)));
    let mut open = Client::connect(scene.https, "a.example", &config).expect("it is let in");
    assert_eq!(open.get("a.example").ok(), Some(200));
    scene.put(vec![bundle(ROOTS, &[&theirs])]);
    assert_eq!(open.get("a.example").ok(), Some(403));
    scene.put(vec![bundle(ROOTS, &[&ours, &theirs])]);
    assert_eq!(open.get("a.example").ok(), Some(200));
}

#[test]
fn a_workload_of_the_mesh_is_one_by_the_word_of_its_roots() {
    let (mesh, partner) = (Authority::new(), Authority::new());
    let scene = Scene::new(vec![bundle(ROOTS, &[&mesh, &partner])], Some(STRICT));
    let proxy = scene.fixture.proxy.as_ref().expect("it runs");
    let trust = MeshTrust {
        trust_domain: TrustDomain::parse("cluster.local").expect("a trust domain"),
        roots_pem: mesh.pem.clone(),
        revoked: weft_model::Revocations::default(),
    };
    proxy.mesh().set_trust(trust.clone()).expect("roots");
    let from = json!([{"from": [{"namespace": "shop"}]}]);
    scene.put(vec![policy("p", &gateway(), "allow", &from)]);
    assert_eq!(scene.shown(&mesh, &[FRONT]), Some(200));
    assert_eq!(
        scene.shown(&partner, &[FRONT]),
        Some(403),
        "anybody may write this into a certificate"
    );
    assert_eq!(
        scene.shown(&mesh, &["spiffe://other.local/ns/shop/sa/front"]),
        Some(403)
    );
    scene.put(vec![policy("p", &gateway(), "deny", &from)]);
    assert_eq!(
        scene.shown(&partner, &[FRONT]),
        Some(403),
        "what denies is not passed by"
    );
    scene.put(vec![policy("p", &gateway(), "allow", &from)]);
    let revoked = [FRONT.to_owned().try_into().expect("an identity")].into();
    let trust = MeshTrust {
        revoked: weft_model::Revocations {
            identities: revoked,
            ..Default::default()
        },
        ..trust
    };
    proxy.mesh().set_trust(trust).expect("roots");
    assert_eq!(scene.shown(&mesh, &[FRONT]), Some(403), "it is believed no longer");
}

#[test]
fn preflights_that_the_gateway_answers_are_no_requests_to_the_route() {
    let scene = Scene::new(Vec::new(), None);
    let cors = json!({"type": "cors", "allowOrigins": ["https://a.example"], "allowMethods": ["GET"], "maxAge": 5});
    let mut guarded = route("web", "/", "web");
    guarded.filters = vec![serde_json::from_value(cors).expect("a filter")];
    let get_only = json!([{"to": [{"traffic": {"http": {"methods": ["GET"]}}}]}]);
    scene.put(vec![
        Resource::Route(Arc::new(guarded)),
        policy("p", &of_route("web", None), "allow", &get_only),
    ]);
    let preflight = "Origin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n";
    let ask = |fields: &str| {
        let mut client = scene.fixture.connect();
        client.send(format!("OPTIONS / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"));
        client.response("OPTIONS").status
    };
    assert_ne!(ask(preflight), 403);
    assert_eq!(ask(""), 403);
    scene.put(vec![policy("g", &gateway(), "allow", &get_only)]);
    assert_eq!(ask(preflight), 403, "they are requests to the Gateway");
}

#[test]
fn whoever_is_open_on_a_connection_that_is_carried_is_asked_again() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let scene = Scene::new(vec![bundle(ROOTS, &[&ours])], None);
    let tls = free_port();
    let Resource::Listener(https) = listener("tls", tls, Some("a.example"), validation(ROOTS, STRICT)) else {
        panic!("it is a listener");
    };
    let route = json!({"kind": "l4Route", "key": "TLSRoute/default/t/0", "listeners": ["default/gateway/tls"],
        "owner": {"kind": "TLSRoute", "namespace": "default", "name": "t", "rule": 0, "created": 0},
        "backends": [{"weight": 1, "target": {"service": "default/web:80"}}]});
    scene.put(vec![
        Resource::Listener(Arc::new(Listener {
            protocol: ListenerProtocol::Tls,
            ..(*https).clone()
        })),
        serde_json::from_value(route).expect("a route"),
    ]);
    let of_route = json!({"route": {"kind": "TLSRoute", "namespace": "default", "name": "t"}});
    let from = |name: &str| json!([{"from": [{"certificate": {"dns": name}}]}]);
    let connect = |name: &str| {
        let config = client_config(&scene.edge, Some(&ours.client(name)));
        let mut client = Client::connect(tls, "a.example", &config).ok()?;
        (client.get("a.example").ok() == Some(200)).then_some(client)
    };
    let (mut front, mut back) = (
        connect("front").expect("it is let in"),
        connect("back").expect("it is let in"),
    );
    scene.put(vec![policy("p", &of_route, "allow", &from("front"))]);
    assert!(connect("back").is_none() && connect("front").is_some());
    eventually("the end", || back.get("a.example").is_err());
    assert_eq!(front.get("a.example").ok(), Some(200), "it may stay");
    // Nobody stays whose certificate is not believed any more.
    scene.fixture.change(vec![Change::Remove(Key::Authorization(
        "AuthorizationPolicy/default/p".into(),
    ))]);
    scene.put(vec![bundle(ROOTS, &[&theirs])]);
    eventually("the end", || front.get("a.example").is_err());
}

/// Asks for another protocol.
fn upgrade(path: &str, kind: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\nX-Kind: {kind}\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
}

/// What is said in it: that ends as a head does, since the backend takes it for one.
const WORDS: &str = "hi\r\n\r\n";

/// Serves `/chat`: a backend that goes over to another protocol, in which it answers whatever is said, and a rule that tells it
/// something else than policies are told. What is asked of `/chat/late` waits for a word.
fn chat(scene: &Scene) -> (Backend1, mpsc::Sender<()>) {
    let (go_on, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let backend = Backend1::new(move |seen, _| {
        if seen.head.starts_with("GET /chat/late ") {
            let wait = wait.lock().expect("nobody panics with it");
            wait.recv_timeout(PATIENCE).expect("the word comes");
        }
        Some(match seen.header("upgrade") {
            Some(_) => b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n".to_vec(),
            None => b"here".to_vec(),
        })
    });
    let edit = json!({"type": "requestHeaders", "set": [{"name": "x-kind", "value": "none"}]});
    let mut rule = Route {
        listeners: vec!["default/gateway/http".into(), "default/gateway/https".into()],
        filters: vec![serde_json::from_value(edit).expect("a filter")],
        ..route("chat", "/chat", "chat")
    };
    rule.owner.rule_name = Some("main".to_owned());
    let mut resources = service("chat", BackendProtocol::Undeclared, &[backend.address]);
    resources.push(Resource::Route(Arc::new(rule)));
    scene.put(resources);
    (backend, go_on)
}

#[test]
fn what_a_request_has_become_ends_once_the_request_would_be_denied() {
    let scene = Scene::new(Vec::new(), None);
    let (_backend, go_on) = chat(&scene);
    let send = |path: &str, kind: &str| {
        let mut client = scene.fixture.connect();
        client.send(upgrade(path, kind));
        client
    };
    let open = |kind: &str| {
        let mut client = send("/chat", kind);
        assert_eq!(client.response("GET").status, 101);
        client
    };
    let denied = || {
        let line = std::iter::repeat_with(|| scene.logged()).find(|line| line["flag"] == "policy_denied");
        line.expect("it is written down")
    };
    let of_kind = |kind: &str| {
        let header = json!({"name": "x-kind", "value": {"exact": kind}});
        json!([{"to": [{"traffic": {"http": {"headers": [header]}}}]}])
    };
    for (target, action, rules, reason) in [
        (
            gateway(),
            "deny",
            of_kind("bad"),
            "AuthorizationPolicy/default/p denies it",
        ),
        (
            of_route("chat", Some("main")),
            "allow",
            of_kind("good"),
            "no rule allows it of AuthorizationPolicy/default/p",
        ),
    ] {
        let asked = || {
            let connections = scene.fixture.stats().connections;
            connections.upstream_opened + connections.upstream_reused
        };
        let before = asked();
        let (mut good, mut bad) = (open("good"), open("bad"));
        // This one was let in, and is answered only when it would not be any more.
        let mut late = send("/chat/late", "bad");
        eventually("the request is under way", || asked() >= before + 3);
        scene.put(vec![policy("p", &target, action, &rules)]);
        assert!(bad.is_closed(), "{target}");
        let line = denied();
        assert_eq!(
            (&line["status"], &line["reason"], &line["route"]),
            (&json!(101), &json!(reason), &json!("HTTPRoute/default/chat/0"))
        );
        go_on.send(()).expect("it is waited for");
        assert_eq!(late.response("GET").status, 101);
        assert!(late.is_closed(), "{target}");
        assert_eq!(denied()["reason"], reason);
        good.send(WORDS);
        assert_eq!(good.read_exact(4), b"here", "it may stay");
        let metrics = scene.metrics();
        let line = "weft_policy_verdicts_total{policy=\"AuthorizationPolicy/default/p\",verdict=\"denied\"} 2\n";
        assert!(metrics.contains(line), "{metrics}");
        scene.fixture.change(vec![Change::Remove(Key::Authorization(
            "AuthorizationPolicy/default/p".into(),
        ))]);
    }
    let stats = scene.fixture.stats();
    let chat = stats
        .services
        .iter()
        .find(|service| service.key.as_str() == "default/chat:80");
    assert_eq!(
        chat.expect("it was asked").traffic.failures,
        0,
        "its endpoints did nothing wrong"
    );
}

#[test]
fn what_a_request_has_become_ends_once_its_client_is_not_believed() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let scene = Scene::new(vec![bundle(ROOTS, &[&ours])], Some(STRICT));
    let (_backend, _go_on) = chat(&scene);
    let config = client_config(&scene.edge, Some(&ours.client(FRONT)));
    let mut open = Client::connect(scene.https, "a.example", &config).expect("it is let in");
    assert_eq!(open.ask(&upgrade("/chat", "any")).ok(), Some(101));
    scene.put(vec![policy(
        "p",
        &gateway(),
        "allow",
        &json!([{"from": [{"identity": FRONT}]}]),
    )]);
    // One of another, that tells when all have been looked at.
    let mut other = scene.fixture.connect();
    other.send(upgrade("/chat", "any"));
    assert_eq!(other.response("GET").status, 403);
    assert_eq!(open.say(WORDS, 4).ok().as_deref(), Some(&b"here"[..]));
    scene.put(vec![bundle(ROOTS, &[&theirs])]);
    eventually("the end", || open.say(WORDS, 4).is_err());
    let line = std::iter::repeat_with(|| scene.logged()).find(|line| line["status"] == 101);
    // What is not believed shows nothing that the policy could allow.
    assert_eq!(
        line.expect("it is written down")["reason"],
        "no rule allows it of AuthorizationPolicy/default/p"
    );
}
