//! What has to be known of objects themselves: which have some labels, and what TrafficSplits say. The API server is asked when
//! somebody asks here, and nothing is kept.

use std::collections::BTreeSet;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, ObjectList},
    discovery,
};
use weft_crds::TrafficSplit;

use super::{Kind, Of, Selector};
use crate::view::{
    access::{Access, Asked, Refused},
    front::User,
    problem::Problem,
};

/// How many objects the API server tells of at once.
const PAGE: u32 = 500;

/// Objects of the cluster, for somebody who asks.
pub(in crate::view) struct Objects<'a> {
    pub(in crate::view) client: &'a Client,
    pub(in crate::view) access: &'a Access,
    pub(in crate::view) user: &'a User,
}

impl Objects<'_> {
    /// Those of a kind that have some labels, if who asks may list them: by their labels much can be found out.
    pub(super) async fn selected(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        selector: &Selector,
    ) -> Result<BTreeSet<Of>, Problem> {
        let Some(resource) = self.resource(kind).await? else {
            return Ok(BTreeSet::new());
        };
        let asked = Asked {
            group: &resource.group,
            version: &resource.version,
            resource: &resource.plural,
            subresource: None,
            namespace,
            name: None,
            watched: false,
        };
        match self.access.judge(self.user, &asked).await {
            Ok(()) => {}
            Err(Refused::Forbidden(why)) => {
                return Err(Problem::forbidden(format!(
                    "who selects by labels must be allowed to list: {why}"
                )));
            }
            Err(Refused::Unknown(why)) => {
                return Err(Problem::unavailable(format!(
                    "whether you may list them cannot be found out: {why}"
                )));
            }
        }
        let api = api(self.client, &resource, namespace);
        let mut params = ListParams::default().labels(&selector.text).limit(PAGE);
        let mut found = BTreeSet::new();
        loop {
            let page = api.list_metadata(&params).await.map_err(refused)?;
            for object in page.items {
                if let Some(name) = object.metadata.name {
                    found.insert((object.metadata.namespace, name));
                }
            }
            let Some(next) = page.metadata.continue_.filter(|next| !next.is_empty()) else {
                return Ok(found);
            };
            params = params.continue_token(&next);
        }
    }

    /// TrafficSplits, in whatever version they are served; none where they are not.
    pub(super) async fn splits(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Vec<TrafficSplit>, Problem> {
        let Some(resource) = self.resource(kind).await? else {
            return Ok(Vec::new());
        };
        let api = api(self.client, &resource, namespace);
        let mut found: Vec<DynamicObject> = Vec::new();
        if let Some(name) = name {
            found.extend(api.get_opt(name).await.map_err(refused)?);
        } else {
            let mut params = ListParams::default().limit(PAGE);
            loop {
                let page: ObjectList<DynamicObject> = api.list(&params).await.map_err(refused)?;
                found.extend(page.items);
                let Some(next) = page.metadata.continue_.filter(|next| !next.is_empty()) else {
                    break;
                };
                params = params.continue_token(&next);
            }
        }
        // One that cannot be read splits nothing either: the diagnostics say why.
        let read = |object| serde_json::from_value(serde_json::to_value(object).ok()?).ok();
        Ok(found.into_iter().filter_map(read).collect())
    }

    /// How a kind is served; none if it is not.
    async fn resource(&self, kind: &Kind) -> Result<Option<ApiResource>, Problem> {
        if let [version] = kind.versions() {
            let gvk = GroupVersionKind::gvk(kind.group, version, kind.name);
            return Ok(Some(ApiResource::from_gvk_with_plural(&gvk, kind.resource)));
        }
        for version in kind.versions() {
            let gvk = GroupVersionKind::gvk(kind.group, version, kind.name);
            match discovery::pinned_kind(self.client, &gvk).await {
                Ok((resource, _)) => return Ok(Some(resource)),
                Err(kube::Error::Discovery(_)) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(None)
    }
}

fn api(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

/// What the API server has against it is what whoever asks here should know.
fn refused(error: kube::Error) -> Problem {
    match error {
        kube::Error::Api(status) if status.code == 400 => Problem::bad(status.message.clone()),
        error => Problem::unavailable(format!("the API server does not tell of the objects: {error}")),
    }
}
