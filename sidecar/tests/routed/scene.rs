//! An operator that only publishes, and a pod whose sidecar listens to it.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    ops::Deref,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::watch};
use weft_discovery::{Authenticate, DataPlane, Denied, Publisher, Server, Shown};
use weft_model::{Change, Key, Resource};

use crate::common::{Meshed, Namespace, Network, WORLD, at, certificate::certificate};

const NAME: &str = "operator.test";
const PORT: u16 = 15010;
/// A Service, as clients see it.
pub(crate) const SHOP: &str = "Service/shop/shop:80";
/// Addresses of Services.
pub(crate) const SERVICE: &str = "198.51.100.1";
pub(crate) const SERVICE_V6: &str = "2001:db8:1::1";
/// One behind which there is somebody.
pub(crate) const LIVE: &str = "198.51.100.2";

/// A token is good if it says whose it is.
struct Tokens;

impl Authenticate for Tokens {
    async fn authenticate(&self, shown: Shown<'_>, data_plane: &DataPlane) -> Result<(), Denied> {
        if shown.token == format!("token of {data_plane}") {
            return Ok(());
        }
        Err(Denied::Token(data_plane.clone(), "it is another's".to_owned()))
    }
}

/// An operator, somewhere in the world around the pod.
pub(crate) struct Operator {
    pub(crate) runtime: Runtime,
    publisher: Publisher,
    folder: PathBuf,
    _stop: watch::Sender<bool>,
}

