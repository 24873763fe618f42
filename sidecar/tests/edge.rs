//! A gateway proves to workloads of the mesh who it is, whatever it carries to them, and speaks to everybody else as before.

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{
    Namespace, Network, PATIENCE, POD, Sidecar, WORLD, assert_reset, at, echo, eventually, expect, http,
    operator::Operator,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use weft_discovery::Endpoint;
use weft_gateway::{
    cluster::{Cluster, ClusterOptions},
    names::NamesOptions,
};
use weft_model::{Peer, Resource, Revocations, Stage};
use weft_proxy::{AccessLog, Limits, Options};

const EDGE: &str = "spiffe://cluster.local/ns/shop/sa/edge-weft";
const BACK: &str = "spiffe://cluster.local/ns/shop/sa/back";
const HTTP: u16 = 8000;
const TCP: u16 = 8001;
const TLS: u16 = 8002;

/// The Gateway `shop/edge` in a pod of its own.
struct Gateway {
    runtime: Runtime,
    cluster: Option<Cluster>,
}

impl Gateway {
    fn start(namespace: &Namespace, operator: Endpoint, state: Option<PathBuf>, certificate_wait: Duration) -> Self {
        let options = ClusterOptions {
            gateway: "shop/edge".into(),
            replica: "edge-weft-1".to_owned(),
            operator,
            state,
            proxy: Options {
                address: Ipv4Addr::UNSPECIFIED.into(),
                port_offset: 0,
                workers: NonZeroUsize::MIN,
                drain: Duration::from_secs(1),
                limits: Limits::default(),
                access_log: AccessLog::default(),
                spans: None,
                priority: None,
            },
            probes: (Ipv4Addr::LOCALHOST, 0).into(),
            admin: (Ipv4Addr::LOCALHOST, 0).into(),
            linger: Duration::ZERO,
            certificate_wait,
            names: NamesOptions::in_pod(None),
        };
        // Its threads are in the network of the one that starts them.
        let (runtime, cluster) = namespace.inside(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime");
            let cluster = runtime.block_on(Cluster::start(options)).expect("it starts");
            (runtime, cluster)
        });
        Self {
            runtime,
            cluster: Some(cluster),
        }
    }

    fn proxy(&self) -> Arc<weft_proxy::Proxy> {
        self.cluster.as_ref().expect("it runs").state().proxy().clone()
    }

    /// Whether it has something in use.
    fn knows(&self, what: &str) -> bool {
        let resources = serde_json::to_string(&self.proxy().resources()).expect("JSON");
        resources.contains(what)
    }

    /// Connections that it has made with proof.
    fn proven(&self) -> u64 {
        self.runtime.block_on(self.proxy().stats()).connections.mutual_outbound
    }

    /// What it waits for, if it is not ready.
    fn not_ready(&self) -> Option<&'static str> {
        self.cluster.as_ref().expect("it runs").state().not_ready()
    }

    fn has_certificate(&self) -> bool {
        self.proxy()
            .mesh()
            .identity()
            .is_some_and(|own| own.id().as_str() == EDGE)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            self.runtime.block_on(cluster.shutdown());
        }
    }
}

/// A gateway, a pod `back` with a sidecar, and their operator.
struct Scene {
    gateway: Option<Gateway>,
    back: Sidecar,
    operator: Operator,
    network: Network,
    state: tempfile::TempDir,
}

