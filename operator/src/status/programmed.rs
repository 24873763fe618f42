//! What data planes and the cluster have to say to the status of a Gateway.

use std::collections::BTreeMap;

use serde_json::Value;
use weft_crds::{
    AddressStatus, AncestorStatus, Condition, GatewayStatus, ListenerSetStatus, ListenerStatus, PolicyStatus,
    RouteStatus,
};
use weft_discovery::{Epoch, Replica};
use weft_model::{Key, ListenerKey};

/// What is known of the data planes of a Gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct DataPlanes {
    /// Those that are connected to any replica of the operator, by the names of their pods.
    pub(crate) connected: BTreeMap<String, Replica>,
    /// Pods that are ready, as the Deployment counts them.
    pub(crate) ready: usize,
    /// The Gateway was said to be programmed as it is now. That a pod which is ready is not connected, say since the
    /// operator has just started anew, is then no reason to take it back.
    pub(crate) settled: bool,
    /// The epoch that holds what the status speaks of.
    pub(crate) epoch: Epoch,
}

/// How far the data planes of a Gateway are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All that are ready serve it.
    Taken,
    /// Some have not answered yet.
    Waiting(String),
}

impl DataPlanes {
    /// Whether all that are ready have taken the epoch. One that has just started has taken nothing and is not ready yet.
    pub(crate) fn progress(&self) -> Progress {
        let served: Vec<_> = self.connected.iter().filter(|(_, replica)| replica.taken > 0).collect();
        let behind = served.iter().filter(|(_, replica)| replica.taken < self.epoch);
        let behind: Vec<&str> = behind.map(|(name, _)| name.as_str()).collect();
        if !behind.is_empty() {
            return Progress::Waiting(format!("not taken yet by {}", behind.join(", ")));
        }
        if served.len() >= self.ready.max(1) || (self.settled && self.ready > 0) {
            return Progress::Taken;
        }
        Progress::Waiting(match self.ready.checked_sub(served.len()) {
            None | Some(0) => "no pod of the Gateway is ready yet".to_owned(),
            Some(missing) => format!(
                "{missing} of {} ready pods are not connected to the operator; they serve what they were told last",
                self.ready
            ),
        })
    }

    /// Whether all that are ready are connected and serve something.
    pub(crate) fn all_connected(&self) -> bool {
        self.connected.values().filter(|replica| replica.taken > 0).count() >= self.ready
    }

    /// What data planes do not serve, in their words.
    fn refused(&self) -> BTreeMap<&Key, &str> {
        let replicas = self.connected.iter();
        replicas
            .flat_map(|(_, replica)| &replica.refused)
            .map(|(key, reason)| (key, reason.as_str()))
            .collect()
    }
}

