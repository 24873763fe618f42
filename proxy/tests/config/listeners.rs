//! Which listener a request is for, and what it shows to TLS clients.

use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use weft_model::{Certificate, Change, Key, ListenerProtocol, PrivateKeyPem, Resource};
use weft_proxy::config::{Configuration, Port};

use super::support::{HTTP, Put, RouteWith, https, listener, route, serving, taker, taker_on};

#[test]
fn a_request_is_for_the_most_specific_listener_only() {
    let snapshot = serving(
        [
            listener("g/g/any", 80, None),
            listener("g/g/wild", 80, Some("*.example.com")),
            listener("g/g/wilder", 80, Some("*.foo.example.com")),
            listener("g/g/exact", 80, Some("abc.foo.example.com")),
        ],
        [
            route("any").on(&["g/g/any"]).at(&["/any"]),
            route("wild").on(&["g/g/wild"]).at(&["/wild"]),
            route("wilder").on(&["g/g/wilder"]).at(&["/wilder"]),
            route("exact").on(&["g/g/exact"]).at(&["/exact"]),
        ],
    );
    for (host, own) in [
        ("bar.com", "any"),
        ("bar.example.com", "wild"),
        ("bar.foo.example.com", "wilder"),
        ("abc.foo.example.com", "exact"),
    ] {
        for path in ["any", "wild", "wilder", "exact"] {
            let expected = if path == own { own } else { "404" };
            assert_eq!(
                taker(&snapshot, &format!("{host}/{path}"), &[]),
                expected,
                "{host}/{path}"
            );
        }
    }
}

#[test]
fn a_route_is_served_for_the_hosts_it_shares_with_the_listener() {
    let snapshot = serving(
        [
            listener("g/g/wild", 80, Some("*.example.com")),
            listener("g/g/exact", 80, Some("one.org")),
        ],
        [
            route("narrow")
                .on(&["g/g/wild"])
                .hosts(&["a.example.com", "elsewhere.com"])
                .at(&["/n"]),
            route("wide")
                .on(&["g/g/wild", "g/g/exact"])
                .hosts(&["*.com", "*.org"])
                .at(&["/w"]),
        ],
    );
    for (line, expected) in [
        ("a.example.com/n", "narrow"),
        ("b.example.com/n", "404"),
        ("elsewhere.com/n", "404"),
        ("b.example.com/w", "wide"),
        ("other.com/w", "404"),
        ("one.org/w", "wide"),
        ("two.org/w", "404"),
    ] {
        assert_eq!(taker(&snapshot, line, &[]), expected, "{line}");
    }
}

#[test]
fn gateways_that_share_a_port_and_a_hostname_share_the_requests() {
    let snapshot = serving(
        [listener("a/one/http", 80, None), listener("b/two/http", 80, None)],
        [
            route("one").on(&["a/one/http"]).at(&["/one"]),
            route("two").on(&["b/two/http"]).at(&["/two"]),
            route("both").on(&["a/one/http", "b/two/http"]).at(&["/both"]),
        ],
    );
    for name in ["one", "two", "both"] {
        assert_eq!(taker(&snapshot, &format!("a.com/{name}"), &[]), name);
    }
}

#[test]
fn ports_are_apart() {
    let snapshot = serving(
        [listener("g/g/80", 80, None), listener("g/g/8080", 8080, None)],
        [route("one").on(&["g/g/80"]), route("two").on(&["g/g/8080"])],
    );
    assert_eq!(
        snapshot
            .ports()
            .map(|port| (port.number, port.protocol))
            .collect::<Vec<_>>(),
        [(80, ListenerProtocol::Http), (8080, ListenerProtocol::Http)]
    );
    assert_eq!(taker(&snapshot, "a.com/", &[]), "one");
    assert_eq!(
        taker_on(snapshot.port(8080).expect("served"), None, "a.com/", &[]),
        "two"
    );
}

