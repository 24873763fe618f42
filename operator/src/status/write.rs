//! Writes one status, if the object is still the one that was read.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    runtime::events::Recorder,
};
use serde_json::{Value, json};

use crate::{
    events,
    infrastructure::apply::MANAGER,
    object::{self, Seen},
};

/// How long the API server may take. It is less than the margin at the end of a claim of the Lease.
const PATIENCE: Duration = Duration::from_secs(5);

/// A status to be written.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) resource: ApiResource,
    /// The object as it was read: it is written to that version of it or not at all.
    pub(crate) seen: Seen,
    pub(crate) status: Value,
    pub(crate) controller: String,
}

/// What came of it.
pub(crate) enum Written {
    /// The object is now so.
    Now(Box<Seen>),
    /// There is no such object any more.
    Gone,
}

impl Write {
    /// Writes it, and says what has changed for the worse or the better by Events.
    pub(crate) async fn run(self, client: Client, recorder: Recorder) -> Result<Written, kube::Error> {
        let reference = &self.seen.reference;
        let api: Api<DynamicObject> = if reference.namespace.is_empty() {
            Api::all_with(client, &self.resource)
        } else {
            Api::namespaced_with(client, &reference.namespace, &self.resource)
        };
        let before = self.seen.status();
        let patch = Patch::Merge(self.body(&before));
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let written = tokio::time::timeout(PATIENCE, api.patch_status(&reference.name, &parameters, &patch)).await;
        let object = match written {
            Ok(Ok(object)) => object,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(Written::Gone),
            Ok(Err(error)) => return Err(error),
            Err(elapsed) => return Err(kube::Error::Service(elapsed.into())),
        };
        let transitions = events::transitions(&before, &self.status, &self.controller);
        if !transitions.is_empty() {
            let events = events::publish(&recorder, &self.seen, &self.resource.api_version, transitions);
            // An Event that is not published is no reason to wait.
            let _ = tokio::time::timeout(PATIENCE, events).await;
        }
        Ok(Written::Now(Box::new(object::seen(
            reference.kind,
            &object.metadata,
            object.data["status"].clone(),
        ))))
    }

    /// A merge patch: what is there and is not to be there any more is null.
    fn body(&self, before: &Value) -> Value {
        let mut status = self.status.clone();
        for key in before.as_object().into_iter().flat_map(|before| before.keys()) {
            if status.get(key).is_none() {
                status[key] = Value::Null;
            }
        }
        json!({
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "metadata": {"resourceVersion": self.seen.resource_version},
            "status": status,
        })
    }
}
