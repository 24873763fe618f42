use weft_model::MeshNamespace;

use super::*;

fn peer(name: &str, address: [u8; 4]) -> Peer {
    Peer {
        key: format!("shop/{name}").into(),
        addresses: vec![address.into()],
        namespace: "shop".into(),
        account: "front".to_owned(),
        owner: None,
        direct_ports: vec![5432],
        probe_ports: vec![8081],
        asks_only: false,
    }
}

fn put(workloads: &mut Workloads, peer: Peer) {
    workloads.apply(Change::Upsert(Resource::Peer(Arc::new(peer))));
}

fn stage(workloads: &mut Workloads, stage: Stage) {
    let namespace = MeshNamespace {
        key: "shop".into(),
        stage,
        default_action: weft_model::DefaultAction::default(),
    };
    workloads.apply(Change::Upsert(Resource::MeshNamespace(Arc::new(namespace))));
}

#[test]
fn proof_is_wanted_of_workloads_from_secure_on() {
    let mut workloads = Workloads::default();
    put(&mut workloads, peer("a", [10, 0, 0, 1]));
    let to = |port| SocketAddr::from(([10, 0, 0, 1], port));
    assert!(workloads.expected(to(80), None).is_none());
    for (now, proof) in [(Stage::Observe, false), (Stage::Secure, true), (Stage::Strict, true)] {
        stage(&mut workloads, now);
        assert_eq!(workloads.expected(to(80), None).is_some(), proof, "{now:?}");
        assert!(workloads.expected(to(5432), None).is_none());
        assert!(workloads.expected(([10, 0, 0, 2], 80).into(), None).is_none());
    }
    let inbound = |workloads: &Workloads, port| workloads.inbound(&"shop/a".into(), &"shop".into(), port);
    assert_eq!(inbound(&workloads, 80), Inbound::Secure, "not all have heard of it");
    let settle = |workloads: &mut Workloads| {
        while let Some(due) = workloads.due() {
            workloads.settle(due);
        }
    };
    settle(&mut workloads);
    assert_eq!(inbound(&workloads, 80), Inbound::Strict);
    assert_eq!(inbound(&workloads, 8081), Inbound::Secure);
    workloads.apply(Change::Remove(Key::MeshNamespace("shop".into())));
    settle(&mut workloads);
    assert_eq!(inbound(&workloads, 80), Inbound::Open);
}

#[test]
fn a_gateway_is_known_to_come_and_has_nothing_to_prove_where_it_is() {
    let mut workloads = Workloads::default();
    stage(&mut workloads, Stage::Strict);
    put(
        &mut workloads,
        Peer {
            asks_only: true,
            ..peer("edge-1", [10, 0, 0, 1])
        },
    );
    assert!(workloads.is_peer([10, 0, 0, 1].into()));
    assert!(workloads.expected(([10, 0, 0, 1], 80).into(), None).is_none());
}

#[test]
fn nobody_proves_anything_to_himself_but_by_a_service() {
    let mut workloads = Workloads::default();
    stage(&mut workloads, Stage::Strict);
    put(&mut workloads, peer("a", [10, 0, 0, 1]));
    put(&mut workloads, peer("b", [10, 0, 0, 2]));
    workloads.apply(Change::Upsert(Resource::MeshService(Arc::new(MeshService {
        key: ServiceKey::new("shop", "front", 80),
        addresses: vec![[10, 96, 0, 1].into()],
        endpoints: vec![SocketAddr::from(([10, 0, 0, 1], 8080))],
        leaving: Vec::new(),
        sticky: false,
        local: false,
    }))));
    let own = WorkloadKey::from("shop/a");
    for (to, proof) in [([10, 0, 0, 1], false), ([10, 0, 0, 2], true), ([10, 96, 0, 1], true)] {
        let to = SocketAddr::from((to, 80));
        assert_eq!(workloads.expected(to, Some(&own)).is_some(), proof, "{to}");
        assert_eq!(workloads.is_expected(to, Some(&own)), proof, "{to}");
    }
}

#[test]
fn behind_a_service_one_of_its_workloads_has_to_prove_itself_if_all_can() {
    let mut workloads = Workloads::default();
    stage(&mut workloads, Stage::Secure);
    put(&mut workloads, peer("a", [10, 0, 0, 1]));
    let service = |endpoints: &[[u8; 4]]| {
        let endpoints = endpoints.iter().map(|address| SocketAddr::from((*address, 8080)));
        Change::Upsert(Resource::MeshService(Arc::new(MeshService {
            key: ServiceKey::new("shop", "front", 80),
            addresses: vec![[10, 96, 0, 1].into()],
            endpoints: endpoints.collect(),
            leaving: Vec::new(),
            sticky: false,
            local: false,
        })))
    };
    let to = |port| SocketAddr::from(([10, 96, 0, 1], port));
    workloads.apply(service(&[[10, 0, 0, 1], [10, 0, 0, 2]]));
    assert!(workloads.expected(to(80), None).is_none(), "one is not in the mesh");
    assert!(!workloads.is_expected(to(80), None));
    put(&mut workloads, peer("b", [10, 0, 0, 2]));
    let expected = workloads.expected(to(80), None).expect("all are");
    assert_eq!(expected.to_string(), "shop/front");
    assert!(workloads.is_expected(to(80), None));
    let domain = TrustDomain::parse("a.b").expect("a trust domain");
    let is = |text: &str| expected.includes(&SpiffeId::parse(text).expect("an identity"), &domain);
    assert!(is("spiffe://a.b/ns/shop/sa/front"));
    assert!(!is("spiffe://a.b/ns/shop/sa/back") && !is("spiffe://c.d/ns/shop/sa/front"));
    assert!(workloads.expected(to(81), None).is_none());
    // While it has none, whoever comes is most likely like those that it had last.
    workloads.apply(service(&[]));
    assert!(workloads.is_expected(to(80), None));
    let expected = workloads.expected(to(80), None).expect("as before");
    assert_eq!(expected.to_string(), "shop/front");
    workloads.apply(Change::Remove(Key::MeshService(ServiceKey::new("shop", "front", 80))));
    assert!(workloads.expected(to(80), None).is_none() && workloads.resources().count() == 3);
}

