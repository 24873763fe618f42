//! What there should be for a Gateway, as objects to be applied. Pure, so that it is held by goldens.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft_crds::{IpFamilyPolicy, ServiceType};

use super::{
    input::{Input, Transport},
    labels::{Texts, infrastructure, layered, own_labels, selector},
    names,
    pod::pod,
};
use crate::children::{ChildKind, GATEWAY, RENDERED};

/// Everything there should be. Without ports there is no Service, for none can be without.
pub(crate) fn render(input: &Input<'_>) -> BTreeMap<ChildKind, Value> {
    let mut rendered = BTreeMap::from([
        (ChildKind::ServiceAccount, service_account(input)),
        (ChildKind::ConfigMap, roots(input)),
        (ChildKind::Deployment, deployment(input)),
        (ChildKind::PodDisruptionBudget, disruption_budget(input)),
    ]);
    if !input.ports.is_empty() {
        rendered.insert(ChildKind::Service, service(input));
    }
    if input.parameters.autoscaling.is_some() {
        rendered.insert(ChildKind::HorizontalPodAutoscaler, autoscaler(input));
    }
    for object in rendered.values_mut() {
        let digest = names::digest(&object.to_string());
        object["metadata"]["annotations"][RENDERED] = digest.into();
    }
    rendered
}

fn object(input: &Input<'_>, kind: ChildKind, more: Texts) -> Value {
    let (labels, annotations) = infrastructure(input);
    let gvk = kind.gvk();
    let metadata = &input.gateway.metadata;
    let gateway = Texts::from([(GATEWAY.to_owned(), metadata.name.clone())]);
    json!({
        "apiVersion": gvk.api_version(),
        "kind": gvk.kind,
        "metadata": {
            "name": names::child(&metadata.name),
            "namespace": metadata.namespace(),
            "labels": layered([labels, own_labels(input)]),
            "annotations": layered([more, annotations, gateway]),
            "ownerReferences": [{
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "name": metadata.name,
                "uid": metadata.uid.clone().unwrap_or_default(),
                "controller": true,
                "blockOwnerDeletion": false,
            }],
        },
    })
}

fn plain(input: &Input<'_>, kind: ChildKind) -> Value {
    object(input, kind, Texts::new())
}

fn service_account(input: &Input<'_>) -> Value {
    let mut account = plain(input, ChildKind::ServiceAccount);
    account["automountServiceAccountToken"] = false.into();
    account
}

fn roots(input: &Input<'_>) -> Value {
    let mut map = plain(input, ChildKind::ConfigMap);
    map["data"] = json!({"ca.crt": input.roots});
    map
}

fn service(input: &Input<'_>) -> Value {
    let parameters = input.parameters.service.clone().unwrap_or_default();
    let mut service = object(input, ChildKind::Service, parameters.annotations);
    let ports: Vec<Value> = input
        .ports
        .iter()
        .map(|(port, transport)| {
            let (name, protocol) = match transport {
                Transport::Tcp => ("tcp", "TCP"),
                Transport::Udp => ("udp", "UDP"),
            };
            json!({"name": format!("{name}-{port}"), "port": port, "targetPort": port, "protocol": protocol})
        })
        .collect();
    let kind = parameters.service_type.unwrap_or(ServiceType::ClusterIP);
    let mut spec = json!({"type": kind, "selector": selector(input), "ports": ports});
    let families = match input.address {
        // It is to have that one, and no other.
        Some(_) => IpFamilyPolicy::SingleStack,
        None => IpFamilyPolicy::PreferDualStack,
    };
    spec["ipFamilyPolicy"] = json!(parameters.ip_family_policy.unwrap_or(families));
    if let Some(address) = input.address {
        spec["clusterIP"] = address.to_string().into();
    }
    // The API server takes these only where traffic can come from outside.
    if kind != ServiceType::ClusterIP
        && let Some(policy) = parameters.external_traffic_policy
    {
        spec["externalTrafficPolicy"] = json!(policy);
    }
    if kind == ServiceType::LoadBalancer
        && let Some(class) = parameters.load_balancer_class
    {
        spec["loadBalancerClass"] = class.into();
    }
    service["spec"] = spec;
    service
}

fn disruption_budget(input: &Input<'_>) -> Value {
    let mut budget = plain(input, ChildKind::PodDisruptionBudget);
    // One at a time may go. A least number that stays would keep nodes from being drained where there is one pod only.
    budget["spec"] = json!({"maxUnavailable": 1, "selector": {"matchLabels": selector(input)}});
    budget
}

