use http::HeaderMap;
use serde_json::{Value, json};
use weft_model::{Change, Resource};

use super::*;

const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/front";
const BANK: &str = "spiffe://cluster.local/ns/bank/sa/back";

/// What protects the pod `shop/back-1` by policies of a namespace that is so far.
fn protection(stage: Stage, default: DefaultAction, policies: &[Value]) -> (Policies, Protection) {
    let mut known = Policies::default();
    let member = json!({
        "kind": "member", "key": "shop/back-1", "account": "back", "labels": {"app": "back"},
        "services": {"shop/back:80": 8080, "shop/back:81": 8081},
        "probes": [{"port": 8080, "path": "/healthz"}],
    });
    let told = policies.iter().enumerate().map(|(at, policy)| {
        let mut policy = policy.clone();
        policy["kind"] = "authorization".into();
        policy["key"] = format!("AuthorizationPolicy/shop/p{at}").into();
        if policy.get("targets").is_none() {
            policy["targets"] = json!([{"namespace": "shop"}]);
        }
        policy
    });
    for resource in told.chain([member]) {
        let resource: Resource = serde_json::from_value(resource).expect("a resource");
        known.apply(Change::Upsert(resource)).expect("it is understood");
    }
    let protection = known.protect(&"shop/back-1".into(), stage, default);
    (known, protection)
}

fn guard(identity: &str, port: u16) -> Guard {
    Guard {
        client: ([10, 0, 0, 9], 1234).into(),
        port,
        identity: SpiffeId::parse(identity).ok(),
        supposed: None,
        judged: Cell::default(),
    }
}

/// `METHOD path name:value…`, or `tcp`.
fn decide(protection: &Protection, identity: &str, port: u16, what: &str) -> Result<(), String> {
    let guard = guard(identity, port);
    let mut words = what.split(' ');
    let method = words.next().expect("something is done");
    let Some(path) = words.next() else {
        return protection.decide_of(&guard, &Doing::Opaque, None);
    };
    let mut fields = HeaderMap::new();
    for word in words {
        let (name, value) = word.split_once(':').expect("a field");
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
        fields.append(name, value.parse().expect("a value"));
    }
    let request = Request {
        method,
        host: "Back.shop:8080",
        path,
        fields: &fields,
    };
    protection.decide_of(&guard, &Doing::Request(&request), None)
}

fn allows(protection: &Protection, identity: &str, port: u16, what: &str) -> bool {
    decide(protection, identity, port, what).is_ok()
}

fn enforced(policies: &[Value]) -> Protection {
    protection(Stage::Secure, DefaultAction::Allow, policies).1
}

#[test]
fn what_denies_comes_before_what_allows_and_that_before_the_default() {
    let nothing = enforced(&[]);
    assert!(!nothing.concerns(8080) && allows(&nothing, "", 8080, "tcp"));
    let allow = json!({"action": "allow", "rules": [{"from": [{"namespace": "shop"}]}]});
    let deny = json!({"action": "deny", "rules": [{"to": [{"traffic": {"http": {"paths": [{"prefix": "/admin"}]}}}]}]});
    let both = enforced(&[allow.clone(), deny.clone()]);
    assert!(allows(&both, FRONT, 8080, "GET /"));
    assert!(!allows(&both, FRONT, 8080, "GET /admin/x"));
    assert!(!allows(&both, BANK, 8080, "GET /"));
    assert!(!allows(&both, "", 8080, "GET /"));
    let only_deny = enforced(&[deny]);
    assert!(allows(&only_deny, "", 8080, "GET /"));
    for (default, clear, proven) in [
        (DefaultAction::Allow, true, true),
        (DefaultAction::Authenticated, false, true),
        (DefaultAction::Deny, false, false),
    ] {
        let (_, protection) = protection(Stage::Strict, default, &[]);
        assert_eq!(allows(&protection, "", 8081, "GET /"), clear, "{default:?}");
        assert_eq!(allows(&protection, BANK, 8081, "tcp"), proven, "{default:?}");
    }
    // What is listed is listed whatever the default.
    let (_, listed) = protection(Stage::Secure, DefaultAction::Deny, &[allow]);
    assert!(allows(&listed, FRONT, 8080, "tcp") && !allows(&listed, BANK, 8080, "tcp"));
}

