//! What is written back to Gateway API objects.

use serde::{Deserialize, Serialize};

use crate::ParentReference;

/// A condition of an object (`metav1.Condition`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it says.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, as a token.
    pub reason: String,
    /// Why, as text.
    pub message: String,
    /// The generation it speaks of.
    pub observed_generation: i64,
}

/// `status` of a GatewayClass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassStatus {
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// What the controller can do, sorted.
    pub supported_features: Vec<SupportedFeature>,
}

/// A feature of Gateway API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SupportedFeature {
    /// Its name.
    pub name: String,
}

/// `status` of an XMesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// What the mesh can do, sorted.
    pub supported_features: Vec<SupportedFeature>,
}

/// `status` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Where it can be reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<AddressStatus>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// Each of its listeners.
    pub listeners: Vec<ListenerStatus>,
    /// How many ListenerSets are attached and accepted.
    #[serde(default)]
    pub attached_listener_sets: i32,
}

/// `status` of a ListenerSet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerSetStatus {
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// Each of its listeners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerStatus>,
}

/// `status` of a policy (GEP-713).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// What it takes effect in: at most 16.
    pub ancestors: Vec<AncestorStatus>,
}

/// How a policy stands with one of its ancestors.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    /// The ancestor: a Gateway.
    pub ancestor_ref: ParentReference,
    /// Who says so.
    pub controller_name: String,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// An address a Gateway has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressStatus {
    /// `IPAddress` or `Hostname`.
    #[serde(rename = "type")]
    pub address_type: String,
    /// The address.
    pub value: String,
}

/// `status` of a listener, be it a Gateway's or a ListenerSet's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// The kinds of routes it takes.
    pub supported_kinds: Vec<RouteKindStatus>,
    /// How many routes are attached.
    pub attached_routes: i32,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// A kind of route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteKindStatus {
    /// The API group.
    pub group: String,
    /// The kind.
    pub kind: String,
}

/// `status` of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// Each of its parents that is ours.
    pub parents: Vec<ParentStatus>,
}

/// `status` of an XBackend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XBackendStatus {
    /// Each of the Gateways through which requests come to it: at most 32.
    pub parents: Vec<ParentStatus>,
}

/// How a route, or an XBackend, stands with one parent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The parent, as a route names it.
    pub parent_ref: ParentReference,
    /// Who says so.
    pub controller_name: String,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}