/// Puts the word of the data planes, and the addresses, into the status of a Gateway.
pub(crate) fn gateway(
    mut status: GatewayStatus,
    (namespace, name): (&str, &str),
    planes: &DataPlanes,
    addresses: Result<Vec<AddressStatus>, (&'static str, String)>,
) -> GatewayStatus {
    let refused = planes.refused();
    let progress = planes.progress();
    let key = |listener: &str| ListenerKey::of_gateway(namespace, name, listener);
    let served = listeners(&mut status.listeners, key, &refused, &progress);
    let words: Vec<String> = refused.iter().map(|(key, reason)| format!("{key}: {reason}")).collect();
    let none =
        (served == 0 && !words.is_empty()).then(|| format!("the data plane serves no listener: {}", words.join("; ")));
    programmed(&mut status.conditions, none.as_deref(), &progress);
    match addresses {
        Ok(addresses) if addresses.is_empty() => {
            let why = "no address is assigned yet";
            set(&mut status.conditions, "Programmed", "AddressNotAssigned", why);
            status.addresses = addresses;
        }
        Ok(addresses) => status.addresses = addresses,
        Err((reason, message)) => {
            set(&mut status.conditions, "Programmed", reason, &message);
            status.addresses = Vec::new();
        }
    }
    if let Some(condition) = find(&mut status.conditions, "Programmed")
        && condition.status == "True"
        && !words.is_empty()
    {
        condition.message = format!("Served, but for what the data plane refused: {}", words.join("; "));
    }
    status
}

/// Puts the word of its Gateway's data planes into the status of a ListenerSet.
pub(crate) fn listener_set(
    mut status: ListenerSetStatus,
    (namespace, name): (&str, &str),
    planes: &DataPlanes,
) -> ListenerSetStatus {
    let (refused, progress) = (planes.refused(), planes.progress());
    let key = |listener: &str| ListenerKey::of_set(namespace, name, listener);
    let served = listeners(&mut status.listeners, key, &refused, &progress);
    let none = (served == 0 && !refused.is_empty()).then_some("the data plane serves none of the listeners");
    programmed(&mut status.conditions, none, &progress);
    status
}

/// Takes back that listeners are programmed, where data planes say otherwise; says how many are.
fn listeners(
    listeners: &mut [ListenerStatus],
    key: impl Fn(&str) -> ListenerKey,
    refused: &BTreeMap<&Key, &str>,
    progress: &Progress,
) -> usize {
    for listener in &mut *listeners {
        let refused = refused.get(&Key::Listener(key(&listener.name))).copied();
        programmed(&mut listener.conditions, refused, progress);
    }
    listeners.iter().filter(|listener| holds(listener)).count()
}

/// Says at a route what of it data planes do not serve: what they had before stays in use (GEP-1364, PartiallyInvalid).
pub(crate) fn route(mut status: RouteStatus, refused: &[(&Key, &str)], generation: i64) -> RouteStatus {
    if refused.is_empty() {
        return status;
    }
    let words: Vec<String> = refused.iter().map(|(key, reason)| format!("{key}: {reason}")).collect();
    for parent in &mut status.parents {
        parent.conditions.push(Condition {
            condition_type: "PartiallyInvalid".to_owned(),
            status: "True".to_owned(),
            reason: "UnsupportedValue".to_owned(),
            message: format!(
                "Fall Back to what was served before, for the data plane refused {}",
                words.join("; ")
            ),
            observed_generation: generation,
        });
    }
    status
}

/// Puts the word of data planes into the status of an AuthorizationPolicy: why it is not enforced for each ancestor yet, and what of
/// it they refuse, which is on the safe side.
pub(crate) fn policy(mut status: PolicyStatus, waits: &[Option<String>], refused: &[(&Key, &str)]) -> PolicyStatus {
    let words: Vec<&str> = refused.iter().map(|(_, reason)| *reason).collect();
    for (ancestor, waits) in status.ancestors.iter_mut().zip(waits) {
        if let Some(why) = waits {
            set(&mut ancestor.conditions, "Enforced", "Pending", why);
        }
        if let Some(condition) = find(&mut ancestor.conditions, "Enforced")
            && condition.status == "True"
            && !words.is_empty()
        {
            condition.message = format!(
                "What the policy denies is denied. What the data plane refused of it allows nothing, and denies everything it might: {}",
                words.join("; ")
            );
        }
    }
    status
}

/// Whether a policy is to be enforced for an ancestor.
pub(crate) fn is_enforced(ancestor: &AncestorStatus) -> bool {
    let mut conditions = ancestor.conditions.iter();
    conditions.any(|condition| condition.condition_type == "Enforced" && condition.status == "True")
}

/// Whether a status says so of that generation.
pub(crate) fn was_enforced(status: &Value, ancestor: &AncestorStatus, generation: i64) -> bool {
    let reference = serde_json::to_value(&ancestor.ancestor_ref).unwrap_or_default();
    let mut entries = status["ancestors"].as_array().into_iter().flatten();
    let known =
        entries.find(|known| known["controllerName"] == *ancestor.controller_name && known["ancestorRef"] == reference);
    known.is_some_and(|known| holds_for(known, "Enforced", generation))
}

/// Whether a status says that the Gateway is programmed, of that generation.
pub(crate) fn is_settled(status: &Value, generation: i64) -> bool {
    holds_for(status, "Programmed", generation)
}

fn holds_for(status: &Value, kind: &str, generation: i64) -> bool {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| {
        condition["type"] == kind && condition["status"] == "True" && condition["observedGeneration"] == generation
    })
}

fn find<'a>(conditions: &'a mut [Condition], kind: &str) -> Option<&'a mut Condition> {
    conditions.iter_mut().find(|condition| condition.condition_type == kind)
}

fn holds(listener: &ListenerStatus) -> bool {
    let mut conditions = listener.conditions.iter();
    conditions.any(|condition| condition.condition_type == "Programmed" && condition.status == "True")
}

/// Takes back that something is programmed, where data planes say otherwise.
fn programmed(conditions: &mut [Condition], refused: Option<&str>, progress: &Progress) {
    let wanted = find(conditions, "Programmed").is_some_and(|condition| condition.status == "True");
    if !wanted {
        return;
    }
    match (refused, progress) {
        (Some(reason), _) => set(conditions, "Programmed", "Invalid", reason),
        (None, Progress::Waiting(why)) => set(conditions, "Programmed", "Pending", why),
        (None, Progress::Taken) => {}
    }
}

