//! How far a namespace is on the path, as its label says.

use anyhow::bail;
use clap::ValueEnum;
use k8s_openapi::api::core::v1::Namespace;
use weft_crds::MESH_LABEL;

/// How far a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Not in the mesh.
    None,
    /// Its traffic is seen.
    Observe,
    /// Workloads of the mesh prove who they are.
    Secure,
    /// Nobody else may come.
    Strict,
}

impl Stage {
    pub(super) fn of(namespace: &Namespace) -> anyhow::Result<Self> {
        let labels = namespace.metadata.labels.as_ref();
        Ok(
            match labels.and_then(|labels| labels.get(MESH_LABEL)).map(String::as_str) {
                None => Self::None,
                Some("observe") => Self::Observe,
                Some("secure") => Self::Secure,
                Some("strict") => Self::Strict,
                Some(other) => {
                    let name = namespace.metadata.name.as_deref().unwrap_or_default();
                    bail!(
                        "the label {MESH_LABEL} of the namespace {name} is {other:?}, which is no stage: \
                     kubectl label namespace {name} --overwrite {MESH_LABEL}=observe"
                    )
                }
            },
        )
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Observe => "observe",
            Self::Secure => "secure",
            Self::Strict => "strict",
        }
    }

    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::None => Some(Self::Observe),
            Self::Observe => Some(Self::Secure),
            Self::Secure => Some(Self::Strict),
            Self::Strict => None,
        }
    }

    pub(super) fn before(self) -> Option<Self> {
        match self {
            Self::None => None,
            Self::Observe => Some(Self::None),
            Self::Secure => Some(Self::Observe),
            Self::Strict => Some(Self::Secure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_way_forth_and_back() {
        let mut stage = Stage::None;
        let mut way = vec![stage];
        while let Some(next) = stage.next() {
            assert_eq!(next.before(), Some(stage));
            stage = next;
            way.push(stage);
        }
        assert_eq!(way, [Stage::None, Stage::Observe, Stage::Secure, Stage::Strict]);
    }
}