#[test]
fn sources_are_who_has_proven_to_be_it() {
    for (source, front, bank, clear) in [
        (json!("authenticated"), true, true, false),
        (json!("unauthenticated"), false, false, true),
        (json!({"identity": FRONT}), true, false, false),
        (
            json!({"identityPrefix": "spiffe://cluster.local/ns/bank/"}),
            false,
            true,
            false,
        ),
        (json!({"namespace": "shop"}), true, false, false),
        (
            json!({"serviceAccount": {"namespace": "bank", "name": "back"}}),
            false,
            true,
            false,
        ),
        (
            json!({"serviceAccount": {"namespace": "shop", "name": "back"}}),
            false,
            false,
            false,
        ),
    ] {
        let protection = enforced(&[json!({"action": "allow", "rules": [{"from": [source.clone()]}]})]);
        for (identity, allowed) in [(FRONT, front), (BANK, bank), ("", clear)] {
            assert_eq!(allows(&protection, identity, 80, "tcp"), allowed, "{source} {identity}");
        }
    }
    for rules in [json!([]), json!([{"from": []}]), json!([{"to": []}])] {
        let nobody = enforced(&[json!({"action": "allow", "rules": rules})]);
        assert!(!allows(&nobody, FRONT, 80, "GET /"));
    }
    assert!(allows(
        &enforced(&[json!({"action": "allow", "rules": [{}]})]),
        "",
        80,
        "tcp"
    ));
}

#[test]
fn requests_are_as_all_conditions_say() {
    let http = |http: Value| {
        enforced(&[json!({"action": "allow", "rules": [{"to": [{"ports": [8080, 8081], "traffic": {"http": http}}]}]})])
    };
    let methods = http(json!({"methods": ["GET", "HEAD"]}));
    assert!(allows(&methods, "", 8080, "GET /x") && allows(&methods, "", 8081, "HEAD /"));
    for (port, what) in [(8080, "POST /"), (8080, "get /"), (80, "GET /"), (8080, "tcp")] {
        assert!(!allows(&methods, "", port, what), "{port} {what}");
    }
    let paths = http(json!({"paths": [{"exact": "/a"}, {"prefix": "/b/"}, {"regex": "/c/[0-9]+"}]}));
    for (path, allowed) in [
        ("/a", true),
        ("/a/", false),
        ("/b", true),
        ("/b/x", true),
        ("/bx", false),
        ("/c/12", true),
        ("/c/12x", false),
        ("/%61", true),
        ("/b/../x", false),
        ("/x/../b/y", true),
        // A server may take it for `/x`.
        ("/b/..%2fx", false),
        ("/b%2f..%2f..%2fx", false),
        ("/b/..;/x", false),
        ("/x/..%2fb", false),
    ] {
        assert_eq!(allows(&paths, "", 8080, &format!("GET {path}")), allowed, "{path}");
    }
    let headers = http(json!({"headers": [
        {"name": "x-role", "value": {"exact": "admin"}}, {"name": "x-key"}, {"name": ":authority", "value": {"exact": "back.shop"}},
    ]}));
    for (fields, allowed) in [
        ("x-role:admin x-key:1", true),
        ("X-Role:admin X-Key:1", true),
        ("x-role:admin", false),
        ("x-role:user x-key:1", false),
        ("x-role:admin x-role:user x-key:1", false),
        ("x-role:user x-role:admin x-key:1", false),
    ] {
        assert_eq!(
            allows(&headers, "", 8080, &format!("GET / {fields}")),
            allowed,
            "{fields}"
        );
    }
}

#[test]
fn what_denies_is_not_passed_by_however_it_is_written() {
    let admin = json!({"traffic": {"http": {"paths": [{"exact": "/admin"}, {"prefix": "/internal"}]}}});
    let protection = enforced(&[json!({"action": "deny", "rules": [{"to": [admin]}]})]);
    for path in [
        "/admin",
        "/admin/",
        "/%61dmin",
        "/%61%64%6d%69%6E",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x%2f..%2fadmin",
        "/x\\..\\admin",
        "/admin;v=1",
        "/x/..;/admin",
        "/internal/x",
        "//internal//x",
        "/internal%2fx",
        "/internal;a/x",
    ] {
        assert!(!allows(&protection, FRONT, 8080, &format!("GET {path}")), "{path}");
    }
    for path in [
        "/",
        "/administration",
        "/x/admin",
        "/internals",
        "/internal/..",
        "/admin/../x",
    ] {
        assert!(allows(&protection, FRONT, 8080, &format!("GET {path}")), "{path}");
    }
    let role = json!({"traffic": {"http": {"headers": [{"name": "x-role", "value": {"exact": "guest"}}]}}});
    let protection = enforced(&[json!({"action": "deny", "rules": [{"to": [role]}]})]);
    assert!(!allows(&protection, "", 80, "GET / x-role:admin x-role:guest"));
    assert!(allows(&protection, "", 80, "GET / x-role:admin"));
}

