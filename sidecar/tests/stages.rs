//! The stage of a namespace jumps: whoever has not heard of it yet is let in, and nobody loses anything.

mod common;

use std::{
    fs,
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use common::{
    WORLD, assert_reset, at, eventually, expect, get, http,
    mesh::{Mesh, peer, service},
};
use weft_model::Stage;

/// The address of a Service.
const SERVICE: &str = "192.0.2.10";

/// Connections in clear to `back` that were counted.
fn counted(mesh: &Mesh, how: &str) -> f64 {
    mesh.back.metric(&format!("weft_clear_connections_{how}_total"), &[])
}

fn greeted(stream: io::Result<TcpStream>) -> io::Result<TcpStream> {
    stream.and_then(|mut stream| {
        stream.write_all(b"GET /200 HTTP/1.1\r\nHost: a\r\n\r\n")?;
        Ok(stream)
    })
}

#[test]
fn straight_to_strict_who_comes_late_in_clear_is_let_in_for_some_time() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Observe);
    let web = mesh.serve(80, http);
    get(&mut mesh.outside(web).expect("it listens"), 200);
    assert_eq!(counted(&mesh, "late"), 0.0);
    mesh.stage(Stage::Strict, "strict");
    // It has not heard of it, as nobody without a sidecar does.
    let mut late = mesh.outside(web).expect("it listens");
    get(&mut late, 200);
    assert_eq!((counted(&mesh, "late"), counted(&mesh, "refused")), (1.0, 0.0));
    // Who has heard proves who it is.
    get(&mut mesh.network.pod.connect(web), 200);
    assert_eq!((mesh.proven(), counted(&mesh, "late")), (1.0, 1.0));
    eventually("nobody is let in any more", || mesh.is_closed(web));
    // What was let in ends like all that has come in clear.
    assert_eq!(io::Read::read(&mut late, &mut [0]).expect("it ends well"), 0);
    let admitted = counted(&mesh, "late");
    assert_reset(greeted(mesh.outside(web)));
    assert_eq!(counted(&mesh, "late"), admitted);
    get(&mut mesh.network.pod.connect(web), 200);
}

#[test]
fn who_starts_in_strict_lets_in_nobody_in_clear_also_if_it_was_open_before() {
    if !common::possible() {
        return;
    }
    let mut mesh = Mesh::new(Stage::Observe);
    let web = mesh.serve(80, http);
    mesh.stage(Stage::Strict, "strict");
    let kept = mesh.state.path().join("back/configuration.json");
    eventually("it is kept", || {
        fs::read_to_string(&kept).is_ok_and(|kept| kept.contains("strict"))
    });
    mesh.back.restart();
    assert_reset(greeted(mesh.outside(web)));
    assert_eq!((counted(&mesh, "late"), counted(&mesh, "refused")), (0.0, 1.0));
    get(&mut mesh.network.pod.connect(web), 200);
}

#[test]
fn back_from_strict_workloads_go_on_with_proof_for_some_time_and_others_come_at_once() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Strict);
    let web = mesh.serve(80, http);
    let greets = mesh.serve(25, |mut stream| {
        let _ = stream.write_all(b"220 hello\r\n");
        common::echo(stream);
    });
    mesh.stage(Stage::Observe, "observe");
    get(&mut mesh.outside(web).expect("it listens"), 200);
    expect(&mut mesh.outside(greets).expect("it listens"), b"220 hello\r\n");
    // Others may hold to `strict` still, as far as this one knows.
    get(&mut mesh.network.pod.connect(web), 200);
    assert_eq!(mesh.proven(), 1.0);
    // The server would speak before it is known who comes.
    for _ in 0..10 {
        expect(&mut mesh.network.pod.connect(greets), b"220 hello\r\n");
    }
    eventually("it is in clear again", || {
        let before = mesh.proven();
        get(&mut mesh.network.pod.connect(web), 200);
        mesh.proven() == before
    });
}

