//! GatewayParameters: how the pods of a Gateway are run.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Metadata;

/// `weft.dev/v1alpha1 GatewayParameters`: what a Gateway's `infrastructure.parametersRef` or a GatewayClass's
/// `parametersRef` names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayParameters {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: GatewayParametersSpec,
}

/// How the pods of a Gateway are run. Of a field that both the Gateway's and its class's parameters have, the Gateway's
/// holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayParametersSpec {
    /// How many pods there are; 1 when absent. Not used together with `autoscaling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Lets the number of pods follow their load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// The pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodParameters>,
    /// The Service in front of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceParameters>,
    /// How much the pods say of themselves; `Info` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// What is written for each request; nothing when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogParameters>,
    /// What a collector of spans is told of each request; what the operator's chart says (`spans`) when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spans: Option<SpansParameters>,
}

/// Lets the number of pods follow their load (a HorizontalPodAutoscaler).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Autoscaling {
    /// Never fewer; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: Option<i32>,
    /// Never more; 10 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<i32>,
    /// The share of the requested CPU, in percent, that is aimed at; 80 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub target_cpu_utilization: Option<i32>,
}

/// The pods of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodParameters {
    /// The image, in place of the operator's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// More labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// More annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What they may use; 10m of CPU and 32Mi are requested when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The nodes they may run on, by label.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// The taints they tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// How they are spread. The pods of this Gateway are counted where no selector is given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Their priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
}

/// What a pod may use (`ResourceRequirements`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// What it is sure to have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Value>,
    /// What it cannot exceed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, Value>,
}

fn quantities(_: &mut SchemaGenerator) -> Schema {
    let quantity = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
    let map = json!({"type": "object", "additionalProperties": quantity});
    Schema::try_from(map).unwrap_or_default()
}

/// A taint that is tolerated (`Toleration`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// The taint's key; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `Exists` or `Equal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The taint's value, for `Equal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The taint's effect; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// For how long, for `NoExecute`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How pods are spread (`TopologySpreadConstraint`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpreadConstraint {
    /// By how many pods the domains may differ.
    pub max_skew: i32,
    /// The node label that says the domain.
    pub topology_key: String,
    /// `DoNotSchedule` or `ScheduleAnyway`.
    pub when_unsatisfiable: String,
}

/// The Service in front of a Gateway's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceParameters {
    /// `ClusterIP` when absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub service_type: Option<ServiceType>,
    /// More annotations; load balancers are told things by them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Whether traffic from outside stays on the node it came to, and so keeps the client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    /// Of which families it has addresses. When absent `PreferDualStack`: of all that the cluster has, or `SingleStack` where the
    /// Gateway asks for an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// Who makes the load balancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<String>,
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// From within the cluster.
    ClusterIP,
    /// On a port of every node as well.
    NodePort,
    /// By a load balancer as well.
    LoadBalancer,
}

/// Of which families of addresses a Service has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpFamilyPolicy {
    /// Of the cluster's first.
    SingleStack,
    /// Of both, if the cluster has both.
    PreferDualStack,
    /// Of both: in a cluster that has one there is no Service.
    RequireDualStack,
}

/// Where traffic from outside may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficPolicy {
    /// To any node's pods.
    Cluster,
    /// To those of the node it came to.
    Local,
}

/// How much a process says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may be wrong.
    Warn,
    /// What there is to know.
    Info,
    /// What it does.
    Debug,
    /// Everything. Programs as they are shipped have no more to say than at `debug`.
    Trace,
}

impl LogLevel {
    /// As it stands in a filter of logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// What is written for each request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessLogParameters {
    /// A line in which `{field}` stands for a field; one JSON object with all fields when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The share of requests written, in percent; all when absent. Requests that failed are always written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: Option<i32>,
}

/// What a collector of spans is told of each request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SpansParameters {
    /// Where it is, by OTLP over gRPC, like `http://collector.observability.svc:4317`; `off` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(off|https?://[A-Za-z0-9._\-\[\]:]+/?)$"))]
    pub collector: Option<String>,
    /// The share of requests with which a trace is begun, in percent, where none comes with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: Option<f64>,
}

impl GatewayParametersSpec {
    /// These parameters, and those of the class for what they leave open.
    pub fn over(&self, class: &Self) -> Self {
        let mut class = class.clone();
        // Who asks for a number of pods does not ask for as many as fit the load.
        if self.replicas.is_some() && self.autoscaling.is_none() {
            class.autoscaling = None;
        }
        let (Ok(mut merged), Ok(own)) = (serde_json::to_value(&class), serde_json::to_value(self)) else {
            return self.clone();
        };
        lay(&mut merged, own);
        serde_json::from_value(merged).unwrap_or_else(|_| self.clone())
    }
}

/// Lays one tree over another; lists and scalars replace, maps mix.
fn lay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                lay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: Value) -> GatewayParametersSpec {
        serde_json::from_value(value).expect("parameters")
    }

    #[test]
    fn the_gateways_own_parameters_hold_field_by_field() {
        let class = spec(json!({
            "replicas": 3,
            "pod": {"image": "a", "labels": {"x": "class", "y": "class"}},
            "service": {"type": "LoadBalancer"},
        }));
        let own = spec(json!({"pod": {"labels": {"x": "own"}}, "service": {"externalTrafficPolicy": "Local"}}));
        let both = spec(json!({
            "replicas": 3,
            "pod": {"image": "a", "labels": {"x": "own", "y": "class"}},
            "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
        }));
        assert_eq!(own.over(&class), both);
    }

    #[test]
    fn a_number_of_pods_ends_the_autoscaling_of_the_class() {
        let class = spec(json!({"autoscaling": {"maxReplicas": 9}}));
        assert_eq!(spec(json!({"replicas": 2})).over(&class), spec(json!({"replicas": 2})));
        assert_eq!(spec(json!({})).over(&class), class);
    }
}
