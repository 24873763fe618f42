//! Events (events.k8s.io) when something stops being accepted or programmed, and when it is again.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use serde_json::Value;
use weft_crds::ObjectName;

use crate::object::Seen;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) warning: bool,
    /// The condition.
    pub(crate) condition: String,
    /// The condition's reason.
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// The transitions from a status to the one that was written in its place. That something is well from the beginning is
/// not worth an Event.
pub(crate) fn transitions(before: &Value, after: &Value, controller: &str) -> Vec<Transition> {
    let mut found = Vec::new();
    compare(&before["conditions"], &after["conditions"], "", &mut found);
    for list in ["parents", "ancestors"] {
        for entry in entries(&after[list])
            .iter()
            .filter(|entry| entry["controllerName"] == controller)
        {
            let reference = |entry: &Value| entry.get("parentRef").or_else(|| entry.get("ancestorRef")).cloned();
            let known = entries(&before[list])
                .iter()
                .find(|known| known["controllerName"] == controller && reference(known) == reference(entry));
            let name = reference(entry).map(|reference| reference["name"].as_str().unwrap_or_default().to_owned());
            let prefix = name.map(|name| format!("{name}: ")).unwrap_or_default();
            let none = Value::Null;
            compare(
                &known.unwrap_or(&none)["conditions"],
                &entry["conditions"],
                &prefix,
                &mut found,
            );
        }
    }
    found
}

fn entries(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn compare(before: &Value, after: &Value, prefix: &str, found: &mut Vec<Transition>) {
    for condition in entries(after) {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        let known = entries(before).iter().find(|known| known["type"] == condition["type"]);
        let before = known.and_then(|known| known["status"].as_str());
        let warning = match (text("type"), before, text("status")) {
            ("Accepted" | "Programmed" | "ResolvedRefs" | "Ready", before, "False") if before != Some("False") => true,
            ("Accepted" | "Programmed" | "ResolvedRefs" | "Ready", Some("False"), "True") => false,
            _ => continue,
        };
        // What is on its way is no fault.
        if warning && matches!(text("reason"), "Pending" | "AddressNotAssigned") {
            continue;
        }
        found.push(Transition {
            warning,
            condition: text("type").to_owned(),
            reason: text("reason").to_owned(),
            message: format!("{prefix}{}", text("message")),
        });
    }
}

/// Publishes what is to be said of an object.
pub(crate) async fn publish(recorder: &Recorder, seen: &Seen, api_version: &str, transitions: Vec<Transition>) {
    let ObjectName { kind, namespace, name } = &*seen.reference;
    let reference = ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.name().to_owned()),
        name: Some(name.clone()),
        namespace: (!namespace.is_empty()).then(|| namespace.clone()),
        uid: Some(seen.uid.clone()),
        ..ObjectReference::default()
    };
    for transition in transitions {
        // The API takes 1024 bytes.
        let mut note = transition.message;
        let end = (0..=1000.min(note.len())).rev().find(|at| note.is_char_boundary(*at));
        note.truncate(end.unwrap_or_default());
        let event = Event {
            type_: if transition.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: transition.reason,
            note: Some(note),
            action: transition.condition,
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &reference).await {
            tracing::debug!(object = %seen.reference, %error, "an Event could not be published");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(accepted: &str, programmed: (&str, &str)) -> Value {
        json!({"conditions": [
            {"type": "Accepted", "status": accepted, "reason": "R", "message": "m"},
            {"type": "Programmed", "status": programmed.0, "reason": programmed.1, "message": "m"},
        ]})
    }

    fn said(before: &Value, after: &Value) -> Vec<(bool, String)> {
        let found = transitions(before, after, "ours");
        found
            .into_iter()
            .map(|found| (found.warning, found.condition))
            .collect()
    }

    #[test]
    fn transitions_to_false_and_back_are_said() {
        let (good, bad) = (
            status("True", ("True", "Programmed")),
            status("True", ("False", "Invalid")),
        );
        assert_eq!(said(&Value::Null, &good), []);
        assert_eq!(said(&Value::Null, &bad), [(true, "Programmed".to_owned())]);
        assert_eq!(said(&good, &bad), [(true, "Programmed".to_owned())]);
        assert_eq!(said(&bad, &bad), []);
        assert_eq!(said(&bad, &good), [(false, "Programmed".to_owned())]);
        assert_eq!(said(&good, &status("True", ("False", "Pending"))), []);
    }

    #[test]
    fn entries_of_others_are_not_ours_to_speak_of() {
        let entry = |controller: &str, status: &str| {
            let condition = json!({"type": "Accepted", "status": status, "reason": "R", "message": "m"});
            json!({"controllerName": controller, "parentRef": {"name": "edge"}, "conditions": [condition]})
        };
        let before = json!({"parents": [entry("other", "True"), entry("ours", "True")]});
        let after = json!({"parents": [entry("other", "False"), entry("ours", "False")]});
        let found = transitions(&before, &after, "ours");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].message, "edge: m");
    }
}
