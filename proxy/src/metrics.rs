//! What was counted, as OpenMetrics text. The number of series is bounded, whatever the number of routes: ports and
//! flags have series of their own, and so have the busiest services; the others are summed.

mod asked;
mod calls;
mod edges;
mod intercepted;
mod text;

use std::time::Duration;

use self::text::{family, line};
use crate::{
    authorization::Verdict,
    config::{Resolution, Snapshot},
    mesh::Mesh,
    traffic::{ServiceStats, Stats, Traffic},
};

/// What one policy has decided.
type Verdicts = [(Verdict, u64); Verdict::ALL.len()];

/// Services with series of their own.
const SERVICES: usize = 40;
/// Policies with series of their own.
const POLICIES: usize = 25;
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// What is said of latencies that have no histogram.
const QUANTILES: [(&str, f64); 3] = [("0.5", 0.5), ("0.95", 0.95), ("0.99", 0.99)];
/// Upper bounds of latency buckets, in milliseconds.
const BOUNDS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 250, 1000, 5000];

/// Writes the exposition, `# EOF` included.
pub(crate) fn render(stats: &Stats, snapshot: &Snapshot, mesh: &Mesh) -> String {
    let mut out = String::with_capacity(16 * 1024);
    family(
        &mut out,
        "weft_requests",
        "counter",
        "Requests, by the port they came in by and the class of their status.",
    );
    for listener in &stats.listeners {
        for (class, count) in CLASSES.iter().zip(listener.traffic.classes) {
            line(
                &mut out,
                "weft_requests_total",
                &[("port", &listener.port.to_string()), ("class", class)],
                count,
            );
        }
    }
    family(
        &mut out,
        "weft_request_duration_seconds",
        "histogram",
        "From a request's head to its response's end.",
    );
    for listener in &stats.listeners {
        histogram(
            &mut out,
            "weft_request_duration_seconds",
            ("port", &listener.port.to_string()),
            &listener.traffic,
        );
    }
    family(
        &mut out,
        "weft_request_failures",
        "counter",
        "Requests that a backend did not answer, by why.",
    );
    for (flag, count) in &stats.flags {
        line(
            &mut out,
            "weft_request_failures_total",
            &[("flag", flag.as_str())],
            *count,
        );
    }
    services(&mut out, stats);
    if !stats.intercepted.protocols.is_empty() || !stats.intercepted.destinations.is_empty() {
        intercepted::render(&mut out, &stats.intercepted);
    }
    edges::render(&mut out, stats, mesh);
    asked::render(&mut out, mesh);
    let connections = &stats.connections;
    for (name, help, count) in [
        (
            "weft_connections_accepted",
            "Connections from clients.",
            connections.accepted,
        ),
        (
            "weft_connections_refused",
            "Connections closed at once since there were too many.",
            connections.refused,
        ),
        (
            "weft_tls_handshake_failures",
            "TLS handshakes that failed.",
            connections.handshakes_failed,
        ),
        (
            "weft_upstream_connections",
            "Connections made to backends.",
            connections.upstream_opened,
        ),
        (
            "weft_upstream_reuses",
            "Requests that went by a connection already open.",
            connections.upstream_reused,
        ),
        (
            "weft_l4_received_bytes",
            "Bytes from clients of connections and flows that are passed on as they are, once they have ended.",
            connections.l4_received,
        ),
        (
            "weft_l4_sent_bytes",
            "Bytes to clients of connections and flows that are passed on as they are, once they have ended.",
            connections.l4_sent,
        ),
        ("weft_udp_flows", "Flows of datagrams.", connections.flows),
        (
            "weft_udp_datagrams_lost",
            "Datagrams that went nowhere.",
            connections.datagrams_lost,
        ),
        (
            "weft_access_log_dropped",
            "Lines of the access log dropped since its reader was slow.",
            stats.log_lines_dropped,
        ),
    ] {
        family(&mut out, name, "counter", help);
        line(&mut out, &format!("{name}_total"), &[], count);
    }
    if let Some(spans) = &stats.spans {
        family(
            &mut out,
            "weft_spans_exported",
            "counter",
            "Spans that the collector has taken.",
        );
        line(&mut out, "weft_spans_exported_total", &[], spans.exported);
        family(
            &mut out,
            "weft_spans_dropped",
            "counter",
            "Spans that were dropped, by why: there were more than could be sent, or the collector did not take them.",
        );
        for (reason, count) in [("overflow", spans.overflowed), ("collector", spans.failed)] {
            line(&mut out, "weft_spans_dropped_total", &[("reason", reason)], count);
        }
    }
    let names = |counts: fn(Option<&Resolution>) -> bool| {
        let names = snapshot.names().filter(|(_, resolution)| counts(*resolution));
        names.count() as u64
    };
    let unresolved = |resolution: Option<&Resolution>| resolution.is_none_or(|known| known.addresses.is_empty());
    let failing = |resolution: Option<&Resolution>| resolution.is_some_and(|known| known.failure.is_some());
    let refused = |resolution: Option<&Resolution>| resolution.is_some_and(|known| !known.refused.is_empty());
    for (name, help, value) in [
        ("weft_names", "Names that stand for endpoints.", names(|_| true)),
        (
            "weft_names_unresolved",
            "Names that stand for endpoints and have no address.",
            names(unresolved),
        ),
        (
            "weft_names_failing",
            "Names for which there was no answer the last time; the addresses of the last answer are used.",
            names(failing),
        ),
        (
            "weft_names_refused",
            "Names that lead to addresses to which nothing may be sent.",
            names(refused),
        ),
        (
            "weft_connections_open",
            "Connections from clients, now.",
            connections.open,
        ),
        (
            "weft_udp_flows_open",
            "Flows of datagrams, now.",
            connections.flows_open,
        ),
        (
            "weft_config_generation",
            "How many times the configuration has changed.",
            snapshot.generation,
        ),
        (
            "weft_config_routes",
            "Rules that are served.",
            stats.routes.len() as u64,
        ),
        (
            "weft_config_services",
            "Service ports that are served.",
            stats.services.len() as u64,
        ),
    ] {
        family(&mut out, name, "gauge", help);
        line(&mut out, name, &[], value);
    }
    verdicts(&mut out, snapshot, mesh);
    certificates(&mut out, stats, mesh);
    out.push_str("# EOF\n");
    out
}

