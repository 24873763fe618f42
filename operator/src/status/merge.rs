//! Puts a status of ours into the one that an object has, without touching what others wrote.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The conditions that are ours on whatever status is ours; others are left as they are.
const OWN: [&str; 8] = [
    "Accepted",
    "Programmed",
    "ResolvedRefs",
    "Conflicted",
    "PartiallyInvalid",
    "Ready",
    "OverlappingTLSConfig",
    "InsecureFrontendValidationMode",
];

/// The status that is to be written; none if the one that is there says it all.
///
/// Entries of `parents` and `ancestors` belong to the controller they name; those of others stay where they are, as do
/// conditions of types that are not ours. A condition whose status stays the same keeps its time.
pub(crate) fn merge(current: &Value, desired: &Value, controller: &str, now: Timestamp) -> Option<Value> {
    let merged = object(current, desired, controller, now);
    (merged != *current).then_some(merged)
}

/// The status without anything of ours, for an object that is ours no more; none if nothing of ours is in it.
pub(crate) fn clear(current: &Value, controller: &str) -> Option<Value> {
    let mut cleared = current.clone();
    for list in ["parents", "ancestors"] {
        if let Some(Value::Array(entries)) = cleared.get_mut(list) {
            entries.retain(|entry| entry["controllerName"] != controller);
        }
    }
    (cleared != *current).then_some(cleared)
}

fn object(current: &Value, desired: &Value, controller: &str, now: Timestamp) -> Value {
    let Value::Object(desired) = desired else {
        return desired.clone();
    };
    let mut merged = match current {
        Value::Object(current) => current.clone(),
        _ => Map::new(),
    };
    // What is ours and is said no more.
    for list in ["addresses", "listeners", "supportedFeatures", "attachedListenerSets"] {
        if !desired.contains_key(list) {
            merged.remove(list);
        }
    }
    for (key, value) in desired {
        let known = merged.get(key).cloned().unwrap_or_default();
        let value = match (key.as_str(), value) {
            ("conditions", Value::Array(conditions)) => self::conditions(&known, conditions, now),
            ("listeners", Value::Array(entries)) => named(&known, entries, controller, now),
            ("parents" | "ancestors", Value::Array(entries)) => owned(&known, entries, controller, now),
            (_, value) => value.clone(),
        };
        merged.insert(key.clone(), value);
    }
    Value::Object(merged)
}

