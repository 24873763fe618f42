//! What the API server trusts when it asks the webhook: the roots of the operator's certificates, written into the one field
//! of the MutatingWebhookConfiguration that is not the installation's.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::StreamExt as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher, watcher::watch_object},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    infrastructure::apply::MANAGER,
    lease::{Claim, is_held},
};

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the field.
pub(crate) struct Bundle {
    api: Api<MutatingWebhookConfiguration>,
    name: String,
    claim: watch::Receiver<Claim>,
    roots: watch::Receiver<String>,
}

impl Bundle {
    pub(crate) fn new(
        client: Client,
        name: &str,
        claim: watch::Receiver<Claim>,
        roots: watch::Receiver<String>,
    ) -> Self {
        Self {
            api: Api::all(client),
            name: name.to_owned(),
            claim,
            roots,
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let watched = watch_object(self.api.clone(), &self.name).backoff(watcher::DefaultBackoff::default());
        let mut watched = std::pin::pin!(watched);
        let mut current: Option<MutatingWebhookConfiguration> = None;
        let mut absent = false;
        loop {
            tokio::select! {
                event = watched.next() => match event {
                    Some(Ok(found)) => {
                        if found.is_none() && !absent {
                            tracing::warn!(name = self.name, "there is no such MutatingWebhookConfiguration: no pod gets a sidecar");
                        }
                        absent = found.is_none();
                        current = found;
                    }
                    Some(Err(error)) => tracing::warn!(name = self.name, %error, "the MutatingWebhookConfiguration cannot be watched"),
                    None => return,
                },
                Ok(()) = self.roots.changed() => {}
                // It is renewed every few seconds, so that a failure is not the end either.
                Ok(()) = self.claim.changed() => {}
            }
            let roots = self.roots.borrow_and_update().clone();
            let writes = is_held(*self.claim.borrow_and_update(), std::time::Instant::now());
            let Some(configuration) = current.as_ref().filter(|_| writes && !roots.is_empty()) else {
                continue;
            };
            let patch = patch(configuration, &roots);
            if patch.is_empty() {
                continue;
            }
            match self.write(patch).await {
                Ok(written) => {
                    tracing::info!(name = self.name, "the API server is told the roots of the webhook");
                    current = Some(written);
                }
                Err(error) => {
                    tracing::warn!(name = self.name, %error, "the API server cannot be told the roots of the webhook; it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn write(&self, patch: Vec<Value>) -> Result<MutatingWebhookConfiguration, kube::Error> {
        let patch = serde_json::from_value(Value::Array(patch)).map_err(kube::Error::SerdeError)?;
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::<MutatingWebhookConfiguration>::Json(patch);
        self.api.patch(&self.name, &parameters, &patch).await
    }
}

/// The changes that put the roots in every place; none if they are there. Each says which webhook it means.
fn patch(configuration: &MutatingWebhookConfiguration, roots: &str) -> Vec<Value> {
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let outdated = webhooks.filter(|(_, webhook)| {
        let bundle = webhook.client_config.ca_bundle.as_ref();
        bundle.is_none_or(|bundle| bundle.0 != roots.as_bytes())
    });
    outdated
        .flat_map(|(at, webhook)| {
            [
                json!({"op": "test", "path": format!("/webhooks/{at}/name"), "value": webhook.name}),
                json!({"op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": BASE64_STANDARD.encode(roots)}),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: [Option<&str>; 2]) -> MutatingWebhookConfiguration {
        let webhook = |(at, bundle): (usize, Option<&str>)| {
            let mut client = json!({"service": {"name": "weft-operator", "namespace": "weft-system"}});
            if let Some(bundle) = bundle {
                client["caBundle"] = BASE64_STANDARD.encode(bundle).into();
            }
            json!({"name": format!("w{at}.weft.dev"), "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"]})
        };
        let webhooks: Vec<Value> = bundles.into_iter().enumerate().map(webhook).collect();
        serde_json::from_value(json!({"metadata": {"name": "weft-operator"}, "webhooks": webhooks})).expect("it is one")
    }

    #[test]
    fn only_what_differs_is_written_and_only_where_it_is_meant() {
        let expected = json!([
            {"op": "test", "path": "/webhooks/1/name", "value": "w1.weft.dev"},
            {"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": BASE64_STANDARD.encode("both")},
        ]);
        assert_eq!(
            json!(patch(&configuration([Some("both"), Some("old")]), "both")),
            expected
        );
        assert_eq!(json!(patch(&configuration([Some("both"), None]), "both")), expected);
        assert!(patch(&configuration([Some("both"), Some("both")]), "both").is_empty());
    }
}
