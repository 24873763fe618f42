//! Service ports as their clients in the mesh see them: which routes are for what is sent to an address.

use std::{net::SocketAddr, sync::Arc};

use proptest::{collection::vec, prelude::*, sample::select};
use weft_model::{
    Change, Frontend, Key, L4Backend, L4Route, ListenerProtocol, Resource, RouteKind, RouteOwner, ServiceKey,
};
use weft_proxy::config::{Configuration, Found, FrontendEntry, Snapshot};

use super::support::{HTTP, Put, RouteWith, listener, request, route, service};

const ALL: &str = "Service/default/a:80";
const CLIENTS: &str = "Service/default/a:80/shop";
const ADDRESS: &str = "10.96.0.1:80";

fn frontend(key: &str, addresses: &[&str]) -> Frontend {
    let mut parts = key.trim_start_matches("Service/").splitn(3, '/');
    let (namespace, port) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    Frontend {
        key: key.into(),
        service: format!("{namespace}/{port}").as_str().into(),
        addresses: addresses.iter().map(|ip| ip.parse().expect("an address")).collect(),
        protocol: ListenerProtocol::Http,
        clients: parts.next().map(str::to_owned),
    }
}

fn speaking(protocol: ListenerProtocol, frontend: Frontend) -> Frontend {
    Frontend { protocol, ..frontend }
}

fn l4(kind: RouteKind, name: &str, on: &str, hostnames: &[&str]) -> Change {
    Change::Upsert(Resource::L4Route(Arc::new(L4Route {
        key: format!("{kind:?}Route/default/{name}/0").into(),
        owner: RouteOwner {
            kind,
            namespace: "default".into(),
            name: name.into(),
            rule: 0,
            rule_name: None,
            created: 0,
        },
        listeners: vec![on.into()],
        hostnames: hostnames.iter().map(|name| name.parse().expect("a hostname")).collect(),
        backends: vec![L4Backend {
            weight: 1,
            target: weft_model::BackendTarget::Service(ServiceKey::new("default", name, 80)),
        }],
    })))
}

fn put(frontend: Frontend) -> Change {
    Change::Upsert(Resource::Frontend(Arc::new(frontend)))
}

fn at<'s>(snapshot: &'s Snapshot, address: &str) -> Option<&'s Arc<FrontendEntry>> {
    snapshot.frontend(address.parse::<SocketAddr>().expect("an address"))
}

/// Who takes a request that is sent to an address: a route by its name, nobody (404), or no routes are for it.
fn taker(snapshot: &Snapshot, address: &str, line: &str, fields: &[(&str, &str)]) -> String {
    match at(snapshot, address).map(|frontend| frontend.find(&request(line, fields).view())) {
        None => "as it is".to_owned(),
        Some(Found::Rule(found)) => found.rule.route.owner.name.clone(),
        Some(Found::NoRoute) => "404".to_owned(),
        Some(Found::Misdirected) => "421".to_owned(),
    }
}

fn applied(configuration: &mut Configuration, changes: Vec<Change>) -> Arc<Snapshot> {
    let applied = configuration.apply(changes);
    assert_eq!(applied.rejected, []);
    applied.snapshot
}

#[test]
fn routes_are_found_by_the_address_whatever_the_host() {
    let mut configuration = Configuration::new();
    let snapshot = applied(
        &mut configuration,
        vec![
            put(frontend(ALL, &["10.96.0.1", "fd00::1"])),
            // A route may be attached to a Gateway too, where its hostnames count.
            route("x").on(&[ALL, HTTP]).hosts(&["x.example"]).at(&["/x"]).put(),
            route("y").on(&[ALL]).at(&["/"]).header("version", "2").put(),
            route("elsewhere").on(&["Service/default/b:80"]).put(),
            listener(HTTP, 80, None).put(),
        ],
    );
    for address in [ADDRESS, "[fd00::1]:80"] {
        for host in ["a", "x.example", "other.example:80", ""] {
            assert_eq!(taker(&snapshot, address, &format!("{host}/x/1"), &[]), "x");
            assert_eq!(taker(&snapshot, address, &format!("{host}/"), &[("version", "2")]), "y");
            assert_eq!(taker(&snapshot, address, &format!("{host}/"), &[]), "404");
        }
    }
    for address in ["10.96.0.1:8080", "10.96.0.2:80"] {
        assert_eq!(taker(&snapshot, address, "a/x", &[]), "as it is");
    }
    assert_eq!(super::support::taker(&snapshot, "x.example/x", &[]), "x");
    assert_eq!(super::support::taker(&snapshot, "a/x", &[]), "404");
}