impl Scene {
    fn new(stage: Stage) -> Self {
        let network = Network::new();
        let output = network.intercept_in(&network.world, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let operator = Operator::start(&network.pod, POD[0]);
        operator.stage("shop", stage);
        operator.tell(peer("back", WORLD[0], "back", false));
        operator.tell(peer("edge-weft-1", POD[0], "edge-weft", true));
        let args = operator.args("shop/back");
        let back = Sidecar::start(
            &network.world,
            &format!("{args} --namespace=shop --pod=back --access-log=json"),
        );
        eventually("the workload has a certificate", || {
            back.metric("weft_certificate_expiry_timestamp_seconds", &[]) > 0.0
        });
        let state = tempfile::tempdir().expect("a folder");
        let mut scene = Self {
            gateway: None,
            back,
            operator,
            network,
            state,
        };
        for (name, port, protocol) in [("http", HTTP, "HTTP"), ("tcp", TCP, "TCP"), ("tls", TLS, "TLS")] {
            scene.tell(json!({
                "kind": "listener", "key": format!("shop/edge/{name}"), "gateway": "shop/edge", "port": port, "protocol": protocol,
            }));
        }
        scene.start();
        eventually("the gateway has a certificate", || scene.gateway().has_certificate());
        scene
    }

    fn start(&mut self) {
        let endpoint = self.operator.endpoint("shop/edge-weft");
        let state = self.state.path().to_owned();
        self.gateway = Some(Gateway::start(&self.network.pod, endpoint, Some(state), PATIENCE));
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("it runs")
    }

    fn tell(&self, resource: Value) {
        self.operator
            .tell(serde_json::from_value(resource).expect("a resource"));
    }

    /// A Service, and a port of a pod that answers for it.
    fn service(&self, name: &str, pod: &str, ip: &str, port: u16, more: Value) {
        let key = format!("shop/{name}:80");
        let mut service = json!({"kind": "service", "key": key});
        for (field, value) in more.as_object().into_iter().flatten() {
            service[field] = value.clone();
        }
        self.tell(service);
        // A workload says at once all that it answers for: each Service has one of its own here, told by its name.
        self.tell(json!({"kind": "workload", "key": format!("shop/{pod}"), "address": ip, "services": {key: port}}));
    }

    /// A rule of an HTTPRoute for a path.
    fn route(&self, name: &str, path: &str, service: &str, filters: Value) {
        self.tell(json!({
            "kind": "route", "key": format!("HTTPRoute/shop/{name}/0"), "listeners": ["shop/edge/http"],
            "owner": {"kind": "HTTPRoute", "namespace": "shop", "name": name, "rule": 0, "created": 0},
            "matches": [{"path": {"prefix": path}}], "filters": filters,
            "backends": [{"weight": 1, "target": {"service": format!("shop/{service}:80")}}],
        }));
        eventually("the route is known", || {
            self.gateway().knows(&format!("HTTPRoute/shop/{name}/0"))
        });
    }

    /// The rule of a route that does not look into what it carries.
    fn l4_route(&self, kind: &str, listener: &str, service: &str) {
        let key = format!("{kind}/shop/{listener}/0");
        self.tell(json!({
            "kind": "l4Route", "key": key, "listeners": [format!("shop/edge/{listener}")],
            "owner": {"kind": kind, "namespace": "shop", "name": listener, "rule": 0, "created": 0},
            "backends": [{"weight": 1, "target": {"service": format!("shop/{service}:80")}}],
        }));
        eventually("the route is known", || self.gateway().knows(&key));
    }

    fn connect(&self, port: u16) -> TcpStream {
        self.network.pod.connect(at(POD[0], port))
    }

    /// Asks the gateway; says the status of the answer.
    fn ask(&self, path: &str) -> u16 {
        ask(&mut self.connect(HTTP), path)
    }

    /// Says how far the namespace is, and waits until both go by it.
    fn stage(&self, stage: Stage, name: &str) {
        self.operator.stage("shop", stage);
        eventually("the stage is known to the workload", || {
            self.back.config().contains(&format!("\"stage\": \"{name}\""))
        });
        eventually("the stage is known to the gateway", || {
            self.gateway().knows(&format!("\"stage\":\"{name}\""))
        });
    }

    /// Connections with proof that `back` has taken.
    fn taken(&self) -> f64 {
        self.back
            .metric("weft_mutual_connections_total", &["direction=\"inbound\""])
    }
}

fn peer(name: &str, ip: &str, account: &str, asks_only: bool) -> Resource {
    Resource::Peer(Arc::new(Peer {
        key: format!("shop/{name}").into(),
        addresses: vec![ip.parse().expect("an address")],
        namespace: "shop".into(),
        account: account.to_owned(),
        owner: None,
        direct_ports: Vec::new(),
        probe_ports: Vec::new(),
        asks_only,
    }))
}

/// Makes a request and reads the answer to its end.
fn ask(stream: &mut TcpStream, path: &str) -> u16 {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n").expect("it is open");
    let mut reader = BufReader::new(stream);
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer comes");
        if line == "\r\n" {
            break;
        }
        if status == 0 {
            status = line
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse().ok())
                .expect("a status");
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body comes");
    status
}

/// Serves HTTP/2 in a network.
fn http2(scene: &Scene, port: u16) {
    let listener = scene.network.world.listen(at(WORLD[0], port));
    listener.set_nonblocking(true).expect("it is open");
    scene.gateway().runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("it is open");
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("it speaks HTTP/2");
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let response = http::Response::builder().header("content-length", "2");
                    let sent = respond.send_response(response.body(()).expect("an answer"), false);
                    if let Ok(mut stream) = sent {
                        let _ = stream.send_data(Bytes::from_static(b"h2"), true);
                    }
                }
            });
        }
    });
}

