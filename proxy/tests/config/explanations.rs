//! Why a request goes where it goes.

use serde_json::json;
use weft_model::{Backend, BackendTarget, ServiceKey};
use weft_proxy::config::{Asker, Configuration, Reason, Snapshot, Step, Verdict, explain};

use super::support::{
    HTTP, Put, RouteWith, With, https, listener, policy, request, route, service, serving, snapshot, workload,
};

#[test]
fn every_other_rule_has_a_reason_and_the_nearest_come_first() {
    let snapshot = serving(
        [
            listener(HTTP, 80, Some("*.a.com")),
            listener("g/g/other", 80, None),
            listener("g/g/8080", 8080, None),
        ],
        [
            route("winner").at(&["/one"]).header("x-a", "1"),
            route("shorter"),
            route("query").at(&["/one"]).query("q", "1"),
            route("header").at(&["/one"]).header("x-b", "~[0-9]+"),
            route("absent").at(&["/one"]).header("x-c", "1"),
            route("method").at(&["/one"]).method("PUT"),
            route("path").at(&["/two", "=/three"]),
            route("hostname").hosts(&["b.a.com"]),
            route("listener").on(&["g/g/other"]),
            route("port").on(&["g/g/8080"]),
        ],
    );
    let request = request("x.a.com/one?q=2", &[("x-a", "1"), ("x-b", "two")]);
    let explanation = explain(&snapshot, 80, None, &request.view(), &Asker::default());
    assert_eq!(explanation.verdict, Verdict::Routed);
    assert_eq!(explanation.listeners, [HTTP.into()]);
    let taken = explanation.taken.expect("it is taken");
    assert_eq!(
        (taken.route.as_str(), taken.listener.as_str()),
        ("HTTPRoute/default/winner/0", HTTP)
    );
    assert_eq!(
        taken.hostname.map(|hostname| hostname.to_string()).as_deref(),
        Some("*.a.com")
    );
    let passed: Vec<_> = explanation
        .passed
        .iter()
        .map(|p| (p.route.as_str(), p.reason.clone(), p.text.as_str()))
        .collect();
    assert_eq!(
        passed,
        [
            (
                "HTTPRoute/default/shorter/0",
                Reason::Outranked(Step::PathLength),
                "HTTPRoute/default/winner/0 comes first: its path is longer",
            ),
            (
                "HTTPRoute/default/query/0",
                Reason::Query("q".into()),
                "parameter q is \"2\", not \"1\""
            ),
            (
                "HTTPRoute/default/header/0",
                Reason::Header("x-b".into()),
                "header x-b is \"two\", not like \"[0-9]+\""
            ),
            (
                "HTTPRoute/default/absent/0",
                Reason::Header("x-c".into()),
                "header x-c is absent, not \"1\""
            ),
            ("HTTPRoute/default/method/0", Reason::Method, "method GET is not PUT"),
            (
                "HTTPRoute/default/path/0",
                Reason::Path,
                "path \"/one\" is not \"/three\""
            ),
            (
                "HTTPRoute/default/hostname/0",
                Reason::Hostname,
                "\"x.a.com\" is none of b.a.com"
            ),
            (
                "HTTPRoute/default/listener/0",
                Reason::OtherListener,
                "listener *.a.com is more specific than those it is attached to",
            ),
        ]
    );
}

#[test]
fn backends_have_their_shares() {
    let backend = |weight, name| Backend {
        weight,
        target: BackendTarget::Service(ServiceKey::new("default", name, 80)),
        filters: vec![],
    };
    let split = route("r").with(|route| {
        let broken = Backend {
            target: BackendTarget::Invalid("BackendNotFound".into()),
            ..backend(0, "")
        };
        route.backends = vec![backend(1, "a"), backend(3, "b"), broken];
    });
    let pod = workload("default/pod", "10.0.0.1", &[("a", 80)]);
    let changes = vec![
        listener(HTTP, 80, None).put(),
        split.put(),
        service("a").put(),
        pod.put(),
    ];
    let snapshot = Configuration::new().apply(changes).snapshot;
    let taken = explain(&snapshot, 80, None, &request("a.com/", &[]).view(), &Asker::default())
        .taken
        .expect("it is taken");
    let shares: Vec<_> = taken
        .backends
        .iter()
        .map(|share| (share.percent, share.endpoints))
        .collect();
    assert_eq!(shares, [(25.0, 1), (75.0, 0), (0.0, 0)]);
}