#[test]
fn a_host_of_another_listener_than_the_sni_is_misdirected() {
    let snapshot = serving(
        [
            https("g/g/any", 443, None, &[]),
            https("g/g/wild", 443, Some("*.example.org"), &[]),
            https("g/g/second", 443, Some("second.example.org"), &[]),
            https("g/g/exact", 443, Some("example.org"), &[]),
        ],
        [
            route("any").on(&["g/g/any"]).at(&["/detect"]),
            route("wild").on(&["g/g/wild"]).at(&["/detect"]),
            route("second").on(&["g/g/second"]).at(&["/detect"]),
            route("exact").on(&["g/g/exact"]).at(&["/detect"]),
        ],
    );
    let port = snapshot.port(443).expect("it is served");
    assert_eq!(port.protocol, ListenerProtocol::Https);
    for (sni, line, expected) in [
        (Some("example.org"), "example.org/detect", "exact"),
        (Some("EXAMPLE.org"), "Example.ORG:443/detect", "exact"),
        (Some("example.org"), "example.org/other", "404"),
        (Some("example.org"), "second.example.org/detect", "421"),
        (Some("example.org"), "unknown.com/detect", "421"),
        (Some("second.example.org"), "example.org/detect", "421"),
        (Some("third.example.org"), "third.example.org/detect", "wild"),
        (Some("third.example.org"), "fourth.example.org/detect", "wild"),
        (Some("third.example.org"), "second.example.org/detect", "421"),
        (Some("third.example.org"), "fourth.example.org/other", "404"),
        (Some("unknown.com"), "unknown.com/detect", "any"),
        (Some("unknown.com"), "other.net/detect", "any"),
        (Some("unknown.com"), "example.org/detect", "421"),
        (None, "unknown.com/detect", "any"),
        (None, "example.org/detect", "421"),
    ] {
        assert_eq!(taker_on(port, sni, line, &[]), expected, "SNI {sni:?}, {line}");
    }
}

#[test]
fn a_host_of_no_listener_is_not_found() {
    let snapshot = serving(
        [https("g/g/one", 443, Some("one.com"), &[])],
        [route("one").on(&["g/g/one"])],
    );
    let port = snapshot.port(443).expect("it is served");
    assert_eq!(taker_on(port, Some("one.com"), "two.com/", &[]), "404");
    assert_eq!(taker_on(port, Some("one.com"), "one.com/", &[]), "one");
}

fn certificate(key: &str, names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("a certificate");
    Certificate {
        key: key.into(),
        chain_pem: cert.pem(),
        private_key: PrivateKeyPem::new(&signing_key.serialize_pem()),
    }
}

fn put(certificate: &Certificate) -> Change {
    Change::Upsert(Resource::Certificate(Arc::new(certificate.clone())))
}

/// Which of the certificates is shown, by its place.
fn shown(port: &Port, sni: Option<&str>, all: &[&Certificate]) -> Option<usize> {
    let shown = port.certificate(sni)?;
    let leaf = shown.end_entity_cert().expect("a chain");
    let der = |of: &Certificate| CertificateDer::from_pem_slice(of.chain_pem.as_bytes()).expect("PEM");
    Some(
        all.iter()
            .position(|certificate| der(certificate) == *leaf)
            .expect("one of them"),
    )
}

#[test]
fn the_certificate_is_that_of_the_listener_whose_names_fit() {
    let (a, b, c) = (
        certificate("s/a", &["a.com"]),
        certificate("s/b", &["*.b.com"]),
        certificate("s/c", &["c.com"]),
    );
    let all = [&a, &b, &c];
    let mut configuration = Configuration::new();
    let any = https("g/g/any", 443, None, &["s/a", "s/b"]);
    let exact = https("g/g/exact", 443, Some("c.com"), &["s/c"]);
    let applied = configuration.apply(vec![any.put(), exact.put(), put(&a), put(&b), put(&c)]);
    assert_eq!(applied.rejected, []);
    let port = applied.snapshot.port(443).expect("it is served");
    assert_eq!(shown(port, Some("a.com"), &all), Some(0));
    assert_eq!(shown(port, Some("x.b.com"), &all), Some(1));
    assert_eq!(shown(port, Some("X.B.com"), &all), Some(1));
    assert_eq!(
        shown(port, Some("other.com"), &all),
        Some(0),
        "the first is shown when none fits"
    );
    assert_eq!(shown(port, None, &all), Some(0));
    assert_eq!(shown(port, Some("c.com"), &all), Some(2));

    // Replaced, and taken away.
    let renewed = certificate("s/c", &["c.com"]);
    let snapshot = configuration.apply(vec![put(&renewed)]).snapshot;
    assert_eq!(
        shown(snapshot.port(443).expect("served"), Some("c.com"), &[&c, &renewed]),
        Some(1)
    );
    assert_eq!(
        shown(port, Some("c.com"), &all),
        Some(2),
        "the older snapshot shows what it did"
    );
    let snapshot = configuration
        .apply(vec![Change::Remove(Key::Certificate("s/c".into()))])
        .snapshot;
    assert_eq!(shown(snapshot.port(443).expect("served"), Some("c.com"), &all), None);
}

