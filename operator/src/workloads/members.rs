//! Pods as policies see them: each is told to its own sidecar alone.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Container, Pod, Probe, Service},
    apimachinery::pkg::util::intstr::IntOrString,
};
use weft_model::{Change, Key, Member, ProbePath, Resource, ServiceKey, WorkloadKey};

use super::{Name, pods};

/// What the kubelet calls of a server of gRPC.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What policies ask of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    account: String,
    /// The node that it is on.
    node: Option<Arc<str>>,
    labels: BTreeMap<String, String>,
    /// The ports of its containers that have names.
    ports: BTreeMap<String, u16>,
    probes: Vec<ProbePath>,
}

impl Facts {
    /// The node that it is on.
    pub(super) fn node(&self) -> Option<Arc<str>> {
        self.node.clone()
    }
}

/// Where a Service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leads {
    selector: BTreeMap<String, String>,
    /// Its ports of TCP, with those of the pods.
    ports: Vec<(u16, IntOrString)>,
}

/// What there is, and what has been told of it.
#[derive(Default)]
pub(super) struct Members {
    pods: BTreeMap<Name, Facts>,
    services: BTreeMap<Name, Leads>,
    told: BTreeMap<Name, Member>,
}

pub(super) fn facts(pod: &Pod) -> Option<Facts> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let containers = || spec.containers.iter().chain(init);
    let ports = containers().flat_map(|container| container.ports.iter().flatten());
    let named = ports.filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)));
    let mut probes: Vec<ProbePath> = containers().flat_map(probes_of).collect();
    probes.sort();
    probes.dedup();
    Some(Facts {
        account: pods::account(spec),
        node: spec.node_name.as_deref().map(Into::into),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ports: named.collect(),
        probes,
    })
}

fn probes_of(container: &Container) -> impl Iterator<Item = ProbePath> {
    let probes = [
        &container.liveness_probe,
        &container.readiness_probe,
        &container.startup_probe,
    ];
    probes.into_iter().flatten().filter_map(|probe| {
        Some(ProbePath {
            port: pods::probe_port(probe, container)?,
            path: path(probe)?,
        })
    })
}

/// What a probe asks for; nothing if it only connects, or if what it says is sealed.
fn path(probe: &Probe) -> Option<String> {
    if probe.grpc.is_some() {
        return Some(HEALTH.to_owned());
    }
    let http = probe.http_get.as_ref()?;
    if http.scheme.as_deref() == Some("HTTPS") {
        return None;
    }
    let path = http.path.as_deref().unwrap_or("/");
    let path = path.split('?').next().unwrap_or(path);
    Some(if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    })
}

/// Where a Service leads to; nothing if it selects no pods.
pub(super) fn leads(service: &Service) -> Option<Leads> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.clone().filter(|selector| !selector.is_empty())?;
    let tcp = spec.ports.iter().flatten().filter(|port| {
        let protocol = port.protocol.as_deref();
        protocol.is_none_or(|protocol| protocol == "TCP")
    });
    let ports = tcp.filter_map(|port| {
        let to = port.target_port.clone().unwrap_or(IntOrString::Int(port.port));
        Some((u16::try_from(port.port).ok()?, to))
    });
    Some(Leads {
        selector,
        ports: ports.collect(),
    })
}

impl Members {
    /// A pod is new, or other than before, or gone.
    pub(super) fn pod(&mut self, name: &Name, facts: Option<Facts>) -> Vec<Change> {
        match facts {
            Some(facts) => self.pods.insert(name.clone(), facts),
            None => self.pods.remove(name),
        };
        self.look(name).into_iter().collect()
    }

    /// A Service is new, or other than before, or gone.
    pub(super) fn service(&mut self, name: &Name, leads: Option<Leads>) -> Vec<Change> {
        match leads {
            Some(leads) => self.services.insert(name.clone(), leads),
            None => self.services.remove(name),
        };
        let pods: Vec<Name> = of(&self.pods, &name.0).map(|(pod, _)| pod.clone()).collect();
        pods.iter().filter_map(|pod| self.look(pod)).collect()
    }