/// Makes a condition false, unless it is false already for a reason of its own.
fn set(conditions: &mut [Condition], kind: &str, reason: &str, message: &str) {
    if let Some(condition) = find(conditions, kind)
        && condition.status == "True"
    {
        condition.status = "False".to_owned();
        condition.reason = reason.to_owned();
        condition.message = message.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &str, status: &str) -> Condition {
        Condition {
            condition_type: kind.to_owned(),
            status: status.to_owned(),
            reason: kind.to_owned(),
            message: String::new(),
            observed_generation: 1,
        }
    }

    fn status() -> GatewayStatus {
        let listener = |name: &str| ListenerStatus {
            name: name.to_owned(),
            supported_kinds: Vec::new(),
            attached_routes: 0,
            conditions: vec![condition("Accepted", "True"), condition("Programmed", "True")],
        };
        GatewayStatus {
            addresses: Vec::new(),
            conditions: vec![condition("Accepted", "True"), condition("Programmed", "True")],
            listeners: vec![listener("a"), listener("b")],
            attached_listener_sets: 0,
        }
    }

    fn address() -> Vec<AddressStatus> {
        vec![AddressStatus {
            address_type: "IPAddress".to_owned(),
            value: "10.0.0.1".to_owned(),
        }]
    }

    /// `(status, reason)` of Programmed, of the Gateway and its listeners.
    fn said(status: &GatewayStatus) -> Vec<(&str, &str)> {
        let lists =
            std::iter::once(&status.conditions).chain(status.listeners.iter().map(|listener| &listener.conditions));
        let programmed =
            lists.filter_map(|list| list.iter().find(|condition| condition.condition_type == "Programmed"));
        programmed
            .map(|condition| (condition.status.as_str(), condition.reason.as_str()))
            .collect()
    }

    fn replica(taken: Epoch, refused: &[&str]) -> Replica {
        let refused = refused.iter().map(|listener| {
            let key = Key::Listener(ListenerKey::from(format!("n/g/{listener}")));
            (key, "the port is taken".to_owned())
        });
        Replica {
            taken,
            refused: refused.collect(),
        }
    }

    fn planes(replicas: &[(&str, Replica)], ready: usize) -> DataPlanes {
        let connected = replicas
            .iter()
            .map(|(name, replica)| ((*name).to_owned(), replica.clone()));
        DataPlanes {
            connected: connected.collect(),
            ready,
            settled: false,
            epoch: 5,
        }
    }

    fn with(
        replicas: &[(&str, Replica)],
        ready: usize,
        addresses: Result<Vec<AddressStatus>, (&'static str, String)>,
    ) -> GatewayStatus {
        let planes = planes(replicas, ready);
        gateway(status(), ("n", "g"), &planes, addresses)
    }

    #[test]
    fn it_is_programmed_once_every_ready_replica_has_taken_the_epoch() {
        let pending = ("False", "Pending");
        assert_eq!(said(&with(&[], 0, Ok(address()))), [pending; 3]);
        assert_eq!(
            said(&with(
                &[("p", replica(5, &[])), ("q", replica(4, &[]))],
                2,
                Ok(address())
            )),
            [pending; 3]
        );
        // A pod that has just come has taken nothing yet.
        let served = with(&[("p", replica(5, &[])), ("q", replica(0, &[]))], 1, Ok(address()));
        assert_eq!(said(&served), [("True", "Programmed"); 3]);
        assert_eq!(served.addresses, address());
    }

    #[test]
    fn what_was_programmed_stays_so_while_ready_pods_are_not_connected() {
        let behind = [("p", replica(4, &[]))];
        for (replicas, ready, settled, taken) in [
            (&[][..], 2, true, true),
            (&[][..], 2, false, false),
            (&[][..], 0, true, false),
            (&behind[..], 2, true, false),
        ] {
            let planes = DataPlanes {
                settled,
                ..planes(replicas, ready)
            };
            assert_eq!(planes.progress() == Progress::Taken, taken, "{planes:?}");
        }
        // One of two that are ready is connected, and the other perhaps serves something else.
        let one = planes(&[("p", replica(5, &[]))], 2).progress();
        assert!(matches!(one, Progress::Waiting(_)), "{one:?}");
    }

    #[test]
    fn what_was_refused_is_said_in_the_words_of_the_data_plane() {
        let one = with(&[("p", replica(5, &["b"]))], 1, Ok(address()));
        assert_eq!(
            said(&one),
            [("True", "Programmed"), ("True", "Programmed"), ("False", "Invalid")]
        );
        assert!(
            one.conditions[1].message.contains("the port is taken"),
            "{:?}",
            one.conditions[1]
        );
        let all = with(&[("p", replica(5, &["a", "b"]))], 1, Ok(address()));
        assert_eq!(said(&all), [("False", "Invalid"); 3]);
        assert_eq!(all.listeners[0].conditions[1].message, "the port is taken");
    }

    #[test]
    fn without_an_address_it_is_not_programmed() {
        let taken = [("p", replica(5, &[]))];
        assert_eq!(
            said(&with(&taken, 1, Ok(Vec::new())))[0],
            ("False", "AddressNotAssigned")
        );
        let unusable = with(&taken, 1, Err(("AddressNotUsable", "no".to_owned())));
        assert_eq!(said(&unusable)[0], ("False", "AddressNotUsable"));
        assert_eq!(said(&unusable)[1], ("True", "Programmed"));
    }
}