fn entries(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn conditions(known: &Value, desired: &[Value], now: Timestamp) -> Value {
    let mut merged = Vec::new();
    let of_type = |list: &[Value], kind: &Value| list.iter().find(|condition| condition["type"] == *kind).cloned();
    // In the order that is there, then what is new.
    for condition in entries(known) {
        match of_type(desired, &condition["type"]) {
            Some(wanted) => merged.push(timed(condition, wanted, now)),
            None if condition["type"].as_str().is_some_and(|kind| OWN.contains(&kind)) => {}
            None => merged.push(condition.clone()),
        }
    }
    for wanted in desired {
        if of_type(entries(known), &wanted["type"]).is_none() {
            merged.push(timed(&Value::Null, wanted.clone(), now));
        }
    }
    Value::Array(merged)
}

/// A condition with the time at which its status last changed.
fn timed(known: &Value, mut wanted: Value, now: Timestamp) -> Value {
    let kept = known
        .get("lastTransitionTime")
        .filter(|_| known["status"] == wanted["status"]);
    let time = kept
        .cloned()
        .unwrap_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    wanted["lastTransitionTime"] = time;
    wanted
}

/// Entries that are all ours, told apart by their names.
fn named(known: &Value, desired: &[Value], controller: &str, now: Timestamp) -> Value {
    let merged = desired.iter().map(|entry| {
        let known = entries(known).iter().find(|known| known["name"] == entry["name"]);
        object(known.unwrap_or(&Value::Null), entry, controller, now)
    });
    Value::Array(merged.collect())
}

/// Entries of which only those of our controller are ours.
fn owned(known: &Value, desired: &[Value], controller: &str, now: Timestamp) -> Value {
    let same = |a: &Value, b: &Value| {
        ["parentRef", "ancestorRef"]
            .iter()
            .all(|reference| a.get(reference) == b.get(reference))
    };
    let mut merged = Vec::new();
    let mut left: Vec<&Value> = desired.iter().collect();
    for entry in entries(known) {
        if entry["controllerName"] != controller {
            merged.push(entry.clone());
        } else if let Some(at) = left.iter().position(|wanted| same(wanted, entry)) {
            merged.push(object(entry, left.remove(at), controller, now));
        }
    }
    merged.extend(
        left.into_iter()
            .map(|wanted| object(&json!({}), wanted, controller, now)),
    );
    Value::Array(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "weft.dev/gateway-controller";

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn condition(kind: &str, status: &str, time: Option<&str>) -> Value {
        let mut condition =
            json!({"type": kind, "status": status, "reason": "R", "message": "", "observedGeneration": 1});
        if let Some(time) = time {
            condition["lastTransitionTime"] = time.into();
        }
        condition
    }

    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-02-02T02:02:02Z";

    fn merged(current: &Value, desired: &Value) -> Option<Value> {
        merge(current, desired, OURS, at(NEW))
    }

    #[test]
    fn what_says_the_same_is_not_written() {
        let desired = json!({"conditions": [condition("Accepted", "True", None)]});
        let current = json!({"conditions": [condition("Accepted", "True", Some(OLD))]});
        assert_eq!(merged(&current, &desired), None);
    }

    #[test]
    fn a_condition_keeps_its_time_unless_its_status_changes() {
        let current = json!({"conditions": [condition("Accepted", "True", Some(OLD)), condition("Programmed", "False", Some(OLD))]});
        let mut accepted = condition("Accepted", "True", None);
        accepted["observedGeneration"] = 2.into();
        let desired = json!({"conditions": [accepted, condition("Programmed", "True", None)]});
        let written = merged(&current, &desired).expect("something changes");
        assert_eq!(written["conditions"][0]["lastTransitionTime"], OLD);
        assert_eq!(written["conditions"][0]["observedGeneration"], 2);
        assert_eq!(written["conditions"][1]["lastTransitionTime"], NEW);
    }

    #[test]
    fn conditions_of_others_stay_and_ours_that_are_said_no_more_go() {
        let foreign = condition("example.com/Audited", "True", Some(OLD));
        let current = json!({"conditions": [condition("PartiallyInvalid", "True", Some(OLD)), foreign]});
        let desired = json!({"conditions": [condition("Accepted", "True", None)]});
        let written = merged(&current, &desired).expect("something changes");
        assert_eq!(
            written["conditions"],
            json!([foreign, condition("Accepted", "True", Some(NEW))])
        );
    }

    #[test]
    fn entries_of_other_controllers_stay_where_they_are() {
        let entry = |controller: &str, parent: &str, time| json!({"controllerName": controller, "parentRef": {"name": parent}, "conditions": [condition("Accepted", "True", time)]});
        let current = json!({"parents": [
            entry(OURS, "gone", Some(OLD)), entry("other", "a", Some(OLD)), entry(OURS, "a", Some(OLD)),
        ]});
        let desired = json!({"parents": [entry(OURS, "new", None), entry(OURS, "a", None)]});
        let expected = json!({"parents": [
            entry("other", "a", Some(OLD)), entry(OURS, "a", Some(OLD)), entry(OURS, "new", Some(NEW)),
        ]});
        assert_eq!(merged(&current, &desired), Some(expected));
    }

    /// The suite's GatewayPreserveForeignConditions, HTTPRoutePreserveForeignStatus and
    /// BackendTLSPolicyPreserveForeignStatus (v1.7).
    #[test]
    fn nothing_that_others_say_is_touched_wherever_they_say_it() {
        let foreign = condition("example.com/Audited", "Unknown", Some(OLD));
        let entry = |reference: &str, controller: &str, conditions: Value| json!({reference: {"kind": "Gateway", "name": "g"}, "controllerName": controller, "conditions": conditions});
        // Another controller's entry for the same Gateway, with conditions of the types that are ours.
        for (list, reference) in [("parents", "parentRef"), ("ancestors", "ancestorRef")] {
            let theirs = entry(
                reference,
                "example.com/other",
                json!([condition("Accepted", "False", Some(OLD))]),
            );
            let ours = |status: &str, time: &str| {
                entry(
                    reference,
                    OURS,
                    json!([foreign, condition("Accepted", status, Some(time))]),
                )
            };
            let wanted = |status: &str| entry(reference, OURS, json!([condition("Accepted", status, None)]));
            let current = json!({list: [theirs, ours("True", OLD)]});
            assert_eq!(merged(&current, &json!({list: [wanted("True")]})), None);
            let changed = merged(&current, &json!({list: [wanted("False")]}));
            assert_eq!(changed, Some(json!({list: [theirs, ours("False", NEW)]})));
            // What others say goes with our entry only once the object is ours no more.
            assert_eq!(merged(&current, &json!({list: []})), Some(json!({list: [theirs]})));
            assert_eq!(clear(&current, OURS), Some(json!({list: [theirs]})));
        }
        let listener = |status: &str, time: &str| json!({"name": "http", "attachedRoutes": 1, "conditions": [condition("Accepted", status, Some(time)), foreign]});
        let current = json!({"conditions": [foreign, condition("Accepted", "True", Some(OLD))], "listeners": [listener("True", OLD)]});
        let wanted = json!({
            "conditions": [condition("Accepted", "False", None)],
            "listeners": [{"name": "http", "attachedRoutes": 1, "conditions": [condition("Accepted", "False", None)]}],
        });
        let expected = json!({"conditions": [foreign, condition("Accepted", "False", Some(NEW))], "listeners": [listener("False", NEW)]});
        assert_eq!(merged(&current, &wanted), Some(expected));
    }

    #[test]
    fn what_is_ours_no_more_is_taken_out() {
        let current = json!({"parents": [{"controllerName": "other"}, {"controllerName": OURS}]});
        assert_eq!(
            clear(&current, OURS),
            Some(json!({"parents": [{"controllerName": "other"}]}))
        );
        assert_eq!(clear(&json!({"parents": [{"controllerName": "other"}]}), OURS), None);
        assert_eq!(clear(&Value::Null, OURS), None);
    }

    #[test]
    fn listeners_are_those_of_the_gateway_and_keep_foreign_conditions() {
        let listener =
            |name: &str, conditions: Value| json!({"name": name, "attachedRoutes": 1, "conditions": conditions});
        let foreign = condition("example.com/Audited", "True", Some(OLD));
        let current = json!({
            "addresses": [{"type": "IPAddress", "value": "10.0.0.1"}],
            "listeners": [listener("gone", json!([])), listener("a", json!([foreign]))],
        });
        let desired = json!({"listeners": [listener("a", json!([condition("Accepted", "True", None)]))]});
        let expected = json!({
            "listeners": [listener("a", json!([foreign, condition("Accepted", "True", Some(NEW))]))],
        });
        assert_eq!(merged(&current, &desired), Some(expected));
    }
}