    /// What has changed of a pod since it was last told of.
    fn look(&mut self, name: &Name) -> Option<Change> {
        let key: WorkloadKey = format!("{}/{}", name.0, name.1).into();
        let Some(facts) = self.pods.get(name) else {
            self.told.remove(name)?;
            return Some(Change::Remove(Key::Member(key)));
        };
        let mut services = BTreeMap::new();
        for ((namespace, service), leads) in of(&self.services, &name.0) {
            let mut selector = leads.selector.iter();
            if !selector.all(|(label, value)| facts.labels.get(label) == Some(value)) {
                continue;
            }
            for (number, to) in &leads.ports {
                let to = match to {
                    IntOrString::Int(port) => u16::try_from(*port).ok(),
                    IntOrString::String(name) => facts.ports.get(name).copied(),
                };
                if let Some(to) = to {
                    services.insert(ServiceKey::new(namespace, service, *number), to);
                }
            }
        }
        let member = Member {
            key,
            account: facts.account.clone(),
            labels: facts.labels.clone(),
            services,
            probes: facts.probes.clone(),
        };
        if self.told.get(name) == Some(&member) {
            return None;
        }
        self.told.insert(name.clone(), member.clone());
        Some(Change::Upsert(Resource::Member(Arc::new(member))))
    }
}

/// What there is of a namespace.
fn of<'m, T>(all: &'m BTreeMap<Name, T>, namespace: &str) -> impl Iterator<Item = (&'m Name, &'m T)> {
    let start = (namespace.to_owned(), String::new());
    let namespace = namespace.to_owned();
    all.range(start..).take_while(move |(name, _)| name.0 == namespace)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn name(name: &str) -> Name {
        ("shop".to_owned(), name.to_owned())
    }

    fn pod(app: &str) -> Option<Facts> {
        let pod = json!({
            "metadata": {"labels": {"app": app}},
            "spec": {"serviceAccountName": "front", "containers": [{
                "name": "app",
                "ports": [{"name": "web", "containerPort": 8080}, {"containerPort": 9000}],
                "livenessProbe": {"httpGet": {"port": "web", "path": "/healthz?full"}},
                "readinessProbe": {"grpc": {"port": 7070}},
                "startupProbe": {"httpGet": {"port": 8443, "scheme": "HTTPS"}},
            }]},
        });
        facts(&serde_json::from_value(pod).expect("a pod"))
    }

    fn service(spec: Value) -> Option<Leads> {
        leads(&serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a Service"))
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let told = changes.iter().map(|change| match change {
            Change::Upsert(Resource::Member(member)) => format!("{} {:?}", member.key, member.services),
            Change::Remove(key) => format!("-{key}"),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[test]
    fn a_pod_is_told_which_services_lead_to_it() {
        let mut members = Members::default();
        let web = json!({"selector": {"app": "front"}, "ports": [
            {"port": 80, "targetPort": "web"}, {"port": 9000}, {"port": 53, "protocol": "UDP"}, {"port": 81, "targetPort": "none"},
        ]});
        assert!(members.service(&name("front"), service(web.clone())).is_empty());
        assert_eq!(
            told(&members.pod(&name("front-1"), pod("front"))),
            [r#"shop/front-1 {"shop/front:80": 8080, "shop/front:9000": 9000}"#]
        );
        assert!(
            members.pod(&name("front-1"), pod("front")).is_empty(),
            "nothing has changed"
        );
        assert_eq!(told(&members.pod(&name("front-1"), pod("other"))), ["shop/front-1 {}"]);
        assert_eq!(
            told(&members.service(
                &name("headless"),
                service(json!({"clusterIP": "None", "selector": {"app": "other"},
                "ports": [{"port": 1}]}))
            )),
            [r#"shop/front-1 {"shop/headless:1": 1}"#]
        );
        assert_eq!(told(&members.service(&name("headless"), None)), ["shop/front-1 {}"]);
        assert_eq!(service(json!({"ports": [{"port": 80}]})), None);
        assert_eq!(told(&members.pod(&name("front-1"), None)), ["-labels of shop/front-1"]);
        assert!(members.pod(&name("front-1"), None).is_empty());
    }

    #[test]
    fn what_the_kubelet_asks_for_is_known() {
        let facts = pod("front").expect("facts");
        let probe = |port, path: &str| ProbePath {
            port,
            path: path.to_owned(),
        };
        assert_eq!(facts.probes, [probe(7070, HEALTH), probe(8080, "/healthz")]);
    }
}
