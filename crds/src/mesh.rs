//! The mesh: which namespaces take part in it, and how far; and what the mesh as a whole says of itself (GEP-3949).

use std::{collections::BTreeMap, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Metadata, ParametersReference, Unread};

/// The label of a namespace that takes part in the mesh; its value is a [`Stage`].
pub const MESH_LABEL: &str = "weft.dev/mesh";

/// How far a namespace takes part in the mesh. Each stage does what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Sidecars carry its traffic.
    Observe,
    /// Mutual TLS is spoken between those in the mesh, and policies are enforced.
    Secure,
    /// Nothing but mutual TLS is accepted.
    Strict,
}

/// The text is not a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownStage(String);

impl Stage {
    /// The stage of a namespace with these labels; none if it takes no part.
    ///
    /// # Errors
    /// It has the label, with a value that is no stage.
    pub fn of(labels: &BTreeMap<String, String>) -> Result<Option<Self>, UnknownStage> {
        labels.get(MESH_LABEL).map(|text| text.parse()).transpose()
    }

    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Secure => "secure",
            Self::Strict => "strict",
        }
    }
}

impl FromStr for Stage {
    type Err = UnknownStage;

    fn from_str(text: &str) -> Result<Self, UnknownStage> {
        let stages = [Self::Observe, Self::Secure, Self::Strict].into_iter();
        let found = stages.into_iter().find(|stage| stage.as_str() == text);
        found.ok_or_else(|| UnknownStage(text.to_owned()))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for UnknownStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no stage: use observe, secure or strict", self.0)
    }
}

impl std::error::Error for UnknownStage {}

/// `gateway.networking.x-k8s.io/v1alpha1 XMesh`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct XMesh {
    /// Its metadata.
    pub metadata: Metadata,
    /// Who serves it.
    pub spec: XMeshSpec,
    /// Written by its controller.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// Who serves a mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct XMeshSpec {
    /// The controller.
    pub controller_name: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Further settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<ParametersReference>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(value: Option<&str>) -> Result<Option<Stage>, UnknownStage> {
        let labels = value.map(|value| (MESH_LABEL.to_owned(), value.to_owned()));
        Stage::of(&labels.into_iter().collect())
    }

    #[test]
    fn a_stage_is_what_the_label_says() {
        assert_eq!(stage(None), Ok(None));
        for known in [Stage::Observe, Stage::Secure, Stage::Strict] {
            assert_eq!(stage(Some(known.as_str())), Ok(Some(known)));
        }
        assert!(Stage::Observe < Stage::Secure && Stage::Secure < Stage::Strict);
        for unknown in ["", "Observe", "enabled"] {
            assert_eq!(stage(Some(unknown)), Err(UnknownStage(unknown.to_owned())));
        }
    }
}
