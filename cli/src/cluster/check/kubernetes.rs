//! What Weft stands on: the API server, the Gateway API, and the rights of whoever installs.

use kube::api::{ListParams, PostParams};
use serde_json::json;

use super::Group;
use crate::cluster::{Cluster, GATEWAY_API};

/// The oldest Kubernetes that Weft is made for, 1.x.
const MINOR: u32 = 33;
/// The release of the Gateway API that Weft is tested with.
const BUNDLE: &str = "v1.6";
/// The kinds without which nothing works.
const NEEDED: [&str; 4] = ["GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant"];
/// Kinds that are served where they are defined.
const SERVED: [&str; 6] = [
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute",
    "UDPRoute",
    "ListenerSet",
    "BackendTLSPolicy",
];

/// The API server and its version.
pub(super) async fn server(cluster: &Cluster) -> anyhow::Result<Group> {
    let mut group = Group::new("kubernetes");
    group.ok("K001", "the API server can be reached");
    let version = cluster.client.apiserver_version().await?;
    let minor: u32 = version
        .minor
        .trim_end_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .unwrap_or(0);
    let what = format!("its version is 1.{MINOR} or newer");
    let old = (version.major == "1" && minor < MINOR).then(|| format!("it is {}", version.git_version));
    group.holds("K002", what, old, "upgrade the cluster");
    Ok(group)
}

/// The kinds of the Gateway API.
pub(super) async fn gateway_api(cluster: &Cluster) -> anyhow::Result<Group> {
    let mut group = Group::new("gateway api");
    let version = |kind: &str| if kind == "ReferenceGrant" { "v1beta1" } else { "v1" };
    let known = |kind: &&str| cluster.api("gateway.networking.k8s.io", version(kind), kind).is_some();
    let missing: Vec<&str> = NEEDED.into_iter().filter(|kind| !known(kind)).collect();
    let wrong = (!missing.is_empty()).then(|| format!("the cluster does not know {}", missing.join(", ")));
    group.holds("G001", "its kinds are defined", wrong, GATEWAY_API);
    let more: Vec<&str> = SERVED.into_iter().filter(|kind| !known(kind)).collect();
    if !more.is_empty() {
        let cause = format!("{} are not defined, so they are not served", more.join(", "));
        group.warn("G002", "all kinds that Weft serves are defined", cause, GATEWAY_API);
    }
    let Some(api) = cluster.api("apiextensions.k8s.io", "v1", "CustomResourceDefinition") else {
        return Ok(group);
    };
    let gateways = api.get_opt("gateways.gateway.networking.k8s.io").await?;
    let bundle = gateways.and_then(|crd| {
        let annotations = crd.metadata.annotations?;
        annotations.get("gateway.networking.k8s.io/bundle-version").cloned()
    });
    let what = format!("its release is {BUNDLE}");
    match bundle {
        Some(bundle) if bundle.starts_with(BUNDLE) => group.ok("G003", what),
        Some(bundle) => group.warn(
            "G003",
            what,
            format!("it is {bundle}"),
            format!("tested is {BUNDLE}: {GATEWAY_API}"),
        ),
        None => {}
    }
    Ok(group)
}

/// Whether an installation would be allowed to make what it has to.
pub(super) async fn permissions(cluster: &Cluster) -> anyhow::Result<Group> {
    let mut group = Group::new("permissions");
    let Some(reviews) = cluster.api("authorization.k8s.io", "v1", "SelfSubjectAccessReview") else {
        return Ok(group);
    };
    let needed = [
        ("", "namespaces"),
        ("", "serviceaccounts"),
        ("", "services"),
        ("apps", "deployments"),
        ("policy", "poddisruptionbudgets"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
        ("gateway.networking.k8s.io", "gatewayclasses"),
    ];
    for (api_group, resource) in needed {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "metadata": {},
            "spec": {"resourceAttributes": {"group": api_group, "resource": resource, "verb": "create"}},
        });
        let answer = reviews
            .create(&PostParams::default(), &serde_json::from_value(review)?)
            .await?;
        let allowed = answer
            .data
            .pointer("/status/allowed")
            .and_then(serde_json::Value::as_bool);
        let wrong = (allowed != Some(true)).then(|| format!("you may not create {resource}"));
        let remedy = "ask whoever may for the role cluster-admin, or to install Weft";
        group.holds("P001", format!("{resource} may be created"), wrong, remedy);
    }
    let others = cluster.api("gateway.networking.k8s.io", "v1", "GatewayClass");
    if let Some(classes) = others {
        let taken = classes.list(&ListParams::default()).await?.into_iter().find(|class| {
            let controller = class.data.pointer("/spec/controllerName");
            class.metadata.name.as_deref() == Some("weft")
                && controller.is_some_and(|name| name != weft_translate::CONTROLLER)
        });
        let wrong = taken.map(|_| "it is the class of another controller".to_owned());
        group.holds(
            "P002",
            "the GatewayClass weft is free",
            wrong,
            "install with another gatewayClass.name",
        );
    }
    Ok(group)
}
