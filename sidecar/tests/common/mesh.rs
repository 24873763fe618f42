//! Two pods with sidecars that can prove to each other who they are.

use std::{
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    sync::Arc,
};

use serde_json::json;
use socket2::{Domain, Socket, Type};
use weft_model::{MeshService, Owner, Peer, Resource, ServiceKey, Stage};

use super::{Namespace, Network, PATIENCE, POD, PROXY, Sidecar, WORLD, at, eventually, operator::Operator};

/// Somebody without a sidecar.
const OUTSIDER: &str = "192.0.2.3";

/// Where a collector of spans may listen in the network of `front`.
pub const COLLECTOR: u16 = 4317;

/// A pod `front` that asks, a pod `back` that answers, and their operator.
pub struct Mesh {
    pub front: Sidecar,
    pub back: Sidecar,
    pub operator: Operator,
    pub network: Network,
    /// Where both keep what they go on with.
    pub state: tempfile::TempDir,
}

impl Mesh {
    /// Both in one namespace.
    pub fn new(stage: Stage) -> Self {
        Self::with(stage, "")
    }

    /// With sidecars that have these arguments too.
    pub fn with(stage: Stage, more: &str) -> Self {
        Self::made("shop", "shop", stage, more)
    }

    /// One in each of two namespaces.
    pub fn between(of_front: &str, of_back: &str, stage: Stage) -> Self {
        Self::made(of_front, of_back, stage, "")
    }

    fn made(of_front: &str, of_back: &str, stage: Stage, more: &str) -> Self {
        let network = Network::new();
        // The operator shares a pod's network, as a collector may, and is none of the pod's application.
        for namespace in [&network.pod, &network.world] {
            let output = network.intercept_in(namespace, &format!("--skip-inbound-ports=15010,{COLLECTOR}"));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        network.pod.ip(&format!("address add {OUTSIDER}/24 dev eth0"));
        let operator = Operator::start(&network.pod, POD[0]);
        for namespace in [of_front, of_back] {
            operator.stage(namespace, stage);
        }
        operator.tell(peer_in(of_front, "front", POD[0], "front"));
        operator.tell(peer_in(of_back, "back", WORLD[0], "back"));
        let state = tempfile::tempdir().expect("a folder");
        fs::set_permissions(state.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let start = |namespace: &Namespace, of: &str, name: &str| {
            let args = operator.args(&format!("{of}/{name}"));
            let state = state.path().join(name);
            fs::create_dir(&state).expect("it is ours");
            // The sidecar is another user.
            fs::set_permissions(&state, Permissions::from_mode(0o777)).expect("it is ours");
            let state = state.display();
            Sidecar::start(
                namespace,
                &format!("{args} --namespace={of} --pod={name} --state={state} --access-log=json {more}"),
            )
        };
        let mesh = Self {
            front: start(&network.pod, of_front, "front"),
            back: start(&network.world, of_back, "back"),
            operator,
            network,
            state,
        };
        for sidecar in [&mesh.front, &mesh.back] {
            eventually("there is a certificate", || {
                sidecar.metric("weft_certificate_expiry_timestamp_seconds", &[]) > 0.0
            });
        }
        mesh
    }

    /// What the application in `back` listens on.
    pub fn serve(&self, port: u16, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
        let address = at(WORLD[0], port);
        self.network.world.serve(address, serve);
        address
    }

    /// Gives the Service at an address an HTTPRoute to port 8080 of `back`, of which `front` knows then.
    pub fn route(&self, service: &str) {
        let key = "shop/back:80";
        for resource in [
            json!({"kind": "workload", "key": "shop/back", "address": WORLD[0], "services": {key: 8080}}),
            json!({"kind": "service", "key": key}),
            json!({"kind": "frontend", "key": "Service/shop/back:80", "service": key, "addresses": [service], "protocol": "HTTP"}),
            json!({"kind": "route", "key": "HTTPRoute/shop/back/0", "listeners": ["Service/shop/back:80"],
                "owner": {"kind": "HTTPRoute", "namespace": "shop", "name": "back", "rule": 0, "created": 0},
                "matches": [{"path": {"prefix": "/"}}], "backends": [{"weight": 1, "target": {"service": key}}]}),
        ] {
            self.operator
                .tell(serde_json::from_value(resource).expect("a resource"));
        }
        eventually("the route is known", || {
            let config = self.front.config();
            config.contains("HTTPRoute/shop/back/0") && config.contains("Service/shop/back:80")
        });
    }

    /// Connections with proof that `back` has taken.
    pub fn proven(&self) -> f64 {
        self.back
            .metric("weft_mutual_connections_total", &["direction=\"inbound\""])
    }

    /// Connects as somebody without a sidecar, from an address that is no workload's.
    pub fn outside(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.network.pod.inside_as(PROXY, move || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&at(OUTSIDER, 0).into())?;
            socket.connect_timeout(&to.into(), PATIENCE)?;
            Ok::<_, io::Error>(TcpStream::from(socket))
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Whether somebody without a sidecar is turned away.
    pub fn is_closed(&self, to: SocketAddr) -> bool {
        let answered = self.outside(to).and_then(|mut stream| {
            stream.write_all(b"GET /200 HTTP/1.1\r\nHost: a\r\n\r\n")?;
            stream.read(&mut [0; 1])
        });
        answered.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    }

    /// Says how far the namespace is, and waits until `back` goes by it.
    pub fn stage(&self, stage: Stage, name: &str) {
        self.operator.stage("shop", stage);
        eventually("the stage is known", || {
            self.back.config().contains(&format!("\"stage\": \"{name}\""))
        });
        eventually("the stage is known", || {
            self.front.config().contains(&format!("\"stage\": \"{name}\""))
        });
    }
}

/// Port 80 of the Service `back` at an address.
pub fn service(address: &str, endpoints: &[SocketAddr]) -> Resource {
    Resource::MeshService(Arc::new(MeshService {
        key: ServiceKey::new("shop", "back", 80),
        addresses: vec![address.parse().expect("an address")],
        endpoints: endpoints.to_vec(),
        leaving: Vec::new(),
        sticky: false,
        local: false,
    }))
}

pub fn peer(name: &str, ip: &str, account: &str) -> Resource {
    peer_in("shop", name, ip, account)
}

pub fn peer_in(namespace: &str, name: &str, ip: &str, account: &str) -> Resource {
    Resource::Peer(Arc::new(Peer {
        key: format!("{namespace}/{name}").into(),
        addresses: vec![ip.parse().expect("an address")],
        namespace: namespace.into(),
        account: account.to_owned(),
        owner: Some(Owner::new("Deployment", name)),
        direct_ports: vec![7009],
        probe_ports: vec![8081],
        asks_only: false,
    }))
}
