use std::collections::BTreeMap;

use http::StatusCode;
use k8s_openapi::api::authentication::v1::UserInfo;
use serde_json::{Value, json};

use super::*;
use crate::mock::{answering, is_selected, pod_list};

fn status(user: &str, audience: &str, pod: Option<&str>) -> TokenReviewStatus {
    let extra =
        pod.map(|pod| BTreeMap::from([("authentication.kubernetes.io/pod-name".to_owned(), vec![pod.to_owned()])]));
    TokenReviewStatus {
        audiences: Some(vec![audience.to_owned()]),
        authenticated: Some(true),
        error: None,
        user: Some(UserInfo {
            username: Some(user.to_owned()),
            extra,
            ..UserInfo::default()
        }),
    }
}

fn judged(status: &TokenReviewStatus, gateway: &str, replica: &str) -> Result<(), String> {
    permits(&read(status)?, &DataPlane::of_gateway(gateway.into(), replica))
}

#[test]
fn only_the_account_made_for_the_gateway_gets_what_it_uses() {
    let own = status("system:serviceaccount:shop:edge-weft", "weft.dev", Some("edge-weft-1"));
    assert_eq!(judged(&own, "shop/edge", "edge-weft-1"), Ok(()));
    for (gateway, replica) in [
        ("shop/other", "edge-weft-1"),
        ("other/edge", "edge-weft-1"),
        ("shop/edge", "edge-weft-2"),
    ] {
        assert!(judged(&own, gateway, replica).is_err(), "{gateway} {replica}");
    }
    for status in [
        status(
            "system:serviceaccount:shop:edge-weft",
            "https://kubernetes.default.svc",
            None,
        ),
        status("system:serviceaccount:shop:default", "weft.dev", None),
        status("admin", "weft.dev", None),
        TokenReviewStatus::default(),
    ] {
        assert!(judged(&status, "shop/edge", "edge-weft-1").is_err(), "{status:?}");
    }
}

#[test]
fn a_sidecar_is_the_pod_that_its_token_was_made_for() {
    let judged = |status: &TokenReviewStatus| permits(&read(status)?, &DataPlane::sidecar("shop", "web-1"));
    for account in ["default", "web"] {
        let user = format!("system:serviceaccount:shop:{account}");
        assert_eq!(judged(&status(&user, "weft.dev", Some("web-1"))), Ok(()));
    }
    let user = "system:serviceaccount:shop:default";
    for status in [
        status(user, "weft.dev", Some("web-2")),
        status("system:serviceaccount:other:default", "weft.dev", Some("web-1")),
        status(user, "https://kubernetes.default.svc", Some("web-1")),
        status(user, "weft.dev", None),
    ] {
        assert!(judged(&status).is_err(), "{status:?}");
    }
}

/// Where the token of shop/front-1, of a pod with this uid, is shown, as long as these pods are there; `old` are those that the
/// API server has in memory.
async fn place(old: &[Value], now: &[Value], from: &str) -> Place {
    let (old, now) = (old.to_vec(), now.to_vec());
    let client = answering(move |request, _| {
        let (path, query) = (request.uri.path(), request.uri.query().unwrap_or_default());
        let known = if query.contains("resourceVersion=0") {
            &old
        } else {
            &now
        };
        let there = known.iter().filter(|pod| {
            let namespace = pod["metadata"]["namespace"].as_str().expect("a namespace");
            path == "/api/v1/pods" || path == format!("/api/v1/namespaces/{namespace}/pods")
        });
        let items: Vec<&Value> = there.filter(|pod| is_selected(query, pod)).collect();
        Some((StatusCode::OK, pod_list(&items)))
    });
    let bearer = Bearer {
        namespace: "shop".to_owned(),
        account: "front".to_owned(),
        pod: Some("front-1".to_owned()),
        uid: Some("1".to_owned()),
    };
    let from = from.parse().expect("an address");
    place::of(&client, &bearer, from).await.expect("it answers")
}

fn pod(name: &str, uid: &str, addresses: &[&str]) -> Value {
    let all: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    let (namespace, name) = name.split_once('/').expect("a namespace");
    json!({
        "metadata": {"namespace": namespace, "name": name, "uid": uid}, "spec": {},
        "status": {"phase": "Running", "podIP": addresses.first(), "podIPs": all, "hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}, {"ip": "fd01::1"}]},
    })
}

#[tokio::test]
async fn a_token_is_at_home_at_its_pod_and_at_its_node_and_where_no_pod_is() {
    let own = pod("shop/front-1", "1", &["10.244.0.7", "fd00::7"]);
    let other = pod("other/thief", "2", &["10.244.0.9", "fd00::9"]);
    let pods = [own, other.clone()];
    for from in [
        "10.244.0.7",
        "fd00::7",
        "192.0.2.1",
        "fd01::1",
        "10.244.0.1",
        "203.0.113.5",
    ] {
        assert_eq!(place(&pods, &pods, from).await, Place::Own, "{from}");
    }
    let stolen = Place::Other("other/thief".to_owned());
    assert_eq!(place(&pods, &pods, "10.244.0.9").await, stolen);
    // The first of IPv6 is found too.
    let pods = [
        pod("shop/front-1", "1", &["fd00::7"]),
        pod("other/thief", "2", &["fd00::9"]),
    ];
    assert_eq!(place(&pods, &pods, "fd00::9").await, stolen);
    // A pod may speak before its address is told.
    let pods = [pod("shop/front-1", "1", &[]), other];
    assert_eq!(place(&pods, &pods, "10.244.0.9").await, Place::Own);
}

#[tokio::test]
async fn a_token_is_of_one_pod_and_not_of_the_next_of_its_name() {
    assert_eq!(place(&[], &[], "10.244.0.7").await, Place::Gone);
    let next = [pod("shop/front-1", "2", &["10.244.0.7"])];
    assert_eq!(place(&next, &next, "10.244.0.7").await, Place::Gone);
}

#[tokio::test]
async fn nobody_is_refused_for_a_pod_that_has_its_address_no_longer_or_none_of_its_own() {
    let own = pod("shop/front-1", "1", &["10.244.0.7"]);
    let mut ended = pod("other/job", "2", &["10.244.0.9"]);
    ended["status"]["phase"] = "Succeeded".into();
    let mut on_node = pod("other/agent", "3", &["10.244.0.9"]);
    on_node["spec"]["hostNetwork"] = true.into();
    let pods = [own.clone(), ended, on_node];
    assert_eq!(place(&pods, &pods, "10.244.0.9").await, Place::Own);
    // In memory the address is still of who had it before.
    let old = [own, pod("other/thief", "2", &["10.244.0.9"])];
    for now in [vec![], vec![pod("other/thief", "4", &["10.244.0.11"])]] {
        let now: Vec<Value> = now.into_iter().chain([old[0].clone()]).collect();
        assert_eq!(place(&old, &now, "10.244.0.9").await, Place::Own);
        assert_eq!(
            place(&old, &old, "10.244.0.9").await,
            Place::Other("other/thief".to_owned())
        );
    }
}
