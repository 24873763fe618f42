//! Connections that were carried to where they were going, and what was seen of them on the way.

use super::{
    CLASSES, QUANTILES, calls,
    text::{family, line},
};
use crate::traffic::{DestinationStats, Intercepted};

/// Destinations with series of their own.
const DESTINATIONS: usize = 40;

pub(super) fn render(out: &mut String, seen: &Intercepted) {
    family(
        out,
        "weft_intercepted_connections",
        "counter",
        "Connections carried, by direction and what they turned out to speak.",
    );
    for (direction, protocol, count) in &seen.protocols {
        let labels = [("direction", direction.as_str()), ("protocol", protocol.as_str())];
        line(out, "weft_intercepted_connections_total", &labels, count);
    }
    family(
        out,
        "weft_intercepted_lost",
        "counter",
        "Connections of HTTP that are carried on but whose requests can no longer be told apart.",
    );
    for (direction, count) in &seen.lost {
        let labels = [("direction", direction.as_str())];
        line(out, "weft_intercepted_lost_total", &labels, count);
    }
    family(
        out,
        "weft_intercepted_dismissed",
        "counter",
        "Connections of HTTP/2 whose clients were told to go, since their requests are for routes or policies by now.",
    );
    for (direction, count) in &seen.dismissed {
        let labels = [("direction", direction.as_str())];
        line(out, "weft_intercepted_dismissed_total", &labels, count);
    }
    family(
        out,
        "weft_routed_connections",
        "counter",
        "Connections to Service ports that have routes, by what came of them.",
    );
    for (outcome, count) in &seen.routed {
        line(
            out,
            "weft_routed_connections_total",
            &[("outcome", outcome.as_str())],
            count,
        );
    }
    let mut busiest: Vec<DestinationStats> = seen.destinations.clone();
    // Those without an address are many already.
    busiest.sort_by_key(|destination| {
        let load = destination.connections + destination.failed + destination.traffic.requests();
        (destination.address.is_none(), std::cmp::Reverse(load))
    });
    let rest = busiest.split_off(busiest.len().min(DESTINATIONS));
    for more in rest {
        let others = busiest
            .iter_mut()
            .find(|others| others.address.is_none() && others.direction == more.direction);
        match others {
            Some(others) => others.add(&more),
            None => busiest.push(DestinationStats { address: None, ..more }),
        }
    }
    let rows: Vec<(String, &DestinationStats)> = busiest
        .iter()
        .map(|destination| {
            let address = destination.address.map(|address| address.to_string());
            (address.unwrap_or_else(|| "_other".into()), destination)
        })
        .collect();
    destinations(out, &rows);
}

fn destinations(out: &mut String, rows: &[(String, &DestinationStats)]) {
    type Column = (&'static str, &'static str, &'static str, fn(&DestinationStats) -> u64);
    const COLUMNS: [Column; 5] = [
        ("connections", "counter", "Connections made to a destination.", |d| {
            d.connections
        }),
        (
            "connect_failures",
            "counter",
            "Connections that could not be made.",
            |d| d.failed,
        ),
        (
            "received_bytes",
            "counter",
            "Bytes from clients, of connections that have ended.",
            |d| d.received,
        ),
        (
            "sent_bytes",
            "counter",
            "Bytes to clients, of connections that have ended.",
            |d| d.sent,
        ),
        ("connections_open", "gauge", "Connections to a destination, now.", |d| {
            d.open
        }),
    ];
    for (name, kind, help, value) in COLUMNS {
        let name = format!("weft_destination_{name}");
        family(out, &name, kind, help);
        let series = if kind == "counter" {
            format!("{name}_total")
        } else {
            name
        };
        for (address, destination) in rows {
            let labels = [("direction", destination.direction.as_str()), ("destination", address)];
            line(out, &series, &labels, value(destination));
        }
    }
    family(
        out,
        "weft_destination_requests",
        "counter",
        "Requests seen on the way to a destination, by the class of their status.",
    );
    for (address, destination) in rows {
        for (class, count) in CLASSES
            .iter()
            .zip(destination.traffic.classes)
            .filter(|(_, count)| *count > 0)
        {
            let labels = [
                ("direction", destination.direction.as_str()),
                ("destination", address),
                ("class", class),
            ];
            line(out, "weft_destination_requests_total", &labels, count);
        }
    }
    calls::write(out, rows);
    family(
        out,
        "weft_destination_duration_quantile_seconds",
        "gauge",
        "Latency of requests since the start, by quantile.",
    );
    for (address, destination) in rows
        .iter()
        .filter(|(_, destination)| destination.traffic.requests() > 0)
    {
        for (name, share) in QUANTILES {
            let labels = [
                ("direction", destination.direction.as_str()),
                ("destination", address),
                ("quantile", name),
            ];
            let seconds = destination.traffic.latency.quantile(share).as_secs_f64();
            line(out, "weft_destination_duration_quantile_seconds", &labels, seconds);
        }
    }
}
