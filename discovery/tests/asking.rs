//! A sidecar is told of its own namespace, and of those that it talks to: it asks whose an address is.

mod support;

use support::{Operator, Proxy, frontend, mesh_namespace, mesh_service, peer_at, route, service, workload};
use weft_model::Key;

const SHOP: [u8; 4] = [10, 0, 1, 1];
const SERVICE: [u8; 4] = [10, 96, 0, 1];

/// Two namespaces of which the one has routes, and what is told of the second of them.
fn publish(operator: &Operator) -> Vec<&'static str> {
    operator.set_mesh(&["shop", "web", "other"]);
    operator.publish(["shop", "web", "other"].map(mesh_namespace));
    operator.publish([
        peer_at("web/w-1", [10, 0, 2, 1]),
        peer_at("shop/a-1", SHOP),
        peer_at("other/o-1", [10, 0, 3, 1]),
        mesh_service("shop/a:80"),
        frontend("Service/shop/a:80", "shop/a:80", None),
        route("shop/all/0", "Service/shop/a:80", "shop/a:80"),
        service("shop/a:80"),
        workload("shop/a-1", "shop/a:80"),
    ]);
    vec![
        "+frontend Service/shop/a:80",
        "+peer shop/a-1",
        "+route shop/all/0",
        "+service shop/a:80",
        "+service shop/a:80 in the mesh",
        "+workload shop/a-1",
    ]
}