#[test]
fn what_no_rule_takes_is_told_apart() {
    let snapshot = serving(
        [
            https("g/g/a", 443, Some("a.com"), &[]),
            https("g/g/b", 443, Some("b.com"), &[]),
        ],
        [route("a").on(&["g/g/a"]).at(&["/one"])],
    );
    for (port, sni, line, expected) in [
        (443, "a.com", "a.com/one", Verdict::Routed),
        (443, "a.com", "a.com/two", Verdict::NoRoute),
        (443, "a.com", "b.com/one", Verdict::Misdirected),
        (443, "a.com", "c.com/one", Verdict::NoListener),
        (80, "a.com", "a.com/one", Verdict::NoPort),
    ] {
        let explanation = explain(
            &snapshot,
            port,
            Some(sni),
            &request(line, &[]).view(),
            &Asker::default(),
        );
        assert_eq!(explanation.verdict, expected, "{line}");
        assert_eq!(explanation.taken.is_some(), expected == Verdict::Routed);
        let listeners = match line.split_once('/') {
            Some(("a.com", _)) if port == 443 => vec!["g/g/a".into()],
            Some(("b.com", _)) => vec!["g/g/b".into()],
            _ => vec![],
        };
        assert_eq!(explanation.listeners, listeners, "{line}");
    }
}

#[test]
fn it_can_be_printed() {
    let snapshot = snapshot([route("a").at(&["/one"]), route("b")]);
    let explanation = explain(
        &snapshot,
        80,
        None,
        &request("a.com/one", &[]).view(),
        &Asker::default(),
    );
    let json = serde_json::to_value(&explanation).expect("it can be serialised");
    assert_eq!(json["verdict"], "routed");
    assert_eq!(json["taken"]["route"], "HTTPRoute/default/a/0");
    assert_eq!(
        json["passed"][0]["reason"],
        serde_json::json!({"kind": "outranked", "step": "pathLength"})
    );
}

#[test]
fn policies_that_are_asked_are_named_with_what_they_say() {
    let mut configuration = Configuration::new();
    let method = |method: &str| json!([{"to": [{"traffic": {"http": {"methods": [method]}}}]}]);
    let from = json!([{"from": [{"address": {"ranges": ["192.0.2.0/24"]}}]}]);
    let gateway = json!({"gateway": "default/gateway"});
    let of_route = json!({"route": {"kind": "HTTPRoute", "namespace": "default", "name": "r"}});
    let snapshot = configuration
        .apply(vec![
            listener(HTTP, 80, None).put(),
            route("r").at(&["/r"]).put(),
            policy("known", std::slice::from_ref(&gateway), "allow", &from),
            policy("told", &[gateway], "audit", &method("GET")),
            policy("read", &[of_route], "allow", &method("GET")),
        ])
        .snapshot;
    let ask = |line: &str, address: &str| {
        let asker = Asker {
            address: address.parse().expect("an address"),
            certificate: None,
        };
        let explanation = explain(&snapshot, 80, None, &request(line, &[]).view(), &asker);
        let judged = explanation.policies.iter().map(|judged| {
            let (_, _, name) = judged.policy.parts();
            format!("{name} {:?} {}", judged.level, judged.takes)
        });
        (explanation.verdict, judged.collect::<Vec<_>>(), explanation.denied)
    };
    let all = |known: bool, told: bool, read: bool| {
        vec![
            format!("known Gateway {known}"),
            format!("told Gateway {told}"),
            format!("read Route {read}"),
        ]
    };
    let unlisted = |name: &str| Some(format!("no rule allows it of AuthorizationPolicy/default/{name}"));
    assert_eq!(
        ask("a.com/r", "192.0.2.7"),
        (Verdict::Routed, all(true, true, true), None)
    );
    assert_eq!(
        ask("PUT a.com/r", "192.0.2.7"),
        (Verdict::Denied, all(true, false, false), unlisted("read"))
    );
    assert_eq!(
        ask("a.com/r", "127.0.0.1"),
        (Verdict::Denied, all(false, true, true), unlisted("known"))
    );
    let (verdict, judged, _) = ask("a.com/other", "127.0.0.1");
    assert_eq!(
        (verdict, judged),
        (Verdict::Denied, all(false, true, true)[..2].to_vec())
    );
    assert_eq!(ask("a.com/other", "192.0.2.7").0, Verdict::NoRoute);
}