/// Serves HTTP over TLS of the application's own in a network, and returns the PEM of what to trust.
fn https(scene: &Scene, port: u16, host: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).expect("a certificate");
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    let config = Arc::new(config);
    scene.network.world.serve(at(WORLD[0], port), move |stream| {
        let connection = rustls::ServerConnection::new(config.clone()).expect("a session");
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while stream.read_exact(&mut byte).is_ok() {
            seen.push(byte[0]);
            if seen.ends_with(b"\r\n\r\n") {
                seen.clear();
                let _ = stream.write_all(b"HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\nok");
            }
        }
    });
    made.cert.pem()
}

/// What a client of TLS says first.
fn client_hello() -> Vec<u8> {
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "shop.example".try_into().expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("it is in memory");
    hello
}

#[test]
fn strict_workloads_let_a_gateway_in_whatever_it_carries() {
    if !common::possible() {
        return;
    }
    let scene = Scene::new(Stage::Strict);
    let world = &scene.network.world;
    let copies = Arc::new(AtomicUsize::new(0));
    let count = copies.clone();
    world.serve(at(WORLD[0], 8080), http);
    world.serve(at(WORLD[0], 8083), move |stream| {
        count.fetch_add(1, Ordering::SeqCst);
        http(stream);
    });
    world.serve(at(WORLD[0], 7000), |mut stream: TcpStream| {
        // It speaks first.
        let _ = stream.write_all(b"220 hello\r\n");
        echo(stream);
    });
    world.serve(at(WORLD[0], 7001), echo);
    http2(&scene, 8082);
    let root = https(&scene, 8443, "app.internal");
    scene.tell(json!({"kind": "trustBundle", "key": "ConfigMap/shop/roots", "rootsPem": root}));
    let tls = json!({"tls": {"hostname": "app.internal", "roots": {"bundles": ["ConfigMap/shop/roots"]}}});
    let services = json!({
        "shop/web:80": 8080, "shop/copy:80": 8083, "shop/h2:80": 8082, "shop/own:80": 8443, "shop/mail:80": 7000, "shop/through:80": 7001,
    });
    for (name, more) in [
        ("web", json!({})),
        ("copy", json!({})),
        ("h2", json!({"protocol": "h2c"})),
        ("own", tls),
        ("mail", json!({})),
        ("through", json!({})),
    ] {
        scene.service(name, "back", WORLD[0], 1, more);
    }
    scene.tell(json!({"kind": "workload", "key": "shop/back", "address": WORLD[0], "services": services}));
    // Another that has no sidecar.
    scene.network.pod.serve(at(POD[0], 9000), http);
    scene.service("outside", "other", POD[0], 9000, json!({}));
    let mirror = json!([{"type": "mirror", "service": "shop/copy:80", "numerator": 1, "denominator": 1}]);
    for (name, path, service, filters) in [
        ("web", "/200", "web", json!([])),
        ("mirrored", "/201", "web", mirror),
        ("h2", "/h2", "h2", json!([])),
        ("own", "/own", "own", json!([])),
        ("outside", "/202", "outside", json!([])),
    ] {
        scene.route(name, path, service, filters);
    }
    scene.l4_route("TCPRoute", "tcp", "mail");
    scene.l4_route("TLSRoute", "tls", "through");

    // HTTP/1, and the connection is used again.
    assert_eq!((scene.ask("/200"), scene.ask("/200")), (200, 200));
    assert_eq!((scene.gateway().proven(), scene.taken()), (1, 1.0));
    // HTTP/2.
    assert_eq!((scene.ask("/h2"), scene.ask("/h2")), (200, 200));
    assert_eq!((scene.gateway().proven(), scene.taken()), (2, 2.0));
    // TLS of the application's own goes on inside.
    assert_eq!(scene.ask("/own"), 200);
    assert_eq!((scene.gateway().proven(), scene.taken()), (3, 3.0));
    // A copy.
    assert_eq!(scene.ask("/201"), 201);
    eventually("the copy comes", || copies.load(Ordering::SeqCst) == 1);
    assert_eq!((scene.gateway().proven(), scene.taken()), (4, 4.0));
    // TCP, of a server that speaks first; and TLS that is passed through.
    let mut stream = scene.connect(TCP);
    expect(&mut stream, b"220 hello\r\n");
    stream.write_all(b"EHLO").expect("it is open");
    expect(&mut stream, b"EHLO");
    let (mut stream, hello) = (scene.connect(TLS), client_hello());
    stream.write_all(&hello).expect("it is open");
    let mut back = vec![0; hello.len()];
    stream.read_exact(&mut back).expect("it comes back");
    assert!(back == hello);
    assert_eq!((scene.gateway().proven(), scene.taken()), (6, 6.0));
    // To whom has no sidecar as before.
    assert_eq!(scene.ask("/202"), 202);
    assert_eq!(scene.gateway().proven(), 6);

    // Who does not prove who it is stays outside, and who came is known.
    assert_reset(scene.network.pod.try_connect(at(WORLD[0], 8080)));
    eventually("it is told who came", || {
        scene.back.log().contains(&format!("\"peer\":\"{EDGE}\""))
    });
    let metrics = scene.gateway().runtime.block_on(scene.gateway().proxy().metrics());
    assert!(
        metrics.contains("weft_mutual_connections_total{direction=\"outbound\"} 6"),
        "{metrics}"
    );
    assert!(metrics.contains(&format!(
        "weft_certificate_expiry_timestamp_seconds{{identity=\"{EDGE}\"}}"
    )));
}

