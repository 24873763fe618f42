//! The operator: its kinds, its pods, who of them leads.

use anyhow::Context as _;
use kube::api::DynamicObject;
use serde_json::Value;

use super::Group;
use crate::cluster::{AUTHORITY, Cluster, OPERATOR, OPERATOR_NAME, connection::name_of, manifests};

/// The kinds that Weft owns.
pub(super) async fn definitions(cluster: &Cluster) -> anyhow::Result<Group> {
    let mut group = Group::new("weft's kinds");
    let remedy = "helm upgrade --install weft-crds, or: weft install | kubectl apply --server-side -f -";
    let Some(api) = cluster.api("apiextensions.k8s.io", "v1", "CustomResourceDefinition") else {
        group.fail(
            "C001",
            "kinds can be defined",
            "the API server serves no definitions",
            "look at the API server",
        );
        return Ok(group);
    };
    for ours in manifests::crds()? {
        let name = ours.metadata.name.clone().unwrap_or_default();
        let what = format!("{name} is defined as this version knows it");
        match api.get_opt(&name).await? {
            None => group.fail("C002", what, "it is not defined", remedy),
            Some(theirs) if schema(&theirs) == schema(&ours) => group.ok("C002", what),
            Some(_) => group.warn("C002", what, "it is defined by another version", remedy),
        }
    }
    Ok(group)
}

/// The names and types of fields, without what the API server fills in.
fn schema(crd: &DynamicObject) -> Vec<(Value, Value)> {
    let versions = crd.data.pointer("/spec/versions").and_then(Value::as_array);
    let versions = versions.into_iter().flatten();
    versions
        .map(|version| {
            (
                version["name"].clone(),
                version["schema"]["openAPIV3Schema"]["properties"]["spec"].clone(),
            )
        })
        .collect()
}

/// The operator's Deployment, and what it needs.
pub(super) async fn operator(cluster: &Cluster, namespace: &str) -> anyhow::Result<Group> {
    let mut group = Group::new("operator");
    let api = |group: &str, kind: &str| {
        let api = cluster.api(group, "v1", kind);
        api.map(|api| api.constrain(namespace))
            .with_context(|| format!("the API server serves no {kind}"))
    };
    let Some(deployment) = cluster.operator(namespace).await? else {
        let cause = format!("there is no operator in the namespace {namespace}");
        let remedy = "install it: weft install --apply; or say where it is: --namespace";
        group.fail("O001", "it is installed", cause, remedy);
        return Ok(group);
    };
    group.ok("O001", "it is installed");
    group.holds(
        "O002",
        "all its pods are ready",
        unready(&deployment),
        format!("kubectl describe pods -n {namespace} -l {OPERATOR_NAME}={OPERATOR}"),
    );
    let image = image(&deployment).unwrap_or_default();
    let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
    let own = env!("CARGO_PKG_VERSION");
    let what = format!("its version is that of this command, {own}");
    if tag == own || tag == "dev" {
        group.ok("O003", what);
    } else {
        group.warn(
            "O003",
            what,
            format!("its image is {image}"),
            "use the command of the same version",
        );
    }
    let lease = api("coordination.k8s.io", "Lease")?.get_opt(OPERATOR).await?;
    let holder = lease.as_ref().and_then(holder);
    group.holds(
        "O004",
        "one of its pods leads, and so writes statuses",
        holder
            .is_none()
            .then(|| "nobody holds the Lease, or its time is over".to_owned()),
        format!("kubectl logs -n {namespace} -l {OPERATOR_NAME}={OPERATOR}"),
    );
    let authority = api("", "Secret")?.get_opt(AUTHORITY).await?;
    group.holds(
        "O005",
        "it has a certificate authority for data planes",
        authority
            .is_none()
            .then(|| format!("there is no Secret {namespace}/{AUTHORITY}")),
        "the operator makes it when it starts: look at its log",
    );
    Ok(group)
}

/// Why not all pods of a Deployment are ready.
pub(super) fn unready(deployment: &DynamicObject) -> Option<String> {
    let number = |path: &str| deployment.data.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let (wanted, ready) = (number("/spec/replicas"), number("/status/readyReplicas"));
    let outdated = wanted - number("/status/updatedReplicas");
    if ready < wanted {
        return Some(format!("{}: {ready} of {wanted} are ready", name_of(deployment)));
    }
    (outdated > 0).then(|| format!("{}: {outdated} are of an older version", name_of(deployment)))
}

/// The image of a Deployment's first container.
pub(super) fn image(deployment: &DynamicObject) -> Option<&str> {
    deployment
        .data
        .pointer("/spec/template/spec/containers/0/image")?
        .as_str()
}

/// What a variable of the environment of a Deployment's first container is.
pub(super) fn variable<'d>(deployment: &'d DynamicObject, name: &str) -> Option<&'d str> {
    let variables = deployment
        .data
        .pointer("/spec/template/spec/containers/0/env")?
        .as_array()?;
    variables.iter().find(|variable| variable["name"] == name)?["value"].as_str()
}

/// Who holds a Lease, if its time is not over.
fn holder(lease: &DynamicObject) -> Option<String> {
    let spec = lease.data.get("spec")?;
    let holder = spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
    let renewed: jiff::Timestamp = spec["renewTime"].as_str()?.parse().ok()?;
    let duration = jiff::SignedDuration::from_secs(spec["leaseDurationSeconds"].as_i64()?);
    (renewed + duration >= jiff::Timestamp::now()).then(|| holder.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).expect("it is an object")
    }

    #[test]
    fn a_lease_counts_while_its_time_is_not_over() {
        let lease = |renewed: jiff::Timestamp| {
            object(json!({"metadata": {"name": "weft-operator"}, "spec": {
                "holderIdentity": "one", "renewTime": renewed.to_string(), "leaseDurationSeconds": 15,
            }}))
        };
        let now = jiff::Timestamp::now();
        assert_eq!(holder(&lease(now)).as_deref(), Some("one"));
        assert_eq!(holder(&lease(now - jiff::SignedDuration::from_secs(60))), None);
    }

    #[test]
    fn pods_that_are_not_ready_or_old_are_counted() {
        let deployment = |ready: i64, updated: i64| {
            object(
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "b"},
                "spec": {"replicas": 2}, "status": {"readyReplicas": ready, "updatedReplicas": updated}}),
            )
        };
        assert_eq!(unready(&deployment(2, 2)), None);
        assert_eq!(
            unready(&deployment(1, 2)).as_deref(),
            Some("Deployment b/a: 1 of 2 are ready")
        );
        assert_eq!(
            unready(&deployment(2, 1)).as_deref(),
            Some("Deployment b/a: 1 are of an older version")
        );
    }
}
