//! What was counted, as it is reported to the operator.

use std::time::Instant;

use weft_model::{Counts, EdgeReport, Flow, Report, RouteReport};

use crate::{
    server::Proxy,
    traffic::{EdgeStats, Stats, Traffic},
};

/// Edges and rules in a report, the busiest first.
const EDGES: usize = 1000;
const ROUTES: usize = 1000;

impl Traffic {
    fn told(&self) -> Counts {
        Counts {
            classes: self.classes,
            failures: self.failures,
            latencies: self.latency.told(),
        }
    }
}

impl EdgeStats {
    fn told(&self, now: Instant) -> EdgeReport {
        let age = self.used.map(|used| now.saturating_duration_since(used));
        EdgeReport {
            edge: self.edge.clone(),
            flow: Flow {
                requests: self.traffic.told(),
                connections: self.connections,
                refused: self.refused,
                unproven: self.unproven,
                silent: self.silent,
                received: self.received,
                sent: self.sent,
            },
            age_s: age.unwrap_or_default().as_secs(),
            would_deny: self.would_deny.clone(),
        }
    }
}

impl Stats {
    /// All that was counted since the start and is of use to the operator.
    pub fn report(&self) -> Report {
        let now = Instant::now();
        let mut edges: Vec<&EdgeStats> = self.edges.iter().collect();
        edges.sort_by_key(|edge| std::cmp::Reverse(edge.traffic.requests() + edge.connections + edge.refused));
        edges.truncate(EDGES);
        let mut routes: Vec<_> = self
            .routes
            .iter()
            .filter(|route| route.traffic.requests() > 0)
            .collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.traffic.requests()));
        routes.truncate(ROUTES);
        Report {
            total: true,
            edges: edges.into_iter().map(|edge| edge.told(now)).collect(),
            routes: routes
                .into_iter()
                .map(|route| RouteReport {
                    route: route.key.clone(),
                    requests: route.traffic.told(),
                    backends: route
                        .backends
                        .iter()
                        .map(|(service, traffic)| (service.clone(), traffic.told()))
                        .collect(),
                })
                .collect(),
        }
    }
}

impl Proxy {
    /// All that was counted since the start and is of use to the operator.
    pub async fn report(&self) -> Report {
        self.stats().await.report()
    }
}
