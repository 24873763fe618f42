//! Where requests go to.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{BackendTls, ServiceKey, SessionPersistence, WorkloadKey};

/// One port of a Service, or of what stands for one. Health and load belong here, never to a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its name.
    pub key: ServiceKey,
    /// What its endpoints speak, by `appProtocol`.
    #[serde(default)]
    pub protocol: BackendProtocol,
    /// The names whose addresses are its endpoints, beside those that workloads say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NamedEndpoint>,
    /// How the requests of one client stay together, where their rule does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionPersistence>,
    /// How many of its requests may be tried again, if it is not as many as by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// Present when TLS is spoken to its endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
    /// Why none of its requests may be sent (say, a policy that names no usable root). They get 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// Endpoints by name: all the addresses that the name has in DNS. The data plane resolves it, for as long as a service in
/// use has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedEndpoint {
    /// Lower-case, and whole: no search domain is added to it.
    pub hostname: String,
    /// The port on each address.
    pub port: u16,
}

/// How many of a Service's requests may be tried again (GEP-3388). The default is that of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// The share of the requests of `interval`, of a hundred.
    pub percent: u8,
    /// The time over which requests count.
    #[serde(with = "whole_milliseconds")]
    pub interval: Duration,
    /// So many in `min_interval` are allowed however few requests there are.
    pub min_count: u32,
    /// Not 0.
    #[serde(with = "whole_milliseconds")]
    pub min_interval: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: 20,
            interval: Duration::from_secs(10),
            min_count: 10,
            min_interval: Duration::from_secs(1),
        }
    }
}

/// Durations travel as whole milliseconds.
mod whole_milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
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
    /// HTTP/2 by prior knowledge (`kubernetes.io/h2c`, `grpc`); over TLS, by ALPN.
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