/// Connects, asks and ends, again and again.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(mesh: &Mesh, to: [SocketAddr; 2]) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..4).map(|client| {
            let (stop, asked, pod) = (stop.clone(), asked.clone(), mesh.network.pod.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    get(&mut pod.connect(to[client % 2]), 200);
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        let clients = clients.collect();
        Self { stop, asked, clients }
    }

    fn more(&self) {
        let goal = self.asked.load(Ordering::SeqCst) + 100;
        eventually("requests go on", || self.asked.load(Ordering::SeqCst) > goal);
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().expect("every request was answered");
        }
    }
}

#[test]
fn no_connection_is_lost_while_a_namespace_jumps_to_strict_and_out_of_the_mesh() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Observe);
    let pod = mesh.serve(80, http);
    mesh.network.world.ip(&format!("address add {SERVICE}/24 dev eth0"));
    mesh.network.world.serve(at(SERVICE, 80), http);
    let back = || service(SERVICE, &[at(WORLD[0], 80)]);
    mesh.operator.tell(back());
    eventually("the Service is known", || mesh.front.config().contains(SERVICE));
    let load = Load::start(&mesh, [pod, at(SERVICE, 80)]);
    load.more();
    for quickly in [true, false] {
        mesh.stage(Stage::Strict, "strict");
        load.more();
        if !quickly {
            eventually("nobody comes in clear", || mesh.is_closed(pod));
            load.more();
        }
        mesh.stage(Stage::Observe, "observe");
        load.more();
        mesh.stage(Stage::Strict, "strict");
        load.more();
        if !quickly {
            eventually("nobody comes in clear", || mesh.is_closed(pod));
            load.more();
        }
        // It leaves the mesh, with all that is in it.
        mesh.operator.leave("shop", [back()]);
        eventually("nothing is told any more", || {
            let told = |config: &str| config.contains("\"stage\"") || config.contains(SERVICE);
            !told(&mesh.back.config()) && !told(&mesh.front.config())
        });
        load.more();
        if !quickly {
            eventually("it is in clear again", || {
                let before = mesh.proven();
                load.more();
                mesh.proven() == before
            });
        }
        mesh.operator.tell(back());
    }
    mesh.stage(Stage::Strict, "strict");
    load.more();
    load.end();
}

#[test]
fn in_strict_a_service_without_endpoints_is_nobody_and_nothing_goes_in_clear() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Strict);
    // Somebody else leads there longer, or sooner, than is told.
    mesh.network.world.ip(&format!("address add {SERVICE}/24 dev eth0"));
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    mesh.network.world.serve(at(SERVICE, 80), move |stream| {
        count.fetch_add(1, Ordering::SeqCst);
        http(stream);
    });
    mesh.operator.tell(service(SERVICE, &[]));
    eventually("the Service is known", || mesh.front.config().contains(SERVICE));
    let connect = || mesh.network.pod.try_connect(at(SERVICE, 80));
    assert_reset(greeted(connect()));
    assert_eq!(seen.load(Ordering::SeqCst), 0, "nobody is spoken to");
    eventually("it is told why", || {
        mesh.front
            .log()
            .contains("the Service port shop/back:80 has no endpoints")
    });
    // An endpoint comes, and is gone again.
    mesh.operator.tell(service(SERVICE, &[at(WORLD[0], 80)]));
    let endpoint = format!("\"{}\"", at(WORLD[0], 80));
    eventually("its endpoint is known", || mesh.front.config().contains(&endpoint));
    get(&mut connect().expect("it is carried"), 200);
    assert_eq!(mesh.proven(), 1.0);
    mesh.operator.tell(service(SERVICE, &[]));
    eventually("it has none any more", || !mesh.front.config().contains(&endpoint));
    get(&mut connect().expect("it is carried"), 200);
    assert_eq!((mesh.proven(), seen.load(Ordering::SeqCst)), (2.0, 2));
    // Whoever is there and is not who was there last is not spoken to.
    mesh.operator.tell(peer("back", WORLD[0], "other"));
    mesh.operator.tell(service(SERVICE, &[at(WORLD[0], 80)]));
    eventually("it is known", || mesh.front.config().contains(&endpoint));
    mesh.operator.tell(service(SERVICE, &[]));
    eventually("it has none any more", || !mesh.front.config().contains(&endpoint));
    assert_reset(greeted(connect()));
    assert_eq!(counted(&mesh, "refused"), 0.0, "it was never tried in clear");
}