#[test]
fn in_secure_a_server_that_speaks_first_waits_for_a_gateway() {
    if !common::possible() {
        return;
    }
    let scene = Scene::new(Stage::Secure);
    scene.network.world.serve(at(WORLD[0], 7000), |mut stream: TcpStream| {
        let _ = stream.write_all(b"220 hello\r\n");
        echo(stream);
    });
    scene.service("mail", "back", WORLD[0], 7000, json!({}));
    scene.l4_route("TCPRoute", "tcp", "mail");
    for count in 1..=20 {
        expect(&mut scene.connect(TCP), b"220 hello\r\n");
        assert_eq!(scene.taken(), f64::from(count));
    }
    // Nobody else need wait.
    expect(&mut scene.network.pod.connect(at(WORLD[0], 7000)), b"220 hello\r\n");
}

#[test]
fn no_request_is_lost_while_stages_change() {
    if !common::possible() {
        return;
    }
    let scene = Scene::new(Stage::Observe);
    scene.network.world.serve(at(WORLD[0], 8080), http);
    scene.service("web", "back", WORLD[0], 8080, json!({}));
    scene.route("web", "/200", "web", json!([]));
    assert_eq!(scene.ask("/200"), 200);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (mut stream, stop, asked) = (scene.connect(HTTP), stop.clone(), asked.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(ask(&mut stream, "/200"), 200);
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let more = || {
        let goal = asked.load(Ordering::SeqCst) + 100;
        eventually("requests go on", || asked.load(Ordering::SeqCst) > goal);
    };
    more();
    assert_eq!(scene.gateway().proven(), 0);
    for (stage, name) in [
        (Stage::Secure, "secure"),
        (Stage::Strict, "strict"),
        (Stage::Secure, "secure"),
        (Stage::Observe, "observe"),
        (Stage::Secure, "secure"),
        // Straight on, and back.
        (Stage::Observe, "observe"),
        (Stage::Strict, "strict"),
        (Stage::Observe, "observe"),
        (Stage::Strict, "strict"),
    ] {
        scene.stage(stage, name);
        more();
        if stage != Stage::Observe {
            // What was opened in clear is not used again: all that is under way is proven.
            assert!(scene.gateway().proven() > 0, "{name}");
        }
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("every request was answered");
    }
}

#[test]
fn a_gateway_that_starts_anew_while_the_operator_is_away_still_proves_who_it_is() {
    if !common::possible() {
        return;
    }
    let mut scene = Scene::new(Stage::Strict);
    scene.network.world.serve(at(WORLD[0], 8080), http);
    scene.service("web", "back", WORLD[0], 8080, json!({}));
    scene.route("web", "/200", "web", json!([]));
    assert_eq!(scene.ask("/200"), 200);
    let kept = |file: &str| std::fs::read_to_string(scene.state.path().join(file)).unwrap_or_default();
    eventually("everything is kept", || {
        kept("configuration.json").contains("HTTPRoute/shop/web/0")
            && kept("identity.json").contains("BEGIN CERTIFICATE")
    });
    scene.operator.stop();
    scene.gateway = None;
    scene.start();
    assert_eq!(scene.ask("/200"), 200);
    assert_eq!(scene.gateway().proven(), 1);
    scene.operator.serve();
    // It hears of the operator again: who is not believed is not spoken to.
    scene.operator.revoke_workloads(&[BACK]);
    eventually("the workload is revoked", || scene.ask("/200") == 502);
    let ca = scene.operator.ca();
    scene.operator.trust(&[&ca], Revocations::default());
    eventually("it is believed again", || scene.ask("/200") == 200);
    // Nor is a gateway that is not believed let in.
    scene.operator.revoke_workloads(&[EDGE]);
    eventually("the gateway is revoked", || scene.ask("/200") == 502);
}

#[test]
fn a_gateway_that_leads_to_who_asks_for_proof_is_ready_once_it_can_give_it() {
    if !common::possible() {
        return;
    }
    let mut scene = Scene::new(Stage::Strict);
    let begin = |scene: &mut Scene, patience: Duration| {
        scene.gateway = None;
        let endpoint = scene.operator.endpoint("shop/edge-weft");
        // Nothing is kept, the certificate neither.
        scene.gateway = Some(Gateway::start(&scene.network.pod, endpoint, None, patience));
    };
    scene.operator.hold(true);
    // To a pod in no mesh.
    let outside = at(POD[0], 9000);
    scene.network.pod.serve(outside, http);
    scene.service("plain", "plain-1", POD[0], 9000, json!({}));
    scene.route("plain", "/200", "plain", json!([]));
    begin(&mut scene, PATIENCE);
    eventually("it is ready", || scene.gateway().not_ready().is_none());
    assert!(!scene.gateway().has_certificate());
    assert_eq!(scene.ask("/200"), 200);
    // To one that asks who comes.
    scene.network.world.serve(at(WORLD[0], 80), http);
    scene.service("back", "back", WORLD[0], 80, json!({}));
    scene.route("back", "/204", "back", json!([]));
    begin(&mut scene, 10 * PATIENCE);
    eventually("it says what it waits for", || {
        let why = scene.gateway().not_ready();
        why.is_some_and(|why| why.contains("certificate"))
    });
    scene.operator.hold(false);
    eventually("it is ready", || scene.gateway().not_ready().is_none());
    assert_eq!(scene.ask("/204"), 204, "the very first request");
    // Not for ever: the rest it can serve.
    scene.operator.hold(true);
    begin(&mut scene, Duration::from_millis(1));
    eventually("it is ready", || scene.gateway().not_ready().is_none());
    assert!(!scene.gateway().has_certificate());
    assert_eq!(scene.ask("/200"), 200);
    scene.operator.hold(false);
}
