//! Where a token is shown. One that another pod shows was stolen, and that can be seen: pods have addresses of their own. An
//! address that is no pod's says nothing: networks put a node's address in the place of a pod's.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use super::Bearer;
use crate::workloads::pods::{addresses, is_apart};

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
    let own_addresses = addresses(&own);
    // Its first call may come before its address is told.
    if own_addresses.is_empty() || own_addresses.contains(&from) || addresses_of_node(&own).contains(&from) {
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
        if now.is_some_and(|now| now.uid() != own.uid() && is_apart(&now) && addresses(&now).contains(&from)) {
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

/// The addresses of the node that a pod is on.
fn addresses_of_node(pod: &Pod) -> Vec<IpAddr> {
    let all = pod.status.iter().flat_map(|status| status.host_ips.iter().flatten());
    all.filter_map(|address| address.ip.parse().ok()).collect()
}