#[test]
fn what_cannot_be_seen_is_not_allowed_by_requests_and_is_denied_by_them() {
    let get = json!({"ports": [8080], "traffic": {"http": {"methods": ["GET"]}}});
    let allow = enforced(&[json!({"action": "allow", "rules": [{"to": [get]}]})]);
    assert!(allows(&allow, "", 8080, "GET /") && !allows(&allow, "", 8080, "tcp"));
    assert!(!allow.allows_all(&guard("", 8080)));
    assert!(!allow.denies_all(&guard("", 8080)) && allow.denies_all(&guard("", 8081)));
    let deny = enforced(&[json!({"action": "deny", "rules": [{"to": [get]}]})]);
    assert!(!allows(&deny, "", 8080, "tcp") && allows(&deny, "", 8081, "tcp") && allows(&deny, "", 8080, "POST /"));
    assert!(!deny.allows_all(&guard("", 8080)) && deny.allows_all(&guard("", 8081)));
    assert!(!deny.denies_all(&guard("", 8080)));
    let opaque = enforced(&[json!({"action": "allow", "rules": [{"to": [{"traffic": "opaque"}]}]})]);
    assert!(allows(&opaque, "", 8080, "tcp") && !allows(&opaque, "", 8080, "GET /"));
}

#[test]
fn a_policy_protects_its_targets() {
    let rules = json!([]);
    for (target, ports) in [
        (json!({"namespace": "shop"}), &[80, 8080, 8081][..]),
        (json!({"namespace": "bank"}), &[]),
        (
            json!({"workloads": {"namespace": "shop", "labels": {"app": "back"}}}),
            &[80, 8080, 8081],
        ),
        (
            json!({"workloads": {"namespace": "shop", "labels": {"app": "front"}}}),
            &[],
        ),
        (
            json!({"workloads": {"namespace": "shop", "expressions": [{"key": "app", "operator": "notIn", "values": ["front"]}]}}),
            &[80, 8080, 8081],
        ),
        (
            json!({"workloads": {"namespace": "shop", "expressions": [{"key": "app", "operator": "doesNotExist"}]}}),
            &[],
        ),
        (
            json!({"serviceAccount": {"namespace": "shop", "name": "back"}}),
            &[80, 8080, 8081],
        ),
        (json!({"serviceAccount": {"namespace": "shop", "name": "front"}}), &[]),
        (json!({"service": {"namespace": "shop", "name": "back"}}), &[8080, 8081]),
        (
            json!({"service": {"namespace": "shop", "name": "back", "port": 81}}),
            &[8081],
        ),
        (json!({"service": {"namespace": "shop", "name": "other"}}), &[]),
        (json!({"gateway": "shop/edge"}), &[]),
    ] {
        let protection = enforced(&[json!({"action": "allow", "rules": rules, "targets": [target]})]);
        for port in [80, 8080, 8081] {
            let denied = !allows(&protection, FRONT, port, "tcp");
            assert_eq!(denied, ports.contains(&port), "{target} {port}");
        }
    }
}

#[test]
fn in_observe_nothing_is_denied_and_all_is_counted() {
    let policies = [
        json!({"action": "allow", "rules": [{"from": [{"namespace": "shop"}]}]}),
        json!({"action": "audit", "rules": [{"to": [{"traffic": {"http": {"methods": ["DELETE"]}}}]}]}),
        json!({"action": "deny", "rules": [{"to": [{"traffic": {"http": {"methods": ["TRACE"]}}}]}]}),
    ];
    for (stage, verdict) in [
        (Stage::Observe, Verdict::ShadowDenied),
        (Stage::Secure, Verdict::Denied),
    ] {
        let (known, protection) = protection(stage, DefaultAction::Allow, &policies);
        let shadow = stage == Stage::Observe;
        assert!(allows(&protection, FRONT, 80, "DELETE /"));
        assert_eq!(allows(&protection, BANK, 80, "GET /"), shadow);
        assert_eq!(allows(&protection, FRONT, 80, "TRACE /"), shadow);
        let counted = known.counted();
        let count = |name: &str, verdict: Verdict| {
            let of = counted
                .iter()
                .find(|(policy, _)| policy == name)
                .expect("it is counted");
            of.1[verdict as usize].1
        };
        assert_eq!(count("AuthorizationPolicy/shop/p0", Verdict::Allowed), 1);
        assert_eq!(count("AuthorizationPolicy/shop/p0", verdict), 1);
        assert_eq!(count("AuthorizationPolicy/shop/p1", Verdict::Audited), 1);
        assert_eq!(count("AuthorizationPolicy/shop/p2", verdict), 1);
        assert_eq!(count(DEFAULT, Verdict::Allowed), 0);
    }
}