const OWN: [&str; 4] = ["+namespace other", "+namespace shop", "+namespace web", "+peer web/w-1"];

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_told_of_from_when_one_of_its_addresses_is_asked_about() {
    let operator = Operator::start().await;
    let shop = publish(&operator);
    let (sidecar, asking) = Proxy::asking(&operator, "web", "w-1", &[]);
    sidecar.synced().await;
    asking.connected(1).await;
    sidecar.told(&OWN).await;
    sidecar.clear();
    for address in [SERVICE, SHOP] {
        asking.ask([address]);
        let told = asking
            .answered(&format!("{} is of shop", std::net::Ipv4Addr::from(address)))
            .await;
        let mut told: Vec<&str> = told.iter().map(String::as_str).collect();
        told.sort_unstable();
        assert_eq!(told, shop, "all is told before it is answered");
    }
    sidecar.told(&shop).await;
    // From here on it is told of what changes there, and of nothing else.
    sidecar.clear();
    operator.publish([peer_at("other/o-2", [10, 0, 3, 2]), peer_at("shop/a-2", [10, 0, 1, 2])]);
    sidecar.told(&["+peer shop/a-2"]).await;
    sidecar.clear();
    asking.leave("shop");
    let gone: Vec<String> = shop.iter().map(|name| name.replace('+', "-")).collect();
    let mut gone: Vec<&str> = gone.iter().map(String::as_str).chain(["-peer shop/a-2"]).collect();
    gone.sort_unstable();
    sidecar.told(&gone).await;
    // And once more.
    sidecar.clear();
    asking.ask([SHOP]);
    asking.answered("10.0.1.1 is of shop").await;
    let mut shop = shop;
    shop.push("+peer shop/a-2");
    shop.sort_unstable();
    sidecar.told(&shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_an_address_that_was_nobodys_is_told_of_at_once() {
    let operator = Operator::start().await;
    publish(&operator);
    let (sidecar, asking) = Proxy::asking(&operator, "web", "w-1", &[]);
    sidecar.synced().await;
    asking.ask([[10, 0, 9, 9], [192, 0, 2, 1]]);
    asking.answered("10.0.9.9 is of ").await;
    asking.answered("192.0.2.1 is of ").await;
    sidecar.clear();
    operator.publish([peer_at("other/o-9", [10, 0, 9, 9])]);
    let told = asking.answered("10.0.9.9 is of other").await;
    assert!(told.contains(&"+peer other/o-9".to_owned()), "{told:?}");
    sidecar.told(&["+peer other/o-1", "+peer other/o-9"]).await;
    // The same address at another's.
    sidecar.clear();
    operator.remove([Key::Peer("other/o-9".into())]);
    sidecar.told(&["-peer other/o-9"]).await;
    operator.publish([peer_at("shop/a-9", [10, 0, 9, 9])]);
    asking.answered("10.0.9.9 is of shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_about_too_long_ago_is_asked_about_again() {
    let operator = Operator::start().await;
    publish(&operator);
    let (sidecar, asking) = Proxy::asking(&operator, "web", "w-1", &[]);
    sidecar.synced().await;
    asking.ask((0..=4096_u16).map(|at| [172, 16, (at >> 8) as u8, at as u8]));
    asking.answered("172.16.0.0 is forgotten").await;
    asking.answered("172.16.16.0 is of ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_many_parts_is_one_only_at_its_end() {
    let operator = Operator::start().await;
    operator.set_mesh(&["web", "large"]);
    operator.publish(["web", "large"].map(mesh_namespace));
    let (sidecar, asking) = Proxy::asking(&operator, "web", "w-1", &[]);
    sidecar.synced().await;
    // Some megabytes, of which it takes nothing for a while.
    let pods = (0..8000_u16).map(|at| peer_at(&format!("large/backend-{at}"), [10, 1, (at >> 8) as u8, at as u8]));
    operator.publish(pods.chain([mesh_service("large/backend:80")]));
    sidecar.clear();
    let paused = sidecar.pause().await;
    asking.ask([SERVICE, [10, 1, 0, 7]]);
    // What changes meanwhile does not part the answer from what it is about.
    operator.publish([peer_at("large/late", [10, 1, 250, 1])]);
    operator.remove([Key::Peer("large/backend-1".into())]);
    drop(paused);
    for answer in ["10.96.0.1 is of large", "10.1.0.7 is of large"] {
        let told = asking.answered(answer).await;
        assert!(told.contains(&"+service large/backend:80 in the mesh".to_owned()));
        let pods = told.iter().filter(|name| name.starts_with("+peer large/backend-"));
        assert!(pods.count() >= 7999, "{answer} was said before all was told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_and_asked_about_in_one_breath_is_told_of() {
    let operator = Operator::start().await;
    let shop = publish(&operator);
    let (sidecar, asking) = Proxy::asking(&operator, "web", "w-1", &["shop"]);
    sidecar.synced().await;
    for _ in 0..20 {
        asking.leave("shop");
        asking.ask([SHOP]);
        let told = asking.answered("10.0.1.1 is of shop").await;
        // Whatever was taken back meanwhile has been told again.
        for name in &shop {
            let gone = name.replace('+', "-");
            let last = told.iter().rev().find(|told| *told == name || **told == gone);
            assert_eq!(last.map(String::as_str), Some(*name), "{told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_operator_tells_of_those_it_talks_to_what_has_changed() {
    let mut operator = Operator::start().await;
    let shop = publish(&operator);
    let (sidecar, asking) = Proxy::asking(&operator, "web", "w-1", &["shop"]);
    sidecar.synced().await;
    let mut both: Vec<&str> = OWN.into_iter().chain(shop.iter().copied()).collect();
    both.sort_unstable();
    sidecar.told(&both).await;
    asking.ask([[10, 0, 3, 1]]);
    asking.answered("10.0.3.1 is of other").await;
    sidecar.clear();
    operator.replace_by_another().await;
    publish(&operator);
    operator.remove([Key::Peer("shop/a-1".into())]);
    operator.publish([peer_at("other/o-2", [10, 0, 3, 2])]);
    operator.serve().await;
    asking.connected(2).await;
    sidecar.told(&["+peer other/o-2", "-peer shop/a-1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_routes_to_workloads_elsewhere_is_told_what_is_there() {
    let operator = Operator::start().await;
    publish(&operator);
    operator.publish([
        service("other/o:80"),
        workload("other/o-1", "other/o:80"),
        frontend("Service/shop/a:80/web", "shop/a:80", Some("web")),
        route("web/own/0", "Service/shop/a:80/web", "other/o:80"),
    ]);
    let (sidecar, _asking) = Proxy::asking(&operator, "web", "w-1", &[]);
    sidecar.synced().await;
    let log: Vec<String> = sidecar.log().iter().map(support::name).collect();
    let at = |name: &str| log.iter().position(|told| told == name).expect(name);
    assert!(at("+peer other/o-1") < at("+workload other/o-1"), "{log:?}");
    assert!(!log.contains(&"+peer shop/a-1".to_owned()), "{log:?}");
}
