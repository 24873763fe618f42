//! A step on the path: the namespace's label, changed only if it still is what was looked at.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use weft_crds::MESH_LABEL;

use super::stage::Stage;

/// Who is named as the writer of a stage.
const FIELD_MANAGER: &str = "weft.dev/path";

/// From one stage to another.
pub(super) struct Step {
    pub(super) api: Api<Namespace>,
    /// As it was looked at.
    pub(super) namespace: Namespace,
    pub(super) from: Stage,
    pub(super) to: Stage,
}

impl Step {
    /// Takes it.
    pub(super) async fn take(&self) -> anyhow::Result<Namespace> {
        self.write(&self.namespace, self.to).await
    }

    /// Takes it back, if nobody has taken another since.
    pub(super) async fn undo(&self, written: &Namespace) -> anyhow::Result<Namespace> {
        let name = written.metadata.name.as_deref().unwrap_or_default();
        let now = self.api.get(name).await?;
        let stage = Stage::of(&now)?;
        anyhow::ensure!(
            stage == self.to,
            "somebody has taken {name} to {} meanwhile",
            stage.as_str()
        );
        self.write(&now, self.from).await
    }

    async fn write(&self, was: &Namespace, stage: Stage) -> anyhow::Result<Namespace> {
        let name = was.metadata.name.as_deref().unwrap_or_default();
        let label = match stage {
            Stage::None => None,
            stage => Some(stage.as_str()),
        };
        let patch = json!({"metadata": {
            "resourceVersion": was.metadata.resource_version, "labels": {MESH_LABEL: label},
        }});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let written = self.api.patch(name, &params, &Patch::Merge(patch)).await;
        written.with_context(|| {
            format!("the label {MESH_LABEL} of the namespace {name} cannot be written; if somebody has just changed the namespace, try again")
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::{Client, client::Body};

    use super::*;

    #[tokio::test]
    async fn only_the_label_is_written_and_only_on_what_was_looked_at() {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let serving = tokio::spawn(async move {
            let (request, send) = handle.next_request().await.expect("it asks");
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.expect("a body");
            let answer =
                json!({"metadata": {"name": "shop", "resourceVersion": "8", "labels": {MESH_LABEL: "secure"}}});
            send.send_response(Response::new(Body::from(answer.to_string().into_bytes())));
            (parts.method.to_string(), parts.uri.path().to_owned(), body)
        });
        let was = json!({"metadata": {"name": "shop", "resourceVersion": "7", "labels": {MESH_LABEL: "observe"}}});
        let step = Step {
            api: Api::all(Client::new(service, "default")),
            namespace: serde_json::from_value(was).expect("a namespace"),
            from: Stage::Observe,
            to: Stage::Secure,
        };
        let written = step.take().await.expect("it is written");
        assert_eq!(Stage::of(&written).expect("a stage"), Stage::Secure);
        let (method, path, body) = serving.await.expect("it was asked");
        assert_eq!((method.as_str(), path.as_str()), ("PATCH", "/api/v1/namespaces/shop"));
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            body,
            json!({"metadata": {"resourceVersion": "7", "labels": {MESH_LABEL: "secure"}}})
        );
    }
}
