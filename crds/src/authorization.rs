//! AuthorizationPolicy: who may do what. Fields are named as GEP-3779 names them, as far as it goes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{HttpPathMatch, LabelSelector, Metadata, Unread};

/// The annotation of a namespace in the mesh that says what becomes of what no policy decides: `allow`, `authenticated` or
/// `deny`.
pub const DEFAULT_ACTION_ANNOTATION: &str = "weft.dev/default-action";

/// `weft.dev/v1alpha1 AuthorizationPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicy {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: AuthorizationPolicySpec,
    /// Written by its controllers.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// Who may do what to the targets. What a rule of a DENY policy takes is denied; otherwise, if there are ALLOW policies for
/// the target, what no rule of any of them takes; otherwise the namespace's default decides. AUDIT policies only tell of what
/// their rules take. For workloads of a namespace in `observe`, nothing is denied: what would be is counted and logged. Gateways
/// decide by all that is for them and for their routes: what comes must be allowed by the policies for the Gateway and its
/// listener, by those for the ListenerSet that has the listener, and by those for the route and its rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["targetRefs", "action"]))]
pub struct AuthorizationPolicySpec {
    /// Whom the policy protects, in its own namespace: `Pod` by a selector (an empty one is for all workloads of the
    /// namespace), `ServiceAccount` or `Service` by name; what comes to a `Gateway` or by a `ListenerSet` of one, and what an
    /// `HTTPRoute`, `GRPCRoute`, `TLSRoute`, `TCPRoute` or `UDPRoute` takes of it (`gateway.networking.k8s.io`), by name.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<AuthorizationTargetReference>,
    /// What becomes of what a rule takes.
    #[schemars(extend("enum" = ["ALLOW", "DENY", "AUDIT"]))]
    pub action: String,
    /// The policy takes what one of these does. An ALLOW policy without rules allows nothing.
    #[schemars(length(max = 64))]
    pub rules: Vec<AuthorizationRule>,
}

/// What a policy protects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["group", "kind"], "x-kubernetes-validations" = [
    {"rule": "(self.kind == 'Pod') == has(self.selector)", "message": "a Pod has a selector, and nothing else has one"},
    {"rule": "(self.kind == 'Pod') != has(self.name)", "message": "a Pod has no name, and everything else has one"},
    {"rule": "self.kind in ['Service', 'Gateway', 'ListenerSet', 'HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute', 'UDPRoute'] || !has(self.sectionName)", "message": "only a Service, a Gateway, a ListenerSet and a route have a sectionName"},
]))]
pub struct AuthorizationTargetReference {
    /// The API group; empty for the core group.
    #[schemars(length(max = 253))]
    pub group: String,
    /// The kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The name; a Pod has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub name: String,
    /// Of a Service, the name of one of its ports; of a Gateway or a ListenerSet, of one of its listeners; of a route, of its
    /// rules. All of them when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub section_name: Option<String>,
    /// Of Pods, which: all of the namespace when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// A rule takes what is as all of its fields say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationRule {
    /// Who comes is one of these: anybody when absent, nobody when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub sources: Option<Vec<AuthorizationSource>>,
    /// Where it arrives, and from where it comes; anywhere when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_attributes: Option<AuthorizationNetworkAttributes>,
    /// What request it is. Of a connection whose requests cannot be seen, since it is not HTTP or encrypted by the
    /// application, and of datagrams, an ALLOW rule with this takes nothing and a DENY rule everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_attributes: Option<AuthorizationHttpAttributes>,
}

/// Who comes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["type"], "x-kubernetes-validations" = [
    {"rule": "(self.type == 'ServiceAccount') == has(self.serviceAccount)", "message": "serviceAccount is for the type ServiceAccount"},
    {"rule": "(self.type == 'Namespace') == has(self.namespace)", "message": "namespace is for the type Namespace"},
    {"rule": "(self.type == 'SPIFFE') == has(self.spiffe)", "message": "spiffe is for the type SPIFFE"},
    {"rule": "(self.type == 'ClientCertificate') == has(self.clientCertificate)", "message": "clientCertificate is for the type ClientCertificate"},
]))]
pub struct AuthorizationSource {
    /// `ServiceAccount`, `Namespace`, `SPIFFE` and `ClientCertificate` by the field of that name; `Authenticated` is whoever has
    /// proven who it is, as a workload of the mesh or, at a Gateway, by a certificate that its listener trusts;
    /// `Unauthenticated` is everybody else.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["ServiceAccount", "Namespace", "SPIFFE", "ClientCertificate", "Authenticated", "Unauthenticated"]))]
    pub source_type: String,
    /// For `ServiceAccount`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<AuthorizationSourceServiceAccount>,
    /// For `Namespace`: its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// For `SPIFFE`: an identity, `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`. With a `*` at its end, all that begin
    /// like this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub spiffe: Option<String>,
    /// For `ClientCertificate`: names in the certificate by which a client has proven itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<AuthorizationClientCertificate>,
}

/// Names in a certificate, all of which must be there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("minProperties" = 1))]
pub struct AuthorizationClientCertificate {
    /// A DNS name among its subject alternative names; `*.` at its beginning stands for one or more labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub dns_name: Option<String>,
    /// A URI among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub uri: Option<String>,
    /// The common name of its subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub common_name: Option<String>,
    /// An organization of its subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub organization: Option<String>,
}

/// The workloads that run as a service account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct AuthorizationSourceServiceAccount {
    /// Its namespace; the policy's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// Its name, or `*` for all of the namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where something arrives, and from where it comes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationNetworkAttributes {
    /// At one of these ports of the workload, not of a Service; at a Gateway, of its listeners. At any when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i32>,
    /// From one of these addresses, like `10.0.0.0/8`; from any when empty. It is that of the connection: what a request says of
    /// itself (`X-Forwarded-For`) is not believed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub source_ranges: Vec<String>,
}

/// What request it is: all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationHttpAttributes {
    /// One of these methods; any when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 32)))]
    pub methods: Vec<String>,
    /// One of these paths; any when empty. Compared is the path without the query, after decoding, and however a server may
    /// read it: see docs/authorization.md.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub paths: Vec<HttpPathMatch>,
    /// All of these headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<AuthorizationHeader>,
}

/// A condition on a header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct AuthorizationHeader {
    /// `Exact`, `RegularExpression` or `Present`; `Exact` when absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Exact", "RegularExpression", "Present"]))]
    pub match_type: Option<String>,
    /// The header, or `:authority` for the host that is asked for.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Its value; none for `Present`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub value: String,
}
