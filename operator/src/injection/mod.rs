//! Sidecars in the pods of namespaces that are in the mesh: the webhook that puts them there (all replicas serve it, and
//! [`crate::conversion`] with it), what the API server has to know of it, and the roots that sidecars need (both kept by the holder of the Lease).
//!
//! What is put into a pod is `weft-injection`'s; see docs/decisions/041-injection.md.

mod bundle;
mod review;
pub(crate) mod roots;
#[cfg(test)]
mod rotation;
mod server;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use weft_crds::Metadata;
use weft_injection::Namespace;

pub(crate) use self::{
    bundle::{Bundle, definitions},
    server::Webhook,
};

/// The namespaces that are in the mesh.
pub(crate) type Meshed = BTreeMap<String, Arc<Namespace>>;

/// What injection needs of a namespace; none if it is not in the mesh, or about to go.
pub(crate) fn meshed(metadata: &Metadata) -> Option<Namespace> {
    let namespace = Namespace {
        labels: metadata.labels.clone(),
        annotations: metadata.annotations.clone(),
    };
    (namespace.stage().is_some() && metadata.deletion_timestamp.is_none()).then_some(namespace)
}
