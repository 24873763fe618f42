//! Kinds of Kubernetes itself that Gateway API refers to. Only what Weft reads is typed; the rest is kept out.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Metadata, Unread};

/// `v1 Namespace`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {
    /// Its metadata.
    pub metadata: Metadata,
    /// Not read.
    #[serde(skip_serializing)]
    pub spec: Unread,
    /// Not read.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// `v1 Node`: of one, only whether its kubelet is heard of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Its metadata.
    pub metadata: Metadata,
    /// Not read.
    #[serde(skip_serializing)]
    pub spec: Unread,
    /// How it stands.
    pub status: NodeStatus,
}

/// How a node stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// What is said of it, by type.
    pub conditions: Vec<NodeCondition>,
    /// Everything else, not read.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Something said of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCondition {
    /// What.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// `True`, `False`, or `Unknown` when its kubelet has not been heard of for too long.
    pub status: String,
    /// Everything else, not read.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Node {
    /// Whether it is said not to be ready. Kubernetes then takes all of its pods for unready too, whatever they are.
    pub fn is_unready(&self) -> bool {
        let ready = self
            .status
            .conditions
            .iter()
            .find(|said| said.condition_type == "Ready");
        ready.is_some_and(|said| said.status != "True")
    }
}

/// `v1 Service`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Its metadata.
    pub metadata: Metadata,
    /// What it offers.
    pub spec: ServiceSpec,
    /// Not read.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// What a Service offers. Fields that only matter to kube-proxy are kept as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its pods, by label.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub service_type: Option<String>,
    /// Its address, or `None` when it is headless.
    #[serde(rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<String>,
    /// Its addresses.
    #[serde(rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// Everything else, not read.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name; endpoints say theirs by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// What is spoken on it (GEP-1911).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// The pods' port, by number or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<serde_json::Value>,
    /// Not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
}

/// `discovery.k8s.io/v1 EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Its metadata; the label `kubernetes.io/service-name` says whose it is.
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// Who answers.
    pub endpoints: Vec<Endpoint>,
    /// On which ports.
    pub ports: Vec<EndpointPort>,
}

/// Someone who answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses; all mean the same, so the first is used.
    pub addresses: Vec<String>,
    /// Whether it can take requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<EndpointConditions>,
    /// Its name in the DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<ObjectReference>,
    /// Not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<serde_json::Value>,
    /// Not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated_topology: Option<serde_json::Value>,
}

/// Whether an endpoint can take requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    /// It can. Absent means that it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// It can, though it may be about to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// It is about to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// An object, loosely named.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// Its API version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Names it for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_path: Option<String>,
    /// Not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// The name of the Service port that is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The number on the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// What is spoken on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// `v1 Secret`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// Its metadata.
    pub metadata: Metadata,
    /// `kubernetes.io/tls` for a certificate.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub secret_type: Option<String>,
    /// What it holds, in base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// What it holds, as text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub string_data: BTreeMap<String, String>,
    /// It cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

/// `v1 ConfigMap`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    /// Its metadata.
    pub metadata: Metadata,
    /// What it holds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// What it holds, in base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub binary_data: BTreeMap<String, String>,
    /// It cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
}