#[test]
fn of_a_connection_all_who_are_asked_are_named() {
    let read = |json: serde_json::Value| weft_model::Change::Upsert(serde_json::from_value(json).expect("a resource"));
    let from = |range: &str| json!([{"from": [{"address": {"ranges": [range]}}]}]);
    let target = |of: serde_json::Value| [of];
    let key = "ListenerSet/default/more/tcp";
    let snapshot = Configuration::new()
        .apply(vec![
            read(json!({"kind": "listener", "key": key, "gateway": "default/gateway", "port": 9000, "protocol": "TCP"})),
            read(json!({"kind": "l4Route", "key": "TCPRoute/default/r/0", "listeners": [key],
                "owner": {"kind": "TCPRoute", "namespace": "default", "name": "r", "rule": 0, "created": 0}})),
            policy("edge", &target(json!({"gateway": "default/gateway"})), "allow", &from("192.0.2.0/24")),
            policy(
                "set",
                &target(json!({"listenerSet": {"gateway": "default/gateway", "set": "default/more"}})),
                "allow",
                &from("192.0.2.0/25"),
            ),
            policy(
                "route",
                &target(json!({"route": {"kind": "TCPRoute", "namespace": "default", "name": "r"}})),
                "deny",
                &json!([{"to": [{"traffic": {"http": {"methods": ["PUT"]}}}], "from": [{"address": {"ranges": ["192.0.2.7/32"]}}]}]),
            ),
        ])
        .snapshot;
    let ask = |address: &str| {
        let asker = Asker {
            address: address.parse().expect("an address"),
            certificate: None,
        };
        let explanation = explain(&snapshot, 9000, None, &request("a.com/", &[]).view(), &asker);
        let judged = explanation.policies.iter().map(|judged| {
            let (_, _, name) = judged.policy.parts();
            format!("{name} {:?} {}", judged.level, judged.takes)
        });
        (explanation.verdict, judged.collect::<Vec<_>>().join(", "))
    };
    for (address, verdict, judged) in [
        (
            "192.0.2.1",
            Verdict::Opaque,
            "edge Gateway true, set ListenerSet true, route Route false",
        ),
        (
            "192.0.2.200",
            Verdict::Denied,
            "edge Gateway true, set ListenerSet false, route Route false",
        ),
        (
            "192.0.2.7",
            Verdict::Denied,
            "edge Gateway true, set ListenerSet true, route Route true",
        ),
    ] {
        assert_eq!(ask(address), (verdict, judged.to_owned()), "{address}");
    }
}

#[test]
fn a_tunnel_is_for_those_who_name_the_method() {
    let any = || route("any").at(&["=/"]);
    let ask = |snapshot: &Snapshot, line: &str| {
        let request = request(line, &[]);
        explain(snapshot, 80, None, &request.view(), &Asker::default())
    };
    let only = serving([listener(HTTP, 80, None)], [any()]);
    let explanation = ask(&only, "CONNECT a.com:443/");
    assert_eq!(explanation.verdict, Verdict::NoTunnel);
    let passed = &explanation.passed[0];
    assert_eq!(
        (&passed.reason, passed.text.as_str()),
        (&Reason::Method, "a tunnel is for matches that name the method CONNECT")
    );
    let both = serving(
        [listener(HTTP, 80, None)],
        [any(), route("tunnels").at(&["/"]).method("CONNECT")],
    );
    let explanation = ask(&both, "CONNECT a.com:443/");
    let taken = explanation.taken.expect("it is taken");
    assert_eq!(taken.route.as_str(), "HTTPRoute/default/tunnels/0");
    let taken = ask(&both, "GET a.com/").taken.expect("it is taken");
    assert_eq!(taken.route.as_str(), "HTTPRoute/default/any/0");
}
