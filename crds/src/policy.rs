//! Policies: what is attached to other objects by `targetRefs` (GEP-713).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LocalReference, Metadata, SessionPersistence, Unread};

/// What a policy is attached to (`LocalPolicyTargetReferenceWithSectionName`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyTarget {
    /// The API group; empty for the core group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The name, in the policy's own namespace.
    pub name: String,
    /// A part of it: of a Service a port, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// `gateway.networking.x-k8s.io/v1alpha1 XBackendTrafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct XBackendTrafficPolicy {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: XBackendTrafficPolicySpec,
    /// Written by its controllers.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// How traffic to backends is handled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct XBackendTrafficPolicySpec {
    /// The backends, as wholes: `sectionName` is not theirs to have.
    pub target_refs: Vec<PolicyTarget>,
    /// How much may be tried again (GEP-3388).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_constraint: Option<RetryConstraint>,
    /// Whether one client's requests stay together (GEP-1619).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// How much may be tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryConstraint {
    /// The share of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetDetails>,
    /// What is allowed however few requests there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_retry_rate: Option<RequestRate>,
}

/// A share of the requests of some time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetDetails {
    /// Of a hundred; 20 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i64>,
    /// The time; 10s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
}

/// A number of requests in some time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRate {
    /// The number; 10 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// The time; 1s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
}

/// `gateway.networking.k8s.io/v1 BackendTLSPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicy {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: BackendTlsPolicySpec,
    /// Written by its controllers.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// How TLS is spoken to backends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicySpec {
    /// The Services, or ports of them.
    pub target_refs: Vec<PolicyTarget>,
    /// How their certificates are checked.
    pub validation: BackendTlsValidation,
    /// Of the implementation's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// How the certificate of a backend is checked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsValidation {
    /// What it must lead to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<LocalReference>,
    /// `System`, instead of references.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<String>,
    /// The SNI, and the name it must have unless there are `subjectAltNames`.
    pub hostname: String,
    /// One of these must be in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltNameSpec>,
}

/// A name in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SubjectAltNameSpec {
    /// `Hostname` or `URI`.
    #[serde(rename = "type")]
    pub name_type: String,
    /// For `Hostname`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// For `URI`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uri: String,
}
