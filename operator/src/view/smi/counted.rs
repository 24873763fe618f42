//! Metrics of what has pods, or leads to some: sums of what data planes have seen.

use std::collections::BTreeMap;

use weft_model::{
    Counts, Remote, TrustDomain, Way,
    view::{EdgeView, End, Side, pairs},
};

use super::{Call, Item, Of};
use crate::seen::{self, PlaneSummary};

/// A part of an object's traffic: all, or what goes to or comes from somebody.
type Part = Option<(&'static str, &'static str, Of, String)>;

/// What was counted of each object that is asked about, or of each of its edges.
pub(super) fn items(call: &Call, planes: &[PlaneSummary], domain: &TrustDomain) -> Vec<Item> {
    let mut sums: BTreeMap<(Of, Part), Counts> = BTreeMap::new();
    let wanted = |of: &Of| {
        let same = |asked: &Option<String>, is: Option<&String>| asked.is_none() || asked.as_ref() == is;
        same(&call.namespace, of.0.as_ref()) && same(&call.name, Some(&of.1))
    };
    let mut add = |of: Of, part: Part, counts: &Counts| {
        if wanted(&of) && counts.requests() > 0 {
            sums.entry((of, part)).or_default().add(counts);
        }
    };
    match call.kind.name {
        "Pod" | "Node" => of_planes(call, planes, &mut add),
        _ => of_edges(call, seen::edges(planes, domain), &mut add),
    }
    let item = |((of, part), counts)| {
        let (direction, side, other) = match part {
            None => ("from", "server", None),
            Some((direction, side, other, kind)) => (direction, side, Some((other, kind))),
        };
        Item {
            of,
            direction,
            side,
            other,
            backend: None,
            counts,
        }
    };
    sums.into_iter().map(item).collect()
}

/// Of pods and nodes: what each pod has seen itself.
fn of_planes(call: &Call, planes: &[PlaneSummary], add: &mut impl FnMut(Of, Part, &Counts)) {
    for plane in planes.iter().filter(|plane| plane.kind == "Pod") {
        let of = match (call.kind.name, &plane.node) {
            ("Pod", _) => (Some(plane.namespace.clone()), plane.name.clone()),
            (_, Some(node)) => (None, node.to_string()),
            (_, None) => continue,
        };
        for edge in &plane.edges {
            let (direction, side) = match edge.edge.way {
                Way::Inbound => ("from", "server"),
                Way::Outbound => ("to", "client"),
            };
            let counts = &edge.flow.requests;
            match (&edge.edge.remote, call.edges) {
                (Remote::Workload { namespace, owner, .. }, true) => {
                    let other = (Some(namespace.to_string()), owner.name.clone());
                    add(of.clone(), Some((direction, side, other, owner.kind.clone())), counts);
                }
                (_, false) if edge.edge.way == Way::Inbound => add(of.clone(), None, counts),
                _ => {}
            }
        }
    }
}

/// Of everything else: what goes between workloads.
fn of_edges(call: &Call, edges: Vec<EdgeView>, add: &mut impl FnMut(Of, Part, &Counts)) {
    let kind = call.kind.name;
    // Who goes to a Service says so; who is behind it does not know.
    let edges = if kind == "Service" {
        edges.into_iter().filter(|edge| edge.side == Side::Client).collect()
    } else {
        pairs(edges)
    };
    for edge in &edges {
        let side = if edge.side == Side::Client { "client" } else { "server" };
        let (from, to) = (
            named(kind, &edge.source, None),
            named(kind, &edge.destination, Some(edge)),
        );
        let counts = &edge.flow.requests;
        if !call.edges {
            if let Some(to) = to {
                add(to, None, counts);
            }
            continue;
        }
        if let (Some(from), Some((other, kind))) = (&from, any(kind, &edge.destination)) {
            add(from.clone(), Some(("to", side, other, kind)), counts);
        }
        if let (Some(to), Some((other, kind))) = (&to, any(kind, &edge.source)) {
            add(to.clone(), Some(("from", side, other, kind)), counts);
        }
    }
}

/// The object of a kind that is at an end, if there is one.
fn named(kind: &str, end: &End, to: Option<&EdgeView>) -> Option<Of> {
    match kind {
        "Namespace" => Some((None, end.namespace.clone()?)),
        "Service" => {
            let (namespace, name) = to?.service.as_deref()?.split_once('/')?;
            let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
            Some((Some(namespace.to_owned()), name.to_owned()))
        }
        _ => {
            let workload = end.workload.as_ref().filter(|workload| workload.kind == kind)?;
            Some((end.namespace.clone(), workload.name.clone()))
        }
    }
}

/// Who is at the other end, as a Namespace if that is what is asked about.
fn any(kind: &str, end: &End) -> Option<(Of, String)> {
    if kind == "Namespace" {
        return Some(((None, end.namespace.clone()?), kind.to_owned()));
    }
    let workload = end.workload.as_ref()?;
    Some(((end.namespace.clone(), workload.name.clone()), workload.kind.clone()))
}