#[test]
fn reasons_name_the_policies() {
    let allow = json!({"action": "allow", "rules": []});
    let protection = enforced(&[
        allow.clone(),
        allow.clone(),
        allow.clone(),
        allow.clone(),
        allow,
        json!({"action": "deny", "rules": [{"to": [{"ports": [81]}]}]}),
    ]);
    let why = |identity, port| decide(&protection, identity, port, "tcp").expect_err("denied");
    assert_eq!(why(FRONT, 81), "AuthorizationPolicy/shop/p5 denies it");
    assert_eq!(
        why("", 80),
        "no rule allows it of AuthorizationPolicy/shop/p0, AuthorizationPolicy/shop/p1, AuthorizationPolicy/shop/p2, AuthorizationPolicy/shop/p3 and 1 more; it has not proven who it is"
    );
}

#[test]
fn the_kubelet_is_not_kept_from_its_probes() {
    let protection = enforced(&[json!({"action": "allow", "rules": []})]);
    assert!(allows(&protection, "", 8080, "GET /healthz"));
    for (identity, port, what) in [
        ("", 8081, "GET /healthz"),
        ("", 8080, "GET /healthz/x"),
        ("", 8080, "DELETE /healthz"),
        (FRONT, 8080, "GET /healthz"),
        ("", 8080, "tcp"),
    ] {
        assert!(!allows(&protection, identity, port, what), "{identity} {port} {what}");
    }
}

#[test]
fn what_cannot_be_compiled_is_on_the_safe_side() {
    for (action, allowed) in [("allow", false), ("deny", false)] {
        let mut known = Policies::default();
        let policy = json!({"kind": "authorization", "key": "AuthorizationPolicy/shop/a", "targets": [{"namespace": "shop"}],
            "action": action, "rules": [{"to": [{"traffic": {"http": {"paths": [{"regex": "("}]}}}]}]});
        let policy: Resource = serde_json::from_value(policy).expect("a policy");
        let rejected = known.apply(Change::Upsert(policy)).expect_err("it is told of");
        assert_eq!(rejected.key.to_string(), "policy AuthorizationPolicy/shop/a");
        let protection = known.protect(&"shop/back-1".into(), Stage::Secure, DefaultAction::Allow);
        assert_eq!(allows(&protection, FRONT, 80, "GET /"), allowed, "{action}");
    }
}

#[test]
fn before_a_pod_knows_its_labels_what_may_protect_it_does() {
    let mut known = Policies::default();
    let policy = json!({"kind": "authorization", "key": "AuthorizationPolicy/shop/a", "action": "allow",
        "targets": [{"workloads": {"namespace": "shop", "labels": {"app": "front"}}}]});
    let policy: Resource = serde_json::from_value(policy).expect("a policy");
    known.apply(Change::Upsert(policy)).expect("it is understood");
    let mut protect = |namespace: &str| {
        let own = format!("{namespace}/back-1");
        known.protect(&own.as_str().into(), Stage::Secure, DefaultAction::Allow)
    };
    assert!(!allows(&protect("shop"), FRONT, 80, "tcp"));
    assert!(allows(&protect("bank"), FRONT, 80, "tcp"));
}

#[test]
fn in_strict_the_kubelet_may_probe_and_nobody_else_may_do_anything_in_clear_there() {
    let (_, strict) = protection(Stage::Strict, DefaultAction::Allow, &[]);
    assert!(strict.takes_probes_only(8080) && !strict.takes_probes_only(8081));
    assert!(allows(&strict, "", 8080, "GET /healthz"));
    for denied in ["GET /", "PUT /healthz", "GET /healthz/", "tcp"] {
        assert!(!allows(&strict, "", 8080, denied), "{denied}");
    }
    // Who proves who it is is asked nothing more, and goes on as everywhere.
    assert!(!strict.guards(&guard(FRONT, 8080)) && allows(&strict, FRONT, 8080, "GET /"));
    let (_, secure) = protection(Stage::Secure, DefaultAction::Allow, &[]);
    assert!(!secure.guards(&guard("", 8080)));
    // Before, it is only counted who would not come any more: where it may be the kubelet, since elsewhere all are those.
    assert!(secure.tells_probes(&guard("", 8080)));
    assert!(!secure.tells_probes(&guard("", 8081)) && !secure.tells_probes(&guard(FRONT, 8080)));
}
