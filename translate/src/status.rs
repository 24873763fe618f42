//! Statuses as the API has them.

use serde::Serialize;
use weft_crds::{
    AcmeIssuerStatus, Condition, GatewayClassStatus, GatewayStatus, ListenerSetStatus, MeshStatus, PolicyStatus,
    RouteStatus, XBackendStatus,
};

/// The status of an object, in the API's form but for `lastTransitionTime`, which whoever writes it adds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum Status {
    /// Of a GatewayClass.
    GatewayClass(GatewayClassStatus),
    /// Of an XMesh.
    XMesh(MeshStatus),
    /// Of a Gateway.
    Gateway(GatewayStatus),
    /// Of a ListenerSet.
    ListenerSet(ListenerSetStatus),
    /// Of a policy: a BackendTLSPolicy, an XBackendTrafficPolicy or an AuthorizationPolicy.
    Policy(PolicyStatus),
    /// Of an AcmeIssuer.
    AcmeIssuer(AcmeIssuerStatus),
    /// Of a route of any kind.
    Route(RouteStatus),
    /// Of an XBackend.
    XBackend(XBackendStatus),
}

/// A condition.
pub(crate) fn condition(
    kind: &str,
    holds: bool,
    reason: &str,
    message: impl Into<String>,
    generation: i64,
) -> Condition {
    Condition {
        condition_type: kind.into(),
        status: if holds { "True" } else { "False" }.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
    }
}
