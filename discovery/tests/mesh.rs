//! What sidecars are told: the routes of Services whose clients they are beside, and nothing else.

mod support;

use std::{net::Ipv6Addr, sync::Arc};

use serde_json::json;
use support::{
    Operator, Proxy, frontend, listener, mesh_namespace, mesh_service, peer, peer_at, route, service, workload,
};
use weft_model::{Key, Rejected, Resource};

const ALL: &str = "Service/shop/a:80";
const CONSUMERS: &str = "Service/shop/a:80/web";

/// A Service with the producer's route and another of the clients in `web`, and a Gateway.
fn shop() -> Vec<Resource> {
    vec![
        frontend(ALL, "shop/a:80", None),
        frontend(CONSUMERS, "shop/a:80", Some("web")),
        route("shop/all/0", ALL, "shop/a:80"),
        route("web/own/0", CONSUMERS, "shop/b:80"),
        service("shop/a:80"),
        service("shop/b:80"),
        workload("shop/a-1", "shop/a:80"),
        workload("shop/b-1", "shop/b:80"),
        listener("shop/gw/http", "shop/gw"),
        route("shop/edge/0", "shop/gw/http", "shop/c:80"),
        service("shop/c:80"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_gets_what_the_clients_in_its_namespace_use() {
    let operator = Operator::start().await;
    operator.set_mesh(&["shop", "web"]);
    operator.publish(shop());
    let all = [
        "+frontend Service/shop/a:80",
        "+route shop/all/0",
        "+service shop/a:80",
        "+workload shop/a-1",
    ];
    let producer = Proxy::beside(&operator, "shop", "a-1");
    producer.synced().await;
    producer.told(&all).await;
    let consumer = Proxy::beside(&operator, "web", "w-1");
    consumer.synced().await;
    let own = [
        "+frontend Service/shop/a:80/web",
        "+route web/own/0",
        "+service shop/b:80",
        "+workload shop/b-1",
    ];
    let mut both: Vec<&str> = all.into_iter().chain(own).collect();
    both.sort_unstable();
    consumer.told(&both).await;
    let names: Vec<String> = consumer.log().iter().map(support::name).collect();
    assert!(names.is_sorted_by_key(|name| {
        let kinds = ["+workload", "+service", "+route", "+frontend"];
        kinds.iter().position(|kind| name.starts_with(kind))
    }));
    let gateway = Proxy::connect(&operator, "shop/gw", "gw-1").await;
    gateway.synced().await;
    gateway
        .told(&["+listener shop/gw/http", "+route shop/edge/0", "+service shop/c:80"])
        .await;
    assert_eq!(
        operator.replicas().len(),
        1,
        "sidecars are not among the replicas of Gateways"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_reaches_the_clients_it_is_for() {
    let operator = Operator::start().await;
    operator.set_mesh(&["shop", "web"]);
    operator.publish(shop());
    let (producer, consumer) = (
        Proxy::beside(&operator, "shop", "a-1"),
        Proxy::beside(&operator, "web", "w-1"),
    );
    producer.synced().await;
    consumer.synced().await;
    producer.clear();
    consumer.clear();
    operator.publish([route("web/own/0", CONSUMERS, "shop/a:80")]);
    consumer
        .told(&["+route web/own/0", "-service shop/b:80", "-workload shop/b-1"])
        .await;
    consumer.clear();
    operator.publish([workload("shop/a-2", "shop/a:80")]);
    consumer.told(&["+workload shop/a-2"]).await;
    producer.told(&["+workload shop/a-2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_leaves_the_mesh_is_told_nothing_and_that_what_it_had_is_gone() {
    let operator = Operator::start().await;
    operator.publish(shop());
    let sidecar = Proxy::beside(&operator, "shop", "a-1");
    sidecar.synced().await;
    sidecar.told(&[]).await;
    operator.set_mesh(&["shop"]);
    sidecar
        .told(&[
            "+frontend Service/shop/a:80",
            "+route shop/all/0",
            "+service shop/a:80",
            "+workload shop/a-1",
        ])
        .await;
    sidecar.clear();
    operator.set_mesh(&["web"]);
    sidecar
        .told(&[
            "-frontend Service/shop/a:80",
            "-route shop/all/0",
            "-service shop/a:80",
            "-workload shop/a-1",
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_namespaces_are_in_the_mesh_no_longer_is_told_before_what_was_in_them_is_taken_back() {
    let operator = Operator::start().await;
    operator.set_mesh(&["shop"]);
    operator.publish([mesh_namespace("shop"), mesh_namespace("web"), mesh_service("shop/c:80")]);
    operator.publish([peer("shop/a-1")]);
    let sidecar = Proxy::beside(&operator, "shop", "a-1");
    sidecar.synced().await;
    sidecar.clear();
    operator.set_mesh(&[]);
    let gone = [
        "-namespace shop",
        "-namespace web",
        "-peer shop/a-1",
        "-service shop/c:80 in the mesh",
    ];
    sidecar.told(&gone).await;
    let mut first: Vec<String> = sidecar.log().iter().take(2).map(support::name).collect();
    first.sort();
    assert_eq!(first, gone[..2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_go_to_the_namespaces_they_protect_and_what_a_pod_is_to_itself() {
    let operator = Operator::start().await;
    operator.set_mesh(&["shop", "web"]);
    let read = |value: serde_json::Value| serde_json::from_value::<Resource>(value).expect("a resource");
    let policy = |targets: serde_json::Value| {
        read(
            json!({"kind": "authorization", "key": "AuthorizationPolicy/shop/p", "action": "allow", "targets": targets}),
        )
    };
    let member = |pod: &str| read(json!({"kind": "member", "key": pod, "account": "default"}));
    operator.publish([
        policy(json!([{"workloads": {"namespace": "shop", "labels": {"app": "a"}}}])),
        member("shop/a-1"),
        member("shop/a-2"),
        read(json!({"kind": "meshNamespace", "key": "shop", "stage": "secure"})),
    ]);
    let (one, other) = (
        Proxy::beside(&operator, "shop", "a-1"),
        Proxy::beside(&operator, "web", "w-1"),
    );
    one.synced().await;
    other.synced().await;
    let told = [
        "+labels of shop/a-1",
        "+namespace shop",
        "+policy AuthorizationPolicy/shop/p",
    ];
    one.told(&told).await;
    let names: Vec<String> = one.log().iter().map(support::name).collect();
    assert_eq!(names.last().map(String::as_str), Some("+namespace shop"), "{names:?}");
    other.told(&["+namespace shop"]).await;
    one.clear();
    other.clear();
    operator.publish([policy(json!([{"namespace": "web"}]))]);
    one.told(&["-policy AuthorizationPolicy/shop/p"]).await;
    other.told(&["+policy AuthorizationPolicy/shop/p"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_of_a_gateway_and_of_a_service_goes_to_both() {
    let operator = Operator::start().await;
    operator.set_mesh(&["shop"]);
    let mut both = route("shop/r/0", "shop/gw/http", "shop/a:80");
    if let Resource::Route(route) = &mut both {
        Arc::make_mut(route).listeners.push(ALL.into());
    }
    operator.publish([
        both,
        listener("shop/gw/http", "shop/gw"),
        frontend(ALL, "shop/a:80", None),
    ]);
    let gateway = Proxy::connect(&operator, "shop/gw", "gw-1").await;
    let sidecar = Proxy::beside(&operator, "shop", "a-1");
    gateway.told(&["+listener shop/gw/http", "+route shop/r/0"]).await;
    sidecar.told(&["+frontend Service/shop/a:80", "+route shop/r/0"]).await;
    gateway.clear();
    sidecar.clear();
    operator.remove([Key::Frontend(ALL.into())]);
    sidecar.told(&["-frontend Service/shop/a:80", "-route shop/r/0"]).await;
    let epoch = operator.publish([service("shop/other:80")]);
    operator.taken("shop/gw", "gw-1", epoch).await;
    gateway.told(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_told_which_of_its_workloads_are_in_the_mesh_and_a_sidecar_of_all() {
    let operator = Operator::start().await;
    operator.set_mesh(&["shop", "web"]);
    operator.publish([mesh_namespace("shop"), mesh_namespace("web"), mesh_service("shop/c:80")]);
    operator.publish(["shop/a-1", "shop/c-1", "web/w-1"].map(peer));
    operator.publish(shop());
    let gateway = Proxy::connect(&operator, "shop/gw", "gw-1").await;
    gateway.synced().await;
    gateway
        .told(&["+listener shop/gw/http", "+route shop/edge/0", "+service shop/c:80"])
        .await;
    gateway.clear();
    operator.publish([workload("shop/c-1", "shop/c:80"), workload("shop/c-2", "shop/c:80")]);
    let told = [
        "+namespace shop",
        "+peer shop/c-1",
        "+workload shop/c-1",
        "+workload shop/c-2",
    ];
    gateway.told(&told).await;
    let order: Vec<String> = gateway.log().iter().map(support::name).collect();
    assert_eq!(order, told, "who is there is known before anything is sent there");
    let sidecar = Proxy::beside(&operator, "web", "w-1");
    sidecar.synced().await;
    let log = sidecar.log();
    for all in [
        "+namespace shop",
        "+namespace web",
        "+peer shop/a-1",
        "+service shop/c:80 in the mesh",
    ] {
        assert!(log.iter().any(|change| support::name(change) == all), "{all}");
    }
    // One more gets a sidecar, and one is no backend any more.
    gateway.clear();
    operator.publish([peer("shop/c-2")]);
    gateway.told(&["+peer shop/c-2"]).await;
    gateway.clear();
    operator.remove([Key::Workload("shop/c-1".into())]);
    gateway.told(&["-peer shop/c-1", "-workload shop/c-1"]).await;
    gateway.clear();
    operator.publish([mesh_namespace("web"), peer("shop/a-1")]);
    operator.publish([mesh_namespace("shop")]);
    operator.remove([Key::Workload("shop/c-2".into())]);
    gateway
        .told(&["-namespace shop", "-peer shop/c-2", "-workload shop/c-2"])
        .await;
    let epoch = operator.remove([Key::Peer("shop/c-2".into()), Key::MeshNamespace("shop".into())]);
    operator.taken("shop/gw", "gw-1", epoch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_told_of_pods_that_it_comes_to_by_ipv6() {
    let operator = Operator::start().await;
    operator.set_mesh(&["shop"]);
    operator.publish([mesh_namespace("shop")]);
    operator.publish([peer("shop/c-1"), peer_at("shop/c-2", Ipv6Addr::LOCALHOST)]);
    operator.publish(shop());
    let gateway = Proxy::connect(&operator, "shop/gw", "gw-1").await;
    gateway.synced().await;
    gateway.clear();
    operator.publish([workload("shop/c-2/IPv6", "shop/c:80")]);
    gateway
        .told(&["+namespace shop", "+peer shop/c-2", "+workload shop/c-2/IPv6"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sidecars_refuse_is_known_for_as_long_as_one_does() {
    let operator = Operator::start().await;
    operator.set_mesh(&["shop"]);
    let key = Key::Route("shop/all/0".into());
    let (one, other) = (
        Proxy::beside(&operator, "shop", "a-1"),
        Proxy::beside(&operator, "shop", "b-1"),
    );
    for sidecar in [&one, &other] {
        sidecar.refuse(Rejected {
            key: key.clone(),
            reason: "no such thing".to_owned(),
        });
    }
    operator.publish(shop());
    operator.refused_by_sidecars(&[(&key, "no such thing")]).await;
    drop(one);
    operator.refused_by_sidecars(&[(&key, "no such thing")]).await;
    other.refuse_nothing();
    operator.publish([route("shop/all/0", ALL, "shop/b:80")]);
    operator.refused_by_sidecars(&[]).await;
}
