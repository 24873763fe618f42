//! Which connections of a pod are turned to its sidecar and which are not, in network namespaces of the kernel this runs on.

mod common;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    path::Path,
    time::Duration,
};

use common::{
    INBOUND, Meshed, Network, OUTBOUND, POD, PROGRAM, PROXY, WORLD, assert_reset, at, echo, eventually, expect, get,
    http, seen_as, tell_peer,
};

const OPTIONS: &str = "--skip-inbound-ports=22,9100 --skip-outbound-ports=25 --skip-uids=1500 \
                       --skip-outbound-cidrs=10.0.0.0/9,192.0.2.77,2001:db8:7::/47,2001:db8::77";

#[test]
fn the_kernel_has_the_rules_that_nft_makes_of_the_same_words() {
    if !common::possible() {
        return;
    }
    let (ours, nfts) = (Network::new(), Network::new());
    for options in ["", OPTIONS] {
        // Twice: what is there already is replaced.
        for _ in 0..2 {
            let output = ours.intercept(options);
            assert!(output.status.success(), "{output:?}");
        }
        let words = String::from_utf8(ours.intercept(&format!("--print {options}")).stdout).expect("text");
        let replaced = nfts.pod.run_with(
            "nft",
            "-f -",
            &format!("table inet weft\ndelete table inet weft\n{words}"),
        );
        assert!(replaced.status.success(), "{replaced:?}");
        let rules = ours.pod.rules();
        assert!(rules.contains("redirect to :15001"), "{rules}");
        assert_eq!(rules, nfts.pod.rules());
    }
    for _ in 0..2 {
        assert!(ours.intercept("--remove").status.success());
        assert_eq!(ours.pod.rules(), "");
    }
}

#[test]
fn without_the_privilege_nothing_is_changed_and_the_error_says_which() {
    if !common::possible() {
        return;
    }
    let network = Network::new();
    assert!(network.intercept("").status.success());
    let before = network.pod.rules();
    let setpriv = format!("--bounding-set=-all --inh-caps=-all {PROGRAM} intercept --skip-uids=7");
    let output = network.pod.run("setpriv", &setpriv);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("NET_ADMIN"), "{error}");
    assert_eq!(network.pod.rules(), before);
}

#[test]
fn connections_are_turned_to_the_sidecar_both_ways() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    for (pod_ip, world_ip) in POD.into_iter().zip(WORLD) {
        pod.network.world.serve(at(world_ip, 80), http);
        pod.network.pod.serve(at(pod_ip, 8080), http);
        let (outside, inside) = (at(world_ip, 80), at(pod_ip, 8080));
        get(&mut pod.network.pod.connect(outside), 200);
        get(&mut pod.world.connect(inside), 503);
        eventually("both are counted", || {
            pod.carried("outbound", outside) == 1.0 && pod.carried("inbound", inside) == 1.0
        });
        for (direction, to, class) in [("outbound", outside, "2xx"), ("inbound", inside, "5xx")] {
            let labels = [
                format!("direction=\"{direction}\""),
                format!("destination=\"{to}\""),
                format!("class=\"{class}\""),
            ];
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            assert_eq!(pod.metric("weft_destination_requests_total", &labels), 1.0, "{to}");
        }
    }
    assert_eq!(
        pod.metric("weft_requests_total", &["port=\"15001\"", "class=\"2xx\""]),
        2.0
    );
    assert_eq!(
        pod.metric("weft_requests_total", &["port=\"15006\"", "class=\"5xx\""]),
        2.0
    );
}

#[test]
fn the_application_sees_the_pod_as_the_peer_of_what_was_turned() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::with("--skip-inbound-ports=9100", "");
    for (pod_ip, world_ip) in POD.into_iter().zip(WORLD) {
        for (port, peer) in [(8080, pod_ip), (9100, world_ip)] {
            pod.network.pod.serve(at(pod_ip, port), tell_peer);
            assert_eq!(seen_as(pod.world.connect(at(pod_ip, port))), peer, "port {port}");
        }
    }
}

