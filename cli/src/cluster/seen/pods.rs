//! The pods of a cluster: which have a sidecar, what they are made for, and whose an address is.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, api::ListParams};
use weft_injection::{INJECT, SIDECAR};
use weft_model::Owner;

/// What pods are called, with their names.
const POD: &str = "pod ";

/// A pod, as far as it is of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenPod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) owner: Owner,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) meshed: bool,
    /// Whether it never has a sidecar: it has the network of its node, or does not want one.
    pub(crate) apart: bool,
}

/// The pods that run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pods {
    pub(crate) all: Vec<SeenPod>,
    addresses: HashMap<IpAddr, String>,
}

impl Pods {
    /// Those of a namespace, or of all.
    pub(crate) async fn list(client: &Client, namespace: Option<&str>) -> Result<Self, kube::Error> {
        let api: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let mut pods = Self::default();
        for pod in api.list(&ListParams::default()).await? {
            pods.add(&pod);
        }
        Ok(pods)
    }

    /// Learns to whom addresses belong, as far as that may be seen.
    pub(crate) async fn learn(&mut self, client: &Client) {
        if let Ok(all) = Self::list(client, None).await {
            self.addresses.extend(all.addresses);
        }
        let nodes: Api<Node> = Api::all(client.clone());
        let Ok(nodes) = nodes.list(&ListParams::default()).await else {
            return;
        };
        for node in nodes {
            let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
            for address in addresses.iter().filter_map(|address| address.address.parse().ok()) {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                self.addresses.insert(address, format!("node {name}"));
            }
        }
    }

    pub(crate) fn add(&mut self, pod: &Pod) {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return;
        }
        let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else {
            return;
        };
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let controller = pod
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        let owner = controller.map_or_else(
            || Owner::new("Pod", name),
            |owner| {
                Owner::controlling(
                    &owner.kind,
                    &owner.name,
                    labels.get("pod-template-hash").map(String::as_str),
                )
            },
        );
        let spec = pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let annotations = pod.metadata.annotations.as_ref();
        let said = [pod.metadata.labels.as_ref(), annotations]
            .into_iter()
            .flatten()
            .find_map(|said| said.get(INJECT));
        let opted_out = said.is_some_and(|said| said == "disabled");
        let on_host = spec.and_then(|spec| spec.host_network) == Some(true);
        if !on_host {
            let addresses = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten());
            for address in addresses.filter_map(|address| address.ip.parse().ok()) {
                self.addresses.insert(address, format!("{POD}{namespace}/{name}"));
            }
        }
        self.all.push(SeenPod {
            namespace: namespace.clone(),
            name: name.clone(),
            owner,
            labels,
            meshed: containers.into_iter().any(|container| container.name == SIDECAR),
            apart: on_host || opted_out,
        });
    }

    /// Whether an address is known to be a pod's own.
    pub(crate) fn is_pod(&self, address: IpAddr) -> bool {
        self.at(address).is_some_and(|name| name.starts_with(POD))
    }

    /// Whose an address is.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&str> {
        self.addresses.get(&address).map(String::as_str)
    }
}
