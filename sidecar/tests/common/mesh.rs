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

/// Somebody without a sidecar, in each family.
const OUTSIDER: [&str; 2] = ["192.0.2.3", "2001:db8::3"];
/// The address of a Service, likewise.
const SERVICE: [&str; 2] = ["192.0.2.10", "2001:db8::10"];

/// A family of addresses, by which everybody finds everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Its address among those of each family.
    pub fn of(self, addresses: [&'static str; 2]) -> &'static str {
        addresses[self as usize]
    }

    /// Where `back` is.
    pub fn back(self) -> &'static str {
        self.of(WORLD)
    }

    /// The address of a Service.
    pub fn service(self) -> &'static str {
        self.of(SERVICE)
    }

    /// Gives a namespace one more address, from which nothing is sent that does not ask for it.
    pub fn add(self, namespace: &Namespace, address: &str) {
        namespace.ip(&match self {
            Self::V4 => format!("address add {address}/24 dev eth0"),
            Self::V6 => format!("address add {address}/64 dev eth0 nodad preferred_lft 0"),
        });
    }
}

/// Runs tests that take a family over each of them.
#[macro_export]
macro_rules! over_both_families {
    ($($test:ident,)+) => {
        mod over_ipv4 {
            $(#[test] fn $test() { super::$test($crate::common::mesh::Family::V4); })+
        }
        mod over_ipv6 {
            $(#[test] fn $test() { super::$test($crate::common::mesh::Family::V6); })+
        }
    };
}

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
    /// By which addresses they know each other.
    pub family: Family,
}

impl Mesh {
    /// Both in one namespace.
    pub fn new(stage: Stage) -> Self {
        Self::with(stage, "")
    }

    /// The same, by addresses of a family.
    pub fn over(family: Family, stage: Stage) -> Self {
        Self::made(family, "shop", "shop", stage, "")
    }

    /// With sidecars that have these arguments too.
    pub fn with(stage: Stage, more: &str) -> Self {
        Self::made(Family::V4, "shop", "shop", stage, more)
    }

    /// One in each of two namespaces.
    pub fn between(of_front: &str, of_back: &str, stage: Stage) -> Self {
        Self::made(Family::V4, of_front, of_back, stage, "")
    }

    fn made(family: Family, of_front: &str, of_back: &str, stage: Stage, more: &str) -> Self {
        let network = Network::new();
        // The operator shares a pod's network, as a collector may, and is none of the pod's application.
        for namespace in [&network.pod, &network.world] {
            let output = network.intercept_in(namespace, &format!("--skip-inbound-ports=15010,{COLLECTOR}"));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        family.add(&network.pod, family.of(OUTSIDER));
        let operator = Operator::start(&network.pod, family.of(POD));
        for namespace in [of_front, of_back] {
            operator.stage(namespace, stage);
        }
        operator.tell(peer_in(of_front, "front", family.of(POD), "front"));
        operator.tell(peer_in(of_back, "back", family.back(), "back"));
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
            family,
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
        let address = self.at_back(port);
        self.network.world.serve(address, serve);
        address
    }

    /// A port of `back`.
    pub fn at_back(&self, port: u16) -> SocketAddr {
        at(self.family.back(), port)
    }

    /// Gives the Service at an address an HTTPRoute to port 8080 of `back`, of which `front` knows then.
    pub fn route(&self, service: &str) {
        let key = "shop/back:80";
        for resource in [
            json!({"kind": "workload", "key": "shop/back", "address": self.family.back(), "services": {key: 8080}}),
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
        let from = at(self.family.of(OUTSIDER), 0);
        let stream = self.network.pod.inside_as(PROXY, move || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.bind(&from.into())?;
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
