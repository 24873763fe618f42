//! Which pods can have a sidecar.

use serde_json::Value;

use crate::{
    Namespace, list,
    names::{INTERCEPT, POD_SECURITY, PORTS, SIDECAR, UID},
    text,
    why::{Left, Refusal},
};

/// Whether a pod is made as one: what comes from a file may be anything.
pub(crate) fn shape(pod: &Value) -> Result<(), Refusal> {
    let is_map = |value: &Value| value.is_object();
    let is_map_or_absent = |value: &Value| value.is_object() || value.is_null();
    let is_list_or_absent = |value: &Value| value.is_array() || value.is_null();
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let looked_at = [
        ("spec is not a map", is_map(spec)),
        ("metadata is not a map", is_map_or_absent(metadata)),
        ("metadata.labels is not a map", is_map_or_absent(&metadata["labels"])),
        (
            "spec.initContainers is not a list",
            is_list_or_absent(&spec["initContainers"]),
        ),
        ("spec.volumes is not a list", is_list_or_absent(&spec["volumes"])),
        (
            "spec.containers is no list of any",
            !list(spec, "containers").is_empty(),
        ),
    ];
    match looked_at.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(Refusal::malformed(what)),
        None => Ok(()),
    }
}

/// What is to be done with a pod.
pub(crate) enum Suitability {
    Suitable,
    /// It cannot have a sidecar and need not.
    Never(Left),
    /// It should have one, but would not run with it.
    Unfit(Left),
}

pub(crate) fn judge(pod: &Value, namespace: &Namespace, opted_out: bool) -> Suitability {
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let label = |name: &str| text(metadata, "labels", name);
    let never = [
        (opted_out, Left::OptedOut),
        (spec["hostNetwork"] == true, Left::HostNetwork),
        (spec["os"]["name"] == "windows", Left::Windows),
        (
            text(metadata, "annotations", "kubernetes.io/config.mirror").is_some(),
            Left::Static,
        ),
        (
            label("app.kubernetes.io/managed-by") == Some("weft-operator")
                && label("app.kubernetes.io/name") == Some("weft-gateway"),
            Left::Gateway,
        ),
    ];
    if let Some((_, left)) = never.into_iter().find(|(holds, _)| *holds) {
        return Suitability::Never(left);
    }
    if let Some(left) = port_of_ours(spec) {
        return Suitability::Unfit(left);
    }
    match namespace.labels.get(POD_SECURITY).map(String::as_str) {
        Some(standard @ ("baseline" | "restricted")) => Suitability::Unfit(Left::Forbidden {
            standard: standard.to_owned(),
        }),
        _ => Suitability::Suitable,
    }
}

/// The containers that are the pod's own, those of its start included.
fn own(spec: &Value) -> impl Iterator<Item = &Value> {
    let all = list(spec, "initContainers").iter().chain(list(spec, "containers"));
    all.filter(|container| container["name"] != INTERCEPT && container["name"] != SIDECAR)
}

fn port_of_ours(spec: &Value) -> Option<Left> {
    own(spec).find_map(|container| {
        let declared = list(container, "ports").iter();
        let mut declared = declared.filter(|port| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP"));
        let port = declared.find_map(|port| {
            let port = u16::try_from(port["containerPort"].as_u64()?).ok()?;
            PORTS.contains(&port).then_some(port)
        })?;
        Some(Left::Port {
            container: container["name"].as_str().unwrap_or_default().to_owned(),
            port,
        })
    })
}

/// Containers that interception takes for the sidecar: what they send is neither seen nor proven.
pub(crate) fn as_sidecar(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let of_all = &spec["securityContext"]["runAsUser"];
    let as_sidecar = own(spec).filter(|container| {
        let user = &container["securityContext"]["runAsUser"];
        *if user.is_null() { of_all } else { user } == UID
    });
    let warning = |container: &Value| {
        let name = container["name"].as_str().unwrap_or_default();
        format!(
            "the container {name} runs as user {UID}, as the sidecar does: its connections pass the sidecar by; give it another user"
        )
    };
    as_sidecar.map(warning).collect()
}