#[test]
fn routes_for_some_clients_come_before_those_for_all() {
    let mut configuration = Configuration::new();
    let both = vec![
        put(frontend(ALL, &["10.96.0.1"])),
        put(frontend(CLIENTS, &["10.96.0.1"])),
        route("all").on(&[ALL]).put(),
        route("some").on(&[CLIENTS]).at(&["/some"]).put(),
    ];
    let snapshot = applied(&mut configuration, both);
    // They are not merged (GEP-1294).
    assert_eq!(taker(&snapshot, ADDRESS, "a/some", &[]), "some");
    assert_eq!(taker(&snapshot, ADDRESS, "a/", &[]), "404");
    let snapshot = applied(&mut configuration, vec![Change::Remove(Key::Frontend(CLIENTS.into()))]);
    assert_eq!(taker(&snapshot, ADDRESS, "a/some", &[]), "all");
}

#[test]
fn without_a_rule_it_is_as_if_there_were_none() {
    let mut configuration = Configuration::new();
    let snapshot = applied(
        &mut configuration,
        vec![
            put(frontend(ALL, &["10.96.0.1"])),
            put(frontend(CLIENTS, &["10.96.0.1"])),
            l4(RouteKind::Tcp, "tcp", CLIENTS, &[]),
        ],
    );
    assert_eq!(taker(&snapshot, ADDRESS, "a/", &[]), "as it is");
    let snapshot = applied(&mut configuration, vec![route("all").on(&[ALL]).put()]);
    assert_eq!(
        taker(&snapshot, ADDRESS, "a/", &[]),
        "all",
        "the other has none for requests"
    );
    let snapshot = applied(&mut configuration, vec![route("some").on(&[CLIENTS]).put()]);
    assert_eq!(taker(&snapshot, ADDRESS, "a/", &[]), "some");
    let key = route("some").key;
    let snapshot = applied(&mut configuration, vec![Change::Remove(Key::Route(key))]);
    assert_eq!(taker(&snapshot, ADDRESS, "a/", &[]), "all");
    let snapshot = applied(&mut configuration, vec![Change::Remove(Key::Route(route("all").key))]);
    assert_eq!(taker(&snapshot, ADDRESS, "a/", &[]), "as it is");
}

#[test]
fn connections_are_told_apart_by_their_sni_where_that_is_what_routes_are_for() {
    let mut configuration = Configuration::new();
    let tls = speaking(ListenerProtocol::Tls, frontend("Service/default/t:443", &["10.96.0.2"]));
    let tcp = speaking(
        ListenerProtocol::Tcp,
        frontend("Service/default/d:5432", &["10.96.0.2"]),
    );
    let snapshot = applied(
        &mut configuration,
        vec![
            put(tls),
            put(tcp),
            l4(RouteKind::Tls, "exact", "Service/default/t:443", &["a.example"]),
            l4(RouteKind::Tls, "wild", "Service/default/t:443", &["*.example"]),
            l4(RouteKind::Tcp, "database", "Service/default/d:5432", &[]),
        ],
    );
    let flow = |address: &str, sni: Option<&str>| {
        let rule = at(&snapshot, address)?.flow(sni)?;
        Some(rule.route.owner.name.clone())
    };
    assert_eq!(flow("10.96.0.2:443", Some("a.example")).as_deref(), Some("exact"));
    assert_eq!(flow("10.96.0.2:443", Some("b.example")).as_deref(), Some("wild"));
    assert_eq!(flow("10.96.0.2:443", Some("b.other")), None);
    assert_eq!(flow("10.96.0.2:443", None), None);
    assert_eq!(flow("10.96.0.2:5432", None).as_deref(), Some("database"));
}

