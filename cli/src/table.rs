//! Gateways, listeners, routes, backends and policies with their conditions, as kubectl prints such things.

use comfy_table::{Table, presets::NOTHING};
use weft_crds::{Condition, ListenerStatus};
use weft_gateway::standalone::Applied;
use weft_translate::Status;

/// With more statuses than this, of the routes that are well only the number is said.
const MANY: usize = 200;

/// All tables, one below the other.
pub(crate) fn tables(applied: &Applied) -> String {
    let mut gateways = table(&[
        "GATEWAY",
        "LISTENER",
        "ROUTES",
        "ACCEPTED",
        "PROGRAMMED",
        "RESOLVEDREFS",
    ]);
    let mut routes = table(&["KIND", "ROUTE", "PARENT", "ACCEPTED", "RESOLVEDREFS"]);
    let mut policies = table(&["KIND", "POLICY", "GATEWAY", "ACCEPTED", "RESOLVEDREFS"]);
    let mut backends = table(&["KIND", "BACKEND", "GATEWAY", "ACCEPTED", "RESOLVEDREFS"]);
    let (many, mut well) = (applied.statuses.len() > MANY, 0);
    for (reference, status) in &applied.statuses {
        let name = format!("{}/{}", reference.namespace, reference.name);
        match &**status {
            Status::Gateway(gateway) => add_listeners(&mut gateways, &name, &gateway.listeners),
            Status::ListenerSet(set) => {
                add_listeners(&mut gateways, &format!("{name} (ListenerSet)"), &set.listeners);
            }
            Status::Policy(policy) => {
                for ancestor in &policy.ancestors {
                    policies.add_row([
                        reference.kind.name().to_owned(),
                        name.clone(),
                        ancestor.ancestor_ref.name.clone(),
                        holds(&ancestor.conditions, "Accepted"),
                        holds(&ancestor.conditions, "ResolvedRefs"),
                    ]);
                }
            }
            Status::XBackend(backend) => {
                for parent in &backend.parents {
                    backends.add_row([
                        reference.kind.to_string(),
                        name.clone(),
                        parent.parent_ref.name.clone(),
                        holds(&parent.conditions, "Accepted"),
                        holds(&parent.conditions, "ResolvedRefs"),
                    ]);
                }
            }
            Status::Route(route) => {
                for parent in &route.parents {
                    let [accepted, resolved] = ["Accepted", "ResolvedRefs"].map(|kind| holds(&parent.conditions, kind));
                    if many && accepted == "True" && resolved == "True" {
                        well += 1;
                        continue;
                    }
                    let section = parent.parent_ref.section_name.as_ref();
                    let section = section.map(|section| format!("/{section}")).unwrap_or_default();
                    routes.add_row([
                        reference.kind.to_string(),
                        name.clone(),
                        format!("{}{section}", parent.parent_ref.name),
                        accepted,
                        resolved,
                    ]);
                }
            }
            // That nothing is ordered standalone is said where a listener goes without its certificate.
            Status::GatewayClass(_) | Status::XMesh(_) | Status::AcmeIssuer(_) => {}
        }
    }
    let more = if well > 0 {
        format!("{well} more are accepted, and their references resolve\n")
    } else {
        String::new()
    };
    let further = [backends, policies].into_iter().filter(|table| !table.is_empty());
    further.fold(format!("{gateways}\n\n{routes}\n{more}"), |all, table| {
        format!("{all}\n{table}\n")
    })
}

fn add_listeners(table: &mut Table, owner: &str, listeners: &[ListenerStatus]) {
    for listener in listeners {
        table.add_row([
            owner.to_owned(),
            listener.name.clone(),
            listener.attached_routes.to_string(),
            holds(&listener.conditions, "Accepted"),
            holds(&listener.conditions, "Programmed"),
            holds(&listener.conditions, "ResolvedRefs"),
        ]);
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table
}

/// `True`, or `False` and why.
fn holds(conditions: &[Condition], kind: &str) -> String {
    match conditions.iter().find(|condition| condition.condition_type == kind) {
        Some(condition) if condition.status == "True" => "True".into(),
        Some(condition) => format!("{} ({})", condition.status, condition.reason),
        None => "Unknown".into(),
    }
}