impl Operator {
    /// Where sidecars look for it, and by what; it need not be there yet.
    fn folder(network: &Network) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("{}.operator", network.pod.name()));
        fs::create_dir_all(&folder).expect("a folder");
        // The sidecar is another user.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("it is ours");
        folder
    }

    fn args(network: &Network) -> String {
        let folder = Self::folder(network);
        let folder = folder.display();
        format!(
            "--operator={}:{PORT} --operator-name={NAME} --roots={folder}/ca.crt --token={folder}/token --pod=web-1 --namespace=shop",
            WORLD[0]
        )
    }

    pub(crate) fn start(network: &Network) -> Self {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let _ = provider.install_default();
        let folder = Self::folder(network);
        let (tls, roots) = certificate(NAME);
        let listener = network.world.listen(at(WORLD[0], PORT));
        listener.set_nonblocking(true).expect("it is open");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let publisher = Publisher::new();
        publisher.set_mesh(BTreeSet::from(["shop".to_owned()]));
        let server = Server::new(publisher.clone(), Tokens);
        let (stop, stopped) = watch::channel(false);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it is open");
            server.listen(listener, tls, stopped).await.expect("it serves");
        });
        // Last, since a sidecar may be waiting for them.
        fs::write(folder.join("ca.crt"), roots).expect("there is room");
        let token = format!("token of {}", DataPlane::sidecar("shop", "web-1"));
        fs::write(folder.join("token"), token).expect("there is room");
        Self {
            runtime,
            publisher,
            folder,
            _stop: stop,
        }
    }

    /// Publishes resources, in their own words.
    pub(crate) fn publish(&self, resources: impl IntoIterator<Item = Value>) {
        let read = |value| serde_json::from_value::<Resource>(value).expect("a resource");
        let changes = resources.into_iter().map(|value| Change::Upsert(read(value)));
        self.publisher.publish(changes.collect());
    }

    pub(crate) fn remove(&self, keys: impl IntoIterator<Item = Key>) {
        self.publisher.publish(keys.into_iter().map(Change::Remove).collect());
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A pod whose sidecar listens to an operator.
pub(crate) struct Scene {
    pub(crate) meshed: Meshed,
    pub(crate) operator: Operator,
}

impl Deref for Scene {
    type Target = Meshed;

    fn deref(&self) -> &Meshed {
        &self.meshed
    }
}

impl Scene {
    /// With what the operator tells from the beginning: the sidecar is ready once it knows.
    pub(crate) fn new(resources: impl IntoIterator<Item = Value>) -> Self {
        let network = network();
        let operator = Operator::start(&network);
        operator.publish(resources);
        let meshed = beside(network);
        Self { meshed, operator }
    }

    /// With the shop at these addresses, whose requests all go to v1; v2 is there for other routes.
    pub(crate) fn of_shop(addresses: &[&str]) -> Self {
        Self::of_two([frontend(SHOP, addresses, "HTTP"), route("r", SHOP, "/", &[("v1", 1)])])
    }

    /// With the Services v1 and v2 for routes to go to.
    pub(crate) fn of_two(resources: impl IntoIterator<Item = Value>) -> Self {
        let services = service("v1", 9001).into_iter().chain(service("v2", 9002));
        Self::new(resources.into_iter().chain(services))
    }

    /// A connection of the application.
    pub(crate) fn connect(&self, to: SocketAddr) -> TcpStream {
        self.meshed.network.pod.connect(to)
    }

    /// Connections to Services with routes, by what came of them.
    pub(crate) fn outcome(&self, outcome: &str) -> f64 {
        self.metric("weft_routed_connections_total", &[&format!("outcome=\"{outcome}\"")])
    }
}

/// A pod from which the addresses of Services are reached by the cable; nobody is there, unless they are added to the other end.
pub(crate) fn network() -> Network {
    let network = Network::new();
    network.pod.ip("route add 198.51.100.0/24 dev eth0");
    network.pod.ip("route add 2001:db8:1::/64 dev eth0");
    network.world.ip(&format!("address add {LIVE}/32 dev eth0"));
    network
}

/// A sidecar that looks for an operator.
pub(crate) fn beside(network: Network) -> Meshed {
    let output = network.intercept("");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let args = format!("--access-log=json {}", Operator::args(&network));
    Meshed::beside(network, &args)
}

/// A Service port of one endpoint, at a port of the world.
pub(crate) fn service(name: &str, port: u16) -> [Value; 2] {
    service_at(WORLD[0], name, port)
}

/// The same at one of the world's addresses.
pub(crate) fn service_at(ip: &str, name: &str, port: u16) -> [Value; 2] {
    let key = format!("shop/{name}:80");
    [
        json!({"kind": "workload", "key": format!("shop/{name}"), "address": ip, "services": {&key: port}}),
        json!({"kind": "service", "key": key}),
    ]
}

/// What clients see of a Service: `Service/shop/name:port`.
pub(crate) fn frontend(key: &str, addresses: &[&str], protocol: &str) -> Value {
    let mut parts = key.trim_start_matches("Service/").splitn(3, '/');
    let (namespace, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut value = json!({"kind": "frontend", "key": key, "service": format!("{namespace}/{name}"),
        "addresses": addresses, "protocol": protocol});
    if let Some(clients) = parts.next() {
        value["clients"] = clients.into();
    }
    value
}

/// A rule of an HTTPRoute for a path, with backends by their weights.
pub(crate) fn route(name: &str, on: &str, prefix: &str, backends: &[(&str, u32)]) -> Value {
    let backends = backends
        .iter()
        .map(|(name, weight)| json!({"weight": weight, "target": {"service": format!("shop/{name}:80")}}));
    json!({"kind": "route", "key": format!("HTTPRoute/shop/{name}/0"), "listeners": [on],
        "owner": {"kind": "HTTPRoute", "namespace": "shop", "name": name, "rule": 0, "created": 0},
        "matches": [{"path": {"prefix": prefix}}], "backends": backends.collect::<Vec<_>>()})
}

/// A rule of a TLSRoute or TCPRoute to one backend.
pub(crate) fn l4_route(kind: &str, name: &str, on: &str, hostnames: &[&str]) -> Value {
    json!({"kind": "l4Route", "key": format!("{kind}/shop/{name}/0"), "listeners": [on], "hostnames": hostnames,
        "owner": {"kind": kind, "namespace": "shop", "name": name, "rule": 0, "created": 0},
        "backends": [{"weight": 1, "target": {"service": format!("shop/{name}:80")}}]})
}

/// Serves HTTP/1 at an address: each answer says by whom it is, and then the head of the request.
pub(crate) fn serve(world: &Namespace, on: SocketAddr, name: &'static str) {
    world.serve(on, move |stream| answer(stream, name));
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut reader = BufReader::new(stream.try_clone().expect("it is open"));
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let body = format!("{name}\n{head}");
        if write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .is_err()
        {
            return;
        }
    }
}

/// An answer: its head, and its body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Who has answered.
    pub(crate) fn by(&self) -> &str {
        self.body.lines().next().unwrap_or_default()
    }

    /// A field of the head.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value)
    }
}

/// Sends a request by HTTP/1.1 and reads its answer.
#[track_caller]
pub(crate) fn ask(stream: &mut TcpStream, path: &str, fields: &str) -> Answer {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n").expect("it is open");
    read_answer(stream)
}

#[track_caller]
pub(crate) fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let read = stream.read(&mut byte).expect("an answer comes");
        assert_eq!(
            read,
            1,
            "the connection ended after {:?}",
            String::from_utf8_lossy(&head)
        );
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head).expect("text");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    let mut answer = Answer {
        status,
        head,
        body: String::new(),
    };
    let length = answer
        .field("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("the body comes");
    answer.body = String::from_utf8(body).expect("text");
    answer
}
