//! What data planes have seen, as edges between workloads.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{SystemTime, UNIX_EPOCH},
};

use weft_model::{
    Counts, Flow, Owner, Remote, SpiffeId, TrustDomain, Way,
    view::{EdgeView, End, Metadata, Quantiles, RouteView, Side},
};

use super::store::PlaneSummary;

/// What tells edges apart: source, destination, Service, port, whether it is secured, and who has reported it.
type Between = (End, End, Option<String>, u16, bool, Side);

struct Sum {
    namespace: String,
    probed: bool,
    flow: Flow,
    age_s: u64,
    would_deny: BTreeMap<String, u64>,
}

/// The edges between workloads, as either side has seen them.
pub(crate) fn edges(planes: &[PlaneSummary], domain: &TrustDomain) -> Vec<EdgeView> {
    let mut sums: BTreeMap<Between, Sum> = BTreeMap::new();
    for plane in planes {
        let own = own(plane, domain);
        for report in &plane.edges {
            let edge = &report.edge;
            let remote = remote(&edge.remote, domain);
            let (source, destination, side) = match edge.way {
                Way::Inbound => (remote, own.clone(), Side::Server),
                Way::Outbound => (own.clone(), remote, Side::Client),
            };
            let service = edge.service.as_ref().map(ToString::to_string);
            let probed = edge.way == Way::Inbound
                && plane
                    .own
                    .as_ref()
                    .is_some_and(|own| own.probe_ports.contains(&edge.port));
            let between = (source, destination, service, edge.port, edge.secured, side);
            let sum = sums.entry(between).or_insert_with(|| Sum {
                namespace: plane.namespace.clone(),
                probed,
                flow: Flow::default(),
                age_s: u64::MAX,
                would_deny: BTreeMap::new(),
            });
            sum.flow.add(&report.flow);
            sum.age_s = sum.age_s.min(report.age_s);
            for (policy, count) in &report.would_deny {
                let all = sum.would_deny.entry(policy.clone()).or_default();
                *all = all.saturating_add(*count);
            }
        }
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let view = |(between, sum): (Between, Sum)| {
        let name = name(&between);
        let (source, destination, service, port, secured, side) = between;
        EdgeView {
            metadata: Metadata {
                name,
                namespace: sum.namespace,
            },
            source,
            destination,
            service,
            port,
            probed: sum.probed,
            secured,
            side,
            latency: Quantiles::of(&sum.flow.requests.latencies),
            flow: sum.flow,
            last_seen: now.saturating_sub(sum.age_s),
            would_deny: sum.would_deny,
        }
    };
    sums.into_iter().map(view).collect()
}

/// What rules of routes were asked.
pub(crate) fn routes(planes: &[PlaneSummary]) -> Vec<RouteView> {
    let mut sums: HashMap<&str, Counts> = HashMap::new();
    for report in planes.iter().flat_map(|plane| &plane.routes) {
        sums.entry(report.route.as_str()).or_default().add(&report.requests);
    }
    let mut views: Vec<RouteView> = sums
        .into_iter()
        .filter_map(|(key, requests)| {
            let mut parts = key.split('/');
            let (kind, namespace, route) = (parts.next()?, parts.next()?, parts.next()?);
            let rule = parts.next()?.parse().ok()?;
            Some(RouteView {
                metadata: Metadata {
                    name: format!("{}.{route}.{rule}", kind.to_lowercase()),
                    namespace: namespace.to_owned(),
                },
                kind: kind.to_owned(),
                route: route.to_owned(),
                rule,
                latency: Quantiles::of(&requests.latencies),
                requests,
            })
        })
        .collect();
    views.sort_by(|a, b| {
        (&a.metadata.namespace, &a.kind, &a.route, a.rule).cmp(&(&b.metadata.namespace, &b.kind, &b.route, b.rule))
    });
    views
}

fn own(plane: &PlaneSummary, domain: &TrustDomain) -> End {
    match &plane.own {
        Some(own) => End {
            namespace: Some(own.namespace.to_string()),
            workload: Some(Owner::of(own)),
            identity: identity(domain, own.namespace.as_str(), &own.account),
            address: None,
        },
        None => End {
            namespace: Some(plane.namespace.clone()),
            workload: Some(Owner::new(&plane.kind, &plane.name)),
            ..End::default()
        },
    }
}

fn remote(remote: &Remote, domain: &TrustDomain) -> End {
    match remote {
        Remote::Workload {
            namespace,
            owner,
            account,
        } => End {
            namespace: Some(namespace.to_string()),
            workload: Some(owner.clone()),
            identity: identity(domain, namespace.as_str(), account),
            address: None,
        },
        Remote::Identity(id) => End {
            namespace: Some(id.namespace().to_owned()),
            identity: Some(id.to_string()),
            ..End::default()
        },
        Remote::Address(address) => End {
            address: Some(*address),
            ..End::default()
        },
        Remote::Service | Remote::Others => End::default(),
    }
}

fn identity(domain: &TrustDomain, namespace: &str, account: &str) -> Option<String> {
    let identity = SpiffeId::of(domain, namespace, account);
    identity.ok().map(|identity| identity.to_string())
}

/// A name that an object may have, the same at each replica.
fn name(between: &Between) -> String {
    let end = |end: &End| {
        let workload = end.workload.as_ref().map(|owner| owner.name.clone());
        let address = end.address.map(|_| "outside".to_owned());
        workload.or(address).unwrap_or_else(|| "other".to_owned())
    };
    let mut hasher = DefaultHasher::new();
    between.hash(&mut hasher);
    let ends = format!("{}-{}", end(&between.0), end(&between.1)).to_lowercase();
    let ends: String = ends.chars().take(200).collect();
    format!("{ends}-{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use weft_model::{Edge, EdgeReport, view::pairs};

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("cluster.local").expect("a trust domain")
    }

    fn plane(pod: &str, deployment: &str, edges: Vec<EdgeReport>) -> PlaneSummary {
        let peer = serde_json::json!({
            "key": format!("shop/{pod}"), "addresses": [], "namespace": "shop", "account": deployment,
            "owner": {"kind": "Deployment", "name": deployment}, "probePorts": [8081],
        });
        PlaneSummary {
            kind: "Pod".to_owned(),
            namespace: "shop".to_owned(),
            name: pod.to_owned(),
            own: Some(serde_json::from_value(peer).expect("a peer")),
            node: None,
            edges,
            routes: vec![],
        }
    }

    fn edge(way: Way, remote: &str, requests: u64, connections: u64) -> EdgeReport {
        let remote = match remote {
            "" => Remote::Address([10, 0, 0, 9].into()),
            name => Remote::Workload {
                namespace: "shop".into(),
                owner: Owner::new("Deployment", name),
                account: name.to_owned(),
            },
        };
        EdgeReport {
            edge: Edge {
                way,
                remote,
                service: None,
                port: 8081,
                secured: false,
            },
            flow: Flow {
                requests: Counts {
                    classes: [0, requests, 0, 0, 0],
                    ..Counts::default()
                },
                connections,
                ..Flow::default()
            },
            age_s: 3,
            would_deny: BTreeMap::new(),
        }
    }

    fn told(edges: &[EdgeView]) -> Vec<(String, String, Side, u64)> {
        let name = |end: &End| {
            end.workload
                .as_ref()
                .map_or_else(String::new, |owner| owner.name.clone())
        };
        let each = edges.iter().map(|edge| {
            (
                name(&edge.source),
                name(&edge.destination),
                edge.side,
                edge.flow.requests.requests(),
            )
        });
        each.collect()
    }

    #[test]
    fn pods_of_a_workload_are_summed_and_what_both_sides_tell_is_told_once() {
        let planes = [
            plane(
                "web-1",
                "web",
                vec![edge(Way::Inbound, "front", 2, 1), edge(Way::Inbound, "", 1, 1)],
            ),
            plane("web-2", "web", vec![edge(Way::Inbound, "front", 3, 1)]),
            plane(
                "front-1",
                "front",
                vec![edge(Way::Outbound, "web", 5, 2), edge(Way::Outbound, "grpc", 7, 0)],
            ),
            // It could not tell requests apart.
            plane("grpc-1", "grpc", vec![edge(Way::Inbound, "front", 0, 1)]),
            plane("idle-1", "idle", vec![edge(Way::Outbound, "silent", 0, 1)]),
        ];
        let mut all = edges(&planes, &domain());
        assert_eq!(all.len(), 6);
        // The gateway tells of its requests too, of which who was asked tells by its identity alone.
        let gateway = PlaneSummary {
            kind: "Gateway".to_owned(),
            name: "edge".to_owned(),
            own: None,
            ..plane("edge-1", "edge", vec![edge(Way::Outbound, "web", 4, 0)])
        };
        all.extend(edges(&[gateway], &domain()));
        let outside = all
            .iter()
            .find(|edge| edge.source.address.is_some())
            .expect("it is there");
        assert!(outside.probed);
        assert_eq!(
            outside.destination.identity.as_deref(),
            Some("spiffe://cluster.local/ns/shop/sa/web")
        );
        let owned = |from: &str, to: &str, side, requests| (from.to_owned(), to.to_owned(), side, requests);
        let mut paired = told(&pairs(all));
        paired.sort();
        assert_eq!(
            paired,
            [
                owned("", "web", Side::Server, 1),
                owned("front", "grpc", Side::Client, 7),
                owned("front", "web", Side::Server, 5),
                owned("idle", "silent", Side::Client, 0),
            ]
        );
    }

    #[test]
    fn what_would_be_denied_is_summed_by_policy() {
        let denied = |count| {
            let mut edge = edge(Way::Inbound, "front", count, 0);
            edge.would_deny = BTreeMap::from([("a".to_owned(), count), (format!("only-{count}"), 1)]);
            edge
        };
        let planes = [
            plane("web-1", "web", vec![denied(2)]),
            plane("web-2", "web", vec![denied(3)]),
        ];
        let all = edges(&planes, &domain());
        let counts = [("a", 5), ("only-2", 1), ("only-3", 1)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!((all.len(), &all[0].would_deny), (1, &BTreeMap::from(counts)));
    }

    #[test]
    fn routes_are_summed_over_data_planes() {
        let mut planes = [plane("a", "a", vec![]), plane("b", "b", vec![])];
        for plane in &mut planes {
            plane.routes = vec![weft_model::RouteReport {
                route: "HTTPRoute/shop/web/1".into(),
                requests: Counts {
                    classes: [0, 2, 0, 0, 0],
                    ..Counts::default()
                },
                backends: BTreeMap::new(),
            }];
        }
        let routes = routes(&planes);
        assert_eq!((routes.len(), routes[0].route.as_str(), routes[0].rule), (1, "web", 1));
        assert_eq!(routes[0].requests.requests(), 4);
    }
}