fn autoscaler(input: &Input<'_>) -> Value {
    let wanted = input.parameters.autoscaling.clone().unwrap_or_default();
    let least = wanted.min_replicas.unwrap_or(1);
    let mut autoscaler = plain(input, ChildKind::HorizontalPodAutoscaler);
    autoscaler["spec"] = json!({
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": names::child(&input.gateway.metadata.name)},
        "minReplicas": least,
        "maxReplicas": wanted.max_replicas.unwrap_or(10).max(least),
        "metrics": [{"type": "Resource", "resource": {
            "name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": wanted.target_cpu_utilization.unwrap_or(80)},
        }}],
    });
    autoscaler
}

fn deployment(input: &Input<'_>) -> Value {
    let parameters = input.parameters;
    let mut deployment = plain(input, ChildKind::Deployment);
    let mut spec = json!({
        "selector": {"matchLabels": selector(input)},
        "revisionHistoryLimit": 3,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
        "template": pod(input, &parameters.pod.clone().unwrap_or_default()),
    });
    if parameters.autoscaling.is_none() {
        spec["replicas"] = parameters.replicas.unwrap_or(1).into();
    }
    deployment["spec"] = spec;
    deployment
}

#[cfg(test)]
pub(super) mod tests {
    use weft_crds::Gateway;
    use weft_injection::Spans;

    use super::*;
    use crate::infrastructure::input::Settings;

    pub(in crate::infrastructure) fn settings() -> Settings {
        Settings {
            image: "weft.dev/gateway:1".to_owned(),
            pull_policy: "IfNotPresent".to_owned(),
            operator: "weft-operator.weft-system.svc:15010".to_owned(),
            server_name: "operator.weft.dev".to_owned(),
            spans: Spans::default(),
        }
    }

    pub(in crate::infrastructure) fn gateway(infrastructure: Value) -> Gateway {
        serde_json::from_value(json!({
            "metadata": {"name": "edge", "namespace": "shop", "uid": "u-1"},
            "spec": {"gatewayClassName": "weft", "infrastructure": infrastructure},
        }))
        .expect("a Gateway")
    }

    fn rendered(gateway: &Gateway, parameters: Value, ports: &[(u16, Transport)]) -> BTreeMap<ChildKind, Value> {
        let parameters = serde_json::from_value(parameters).expect("parameters");
        let input = Input {
            gateway,
            parameters: &parameters,
            ports,
            address: None,
            roots: "-----BEGIN CERTIFICATE-----\n",
            settings: &settings(),
        };
        render(&input)
    }

    const PORTS: [(u16, Transport); 3] = [(53, Transport::Udp), (80, Transport::Tcp), (443, Transport::Tcp)];

    #[test]
    fn a_plain_gateway() {
        let all: Vec<Value> = rendered(&gateway(json!({})), json!({}), &PORTS).into_values().collect();
        insta::assert_yaml_snapshot!(all);
    }

    #[test]
    fn a_gateway_with_everything() {
        let gateway = gateway(json!({"labels": {"team": "a"}, "annotations": {"example.com/b": "c"}}));
        let parameters = json!({
            "autoscaling": {"minReplicas": 2, "maxReplicas": 5, "targetCpuUtilization": 60},
            "logLevel": "Debug",
            "accessLog": {"samplePercent": 10},
            "spans": {"collector": "http://collector.observability", "samplePercent": 0.5},
            "pod": {
                "image": "example.com/gateway:2",
                "labels": {"tier": "edge"},
                "annotations": {"example.com/d": "e"},
                "resources": {"requests": {"cpu": 1, "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "nodeSelector": {"pool": "edge"},
                "tolerations": [{"key": "edge", "operator": "Exists", "effect": "NoSchedule"}],
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
                "priorityClassName": "edge",
            },
            "service": {
                "type": "LoadBalancer",
                "annotations": {"lb.example.com/scheme": "internal"},
                "externalTrafficPolicy": "Local",
                "ipFamilyPolicy": "RequireDualStack",
                "loadBalancerClass": "example.com/lb",
            },
        });
        let all: Vec<Value> = rendered(&gateway, parameters, &PORTS).into_values().collect();
        insta::assert_yaml_snapshot!(all);
    }

    #[test]
    fn another_port_changes_nothing_but_the_service() {
        let gateway = gateway(json!({}));
        let (before, after) = (
            rendered(&gateway, json!({}), &PORTS[..2]),
            rendered(&gateway, json!({}), &PORTS),
        );
        for (kind, object) in &after {
            assert_eq!(
                before.get(kind) == Some(object),
                *kind != ChildKind::Service,
                "{kind:?}"
            );
        }
        assert!(!rendered(&gateway, json!({}), &[]).contains_key(&ChildKind::Service));
    }
}