/// What policies have decided; nothing where there can be none.
fn verdicts(out: &mut String, snapshot: &Snapshot, mesh: &Mesh) {
    let decided = mesh.decided().into_iter().filter(|_| mesh.trust().is_some());
    let decided: Vec<_> = decided.chain(snapshot.decided()).collect();
    if decided.is_empty() {
        return;
    }
    let name = "weft_policy_verdicts";
    let help = "Requests and connections that authorization policies have decided on, by verdict, of the policies that have \
                decided most and of all others.";
    family(out, name, "counter", help);
    for (policy, verdicts) in busiest_policies(decided) {
        for (verdict, count) in verdicts.into_iter().filter(|(_, count)| *count > 0) {
            let labels = [("policy", policy.as_str()), ("verdict", verdict.as_str())];
            line(out, &format!("{name}_total"), &labels, count);
        }
    }
}

/// Those that have decided most, and the sum of the others.
fn busiest_policies(mut decided: Vec<(String, Verdicts)>) -> Vec<(String, Verdicts)> {
    if decided.len() <= POLICIES {
        return decided;
    }
    // The sort is stable, so that of those that have decided the same the first by name stay.
    decided.sort_by_key(|(_, verdicts)| std::cmp::Reverse(verdicts.iter().map(|(_, count)| count).sum::<u64>()));
    let rest = decided.split_off(POLICIES);
    let mut other = Verdict::ALL.map(|verdict| (verdict, 0));
    for (_, verdicts) in rest {
        for ((_, sum), (_, count)) in other.iter_mut().zip(verdicts) {
            *sum += count;
        }
    }
    decided.push(("_other".to_owned(), other));
    decided
}

