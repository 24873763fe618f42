use super::*;

const ALL: [&str; 4] = ["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"];

fn to(object: &Value, version: &str) -> Value {
    let (group, _) = object["apiVersion"]
        .as_str()
        .and_then(|text| text.split_once('/'))
        .expect("it has one");
    convert(object.clone(), &format!("{group}/{version}")).expect("it is converted")
}

/// Through every other version and back, and through all of them in a row, nothing is lost.
fn survives(object: &Value) {
    let (_, own) = object["apiVersion"]
        .as_str()
        .and_then(|text| text.split_once('/'))
        .expect("it has one");
    for version in ALL {
        assert_eq!(to(&to(object, version), own), *object, "by way of {version}");
    }
    for order in [ALL, {
        let mut reverse = ALL;
        reverse.reverse();
        reverse
    }] {
        let around = order
            .iter()
            .fold(object.clone(), |object, version| to(&object, version));
        assert_eq!(to(&around, own), *object, "by way of {order:?}");
    }
}

fn target(version: &str) -> Value {
    let (account, rules) = (
        json!({"kind": "ServiceAccount", "name": "b", "namespace": "shop"}),
        json!([{"kind": "HTTPRouteGroup", "name": "r", "matches": ["m"]}, {"kind": "TCPRoute", "name": "t"}]),
    );
    let sources = json!([{"kind": "ServiceAccount", "name": "a", "namespace": "shop"}]);
    let mut object = json!({
        "apiVersion": format!("access.smi-spec.io/{version}"), "kind": "TrafficTarget",
        "metadata": {"name": "t", "namespace": "shop", "annotations": {"team": "cart"}},
    });
    if version == "v1alpha1" {
        object["destination"] = account;
        object["sources"] = sources;
        object["specs"] = rules;
    } else {
        object["spec"] = json!({"destination": account, "sources": sources, "rules": rules});
    }
    object
}

#[test]
fn a_traffic_target_is_the_same_in_every_version() {
    for from in ALL {
        for version in ALL {
            assert_eq!(to(&target(from), version), target(version), "{from} to {version}");
        }
        survives(&target(from));
    }
}

#[test]
fn the_port_of_a_destination_is_kept_where_there_is_no_field_for_it() {
    let mut first = target("v1alpha1");
    first["destination"]["port"] = 8080.into();
    survives(&first);
    let stored = to(&first, "v1alpha3");
    assert_eq!(stored["metadata"]["annotations"], json!({"team": "cart", PORT: "8080"}));
    assert!(stored["spec"]["destination"]["port"].is_null());
    survives(&stored);
    let mut second = target("v1alpha2");
    second["spec"]["destination"]["port"] = 8080.into();
    assert_eq!(to(&first, "v1alpha2"), second);
    survives(&second);
}

#[test]
fn a_group_of_an_identity_binding_is_kept() {
    let mut draft = target("v1alpha4");
    draft["spec"]["destination"] = json!({"kind": "IdentityBinding", "group": ACCESS, "name": "b"});
    survives(&draft);
}

fn routes(version: &str) -> Value {
    let matches = json!([
        {"name": "a", "pathRegex": "/a", "methods": ["GET", "HEAD"]},
        {"name": "b", "headers": [{"user-agent": ".*Firefox.*"}]},
    ]);
    let mut object = json!({
        "apiVersion": format!("specs.smi-spec.io/{version}"), "kind": "HTTPRouteGroup", "metadata": {"name": "r"},
    });
    if matches!(version, "v1alpha1" | "v1alpha2") {
        object["matches"] = matches;
    } else {
        object["spec"] = json!({"matches": matches});
    }
    object
}

#[test]
fn an_http_route_group_is_the_same_in_every_version() {
    for from in ALL {
        for version in ALL {
            assert_eq!(to(&routes(from), version), routes(version), "{from} to {version}");
        }
        survives(&routes(from));
    }
}

fn tcp(version: &str, more: Value) -> Value {
    let mut object = json!({
        "apiVersion": format!("specs.smi-spec.io/{version}"), "kind": "TCPRoute", "metadata": {"name": "t"},
    });
    for (name, value) in more.as_object().expect("fields") {
        object[name] = value.clone();
    }
    object
}

#[test]
fn the_ports_of_a_tcp_route_are_kept_where_there_is_no_field_for_them() {
    let all = tcp("v1alpha4", json!({"spec": {"matches": {"ports": []}}}));
    assert_eq!(to(&all, "v1alpha3"), tcp("v1alpha3", json!({"spec": {}})));
    assert_eq!(to(&all, "v1alpha1"), tcp("v1alpha1", json!({})));
    let some = tcp("v1alpha4", json!({"spec": {"matches": {"ports": [3306, 6446]}}}));
    let kept = r#"{"ports":[3306,6446]}"#;
    assert_eq!(to(&some, "v1alpha2")["metadata"]["annotations"], json!({MATCHES: kept}));
    for object in [
        all,
        some,
        tcp("v1alpha3", json!({"spec": {}})),
        tcp("v1alpha2", json!({})),
        tcp("v1alpha1", json!({})),
    ] {
        survives(&object);
    }
}

fn split(version: &str, weights: [Value; 2]) -> Value {
    let [a, b] = weights;
    json!({
        "apiVersion": format!("split.smi-spec.io/{version}"), "kind": "TrafficSplit", "metadata": {"name": "s"},
        "spec": {"service": "web", "backends": [{"service": "v1", "weight": a}, {"service": "v2", "weight": b}]},
    })
}

#[test]
fn the_weights_of_a_split_keep_their_ratio() {
    let whole = split("v1alpha4", [json!(90), json!(10)]);
    assert_eq!(to(&whole, "v1alpha1"), split("v1alpha1", [json!("90"), json!("10")]));
    assert_eq!(
        to(&split("v1alpha1", [json!("1"), json!(3)]), "v1alpha4"),
        split("v1alpha4", [json!(1), json!(3)])
    );
    let mut parts = split("v1alpha4", [json!(1000), json!(1500)]);
    parts["metadata"]["annotations"] = json!({WEIGHTS: "milli"});
    assert_eq!(to(&split("v1alpha1", [json!("1"), json!("1.5")]), "v1alpha4"), parts);
    for object in [
        whole,
        parts,
        split("v1alpha1", [json!("1"), json!("1500m")]),
        split("v1alpha2", [json!(0), json!(1)]),
    ] {
        survives(&object);
    }
}

#[test]
fn the_matches_of_a_split_are_kept_where_there_is_no_field_for_them() {
    let mut object = split("v1alpha3", [json!(0), json!(100)]);
    object["spec"]["matches"] = json!([{"kind": "HTTPRouteGroup", "name": "ab"}]);
    survives(&object);
    let second = to(&object, "v1alpha2");
    assert!(second["spec"]["matches"].is_null());
    assert!(second["metadata"]["annotations"][MATCHES].is_string());
    survives(&second);
}

#[test]
fn what_cannot_be_converted_is_said() {
    let object = target("v1alpha3");
    for (object, desired) in [
        (object.clone(), "access.smi-spec.io/v1"),
        (object.clone(), "split.smi-spec.io/v1alpha4"),
        (object.clone(), "v1alpha2"),
        (json!({"apiVersion": "apps/v1", "kind": "Deployment"}), "apps/v1beta1"),
        (
            split("v1alpha1", [json!("some"), json!("1")]),
            "split.smi-spec.io/v1alpha4",
        ),
        (json!("text"), "split.smi-spec.io/v1alpha4"),
    ] {
        assert!(convert(object.clone(), desired).is_err(), "{object} to {desired}");
    }
}
