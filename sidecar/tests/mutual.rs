//! Two workloads with sidecars prove to each other who they are, and nobody else comes where nobody else may.

mod common;

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    assert_reset, at, echo, eventually, expect, get, http,
    mesh::{Family, Mesh, peer, service},
    operator::Ca,
};
use weft_model::{MeshNamespace, Resource, Revocations, Stage};

const BACK: &str = "spiffe://cluster.local/ns/shop/sa/back";

crate::over_both_families! {
    whatever_workloads_say_to_each_other_is_said_with_proof,
    requests_that_go_by_routes_are_proven_and_none_goes_in_clear_once_that_is_wanted,
    in_observe_and_secure_others_come_as_they_are_and_in_strict_only_probes,
    what_has_come_in_clear_ends_when_the_namespace_becomes_strict,
    a_sidecar_that_starts_anew_while_the_operator_is_away_goes_on_as_before,
    who_is_not_who_it_should_be_is_not_spoken_to,
    a_connection_ends_when_its_peer_is_revoked,
    no_connection_fails_while_certificates_and_roots_change,
}

fn greeting(mut stream: TcpStream) {
    let _ = stream.write_all(b"220 hello\r\n");
    echo(stream);
}

fn whatever_workloads_say_to_each_other_is_said_with_proof(family: Family) {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::over(family, Stage::Secure);
    let pod = &mesh.network.pod;
    // HTTP, and more than one request.
    let address = mesh.serve(80, http);
    let mut stream = pod.connect(address);
    get(&mut stream, 200);
    get(&mut stream, 404);
    assert_eq!(mesh.proven(), 1.0);
    assert_eq!(
        mesh.front
            .metric("weft_mutual_connections_total", &["direction=\"outbound\""]),
        1.0
    );

    // A server that speaks first.
    let address = mesh.serve(25, greeting);
    let mut stream = pod.connect(address);
    expect(&mut stream, b"220 hello\r\n");
    stream.write_all(b"EHLO").expect("it is open");
    expect(&mut stream, b"EHLO");

    // Much in both directions at once, each of which ends by itself.
    let bytes: Arc<Vec<u8>> = Arc::new(
        (0..3_000_000_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect(),
    );
    let address = mesh.serve(7000, echo);
    let mut stream = pod.connect(address);
    let (mut to, sent) = (stream.try_clone().expect("it is open"), bytes.clone());
    let sending = std::thread::spawn(move || {
        to.write_all(&sent).expect("it is open");
        to.shutdown(Shutdown::Write).expect("it is open");
    });
    let mut read = Vec::new();
    stream.read_to_end(&mut read).expect("it ends well");
    assert!(read == *bytes, "{} bytes came", read.len());
    sending.join().expect("it sends");
    assert_eq!(mesh.proven(), 3.0);

    // By the address of a Service, behind which somebody else chooses.
    let ip = family.service();
    family.add(&mesh.network.world, ip);
    mesh.operator.tell(service(ip, &[mesh.at_back(80)]));
    eventually("the Service is known", || mesh.front.config().contains(ip));
    mesh.network.world.serve(at(ip, 80), http);
    get(&mut pod.connect(at(ip, 80)), 200);
    assert_eq!(mesh.proven(), 4.0);

    // A port that the sidecar leaves alone.
    let address = mesh.serve(7009, http);
    // Nothing here proves anything: it goes as it is.
    get(&mut pod.connect(address), 200);
    // One that refuses.
    assert_reset(pod.try_connect(mesh.at_back(9)));
    // That one was not proven, and the one before could not be made: where nobody listens the kernel says so.
    assert_eq!(mesh.proven(), 4.0);
}

fn requests_that_go_by_routes_are_proven_and_none_goes_in_clear_once_that_is_wanted(family: Family) {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::over(family, Stage::Observe);
    mesh.serve(8080, http);
    mesh.route(family.service());
    let connect = || mesh.network.pod.connect(at(family.service(), 80));
    let status = |stream: &mut TcpStream| {
        stream
            .write_all(b"GET /200 HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("it is open");
        let mut reader = BufReader::new(stream);
        let (mut head, mut status) = (String::new(), String::new());
        while head != "\r\n" {
            head.clear();
            reader.read_line(&mut head).expect("an answer comes");
            if status.is_empty() {
                head.clone_into(&mut status);
            }
        }
        let mut body = [0; 2];
        reader.read_exact(&mut body).expect("the body comes");
        assert_eq!(&body, b"ok");
        assert!(status.contains(" 200"), "{status}");
    };
    let mut client = connect();
    status(&mut client);
    status(&mut client);
    assert_eq!(mesh.proven(), 0.0);
    mesh.stage(Stage::Strict, "strict");
    // Its connection to the endpoint was made in clear, and is not used again.
    status(&mut client);
    assert_eq!(mesh.proven(), 1.0);
    status(&mut client);
    assert_eq!(mesh.proven(), 1.0);
    status(&mut connect());
    // What has lain idle with somebody who is revoked is not used again either.
    mesh.operator.revoke_workloads(&[BACK]);
    eventually("it is revoked", || {
        let mut refused = connect();
        refused
            .write_all(b"GET /200 HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("it is open");
        let mut line = [0; 12];
        refused.read_exact(&mut line).expect("an answer comes");
        line == *b"HTTP/1.1 502"
    });
}

fn in_observe_and_secure_others_come_as_they_are_and_in_strict_only_probes(family: Family) {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::over(family, Stage::Observe);
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let address = mesh.serve(80, move |stream| {
        count.fetch_add(1, Ordering::SeqCst);
        http(stream);
    });
    let greets = mesh.serve(25, greeting);
    let probed = mesh.serve(8081, http);
    let pod = &mesh.network.pod;
    get(&mut pod.connect(address), 200);
    assert_eq!(mesh.proven(), 0.0);
    mesh.stage(Stage::Secure, "secure");
    get(&mut pod.connect(address), 200);
    assert_eq!(mesh.proven(), 1.0);
    for stage in [Stage::Observe, Stage::Secure] {
        mesh.stage(stage, if stage == Stage::Observe { "observe" } else { "secure" });
        get(&mut mesh.outside(address).expect("it listens"), 200);
        let mut stream = mesh.outside(greets).expect("it listens");
        expect(&mut stream, b"220 hello\r\n");
        // TLS of the application's own.
        let mut stream = mesh.outside(greets).expect("it listens");
        expect(&mut stream, b"220 hello\r\n");
        stream.write_all(&[22, 3, 1, 0, 1, 1]).expect("it is open");
        expect(&mut stream, &[22, 3, 1, 0, 1, 1]);
    }
    mesh.stage(Stage::Strict, "strict");
    eventually("all have had time to hear of it", || mesh.is_closed(address));
    get(&mut pod.connect(address), 200);
    let refused = || mesh.back.metric("weft_clear_connections_refused_total", &[]);
    let refused_before = refused();
    let before = seen.load(Ordering::SeqCst);
    for first in [&b"GET /200 HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[22, 3, 1, 0, 1, 1], b""] {
        let outside = mesh.outside(address).and_then(|mut stream| {
            stream.write_all(first)?;
            Ok(stream)
        });
        assert_reset(outside);
    }
    assert_eq!(seen.load(Ordering::SeqCst), before, "the application has not seen them");
    get(&mut mesh.outside(probed).expect("it listens"), 200);
    eventually("it is told why", || mesh.back.log().contains("the namespace is strict"));
    assert_eq!(refused(), refused_before + 3.0);
}

fn what_has_come_in_clear_ends_when_the_namespace_becomes_strict(family: Family) {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::over(family, Stage::Secure);
    let (web, probed) = (mesh.serve(80, http), mesh.serve(8081, http));
    let echoes = mesh.serve(7000, echo);
    let mut rests = mesh.outside(web).expect("it listens");
    get(&mut rests, 200);
    let mut probe = mesh.outside(probed).expect("it listens");
    get(&mut probe, 200);
    let mut busy = mesh.outside(echoes).expect("it listens");
    busy.write_all(b"x").expect("it is open");
    expect(&mut busy, b"x");
    let mut proven = mesh.network.pod.connect(echoes);
    proven.write_all(b"y").expect("it is open");
    expect(&mut proven, b"y");
    mesh.stage(Stage::Strict, "strict");
    // Nothing was under way: it ends as an idle connection does.
    assert_eq!(rests.read(&mut [0]).expect("it ends well"), 0);
    // Nobody knows of this one whether something is: it has some seconds.
    assert_eq!(
        busy.read(&mut [0]).map_err(|error| error.kind()),
        Err(io::ErrorKind::ConnectionReset)
    );
    eventually("it is told why", || {
        mesh.back.log().contains("the namespace has become strict")
    });
    assert_eq!(mesh.back.metric("weft_clear_connections_refused_total", &[]), 2.0);
    get(&mut probe, 200);
    proven.write_all(b"z").expect("it is open");
    expect(&mut proven, b"z");
}

fn a_sidecar_that_starts_anew_while_the_operator_is_away_goes_on_as_before(family: Family) {
    if !common::possible() {
        return;
    }
    let mut mesh = Mesh::over(family, Stage::Strict);
    let address = mesh.serve(80, http);
    get(&mut mesh.network.pod.connect(address), 200);
    for name in ["front", "back"] {
        let kept = |file: &str| fs::read_to_string(mesh.state.path().join(name).join(file)).unwrap_or_default();
        eventually("everything is kept", || {
            let configuration = kept("configuration.json");
            let known = ["shop/front", "shop/back", "strict"];
            known.iter().all(|known| configuration.contains(known))
                && kept("identity.json").contains("BEGIN CERTIFICATE")
        });
    }
    mesh.operator.stop();
    mesh.front.restart();
    mesh.back.restart();
    get(&mut mesh.network.pod.connect(address), 200);
    assert_eq!(mesh.proven(), 1.0);
    assert_reset(mesh.outside(address));
    // What has changed meanwhile is heard of once the operator is there again.
    mesh.operator.stage("shop", Stage::Secure);
    mesh.operator.serve();
    eventually("the stage is known", || {
        mesh.back.config().contains("\"stage\": \"secure\"")
    });
    get(&mut mesh.outside(address).expect("it listens"), 200);
}

fn who_is_not_who_it_should_be_is_not_spoken_to(family: Family) {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::over(family, Stage::Secure);
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let address = mesh.serve(80, move |stream| {
        count.fetch_add(1, Ordering::SeqCst);
        http(stream);
    });
    get(&mut mesh.network.pod.connect(address), 200);
    // What is at that address is not what is meant.
    mesh.operator.tell(peer("back", family.back(), "bank"));
    eventually("it is known", || mesh.front.config().contains("\"account\": \"bank\""));
    assert_reset(mesh.network.pod.try_connect(address));
    eventually("it is told why", || {
        mesh.front.log().contains("has not proven to be shop/bank")
    });
    mesh.operator.tell(peer("back", family.back(), "back"));
    eventually("it is known", || mesh.front.config().contains("\"account\": \"back\""));
    get(&mut mesh.network.pod.connect(address), 200);
}

fn a_connection_ends_when_its_peer_is_revoked(family: Family) {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::over(family, Stage::Secure);
    let address = mesh.serve(7000, echo);
    let mut open = mesh.network.pod.connect(address);
    open.write_all(b"x").expect("it is open");
    expect(&mut open, b"x");
    mesh.operator.revoke_workloads(&[BACK]);
    let end = open.read(&mut [0; 1]);
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    assert_reset(mesh.network.pod.try_connect(address));
    eventually("it is told why", || mesh.front.log().contains("is revoked"));
    mesh.operator.trust(&[&mesh.operator.ca()], Revocations::default());
    eventually("it is believed again", || {
        mesh.front.metric("weft_trust_revocations", &[]) == 0.0
    });
    let mut again = mesh.network.pod.connect(address);
    again.write_all(b"y").expect("it is open");
    expect(&mut again, b"y");
}

fn no_connection_fails_while_certificates_and_roots_change(family: Family) {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::over(family, Stage::Strict);
    let address = mesh.serve(80, http);
    let mut long = mesh.network.pod.connect(address);
    let (old, new) = (mesh.operator.ca(), Ca::new("second"));
    mesh.operator.lifetime(Duration::from_secs(2));
    let ask = |mesh: &Mesh, long: &mut TcpStream| {
        get(&mut mesh.network.pod.connect(address), 200);
        get(long, 200);
    };
    mesh.operator.trust(&[&old, &new], Revocations::default());
    for sidecar in [&mesh.front, &mesh.back] {
        eventually("both roots are known", || {
            ask(&mesh, &mut long);
            sidecar.metric("weft_trust_roots", &[]) == 2.0
        });
    }
    mesh.operator.sign_by(&new);
    let first: Vec<f64> = [&mesh.front, &mesh.back]
        .map(|sidecar| sidecar.metric(EXPIRY, &[]))
        .into();
    // The first certificates are for an hour: those that are revoked are replaced, and the next ones are short.
    mesh.operator.revoke_with(&[&old, &new], &["01", "02"]);
    for (sidecar, first) in [&mesh.front, &mesh.back].into_iter().zip(first) {
        eventually("it has a certificate of the new root", || {
            sidecar.metric(EXPIRY, &[]) != first
        });
    }
    let mut long = mesh.network.pod.connect(address);
    mesh.operator.trust(&[&new], Revocations::default());
    let seen = mesh.front.metric(EXPIRY, &[]);
    eventually("it is renewed again", || {
        ask(&mesh, &mut long);
        mesh.front.metric(EXPIRY, &[]) > seen + 1.0
    });
}

const EXPIRY: &str = "weft_certificate_expiry_timestamp_seconds";

#[test]
fn stages_are_told_as_they_are() {
    // What is said of namespaces in tests is what the operator says.
    let namespace = MeshNamespace {
        key: "shop".into(),
        stage: Stage::Strict,
        default_action: weft_model::DefaultAction::default(),
    };
    let json = serde_json::to_string(&Resource::MeshNamespace(Arc::new(namespace))).expect("JSON");
    assert_eq!(json, r#"{"kind":"meshNamespace","key":"shop","stage":"strict"}"#);
}
