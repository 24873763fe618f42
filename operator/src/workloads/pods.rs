//! Pods with sidecars and namespaces in the mesh, as sidecars see them.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{Container, Namespace, Pod, PodSpec, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use weft_crds::DEFAULT_ACTION_ANNOTATION;
use weft_injection::{INTERCEPT, PROBES};
use weft_model::{DefaultAction, MeshNamespace, Owner, Peer, Stage};

/// What of the command line of interception says which ports it leaves alone.
const SKIP: &str = "--skip-inbound-ports=";

pub(super) fn namespace(namespace: &Namespace, default: DefaultAction) -> Option<MeshNamespace> {
    // What is no stage is said where routes are translated; nobody is cut off by it.
    let stage = match weft_crds::Stage::of(namespace.metadata.labels.as_ref()?).ok()?? {
        weft_crds::Stage::Observe => Stage::Observe,
        weft_crds::Stage::Secure => Stage::Secure,
        weft_crds::Stage::Strict => Stage::Strict,
    };
    Some(MeshNamespace {
        key: namespace.metadata.name.as_deref()?.into(),
        stage,
        default_action: default_action(namespace, default),
    })
}

/// What becomes of what comes to the workloads of a namespace and no policy decides. Whoever has written something that is not
/// understood has wanted something else than everything.
fn default_action(namespace: &Namespace, default: DefaultAction) -> DefaultAction {
    let annotations = namespace.metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|annotations| annotations.get(DEFAULT_ACTION_ANNOTATION)) else {
        return default;
    };
    DefaultAction::parse(text).unwrap_or_else(|| {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(
            namespace = name,
            "{text:?} is no value of {DEFAULT_ACTION_ANNOTATION}: use allow, authenticated or deny; until then it is deny"
        );
        DefaultAction::Deny
    })
}

/// Whether a pod has addresses of its own, and still: not its node's, and it has not ended.
pub(crate) fn is_apart(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let on_node = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    !matches!(phase, Some("Succeeded" | "Failed")) && !on_node
}

/// The addresses of a pod, as far as they are known.
pub(crate) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let all = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    all.filter_map(|address| address.ip.parse().ok()).collect()
}

/// A pod as its peers see it, as long as it has an address.
pub(super) fn peer(pod: &Pod) -> Option<Peer> {
    let spec = pod.spec.as_ref()?;
    if !is_apart(pod) {
        return None;
    }
    let (namespace, name) = (pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
    let addresses = addresses(pod);
    if addresses.is_empty() {
        return None;
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    Some(Peer {
        key: format!("{namespace}/{name}").into(),
        addresses,
        namespace: namespace.into(),
        account: account(spec),
        owner: owner(pod),
        direct_ports: direct_ports(init),
        probe_ports: probe_ports(spec.containers.iter().chain(init)),
        asks_only: false,
    })
}

/// A pod of a Gateway as those see it to whom it comes.
pub(super) fn gateway(pod: &Pod) -> Option<Peer> {
    Some(Peer {
        probe_ports: Vec::new(),
        asks_only: true,
        ..peer(pod)?
    })
}

/// The service account as which a pod runs.
pub(super) fn account(spec: &PodSpec) -> String {
    let account = spec.service_account_name.clone();
    account.unwrap_or_else(|| "default".to_owned())
}

/// What a pod is made for; nothing if for itself.
fn owner(pod: &Pod) -> Option<Owner> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    let hash = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("pod-template-hash"));
    Some(Owner::controlling(&owner.kind, &owner.name, hash.map(String::as_str)))
}

/// The ports that interception leaves alone, as it was told.
fn direct_ports(init: &[Container]) -> Vec<u16> {
    let intercept = init.iter().filter(|container| container.name == INTERCEPT);
    let args = intercept.flat_map(|container| container.args.iter().flatten());
    let ports = args
        .filter_map(|arg| arg.strip_prefix(SKIP))
        .flat_map(|ports| ports.split(','));
    ports.filter_map(|port| port.trim().parse().ok()).collect()
}

