//! What every object has.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

/// `metadata` of an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its namespace; `default` when absent on a namespaced object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Counts changes of the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Timestamp>,
    /// When it is to be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Timestamp>,
    /// Names it for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its version in the API server.
    #[serde(skip_serializing)]
    pub resource_version: Unread,
    /// Asks the API server for a name.
    #[serde(skip_serializing)]
    pub generate_name: Unread,
    /// What keeps it from going.
    #[serde(skip_serializing)]
    pub finalizers: Unread,
    /// Who owns it.
    #[serde(skip_serializing)]
    pub owner_references: Unread,
    /// Who wrote which field.
    #[serde(skip_serializing)]
    pub managed_fields: Unread,
    /// Set by old API servers.
    #[serde(skip_serializing)]
    pub self_link: Unread,
}

impl Metadata {
    /// Seconds since 1970 at which it was made; 0 when it was never in an API server.
    pub fn created(&self) -> i64 {
        self.creation_timestamp.map_or(0, Timestamp::as_second)
    }

    /// The generation conditions speak of.
    pub fn generation(&self) -> i64 {
        self.generation.unwrap_or(0)
    }

    /// The namespace of a namespaced object.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

/// A field that manifests may have and that nothing here reads. Whatever it holds is let go, and takes no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread;

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl JsonSchema for Unread {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Unread".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        true.into()
    }
}
