//! Whatever a pod is like: injection is done once, changes nothing that is not ours, and can be undone.

use proptest::{collection::btree_map, collection::vec, option, prelude::*};
use serde_json::{Value, json};
use weft_injection::{
    INJECTED, LISTS, LogLevel, Namespace, Outcome, Resources, Settings, Spans, inject, is_injected, uninject,
};

fn settings(image: &str) -> Settings {
    Settings {
        image: image.to_owned(),
        pull_policy: "Always".to_owned(),
        operator: "operator:15010".to_owned(),
        server_name: "operator.weft.dev".to_owned(),
        resources: Resources::default(),
        log_level: LogLevel::Warn,
        spans: Spans::default(),
    }
}

/// Nothing, which may be said by a key without a value as well as by an empty list or map.
fn nothing(empty: Value) -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), Just(empty)]
}

/// Members of a list, some of which have the names of ours.
fn members(ours: &'static [&'static str]) -> impl Strategy<Value = Option<Value>> {
    let name = prop_oneof![
        2 => "[a-d]".prop_map(String::from),
        1 => prop::sample::select(ours).prop_map(str::to_owned),
    ];
    let member = (name, 0..3_u8).prop_map(|(name, more)| json!({"name": name, "unknown": more}));
    option::of(prop_oneof![3 => vec(member, 1..5).prop_map(Value::from), 1 => nothing(json!([]))])
}

fn texts() -> impl Strategy<Value = Option<Value>> {
    let name = prop_oneof![
        Just("app".to_owned()),
        Just(INJECTED.to_owned()),
        Just("weft.dev/skip-uids".to_owned())
    ];
    let some = btree_map(name, "[0-9]", 1..3).prop_map(|texts| json!(texts));
    option::of(prop_oneof![3 => some, 1 => nothing(json!({}))])
}

prop_compose! {
    fn pods()(
        labels in texts(),
        annotations in texts(),
        init in members(LISTS[0].1),
        volumes in members(LISTS[1].1),
        metadata in option::of(prop_oneof![3 => Just(json!({"name": "pod"})), 1 => nothing(json!({}))]),
        more in option::of("[a-z]{1,5}"),
    ) -> Value {
        let mut pod = json!({"spec": {"containers": [{"name": "app", "image": "app"}]}});
        let fields = [("initContainers", init), ("volumes", volumes), ("more", more.map(Value::from))];
        for (field, value) in fields {
            if let Some(value) = value {
                pod["spec"][field] = value;
            }
        }
        if let Some(metadata) = metadata {
            pod["metadata"] = metadata;
        }
        if pod["metadata"].is_object() {
            for (field, value) in [("labels", labels), ("annotations", annotations)] {
                if let Some(value) = value {
                    pod["metadata"][field] = value;
                }
            }
        }
        pod
    }
}

fn injected(pod: &Value, image: &str) -> Value {
    match inject(pod, &Namespace::default(), &settings(image)) {
        Ok(Outcome::Injected(injected)) => injected.pod,
        other => panic!("it can be injected: {other:?}"),
    }
}

proptest! {
    #[test]
    fn it_is_done_once_changes_nothing_else_and_can_be_undone(pod in pods()) {
        let once = injected(&pod, "a");
        prop_assert_eq!(&injected(&once, "a"), &once);
        // Others of their kind stay, in their order, behind ours.
        let bare = uninject(&pod);
        for (field, ours) in LISTS {
            let members = once["spec"][field].as_array().expect("a list");
            let names: Vec<&str> = members.iter().filter_map(|member| member["name"].as_str()).collect();
            prop_assert_eq!(&names[..ours.len()], ours);
            let others = bare["spec"][field].as_array().cloned().unwrap_or_default();
            prop_assert_eq!(&members[ours.len()..], &others[..]);
        }
        // What was made with other settings is replaced by what would have been made in the first place.
        prop_assert_eq!(injected(&injected(&pod, "b"), "a"), injected(&bare, "a"));
        prop_assert_eq!(&uninject(&once), &bare);
        prop_assert!(is_injected(&once) && !is_injected(&bare));
        // What never had a sidecar is what it was, to the last key that says nothing.
        if !is_injected(&pod) {
            prop_assert_eq!(&bare, &pod);
        }
    }
}