/// The ports of the application to which the kubelet comes and says something.
fn probe_ports<'a>(containers: impl Iterator<Item = &'a Container>) -> Vec<u16> {
    let mut found = BTreeSet::new();
    for container in containers {
        let probes = [
            &container.liveness_probe,
            &container.readiness_probe,
            &container.startup_probe,
        ];
        for probe in probes.into_iter().flatten().filter(|probe| probe.tcp_socket.is_none()) {
            found.extend(probe_port(probe, container));
        }
    }
    // The sidecar's own is no port of the application.
    found.remove(&PROBES);
    found.into_iter().collect()
}

pub(super) fn probe_port(probe: &Probe, container: &Container) -> Option<u16> {
    let port = match (&probe.http_get, &probe.tcp_socket, &probe.grpc) {
        (Some(http), _, _) => &http.port,
        (_, Some(tcp), _) => &tcp.port,
        (_, _, Some(grpc)) => return u16::try_from(grpc.port).ok(),
        _ => return None,
    };
    match port {
        IntOrString::Int(port) => u16::try_from(*port).ok(),
        IntOrString::String(name) => {
            let ports = container.ports.as_deref().unwrap_or_default();
            let named = ports.iter().find(|port| port.name.as_ref() == Some(name))?;
            u16::try_from(named.container_port).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(more: impl FnOnce(&mut Value)) -> Option<Peer> {
        let mut pod = json!({
            "metadata": {"namespace": "shop", "name": "front-1"},
            "spec": {
                "serviceAccountName": "front",
                "initContainers": [
                    {"name": "weft-intercept", "args": ["intercept", "--skip-inbound-ports=5432,9100"]},
                    {"name": "weft-sidecar", "startupProbe": {"httpGet": {"port": 15020}}},
                ],
                "containers": [{
                    "name": "app",
                    "ports": [{"name": "health", "containerPort": 8081}],
                    "livenessProbe": {"httpGet": {"port": "health"}},
                    "readinessProbe": {"tcpSocket": {"port": 8082}},
                    "startupProbe": {"grpc": {"port": 8083}},
                }],
            },
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        });
        more(&mut pod);
        peer(&serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn what_no_policy_decides_is_as_the_namespace_says() {
        let of = |annotation: Option<&str>| {
            let annotations = annotation.map(|text| json!({DEFAULT_ACTION_ANNOTATION: text}));
            let namespace = json!({"metadata": {"name": "shop", "labels": {"weft.dev/mesh": "secure"}, "annotations": annotations}});
            let namespace = serde_json::from_value(namespace).expect("a namespace");
            super::namespace(&namespace, DefaultAction::Authenticated).map(|found| found.default_action)
        };
        assert_eq!(of(None), Some(DefaultAction::Authenticated));
        assert_eq!(of(Some("allow")), Some(DefaultAction::Allow));
        assert_eq!(of(Some("deny")), Some(DefaultAction::Deny));
        assert_eq!(of(Some("Alow")), Some(DefaultAction::Deny));
    }

    #[test]
    fn a_pod_is_a_peer_as_long_as_it_has_addresses_of_its_own() {
        let found = pod(|_| {}).expect("a peer");
        assert_eq!((found.key.as_str(), found.account.as_str()), ("shop/front-1", "front"));
        assert_eq!(found.addresses.len(), 2);
        assert_eq!(found.direct_ports, [5432, 9100]);
        // Who only connects is not to be let in.
        assert_eq!(found.probe_ports, [8081, 8083]);
        assert!(!found.asks_only);
        let owned = |kind: &str, name: &str, hash: &str| {
            let found = pod(|pod| {
                pod["metadata"]["labels"] = json!({"pod-template-hash": hash});
                pod["metadata"]["ownerReferences"] =
                    json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}]);
            });
            found.expect("a peer").owner.map(|owner| owner.to_string())
        };
        assert_eq!(found.owner, None);
        assert_eq!(
            owned("ReplicaSet", "front-5d4f", "5d4f").as_deref(),
            Some("Deployment/front")
        );
        assert_eq!(
            owned("ReplicaSet", "front", "5d4f").as_deref(),
            Some("ReplicaSet/front")
        );
        assert_eq!(owned("StatefulSet", "front", "").as_deref(), Some("StatefulSet/front"));
        assert_eq!(pod(|pod| pod["status"]["podIPs"] = json!([])), None);
        assert_eq!(pod(|pod| pod["status"]["phase"] = "Succeeded".into()), None);
        assert_eq!(pod(|pod| pod["spec"]["hostNetwork"] = true.into()), None);
    }
}