/// Who this is in the mesh; nothing where it is not in one.
fn certificates(out: &mut String, stats: &Stats, mesh: &Mesh) {
    if let Some(identity) = mesh.identity() {
        let name = "weft_certificate_expiry_timestamp_seconds";
        family(out, name, "gauge", "When the certificate of this workload ends.");
        line(out, name, &[("identity", identity.id().as_str())], identity.not_after());
    }
    if let Some(trust) = mesh.trust() {
        let connections = &stats.connections;
        let name = "weft_mutual_connections";
        family(
            out,
            name,
            "counter",
            "Connections with workloads that have proven who they are.",
        );
        for (direction, count) in [
            ("inbound", connections.mutual_inbound),
            ("outbound", connections.mutual_outbound),
        ] {
            line(out, &format!("{name}_total"), &[("direction", direction)], count);
        }
        let name = "weft_clear_connections_refused";
        family(
            out,
            name,
            "counter",
            "Connections in clear that were reset since only workloads may come.",
        );
        line(out, &format!("{name}_total"), &[], connections.clear_refused);
        let name = "weft_clear_connections_late";
        family(
            out,
            name,
            "counter",
            "Connections in clear that were let in although the namespace is strict, since it has become so just now.",
        );
        line(out, &format!("{name}_total"), &[], connections.clear_late);
        let revoked = &trust.source().revoked;
        for (name, help, value) in [
            ("weft_trust_roots", "Roots that are trusted in the mesh.", trust.roots()),
            (
                "weft_trust_revocations",
                "Workloads and certificates that are believed no longer.",
                revoked.identities.len() + revoked.serials.len(),
            ),
        ] {
            family(out, name, "gauge", help);
            line(out, name, &[], value);
        }
    }
}

fn services(out: &mut String, stats: &Stats) {
    let mut busiest: Vec<&ServiceStats> = stats.services.iter().filter(|s| s.traffic.requests() > 0).collect();
    busiest.sort_by_key(|service| std::cmp::Reverse(service.traffic.requests()));
    let rest = busiest.split_off(busiest.len().min(SERVICES));
    let mut other = Traffic::default();
    for service in &rest {
        other.add(&service.traffic);
    }
    let mut rows: Vec<(&str, &Traffic)> = busiest.iter().map(|s| (s.key.as_str(), &s.traffic)).collect();
    if !rest.is_empty() {
        rows.push(("_other", &other));
    }
    family(
        out,
        "weft_upstream_requests",
        "counter",
        "Tries sent to each of the busiest services, and to all others.",
    );
    for (service, traffic) in &rows {
        for (class, count) in CLASSES.iter().zip(traffic.classes).filter(|(_, count)| *count > 0) {
            line(
                out,
                "weft_upstream_requests_total",
                &[("service", service), ("class", class)],
                count,
            );
        }
    }
    family(
        out,
        "weft_upstream_failures",
        "counter",
        "Tries that ended with a 5xx status or without an answer.",
    );
    for (service, traffic) in &rows {
        line(
            out,
            "weft_upstream_failures_total",
            &[("service", service)],
            traffic.failures,
        );
    }
    family(
        out,
        "weft_upstream_duration_quantile_seconds",
        "gauge",
        "Latency since the start, by quantile.",
    );
    for (service, traffic) in &rows {
        for (name, share) in QUANTILES {
            let seconds = traffic.latency.quantile(share).as_secs_f64();
            line(
                out,
                "weft_upstream_duration_quantile_seconds",
                &[("service", service), ("quantile", name)],
                seconds,
            );
        }
    }
}

