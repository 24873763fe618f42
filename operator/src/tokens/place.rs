//! Where a token is shown. One that another pod shows was stolen, and that can be seen: pods have addresses of their own. An
//! address that is no pod's says nothing: networks put a node's address in the place of a pod's.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use super::Bearer;

/// Where a token was shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where it belongs, as far as can be seen.
    Own,
    /// Its pod is gone.
    Gone,
    /// At another pod, `namespace/name`.
    Other(String),
}

/// Where a token was shown. The API server is asked and no watch, which may come later than a new pod's
/// first call.
pub(super) async fn of(client: &Client, bearer: &Bearer, from: IpAddr) -> Result<Place, kube::Error> {
    let Some(name) = &bearer.pod else {
        // Nobody knows where it belongs, and it is not taken for a workload's.
        return Ok(Place::Own);
    };
    let own = pod(client, &bearer.namespace, name).await?;
    let Some(own) = own.filter(|own| bearer.uid.is_none() || own.uid() == bearer.uid) else {
        return Ok(Place::Gone);
    };
    let addresses = addresses_of(&own);
    // Its first call may come before its address is told.
    if addresses.is_empty() || addresses.contains(&from) || addresses_of_node(&own).contains(&from) {
        return Ok(Place::Own);
    }
    // Who has it is looked for among all pods: in what the API server has in memory, which is cheap and may be a little old.
    let all = Api::<Pod>::all(client.clone());
    let wanted = ListParams::default()
        .fields(&format!("status.podIP={from}"))
        .match_any();
    for found in all.list(&wanted).await? {
        let (namespace, name) = (found.namespace().unwrap_or_default(), found.name_any());
        // Nobody is refused by what may be old: the address may be its own since a moment ago.
        let now = pod(client, &namespace, &name).await?;
        if now.is_some_and(|now| now.uid() != own.uid() && lives(&now) && addresses_of(&now).contains(&from)) {
            return Ok(Place::Other(format!("{namespace}/{name}")));
        }
    }
    Ok(Place::Own)
}

/// A pod as it is now. It is listed, since the operator need not be allowed more.
async fn pod(client: &Client, namespace: &str, name: &str) -> Result<Option<Pod>, kube::Error> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let named = ListParams::default().fields(&format!("metadata.name={name}"));
    Ok(pods.list(&named).await?.items.pop())
}

/// Whether a pod has addresses of its own, and still.
fn lives(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let on_node = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    !matches!(phase, Some("Succeeded" | "Failed")) && !on_node
}

fn addresses_of(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
    let all = all.iter().map(|address| address.ip.as_str());
    all.chain(status.and_then(|status| status.pod_ip.as_deref()))
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// Those of the node that a pod is on.
fn addresses_of_node(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.host_ips.as_deref()).unwrap_or_default();
    let all = all.iter().map(|address| address.ip.as_str());
    all.chain(status.and_then(|status| status.host_ip.as_deref()))
        .filter_map(|address| address.parse().ok())
        .collect()
}
