//! Endpoints of a Service that are chosen by the sidecar, since not all of them can prove who they are. Nobody is at the
//! address of the Service itself, unless somebody else chooses there.

mod common;

use std::{
    fs,
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::{
    Namespace, at, echo, eventually, expect, get, http,
    mesh::{Family, Mesh, peer, service},
};
use weft_model::Stage;

/// Beside the workload `back`, of which nobody has told: as if there were no sidecar.
const UNKNOWN: [&str; 2] = ["192.0.2.20", "2001:db8::20"];
/// Here nobody listens.
const CLOSED: u16 = 9;

crate::over_both_families! {
    who_can_prove_it_does_although_another_endpoint_cannot,
    an_endpoint_that_is_gone_is_passed_over,
    one_that_somebody_else_has_chosen_is_too,
    in_strict_it_is_waited_for_a_pod_of_which_only_the_endpoint_is_known,
    whoever_speaks_first_is_heard_by_a_service_with_routes_that_has_to_prove_it,
    requests_of_a_client_that_begins_late_go_by_routes_where_the_service_has_to_prove_it,
}

/// Tells which endpoints the Service has, and waits until `front` knows: routes and Services come by streams of their own.
fn tell(mesh: &Mesh, endpoints: &[SocketAddr]) {
    mesh.operator.tell(service(mesh.family.service(), endpoints));
    eventually("the Service is known", || {
        let config = mesh.front.config();
        endpoints
            .iter()
            .all(|endpoint| config.contains(&format!("\"{endpoint}\"")))
    });
}

/// Two endpoints, and how many connections each of them has seen.
struct Endpoints {
    mesh: Mesh,
    known: (SocketAddr, Arc<AtomicUsize>),
    unknown: (SocketAddr, Arc<AtomicUsize>),
}

impl Endpoints {
    fn new(family: Family, stage: Stage) -> Self {
        let mesh = Mesh::over(family, stage);
        family.add(&mesh.network.world, family.of(UNKNOWN));
        let counted = |address: SocketAddr| {
            let seen = Arc::new(AtomicUsize::new(0));
            let count = seen.clone();
            mesh.network.world.serve(address, move |stream| {
                count.fetch_add(1, Ordering::SeqCst);
                http(stream);
            });
            (address, seen)
        };
        Self {
            known: counted(mesh.at_back(80)),
            unknown: counted(at(family.of(UNKNOWN), 80)),
            mesh,
        }
    }

    /// Tells which endpoints the Service has.
    fn tell(&self, endpoints: &[SocketAddr]) {
        tell(&self.mesh, endpoints);
    }

    fn connect(&self) -> TcpStream {
        self.mesh.network.pod.connect(at(self.mesh.family.service(), 80))
    }

    /// Connections that the known one has seen, and the unknown one.
    fn seen(&self) -> (usize, usize) {
        (
            self.known.1.load(Ordering::SeqCst),
            self.unknown.1.load(Ordering::SeqCst),
        )
    }
}

fn who_can_prove_it_does_although_another_endpoint_cannot(family: Family) {
    if !common::possible() {
        return;
    }
    let scene = Endpoints::new(family, Stage::Secure);
    scene.tell(&[scene.known.0, scene.unknown.0]);
    eventually("both are chosen", || {
        get(&mut scene.connect(), 200);
        let (known, unknown) = scene.seen();
        assert_eq!(scene.mesh.proven(), known as f64);
        known > 2 && unknown > 2
    });
    // Who has spoken to whom is told as it was.
    let edges = |labels: &[&str]| scene.mesh.front.metric("weft_mutual_connections_total", labels);
    assert_eq!(edges(&["direction=\"outbound\""]), scene.seen().0 as f64);
    // Nobody comes in clear any more, and those that are known are chosen.
    scene.mesh.stage(Stage::Strict, "strict");
    let before = scene.seen();
    for _ in 0..20 {
        get(&mut scene.connect(), 200);
    }
    assert_eq!(scene.seen(), (before.0 + 20, before.1));
    assert_eq!(scene.mesh.back.metric("weft_clear_connections_refused_total", &[]), 0.0);
}

fn an_endpoint_that_is_gone_is_passed_over(family: Family) {
    if !common::possible() {
        return;
    }
    let scene = Endpoints::new(family, Stage::Secure);
    for (gone, there) in [
        (at(family.of(UNKNOWN), CLOSED), scene.known.0),
        (scene.mesh.at_back(CLOSED), scene.unknown.0),
    ] {
        scene.tell(&[gone, there]);
        let before = scene.seen();
        for _ in 0..20 {
            get(&mut scene.connect(), 200);
        }
        let (known, unknown) = scene.seen();
        assert_eq!(known + unknown, before.0 + before.1 + 20);
    }
    assert_eq!(scene.seen(), (20, 20));
    assert_eq!(scene.mesh.proven(), 20.0);
}

/// By whoever leads to a Service's address. Which it is depends on the port here, so that no attempt may have that of another before
/// it.
fn one_that_somebody_else_has_chosen_is_too(family: Family) {
    if !common::possible() {
        return;
    }
    let scene = Endpoints::new(family, Stage::Observe);
    let (there, service) = (scene.known.0.ip(), family.service());
    let (gone, ip) = match family {
        Family::V4 => ("192.0.2.77", "ip"),
        Family::V6 => ("2001:db8::77", "ip6"),
    };
    let network = &scene.mesh.network;
    family.add(&network.world, service);
    // What is sent to who is gone gets lost, and nothing tells.
    let lost = format!("neighbour add {gone} lladdr 02:00:00:00:00:77 dev eth0 nud permanent");
    network.world.ip(&lost);
    let set = |namespace: &Namespace, name: &'static str, value: &'static str| {
        let path = Path::new("/proc/sys/net").join(name);
        namespace.inside(move || fs::write(path, value).expect("root may"));
    };
    let forwards = match family {
        Family::V4 => "ipv4/ip_forward",
        Family::V6 => "ipv6/conf/all/forwarding",
    };
    set(&network.world, forwards, "1");
    // Of these, even ones come first: one for the client, and one for the first attempt.
    set(&network.pod, "ipv4/ip_local_port_range", "40000 40003");
    let chosen = format!(
        "table {ip} chooses {{ chain first {{ type nat hook prerouting priority -110; \
         {ip} daddr {service} tcp dport 80 dnat to tcp sport map \
         {{ 40000 : {gone}, 40001 : {there}, 40002 : {gone}, 40003 : {there} }}; }}; }}"
    );
    let output = network.world.run_with("nft", "-f -", &chosen);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    scene.tell(&[scene.known.0]);
    get(&mut scene.connect(), 200);
    assert_eq!(scene.seen(), (1, 0));
}

fn in_strict_it_is_waited_for_a_pod_of_which_only_the_endpoint_is_known(family: Family) {
    if !common::possible() {
        return;
    }
    let scene = Endpoints::new(family, Stage::Strict);
    let world = &scene.mesh.network.world;
    // It is waited for two seconds: a machine that is busy may need longer from one line to the next.
    let comes = (30..40).any(|number| {
        let address = match family {
            Family::V4 => format!("192.0.2.{number}"),
            Family::V6 => format!("2001:db8::{number}"),
        };
        let endpoint = at(&address, 80);
        family.add(world, &address);
        world.serve(endpoint, http);
        // The other one is outside of the mesh, so that it stays for the sidecar to choose.
        scene.tell(&[endpoint, at(family.of(UNKNOWN), CLOSED)]);
        let asks = scene.connect();
        scene.mesh.operator.tell(peer("second", &address, "back"));
        answered(asks).is_ok()
    });
    assert!(comes, "it was not waited for");
    assert!(scene.mesh.proven() > 0.0);
}

fn answered(mut stream: TcpStream) -> io::Result<()> {
    use std::io::Read as _;
    stream.write_all(b"GET /200 HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"HTTP/1.1 200");
    Ok(())
}

fn whoever_speaks_first_is_heard_by_a_service_with_routes_that_has_to_prove_it(family: Family) {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::over(family, Stage::Strict);
    // Somebody else chooses, and so somebody must be there.
    let ip = family.service();
    family.add(&mesh.network.world, ip);
    mesh.network.world.serve(at(ip, 80), |mut stream| {
        let _ = stream.write_all(b"220 hello\r\n");
        echo(stream);
    });
    mesh.serve(8080, http);
    tell(&mesh, &[mesh.at_back(80)]);
    mesh.route(ip);
    let mut stream = mesh.network.pod.connect(at(ip, 80));
    expect(&mut stream, b"220 hello\r\n");
    stream.write_all(b"EHLO").expect("it is open");
    expect(&mut stream, b"EHLO");
    assert_eq!(mesh.proven(), 1.0);
}

fn requests_of_a_client_that_begins_late_go_by_routes_where_the_service_has_to_prove_it(family: Family) {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::over(family, Stage::Strict);
    let ip = family.service();
    family.add(&mesh.network.world, ip);
    mesh.network.world.serve(at(ip, 80), |stream| {
        // It never says anything: what is asked goes elsewhere.
        let _ = io::copy(&mut &stream, &mut io::sink());
    });
    mesh.serve(8080, http);
    tell(&mesh, &[mesh.at_back(80)]);
    mesh.route(ip);
    let stream = mesh.network.pod.connect(at(ip, 80));
    let routed = |outcome: &str| {
        mesh.front
            .metric("weft_routed_connections_total", &[&format!("outcome=\"{outcome}\"")])
    };
    eventually("it is carried", || routed("server_first") == 1.0);
    answered(stream).expect("it goes by the route");
    assert_eq!(routed("http"), 1.0);
}
