//! HTTPRoute and GRPCRoute.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BackendObjectReference, Metadata, ParentReference, Unread};

fn one() -> u32 {
    1
}

fn hundred() -> u32 {
    100
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

/// Something done to a request or its response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteFilter {
    /// Which of the fields below is set.
    #[serde(rename = "type")]
    pub filter_type: String,
    /// For `RequestHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderFilter>,
    /// For `ResponseHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderFilter>,
    /// For `RequestMirror`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<MirrorFilter>,
    /// For `RequestRedirect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RedirectFilter>,
    /// For `URLRewrite`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<RewriteFilter>,
    /// For `CORS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsFilter>,
    /// For `ExternalAuth`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_auth: Option<ExternalAuthFilter>,
    /// For `ExtensionRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension_ref: Option<ExtensionReference>,
}

/// A filter of a GRPCRoute: of the same form, with fewer kinds allowed.
pub type GrpcRouteFilter = HttpRouteFilter;

/// Changes to headers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderFilter {
    /// To replace.
    pub set: Vec<HeaderValue>,
    /// To append.
    pub add: Vec<HeaderValue>,
    /// To take away.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderValue {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Where copies go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorFilter {
    /// To whom.
    pub backend_ref: BackendObjectReference,
    /// The share of requests, of a hundred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// The share of requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

/// A share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fraction {
    /// Of the denominator.
    pub numerator: u32,
    /// A hundred when absent.
    #[serde(default = "hundred")]
    pub denominator: u32,
}

/// A redirect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedirectFilter {
    /// `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// The port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 302 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
}

/// A change of host or path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RewriteFilter {
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// A change of the path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type")]
    pub modifier_type: String,
    /// For `ReplaceFullPath`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<String>,
    /// For `ReplacePrefixMatch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<String>,
}

/// The Fetch standard's CORS protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsFilter {
    /// Origins.
    pub allow_origins: Vec<String>,
    /// Whether cookies and the like may be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
    /// Methods.
    pub allow_methods: Vec<String>,
    /// Request headers.
    pub allow_headers: Vec<String>,
    /// Response headers.
    pub expose_headers: Vec<String>,
    /// Seconds; 5 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u32>,
}

/// Who is asked whether a request may pass (GEP-1494).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAuthFilter {
    /// `HTTP`, or `GRPC`: Envoy's `ext_authz`.
    #[serde(default)]
    pub protocol: String,
    /// The server that is asked.
    pub backend_ref: BackendObjectReference,
    /// For `GRPC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcAuthConfig>,
    /// For `HTTP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpAuthConfig>,
    /// Whether it is told the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_body: Option<ForwardBody>,
}

/// What a server is asked by gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcAuthConfig {
    /// The request's headers it is told; all when empty.
    pub allowed_headers: Vec<String>,
}

/// What a server is asked by HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpAuthConfig {
    /// What paths are prefixed by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The request's headers it is told beside those it always is.
    pub allowed_headers: Vec<String>,
    /// The headers of its answer that the backend is told; all when empty.
    pub allowed_response_headers: Vec<String>,
}

/// Whether a server is told the body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ForwardBody {
    /// Bytes; 0 is none of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u32>,
}

/// A filter that is an object of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtensionReference {
    /// Its API group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

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
