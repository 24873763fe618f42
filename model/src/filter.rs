//! What is done to a request or its response on the way (Gateway API HTTPRoute filters).

use serde::{Deserialize, Serialize};

use crate::ServiceKey;

/// One filter, in the manifest's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Filter {
    /// Changes the request's headers.
    RequestHeaders(HeaderEdit),
    /// Changes the response's headers.
    ResponseHeaders(HeaderEdit),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes host or path before the request goes to the backend.
    Rewrite(Rewrite),
    /// Sends a copy elsewhere and ignores its response.
    Mirror(Mirror),
    /// Answers preflights and adds the headers of the Fetch standard.
    Cors(Cors),
    /// Lets a request pass only if a server allows it.
    ExternalAuth(ExternalAuth),
}

/// Changes to headers. `set` replaces, `add` appends a value, `remove` takes away; names compare case-insensitively.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderEdit {
    /// Headers to replace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderChange>,
    /// Values to append.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderChange>,
    /// Names to take away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// A header's name and value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderChange {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// How a path is changed (`HTTPPathModifier`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    /// The whole path becomes this; the query stays.
    Full(String),
    /// The matched prefix becomes this.
    Prefix(String),
}

/// An answer that sends the client elsewhere (`HTTPRequestRedirectFilter`). Absent parts stay those of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The host to go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path to go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
    /// The port to go to. Absent: the scheme's own port if a scheme is given, else the listener's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A change of host or path towards the backend (`HTTPURLRewriteFilter`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewrite {
    /// The `Host` the backend sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path the backend sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
}

/// A copy of a share of requests (`HTTPRequestMirrorFilter`): `numerator` of each `denominator`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Where copies go; none when the reference could not be resolved, and then none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceKey>,
    /// At most `denominator`.
    pub numerator: u32,
    /// Not 0.
    pub denominator: u32,
}

/// Who may read responses from a browser (`HTTPCORSFilter`, the Fetch standard's CORS protocol).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// `*`, or `scheme://host[:port]` where the host may start with `*.` and may be `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
    /// Methods, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// Request headers, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// Response headers a page may read, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// Whether cookies and the like may be sent.
    #[serde(default)]
    pub allow_credentials: bool,
    /// Seconds a preflight's answer may be cached.
    pub max_age: u32,
}

/// Asks a server whether a request may pass (GEP-1494). Without its answer the request does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAuth {
    /// Who is asked.
    pub service: ServiceKey,
    /// How.
    pub protocol: AuthProtocol,
    /// Bytes of a body the server is told at most; larger ones are refused. None of it when 0.
    #[serde(default)]
    pub max_body: u32,
}

/// How a server is asked. Names of headers are lower-case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AuthProtocol {
    /// By a request like the client's, which 200 allows.
    Http {
        /// What the path is prefixed by; without a trailing slash.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        path_prefix: String,
        /// The client's headers that are sent beside `Host` and `Authorization`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        allowed_headers: Vec<String>,
        /// The answer's headers that the backend is told; all when empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        allowed_response_headers: Vec<String>,
    },
    /// By Envoy's `envoy.service.auth.v3.Authorization/Check`.
    Grpc {
        /// The client's headers that are sent; all when empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        allowed_headers: Vec<String>,
    },
}