#[test]
fn what_is_excluded_goes_directly() {
    if !common::possible() {
        return;
    }
    // One of the addresses is that of the other end; of the other, it is a port and a user.
    let options = format!(
        "--skip-outbound-cidrs={},10.0.0.0/8 --skip-outbound-ports=25 --skip-uids=1500",
        WORLD[1]
    );
    let pod = Meshed::with(&options, "");
    for ip in WORLD {
        for port in [25, 80] {
            pod.world.serve(at(ip, port), echo);
        }
    }
    let try_it = |uid, to| {
        let mut stream = pod.network.pod.connect_as(uid, to).expect("somebody listens");
        stream.write_all(b"hello").expect("it is open");
        expect(&mut stream, b"hello");
        drop(stream);
    };
    for (uid, to) in [
        (0, at(WORLD[1], 80)),
        (0, at(WORLD[0], 25)),
        (1500, at(WORLD[0], 80)),
        // The proxy's own, or it would go round for ever; and so would an application's that runs as the same user.
        (PROXY, at(WORLD[0], 80)),
    ] {
        try_it(uid, to);
        assert_eq!(pod.carried("outbound", to), 0.0, "{to} as {uid}");
    }
    try_it(0, at(WORLD[0], 80));
    eventually("the one that is not excluded is counted", || {
        pod.carried("outbound", at(WORLD[0], 80)) == 1.0
    });
}

#[test]
fn what_a_pod_says_to_itself_is_left_alone() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    for ip in ["127.0.0.1", "::1", POD[0], POD[1]] {
        pod.network.pod.serve(at(ip, 8080), tell_peer);
        assert_eq!(seen_as(pod.network.pod.connect(at(ip, 8080))), ip);
        assert_eq!(
            pod.carried("outbound", at(ip, 8080)) + pod.carried("inbound", at(ip, 8080)),
            0.0
        );
    }
}

#[test]
fn the_ports_of_the_sidecar_take_only_what_is_turned_to_them() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    for ip in POD {
        let refused = pod
            .world
            .try_connect(at(ip, OUTBOUND))
            .expect_err("it is on loopback only");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_reset(pod.world.try_connect(at(ip, INBOUND)));
    }
    for to in [at("127.0.0.1", OUTBOUND), at("::1", OUTBOUND), at(POD[0], INBOUND)] {
        assert_reset(pod.network.pod.try_connect(to));
    }
    eventually("all are counted as refused", || {
        pod.metric("weft_request_failures_total", &["flag=\"refused\""]) == 5.0
    });
    assert_eq!(pod.metric("weft_upstream_connections_total", &[]), 0.0);
}

#[test]
fn where_nobody_listens_connections_are_refused() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::with("", "--access-log=json");
    pod.network.pod.serve(at("127.0.0.1", 9000), http);
    for (pod_ip, world_ip) in POD.into_iter().zip(WORLD) {
        // By the kernel itself, also where somebody listens on loopback only: as without a sidecar.
        for port in [8080, 9000] {
            let error = pod.world.try_connect(at(pod_ip, port)).expect_err("nobody listens");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
        // What leaves has been taken before it is known.
        assert_reset(pod.network.pod.try_connect(at(world_ip, 8080)));
        let line = format!("\"endpoint\":\"{}\"", at(world_ip, 8080));
        eventually("the log says why", || {
            let log = pod.log();
            let line = log.lines().find(|log| log.contains(&line));
            line.is_some_and(|line| line.contains("\"flag\":\"connect_failed\"") && line.contains("refused"))
        });
    }
    assert_eq!(
        pod.metric("weft_destination_connect_failures_total", &["direction=\"outbound\""]),
        2.0
    );
}

