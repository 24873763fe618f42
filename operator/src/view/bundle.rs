//! What the API server trusts when it asks the API: the roots of the operator's certificates, written into the one field of each
//! APIService that is not the installation's.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::StreamExt as _;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher, watcher::watch_object},
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};
use weft_model::view;

use super::smi;
use crate::{
    infrastructure::apply::MANAGER,
    lease::{Claim, is_held},
};

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the fields.
#[derive(Clone)]
pub(crate) struct Bundles {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) claim: watch::Receiver<Claim>,
    pub(crate) roots: watch::Receiver<String>,
}

impl Bundles {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut tasks = JoinSet::new();
        for (group, version) in [(view::GROUP, view::VERSION), (smi::GROUP, smi::VERSION)] {
            tasks.spawn(self.clone().keep(format!("{version}.{group}")));
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn keep(mut self, name: String) {
        let api: Api<APIService> = Api::all(self.client.clone());
        let watched = watch_object(api.clone(), &name).backoff(watcher::DefaultBackoff::default());
        let mut watched = std::pin::pin!(watched);
        let mut current: Option<APIService> = None;
        loop {
            tokio::select! {
                event = watched.next() => match event {
                    Some(Ok(found)) => current = found,
                    Some(Err(error)) => tracing::debug!(name, %error, "the APIService cannot be watched"),
                    None => return,
                },
                Ok(()) = self.roots.changed() => {}
                // It is renewed every few seconds, so that a failure is not the end either.
                Ok(()) = self.claim.changed() => {}
            }
            let roots = self.roots.borrow_and_update().clone();
            let writes = is_held(*self.claim.borrow_and_update(), std::time::Instant::now());
            let Some(service) = current.as_ref().filter(|_| writes && !roots.is_empty()) else {
                continue;
            };
            // Another's is left alone.
            let Some(patch) = patch(service, &self.namespace, &roots) else {
                continue;
            };
            let parameters = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patch = serde_json::from_value(Value::Array(patch)).map(Patch::<APIService>::Json);
            let Ok(patch) = patch else { continue };
            match api.patch(&name, &parameters, &patch).await {
                Ok(written) => {
                    tracing::info!(name, "the API server is told the roots of the API");
                    current = Some(written);
                }
                Err(error) => {
                    tracing::warn!(name, %error, "the API server cannot be told the roots of the API; it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// The change that puts the roots there; none if they are, or if it is not this operator that is asked.
fn patch(service: &APIService, namespace: &str, roots: &str) -> Option<Vec<Value>> {
    let spec = service.spec.as_ref()?;
    let asked = spec.service.as_ref()?;
    if asked.namespace.as_deref() != Some(namespace) {
        return None;
    }
    let same = spec
        .ca_bundle
        .as_ref()
        .is_some_and(|bundle| bundle.0 == roots.as_bytes());
    (!same).then(|| {
        vec![
            json!({"op": "test", "path": "/spec/service/namespace", "value": namespace}),
            json!({"op": "add", "path": "/spec/caBundle", "value": BASE64_STANDARD.encode(roots)}),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written_and_only_where_it_is_meant() {
        let service = |namespace: &str, bundle: Option<&str>| -> APIService {
            let mut service = json!({"metadata": {"name": "v1alpha1.view.weft.dev"}, "spec": {
                "groupPriorityMinimum": 1000, "versionPriority": 10,
                "service": {"namespace": namespace, "name": "weft-operator"},
            }});
            if let Some(bundle) = bundle {
                service["spec"]["caBundle"] = BASE64_STANDARD.encode(bundle).into();
            }
            serde_json::from_value(service).expect("an APIService")
        };
        assert!(patch(&service("weft-system", None), "weft-system", "new").is_some());
        assert!(patch(&service("weft-system", Some("old")), "weft-system", "new").is_some());
        assert!(patch(&service("weft-system", Some("new")), "weft-system", "new").is_none());
        assert!(patch(&service("linkerd-smi", None), "weft-system", "new").is_none());
    }
}
