//! An API server, and objects of any kind in it.

use anyhow::Context as _;
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
    config::KubeConfigOptions,
    discovery::{Discovery, Scope, verbs},
};

use super::{OPERATOR, OPERATOR_NAME};

/// Who is named as the writer of what `weft` itself applies.
const FIELD_MANAGER: &str = "weft.dev/install";

/// An API server and the kinds it serves.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    discovery: Discovery,
}

impl Cluster {
    /// Connects as `kubectl` would.
    pub(crate) async fn connect(context: Option<&str>) -> anyhow::Result<Self> {
        let config = match context {
            None => Config::infer()
                .await
                .context("there is no cluster to talk to: set KUBECONFIG")?,
            Some(context) => {
                let options = KubeConfigOptions {
                    context: Some(context.to_owned()),
                    ..KubeConfigOptions::default()
                };
                Config::from_kubeconfig(&options)
                    .await
                    .with_context(|| format!("the kubeconfig has no usable context {context:?}"))?
            }
        };
        let address = config.cluster_url.clone();
        let client = Client::try_from(config)?;
        let discovery = Discovery::new(client.clone())
            .run_aggregated()
            .await
            .with_context(|| format!("the API server {address} does not answer"))?;
        Ok(Self { client, discovery })
    }

    /// Asks again which kinds there are.
    pub(crate) async fn discover(&mut self) -> anyhow::Result<()> {
        self.discovery = Discovery::new(self.client.clone()).run_aggregated().await?;
        Ok(())
    }

    /// The objects of a kind, in all namespaces; none if there is no such kind.
    pub(crate) fn api(&self, group: &str, version: &str, kind: &str) -> Option<Api<DynamicObject>> {
        let kind = GroupVersionKind::gvk(group, version, kind);
        let (resource, capabilities) = self.discovery.resolve_gvk(&kind)?;
        Some(self.of(&resource, &capabilities.scope))
    }

    fn of(&self, resource: &ApiResource, scope: &Scope) -> Api<DynamicObject> {
        Api::dynamic(self.client.clone(), resource, scope)
    }

    /// All objects of every kind that carry a label, each with its kind's name.
    pub(crate) async fn labelled(&self, selector: &str) -> anyhow::Result<Vec<(ApiResource, DynamicObject)>> {
        let params = ListParams::default().labels(selector);
        let mut found = Vec::new();
        for group in self.discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                let can = |verb| capabilities.supports_operation(verb);
                // What cannot be deleted is made from something that can: EndpointSlices' Events, metrics.
                if !can(verbs::LIST) || !can(verbs::DELETE) {
                    continue;
                }
                let api = self.of(&resource, &capabilities.scope);
                match api.list(&params).await {
                    Ok(list) => found.extend(list.items.into_iter().map(|object| (resource.clone(), object))),
                    // A kind may be served by an API that is away, or be none of ours to see.
                    Err(kube::Error::Api(status)) if [403, 404, 405, 503].contains(&status.code) => {}
                    Err(error) => return Err(error).with_context(|| format!("{} cannot be listed", resource.plural)),
                }
            }
        }
        Ok(found)
    }

    /// The operator's Deployment in a namespace.
    pub(crate) async fn operator(&self, namespace: &str) -> anyhow::Result<Option<DynamicObject>> {
        let api = self
            .api("apps", "v1", "Deployment")
            .context("the API server serves no Deployments")?;
        let params = ListParams::default().labels(&format!("{OPERATOR_NAME}={OPERATOR}"));
        Ok(api.constrain(namespace).list(&params).await?.items.into_iter().next())
    }

    /// Makes an object as it is said, whoever has made it before.
    pub(crate) async fn apply(&self, object: &DynamicObject) -> anyhow::Result<()> {
        let what = name_of(object);
        let kind = object.types.as_ref().with_context(|| format!("{what} has no kind"))?;
        let kind = GroupVersionKind::try_from(kind)?;
        let api = self
            .api(&kind.group, &kind.version, &kind.kind)
            .with_context(|| format!("the API server knows no {} {}", kind.api_version(), kind.kind))?;
        let api = api.constrain(object.metadata.namespace.as_deref().unwrap_or_default());
        let name = object
            .metadata
            .name
            .as_deref()
            .with_context(|| format!("{what} has no name"))?;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(name, &params, &Patch::Apply(object))
            .await
            .with_context(|| format!("{what} could not be applied"))?;
        Ok(())
    }
}

/// `Kind namespace/name`.
pub(crate) fn name_of(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |types| types.kind.as_str());
    let name = object.metadata.name.as_deref().unwrap_or("without a name");
    match &object.metadata.namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