#[test]
fn a_neighbour_cannot_reach_what_listens_on_loopback() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    pod.network.pod.serve(at("127.0.0.1", 9000), http);
    // A neighbour on the same network sends what it likes: here, packets to 127.0.0.1.
    for change in [
        "route del local 127.0.0.1/32 dev lo table local",
        "route del local 127.0.0.0/8 dev lo table local",
        "route add 127.0.0.1/32 via 192.0.2.2",
    ] {
        let output = pod.world.run("ip", change);
        assert!(output.status.success(), "{output:?}");
    }
    // What comes in, and what of it gets as far as the sidecar.
    let watch = "table inet watch {\n\
                 chain came {\n type filter hook prerouting priority -310\n iifname eth0 ip daddr 127.0.0.1 counter\n}\n\
                 chain turned {\n type filter hook input priority 0\n iifname eth0 tcp dport 15006 counter\n}\n}\n";
    let output = pod.network.pod.run_with("nft", "-f -", watch);
    assert!(output.status.success(), "{output:?}");
    let packets = |chain: &str| {
        let output = pod.network.pod.run("nft", &format!("list chain inet watch {chain}"));
        let text = String::from_utf8(output.stdout).expect("text");
        let counted = text.split_once("packets ").expect("it counts").1;
        let number = counted.split(' ').next().and_then(|number| number.parse::<u64>().ok());
        number.expect("a number")
    };
    pod.world.inside(move || {
        // The kernel of the neighbour must be told that it may.
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").expect("root may");
        let reached = TcpStream::connect_timeout(&at("127.0.0.1", 9000), Duration::from_millis(1));
        assert!(reached.is_err());
    });
    eventually("what it sends comes in", || packets("came") > 0);
    assert_eq!(packets("turned"), 0);
}

#[test]
fn connections_that_were_there_before_the_rules_go_on() {
    if !common::possible() {
        return;
    }
    let network = Network::new();
    network.world.serve(at(WORLD[0], 80), echo);
    network.pod.serve(at(POD[0], 8080), echo);
    let mut streams = [
        network.pod.connect(at(WORLD[0], 80)),
        network.world.connect(at(POD[0], 8080)),
    ];
    let mut say = |text: &[u8]| {
        for stream in &mut streams {
            stream.write_all(text).expect("it is open");
            expect(stream, text);
        }
    };
    say(b"before");
    assert!(network.intercept("").status.success());
    say(b"with the rules");
    let pod = Meshed::beside(network, "");
    say(b"and a sidecar");
    assert_eq!(pod.metric("weft_upstream_connections_total", &[]), 0.0);
    assert!(pod.intercept("--remove").status.success());
    say(b"without them");
    for mut stream in streams {
        stream.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(stream.read(&mut [0; 1]).expect("it ends well"), 0);
    }
}

#[test]
fn a_connection_is_turned_though_the_sidecar_has_just_had_its_port() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    for (pod_ip, world_ip) in POD.into_iter().zip(WORLD) {
        // It says from which port it is called, and breaks off: of such a connection the kernel remembers addresses and ports
        // for some time, while its socket is gone at once.
        let outside = at(world_ip, 80);
        pod.world.serve(outside, |mut stream| {
            let port = stream.peer_addr().expect("it is connected").port();
            let _ = stream.write_all(&port.to_be_bytes());
            let _ = stream.read(&mut [0; 1]);
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        });
        let called = |mut stream: TcpStream| {
            let mut port = [0; 2];
            stream.read_exact(&mut port).expect("it says it");
            stream.write_all(b"x").expect("it is open");
            assert_reset(Ok(stream));
            u16::from_be_bytes(port)
        };
        let sidecars = called(pod.network.pod.connect(outside));
        let from = at(pod_ip, sidecars);
        let again = pod.network.pod.inside(move || common::connect_from(from, outside));
        assert_ne!(called(again), sidecars, "it went past the sidecar");
        assert_eq!(pod.carried("outbound", outside), 2.0);
    }
}

#[test]
fn nothing_is_left_of_a_test() {
    if !common::possible() {
        return;
    }
    let network = Network::new();
    assert!(network.intercept("").status.success());
    let names = [&network.pod, &network.world].map(|namespace| Path::new("/run/netns").join(namespace.name()));
    assert!(names.iter().all(|name| name.exists()));
    drop(network);
    assert!(!names.iter().any(|name| name.exists()));
}