#[test]
fn no_certificate_is_shown_for_a_name_of_no_listener() {
    let a = certificate("s/a", &["a.com"]);
    let applied = Configuration::new().apply(vec![https("g/g/a", 443, Some("a.com"), &["s/a"]).put(), put(&a)]);
    let port = applied.snapshot.port(443).expect("it is served");
    assert_eq!(shown(port, Some("a.com"), &[&a]), Some(0));
    assert!(port.certificate(Some("b.com")).is_none());
    assert!(port.certificate(None).is_none());
}

#[test]
fn a_bad_certificate_is_refused_and_the_old_one_stays() {
    let good = certificate("s/a", &["a.com"]);
    let mut configuration = Configuration::new();
    configuration.apply(vec![https("g/g/a", 443, None, &["s/a"]).put(), put(&good)]);
    let other = certificate("s/a", &["a.com"]);
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    for (bad, word) in [
        (
            Certificate {
                chain_pem: String::new(),
                ..good.clone()
            },
            "no certificate",
        ),
        (
            Certificate {
                chain_pem: garbage,
                ..good.clone()
            },
            "malformed",
        ),
        (
            Certificate {
                private_key: PrivateKeyPem::new(""),
                ..good.clone()
            },
            "no private key",
        ),
        (
            Certificate {
                private_key: other.private_key.clone(),
                ..good.clone()
            },
            "not the key of",
        ),
    ] {
        let applied = configuration.apply(vec![put(&bad)]);
        let [rejected] = applied.rejected.as_slice() else {
            panic!("{:?}", applied.rejected)
        };
        assert_eq!(rejected.key, Key::Certificate("s/a".into()));
        assert!(rejected.reason.contains(word), "{}", rejected.reason);
        let port = applied.snapshot.port(443).expect("it is served");
        assert_eq!(shown(port, Some("a.com"), &[&good]), Some(0));
        assert!(
            applied
                .snapshot
                .resources()
                .contains(&Resource::Certificate(Arc::new(good.clone())))
        );
    }
}

#[test]
fn a_port_speaks_one_protocol() {
    let mut configuration = Configuration::new();
    let first = listener("g/a/http", 80, None);
    let second = https("g/b/https", 80, Some("b.com"), &[]);
    let routes = [route("a").on(&["g/a/http"]), route("b").on(&["g/b/https"])];
    let changes = vec![
        second.clone().put(),
        first.clone().put(),
        routes[0].clone().put(),
        routes[1].clone().put(),
    ];
    let applied = configuration.apply(changes);
    let [rejected] = applied.rejected.as_slice() else {
        panic!("{:?}", applied.rejected)
    };
    assert_eq!(rejected.key, Key::Listener(second.key.clone()));
    assert!(rejected.reason.contains("g/a/http"), "{}", rejected.reason);
    assert_eq!(
        applied.snapshot.port(80).expect("it is served").protocol,
        ListenerProtocol::Http
    );
    assert_eq!(taker(&applied.snapshot, "b.com/", &[]), "a");

    // The other one's turn comes when the first goes, in whatever order that is told.
    let changes = vec![second.clone().put(), Change::Remove(Key::Listener(first.key.clone()))];
    let applied = configuration.apply(changes);
    assert_eq!(applied.rejected, []);
    let port = applied.snapshot.port(80).expect("it is served");
    assert!(
        port.protocol == ListenerProtocol::Https
            && port
                .listeners()
                .all(|listener| listener.protocol == ListenerProtocol::Https)
    );
    assert_eq!(taker_on(port, Some("b.com"), "b.com/", &[]), "b");
}

#[test]
fn a_listener_moves_with_its_routes() {
    let mut configuration = Configuration::new();
    configuration.apply(vec![
        listener(HTTP, 8080, None).put(),
        listener("g/g/x", 80, None).put(),
        route("one").put(),
    ]);
    // From a higher port to a lower and back, and to another hostname.
    for (port, hostname) in [(80, None), (8080, None), (8080, Some("a.com")), (80, Some("*.com"))] {
        let changes = vec![
            listener(HTTP, port, hostname).put(),
            listener("g/g/x", 8080 - port + 80, None).put(),
        ];
        let snapshot = configuration.apply(changes).snapshot;
        assert_eq!(
            taker_on(snapshot.port(port).expect("served"), None, "a.com/", &[]),
            "one"
        );
        assert_eq!(
            taker_on(snapshot.port(8080 - port + 80).expect("served"), None, "a.com/", &[]),
            "404"
        );
    }
    let snapshot = configuration
        .apply(vec![Change::Remove(Key::Listener(HTTP.into()))])
        .snapshot;
    assert_eq!(snapshot.ports().count(), 1);
}