fn histogram(out: &mut String, name: &str, label: (&str, &str), traffic: &Traffic) {
    for bound in BOUNDS {
        let seconds = Duration::from_millis(bound).as_secs_f64().to_string();
        let count = traffic.latency.at_most(Duration::from_millis(bound));
        line(out, &format!("{name}_bucket"), &[label, ("le", &seconds)], count);
    }
    line(
        out,
        &format!("{name}_bucket"),
        &[label, ("le", "+Inf")],
        traffic.latency.count(),
    );
    line(
        out,
        &format!("{name}_sum"),
        &[label],
        traffic.latency.sum().as_secs_f64(),
    );
    line(out, &format!("{name}_count"), &[label], traffic.latency.count());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weft_model::{Edge, Remote, ServiceKey, Way};

    use super::*;
    use crate::{
        flag::Flag,
        intercepted::Direction,
        traffic::{DestinationStats, EdgeStats, Intercepted, ListenerStats},
    };

    #[test]
    fn the_policies_that_have_decided_most_have_series_of_their_own() {
        let decided = |number: u64| {
            let counts = [number, 1, 0, 0];
            let verdicts = std::array::from_fn(|at| (Verdict::ALL[at], counts[at]));
            (format!("p{number}"), verdicts)
        };
        let few: Vec<_> = (0..POLICIES as u64).map(decided).collect();
        assert_eq!(busiest_policies(few.clone()), few);
        let shown = busiest_policies((0..5000).map(decided).collect());
        assert_eq!(shown.len(), POLICIES + 1);
        assert_eq!(shown[0].0, "p4999");
        let (name, other) = &shown[POLICIES];
        let below = 5000 - POLICIES as u64;
        assert_eq!(name, "_other");
        assert_eq!(other.map(|(_, count)| count), [below * (below - 1) / 2, below, 0, 0]);
    }

    #[test]
    fn series_stay_below_a_thousand_at_five_thousand_services() {
        let traffic = Traffic {
            classes: [0, 5, 1, 1, 1],
            ..Traffic::default()
        };
        let service = |number| ServiceStats {
            key: ServiceKey::new("shop", &format!("s{number}"), 80),
            traffic: traffic.clone(),
            endpoints: 1,
        };
        let destination = |number: u16| DestinationStats {
            direction: Direction::Outbound,
            address: Some(([10, 0, 0, 1], number).into()),
            traffic: traffic.clone(),
            grpc: std::array::from_fn(|code| u64::from(code % 14 == 0)),
            connections: 1,
            open: 0,
            failed: 0,
            received: 0,
            sent: 0,
        };
        let edge = |number| EdgeStats {
            edge: Edge {
                way: Way::Outbound,
                remote: Remote::Service,
                service: Some(ServiceKey::new("shop", &format!("s{number}"), 80)),
                port: 0,
                secured: false,
            },
            traffic: traffic.clone(),
            connections: 0,
            refused: 0,
            unproven: 0,
            silent: 0,
            received: 0,
            sent: 0,
            used: None,
            would_deny: BTreeMap::new(),
        };
        let listener = |port| ListenerStats {
            port,
            traffic: traffic.clone(),
        };
        let stats = Stats {
            listeners: (1..=5).map(listener).collect(),
            flags: Flag::ALL.map(|flag| (flag, 1)).to_vec(),
            services: (0..5000).map(service).collect(),
            edges: (0..5000).map(edge).collect(),
            ..Stats::default()
        };
        let text = render(&stats, &Snapshot::default(), &Mesh::default());
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        // Each policy that decides has two more.
        let series = series + 2 * (POLICIES + 1);
        assert!(series < 1000, "{series}");
        assert!(text.contains("weft_upstream_requests_total{service=\"_other\",class=\"2xx\"} 24800\n"));
        assert!(text.ends_with("# EOF\n"));
        let stats = Stats {
            intercepted: Intercepted {
                destinations: (0..5000).map(destination).collect(),
                ..Intercepted::default()
            },
            ..Stats::default()
        };
        let text = render(&stats, &Snapshot::default(), &Mesh::default());
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!(series < 1000, "{series}");
        let others = "weft_destination_connections_total{direction=\"outbound\",destination=\"_other\"} 4960\n";
        assert!(text.contains(others), "{text}");
    }
}
