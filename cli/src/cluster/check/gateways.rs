//! Classes and Gateways that are Weft's, and the pods that serve them.

use std::collections::BTreeSet;

use kube::api::{DynamicObject, ListParams};
use serde_json::Value;

use super::{
    Group,
    operator::{image, unready, variable},
};
use crate::cluster::{CHILDREN, Cluster};

/// All Gateways of Weft's classes.
pub(super) async fn gateways(cluster: &Cluster, namespace: &str) -> anyhow::Result<Group> {
    let mut group = Group::new("gateways");
    let api = |kind| cluster.api("gateway.networking.k8s.io", "v1", kind);
    let (Some(classes), Some(gateways)) = (api("GatewayClass"), api("Gateway")) else {
        return Ok(group);
    };
    let classes = classes.list(&ListParams::default()).await?.into_iter();
    let ours: Vec<DynamicObject> = classes
        .filter(|class| {
            class
                .data
                .pointer("/spec/controllerName")
                .is_some_and(|name| name == weft_translate::CONTROLLER)
        })
        .collect();
    if ours.is_empty() {
        let cause = format!("no GatewayClass names the controller {}", weft_translate::CONTROLLER);
        group.warn(
            "W001",
            "there is a class for Gateways",
            cause,
            "create one, or install with gatewayClass.create=true",
        );
    }
    for class in &ours {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        let remedy = format!("kubectl describe gatewayclass {name}");
        group.holds(
            "W002",
            format!("the class {name} is accepted"),
            not(class, "Accepted"),
            remedy,
        );
    }
    let names: BTreeSet<&str> = ours.iter().filter_map(|class| class.metadata.name.as_deref()).collect();
    let all = gateways.list(&ListParams::default()).await?.into_iter();
    let of_ours = all.filter(|gateway| {
        let class = gateway.data.pointer("/spec/gatewayClassName").and_then(Value::as_str);
        class.is_some_and(|class| names.contains(class))
    });
    for gateway in of_ours {
        let name = gateway.metadata.name.as_deref().unwrap_or_default();
        let whose = gateway.metadata.namespace.as_deref().unwrap_or_default();
        let remedy = format!("kubectl describe gateway -n {whose} {name}");
        for condition in ["Accepted", "Programmed"] {
            let what = format!("{whose}/{name} is {}", condition.to_lowercase());
            group.holds("W003", what, not(&gateway, condition), &remedy);
        }
    }
    pods(cluster, namespace, &mut group).await?;
    Ok(group)
}

/// The pods of Gateways: ready, and of the image that the operator is told to run.
async fn pods(cluster: &Cluster, namespace: &str, group: &mut Group) -> anyhow::Result<()> {
    let Some(api) = cluster.api("apps", "v1", "Deployment") else {
        return Ok(());
    };
    let operator = cluster.operator(namespace).await?;
    let wanted = operator
        .as_ref()
        .and_then(|operator| variable(operator, "WEFT_GATEWAY_IMAGE"));
    for deployment in api.list(&ListParams::default().labels(CHILDREN)).await? {
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        let whose = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let remedy = format!("kubectl describe deployment -n {whose} {name}");
        group.holds(
            "W004",
            format!("the pods of {whose}/{name} are ready"),
            unready(&deployment),
            remedy,
        );
        if let (Some(wanted), Some(image)) = (wanted, image(&deployment))
            && wanted != image
        {
            let cause = format!("they run {image}; the operator gives {wanted} by default");
            let what = format!("the pods of {whose}/{name} are of the operator's version");
            group.warn(
                "W005",
                what,
                cause,
                "see whether its GatewayParameters are to name another image",
            );
        }
    }
    Ok(())
}

/// Why a condition does not hold; none if it does.
fn not(object: &DynamicObject, condition: &str) -> Option<String> {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions
        .into_iter()
        .flatten()
        .find(|known| known["type"] == condition);
    let Some(found) = found else {
        return Some(format!("nobody has said whether it is {}", condition.to_lowercase()));
    };
    if found["observedGeneration"].as_i64() < object.metadata.generation {
        return Some("what is said of it is of an older version".to_owned());
    }
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (found["status"] != "True").then(|| format!("{}: {}", text("reason"), text("message")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_holds_if_it_is_said_of_this_generation() {
        let gateway = |status: &str, generation: i64| -> DynamicObject {
            let value = json!({"metadata": {"name": "a", "generation": 2}, "status": {"conditions": [
                {"type": "Programmed", "status": status, "reason": "Pending", "message": "no data plane", "observedGeneration": generation},
            ]}});
            serde_json::from_value(value).expect("it is an object")
        };
        assert_eq!(not(&gateway("True", 2), "Programmed"), None);
        assert_eq!(
            not(&gateway("False", 2), "Programmed").as_deref(),
            Some("Pending: no data plane")
        );
        assert!(not(&gateway("True", 1), "Programmed").is_some());
        assert!(not(&gateway("True", 2), "Accepted").is_some());
    }
}
