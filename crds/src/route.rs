//! HTTPRoute and GRPCRoute.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BackendObjectReference, GrpcRouteFilter, HttpRouteFilter, Metadata, ParentReference, Unread};

fn one() -> u32 {
    1
}

/// `gateway.networking.k8s.io/v1 HTTPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: HttpRouteSpec,
    /// Written by controllers.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// What is wanted of an HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentReference>,
    /// Whether it attaches to Gateways it does not name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<String>,
    /// The hosts it is for.
    pub hostnames: Vec<String>,
    /// Its rules.
    pub rules: Vec<HttpRouteRule>,
}

/// A rule of an HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteRule {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which requests it takes; all when empty.
    pub matches: Vec<HttpRouteMatch>,
    /// What is done to them.
    pub filters: Vec<HttpRouteFilter>,
    /// Where they go.
    pub backend_refs: Vec<HttpBackendRef>,
    /// How long they may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Box<TimeoutsSpec>>,
    /// When they are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Box<RetrySpec>>,
    /// Whether one client's requests stay together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<Box<SessionPersistence>>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteMatch {
    /// On the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathMatch>,
    /// On headers.
    pub headers: Vec<HttpHeaderMatch>,
    /// On query parameters.
    pub query_params: Vec<HttpQueryMatch>,
    /// On the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// A condition on the path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPathMatch {
    /// `Exact`, `PathPrefix` or `RegularExpression`; `PathPrefix` when absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub match_type: Option<String>,
    /// The path; `/` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A condition on a header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpHeaderMatch {
    /// `Exact` or `RegularExpression`; `Exact` when absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub match_type: Option<String>,
    /// The header.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A condition on a query parameter.
pub type HttpQueryMatch = HttpHeaderMatch;
/// A condition on a gRPC header.
pub type GrpcHeaderMatch = HttpHeaderMatch;

/// A backend of an HTTPRoute and its share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpBackendRef {
    /// Who.
    #[serde(flatten)]
    pub backend: BackendObjectReference,
    /// Its share.
    #[serde(default = "one")]
    pub weight: u32,
    /// What is done to its requests.
    #[serde(default)]
    pub filters: Vec<HttpRouteFilter>,
}

/// A backend of a GRPCRoute, of the same form.
pub type GrpcBackendRef = HttpBackendRef;

/// How long a request may take (GEP-1742), as durations of GEP-2257.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TimeoutsSpec {
    /// All tries together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Each try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<String>,
}

/// When a request is tried again (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetrySpec {
    /// After which statuses.
    pub codes: Vec<u16>,
    /// How many times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// After how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<String>,
}

/// Whether one client's requests stay together (GEP-1619).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionPersistence {
    /// The name of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_name: Option<String>,
    /// For how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<String>,
    /// For how long without a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// `Cookie` or `Header`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub session_type: Option<String>,
    /// For `Cookie`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<CookieConfig>,
    /// For `Cookie`, as v1.7 has it in the place of `sessionName` and `cookieConfig`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<SessionCookie>,
    /// For `Header`, as v1.7 has it in the place of `sessionName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<SessionHeader>,
}

/// The cookie of a session (v1.7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionCookie {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its `Path`; `/` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `Permanent` or `Session`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_type: Option<String>,
}

/// The header of a session (v1.7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionHeader {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// How long a cookie lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieConfig {
    /// `Permanent` or `Session`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_type: Option<String>,
}

/// `gateway.networking.k8s.io/v1 GRPCRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRoute {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: GrpcRouteSpec,
    /// Written by controllers.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// What is wanted of a GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentReference>,
    /// Whether it attaches to Gateways it does not name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<String>,
    /// The hosts it is for.
    pub hostnames: Vec<String>,
    /// Its rules.
    pub rules: Vec<GrpcRouteRule>,
}

/// A rule of a GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteRule {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which requests it takes; all when empty.
    pub matches: Vec<GrpcRouteMatch>,
    /// What is done to them.
    pub filters: Vec<GrpcRouteFilter>,
    /// Where they go.
    pub backend_refs: Vec<GrpcBackendRef>,
    /// Whether one client's requests stay together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<Box<SessionPersistence>>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteMatch {
    /// On the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    /// On headers.
    pub headers: Vec<GrpcHeaderMatch>,
}

/// A condition on a gRPC method.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcMethodMatch {
    /// `Exact` or `RegularExpression`; `Exact` when absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub match_type: Option<String>,
    /// The service; any when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method; any when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}
