//! Where requests go to.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{ServiceKey, SessionPersistence, WorkloadKey};

/// One port of a Service. Health and load belong here, never to a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its name.
    pub key: ServiceKey,
    /// What its endpoints speak, by `appProtocol`.
    #[serde(default)]
    pub protocol: BackendProtocol,
    /// How the requests of one client stay together, where their rule does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionPersistence>,
}

/// What a backend speaks (`appProtocol`, GEP-1911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BackendProtocol {
    /// Nothing was declared: HTTP/1.1 for an HTTPRoute, HTTP/2 for a GRPCRoute.
    #[default]
    Undeclared,
    /// HTTP/1.1 (`http`, `kubernetes.io/ws`).
    Http1,
    /// HTTP/2 by prior knowledge, in clear (`kubernetes.io/h2c`, `grpc`).
    H2c,
}

/// Something that answers for services: a pod, or an endpoint that names none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Its name.
    pub key: WorkloadKey,
    /// Its address.
    pub address: IpAddr,
    /// The services it answers for, each with the port on which it does.
    pub services: BTreeMap<ServiceKey, u16>,
    /// The zone it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}