#[test]
fn an_address_belongs_to_the_pod_that_was_told_last() {
    let mut workloads = Workloads::default();
    put(&mut workloads, peer("a", [10, 0, 0, 1]));
    put(&mut workloads, peer("b", [10, 0, 0, 1]));
    workloads.apply(Change::Remove(Key::Peer("shop/a".into())));
    assert!(workloads.is_peer([10, 0, 0, 1].into()));
    put(&mut workloads, peer("b", [10, 0, 0, 2]));
    assert!(!workloads.is_peer([10, 0, 0, 1].into()) && workloads.is_peer([10, 0, 0, 2].into()));
    // As it comes to a socket for both families.
    let mapped = std::net::Ipv4Addr::from([10, 0, 0, 2]).to_ipv6_mapped();
    assert!(workloads.is_peer(mapped.into()));
}

#[test]
fn who_is_in_a_namespace_that_leaves_the_mesh_is_known_until_all_have_heard_of_it() {
    let mut workloads = Workloads::default();
    stage(&mut workloads, Stage::Strict);
    put(&mut workloads, peer("a", [10, 0, 0, 1]));
    put(&mut workloads, peer("b", [10, 0, 0, 2]));
    let key = ServiceKey::new("shop", "front", 80);
    let service = MeshService {
        key: key.clone(),
        addresses: vec![[10, 96, 0, 1].into()],
        endpoints: vec![SocketAddr::from(([10, 0, 0, 1], 8080))],
        leaving: Vec::new(),
        sticky: false,
        local: false,
    };
    workloads.apply(Change::Upsert(Resource::MeshService(Arc::new(service))));
    let proves = |workloads: &Workloads, to: [u8; 4]| workloads.is_expected((to, 80).into(), None);
    // A pod that ends is gone at once.
    workloads.apply(Change::Remove(Key::Peer("shop/b".into())));
    assert!(!proves(&workloads, [10, 0, 0, 2]));
    for gone in [
        Key::MeshNamespace("shop".into()),
        Key::Peer("shop/a".into()),
        Key::MeshService(key),
    ] {
        workloads.apply(Change::Remove(gone));
        assert!(proves(&workloads, [10, 0, 0, 1]) && proves(&workloads, [10, 96, 0, 1]));
    }
    assert_eq!(workloads.resources().count(), 0, "it is not told of any more");
    let own = (WorkloadKey::from("shop/a"), NamespaceKey::from("shop"));
    assert_eq!(workloads.inbound(&own.0, &own.1, 80), Inbound::Secure);
    let due = workloads.due().expect("something is to end");
    workloads.settle(due);
    assert!(!proves(&workloads, [10, 0, 0, 1]) && !proves(&workloads, [10, 96, 0, 1]));
    let due = workloads.due().expect("who comes with proof is heard for longer");
    workloads.settle(due);
    assert_eq!(workloads.inbound(&own.0, &own.1, 80), Inbound::Open);
    assert!(workloads.due().is_none() && workloads.talks.is_empty());
}

#[test]
fn what_is_told_again_stays() {
    let mut workloads = Workloads::default();
    stage(&mut workloads, Stage::Strict);
    put(&mut workloads, peer("a", [10, 0, 0, 1]));
    workloads.apply(Change::Remove(Key::MeshNamespace("shop".into())));
    workloads.apply(Change::Remove(Key::Peer("shop/a".into())));
    stage(&mut workloads, Stage::Strict);
    put(&mut workloads, peer("a", [10, 0, 0, 1]));
    while let Some(due) = workloads.due() {
        workloads.settle(due);
    }
    assert_eq!(workloads.resources().count(), 2);
    assert!(workloads.is_expected(([10, 0, 0, 1], 80).into(), None));
}

#[test]
fn a_probed_port_is_never_closed_to_all() {
    let mut workloads = Workloads::default();
    put(&mut workloads, peer("a", [10, 0, 0, 1]));
    stage(&mut workloads, Stage::Observe);
    stage(&mut workloads, Stage::Strict);
    let own = (WorkloadKey::from("shop/a"), NamespaceKey::from("shop"));
    for (port, closing) in [(80, true), (8081, false)] {
        assert_eq!(workloads.inbound(&own.0, &own.1, port), Inbound::Secure);
        assert_eq!(workloads.is_closing(&own.0, &own.1, port), closing);
    }
    let due = workloads.due().expect("it closes");
    workloads.settle(due);
    assert_eq!(workloads.inbound(&own.0, &own.1, 80), Inbound::Strict);
    assert_eq!(workloads.inbound(&own.0, &own.1, 8081), Inbound::Secure);
}