#[test]
fn what_cannot_be_routed_is_refused_and_its_older_version_stays() {
    let mut configuration = Configuration::new();
    applied(
        &mut configuration,
        vec![put(frontend(ALL, &["10.96.0.1"])), route("all").on(&[ALL]).put()],
    );
    let nowhere = Frontend {
        service: "default/a".into(),
        ..frontend(ALL, &["10.96.0.3"])
    };
    for bad in [nowhere, speaking(ListenerProtocol::Udp, frontend(ALL, &["10.96.0.3"]))] {
        let applied = configuration.apply(vec![put(bad)]);
        assert_eq!(applied.rejected.len(), 1);
        assert_eq!(applied.rejected[0].key, Key::Frontend(ALL.into()));
        assert_eq!(taker(&applied.snapshot, ADDRESS, "a/", &[]), "all");
    }
}

#[test]
fn a_change_of_routes_touches_nothing_else() {
    let mut configuration = Configuration::new();
    let other = "Service/default/b:80";
    let before = applied(
        &mut configuration,
        vec![
            put(frontend(ALL, &["10.96.0.1"])),
            put(frontend(other, &["10.96.0.2"])),
            route("all").on(&[ALL]).put(),
            route("other").on(&[other]).put(),
        ],
    );
    let after = applied(&mut configuration, vec![route("all").on(&[ALL]).at(&["/new"]).put()]);
    let same = |address: &str| match (at(&before, address), at(&after, address)) {
        (Some(before), Some(after)) => Arc::ptr_eq(before, after),
        _ => panic!("{address} has routes"),
    };
    assert!(same("10.96.0.2:80") && !same(ADDRESS));
    assert_eq!(taker(&before, ADDRESS, "a/", &[]), "all");
    assert_eq!(taker(&after, ADDRESS, "a/", &[]), "404");
    // A Service that moves takes its routes along.
    let moved = applied(&mut configuration, vec![put(frontend(ALL, &["10.96.0.9"]))]);
    assert_eq!(taker(&moved, ADDRESS, "a/new", &[]), "as it is");
    assert_eq!(taker(&moved, "10.96.0.9:80", "a/new", &[]), "all");
}

const KEYS: [&str; 3] = [ALL, CLIENTS, "Service/default/b:80"];
const ADDRESSES: [&str; 3] = ["10.96.0.1", "10.96.0.2", "fd00::1"];

fn changes() -> impl Strategy<Value = Change> {
    let frontends = (select(&KEYS), vec(select(&ADDRESSES), 1..3), any::<bool>());
    let routes = (
        select(&["r", "s", "t"]),
        vec(select(&KEYS), 1..3),
        select(&["/", "/a", "=/a"]),
    );
    prop_oneof![
        4 => frontends.prop_map(|(key, addresses, http)| {
            let protocol = if http { ListenerProtocol::Http } else { ListenerProtocol::Tcp };
            put(speaking(protocol, frontend(key, &addresses)))
        }),
        2 => select(&KEYS).prop_map(|key| Change::Remove(Key::Frontend(key.into()))),
        4 => routes.prop_map(|(name, on, path)| route(name).on(&on).at(&[path]).put()),
        2 => select(&["r", "s", "t"]).prop_map(|name| Change::Remove(Key::Route(route(name).key))),
        1 => select(&KEYS).prop_map(|key| l4(RouteKind::Tcp, "c", key, &[])),
        1 => Just(service("r").put()),
    ]
}

proptest! {
    #[test]
    fn a_configuration_that_was_edited_is_the_one_that_was_loaded(edits in vec(vec(changes(), 1..4), 1..12)) {
        let mut edited = Configuration::new();
        let mut snapshot = Arc::default();
        for edit in edits {
            snapshot = applied(&mut edited, edit);
        }
        let resources: Vec<Change> = snapshot.resources().into_iter().rev().map(Change::Upsert).collect();
        let loaded = applied(&mut Configuration::new(), resources);
        for ip in ADDRESSES {
            let address = SocketAddr::new(ip.parse().expect("an address"), 80);
            let (one, other) = (snapshot.frontend(address), loaded.frontend(address));
            let key = |entry: Option<&Arc<FrontendEntry>>| entry.map(|entry| entry.frontend.key.clone());
            prop_assert_eq!(key(one), key(other));
            for line in ["h/", "h/a", "h/b"] {
                let address = address.to_string();
                prop_assert_eq!(taker(&snapshot, &address, line, &[]), taker(&loaded, &address, line, &[]));
            }
            let flow = |entry: Option<&Arc<FrontendEntry>>| Some(entry?.flow(None)?.route.key.clone());
            prop_assert_eq!(flow(one), flow(other));
        }
    }
}
