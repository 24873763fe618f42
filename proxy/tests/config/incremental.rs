//! Two properties over random tables and edits: a request goes where a scan of all rules, written straight from the
//! API's text, says; and a configuration that was edited is the one that was loaded in that state.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::HeaderMap;
use proptest::{collection::vec, option, prelude::*, sample::select};
use regex_automata::meta::Regex;
use serde_json::json;
use weft_model::{
    Change, HostPattern, Key, Listener, ListenerKey, ListenerProtocol, PathMatch, PolicyKey, Resource, Route,
    RouteMatch, StringMatch,
};
use weft_proxy::{
    config::{Asker, Configuration, Found, Judged, Snapshot, Target, explain},
    fields::{Fields, RequestView},
};

use super::support::{Put, RouteWith, With, https, listener, named, policy, service, workload};

const HOSTNAMES: [&str; 7] = ["a.com", "x.a.com", "*.a.com", "*.com", "*.org", "*.x.a.com", "b.org"];
const HOSTS: [&str; 8] = [
    "a.com",
    "x.a.com",
    "Y.a.com:80",
    "z.x.a.com",
    "b.org.",
    "c.com",
    "d.net",
    "",
];
const PATHS: [&str; 12] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/ab",
    "=/",
    "=/a",
    "=/a/b",
    "~/a.*",
    "~/a/[a-z]",
    "~/(a|ab)",
    "/b",
];
const REQUESTED: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/a/b/c/d", "/ab", "/b/c", "*"];
const LISTENERS: [&str; 6] = ["g/a/1", "g/a/2", "g/b/1", "g/b/2", "g/c/1", "ListenerSet/n/s/1"];

fn listeners() -> impl Strategy<Value = Change> {
    (
        select(&LISTENERS),
        select(&[80_u16, 81]),
        option::weighted(0.7, select(&HOSTNAMES)),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(key, port, hostname, tls)| {
            if tls {
                https(key, port, hostname, &["s/c"]).put()
            } else {
                listener(key, port, hostname).put()
            }
        })
}

fn routes() -> impl Strategy<Value = Route> {
    let place = (select(&["n", "n-m"]), select(&["r", "s"]), 0..3_u32, 0..2_i64);
    let hostnames = vec(select(&HOSTNAMES), 0..3);
    let matches = vec(
        (
            select(&PATHS),
            option::weighted(0.3, select(&["GET", "PUT"])),
            vec((select(&["x-a", "x-b"]), select(&["1", "~[12]"])), 0..3),
            vec((select(&["p", "q"]), select(&["1", "~[12]"])), 0..2),
        ),
        1..3,
    );
    (place, vec(select(&LISTENERS), 1..4), hostnames, matches).prop_map(
        |((namespace, name, rule, created), listeners, hostnames, matches)| {
            let matches = matches.into_iter().flat_map(|(path, method, headers, query)| {
                let mut one = named(namespace, name, rule).at(&[path]);
                one = method.into_iter().fold(one, |one, method| one.method(method));
                one = headers.iter().fold(one, |one, (name, value)| one.header(name, value));
                query
                    .iter()
                    .fold(one, |one, (name, value)| one.query(name, value))
                    .matches
            });
            let matches = matches.collect();
            named(namespace, name, rule)
                .on(&listeners)
                .hosts(&hostnames)
                .created(created)
                .with(|r| r.owner.rule_name = (rule == 1).then(|| "one".to_owned()))
                .with(|r| r.matches = matches)
        },
    )
}

fn policies() -> impl Strategy<Value = Change> {
    let target = select(vec![
        json!({"gateway": "g/a"}),
        json!({"gateway": "g/b"}),
        json!({"listener": {"gateway": "g/a", "listener": "g/a/1"}}),
        json!({"listener": {"gateway": "g/c", "listener": "g/c/1"}}),
        json!({"listenerSet": {"gateway": "g/a", "set": "n/s"}}),
        json!({"listener": {"gateway": "g/a", "listener": "ListenerSet/n/s/1"}}),
        json!({"route": {"kind": "HTTPRoute", "namespace": "n", "name": "r"}}),
        json!({"route": {"kind": "HTTPRoute", "namespace": "n-m", "name": "r", "rule": "one"}}),
    ]);
    let rule = select(vec![
        json!({}),
        json!({"to": [{"traffic": {"http": {"methods": ["GET"]}}}]}),
        json!({"to": [{"traffic": {"http": {"paths": [{"prefix": "/a"}]}}}]}),
    ]);
    let rules = vec(rule, 0..2).prop_map(serde_json::Value::Array);
    let name = select(&["p", "q", "s"]);
    (name, vec(target, 1..3), select(&["allow", "deny", "audit"]), rules)
        .prop_map(|(name, targets, action, rules)| policy(name, &targets, action, &rules))
}

/// A change, and whether it must be refused.
fn changes() -> impl Strategy<Value = (Change, bool)> {
    let removed = |key: Key| (Change::Remove(key), false);
    prop_oneof![
        8 => routes().prop_map(|route| (route.put(), false)),
        1 => routes().prop_map(|route| (route.at(&["~("]).put(), true)),
        3 => routes().prop_map(move |route| removed(Key::Route(route.key))),
        4 => listeners().prop_map(|change| (change, false)),
        1 => select(&LISTENERS).prop_map(move |key| removed(Key::Listener(key.into()))),
        1 => select(&["n/r", "n/s"]).prop_map(|name| (service(name).put(), false)),
        1 => select(&["n/r", "n/s"]).prop_map(move |name| removed(Key::Service(service(name).key))),
        2 => (select(&["n/p", "n/q"]), select(&["10.0.0.1", "10.0.0.2"]), vec(select(&["n/r", "n/s"]), 0..3)).prop_map(
            |(key, address, names)| {
                let services: Vec<_> = names.into_iter().map(|name| (name, 80)).collect();
                (workload(key, address, &services).put(), false)
            }
        ),
        1 => select(&["n/p", "n/q"]).prop_map(move |key| removed(Key::Workload(key.into()))),
        3 => policies().prop_map(|change| (change, false)),
        1 => select(&["p", "q", "s"]).prop_map(move |name| {
            removed(Key::Authorization(PolicyKey::of("AuthorizationPolicy", "default", name)))
        }),
    ]
}

#[derive(Debug)]
struct Probe {
    port: u16,
    sni: Option<&'static str>,
    host: &'static str,
    method: &'static str,
    path: &'static str,
    query: Option<&'static str>,
    fields: HeaderMap,
}

fn probes() -> impl Strategy<Value = Probe> {
    let fields = (option::of(select(&["1", "2", "3"])), option::of(select(&["1", "2"])));
    let query = select(&[None, Some("p=1"), Some("q=2&p=3"), Some("q=1&p=2&q=9")]);
    let place = (select(&[80_u16, 81]), option::weighted(0.8, select(&HOSTNAMES[..2])));
    (
        place,
        select(&HOSTS),
        select(&["GET", "PUT", "POST"]),
        select(&REQUESTED),
        query,
        fields,
    )
        .prop_map(|((port, sni), host, method, path, query, (a, b))| {
            let mut fields = HeaderMap::new();
            for (name, value) in [("x-a", a), ("x-b", b)] {
                if let Some(value) = value {
                    fields.insert(name, http::HeaderValue::from_static(value));
                }
            }
            Probe {
                port,
                sni,
                host,
                method,
                path,
                query,
                fields,
            }
        })
}

impl Probe {
    fn view(&self) -> RequestView<'_, HeaderMap> {
        RequestView {
            method: self.method,
            host: self.host,
            path: self.path,
            query: self.query,
            fields: &self.fields,
        }
    }
}

/// All that is configured, and the slow way to find a rule in it.
#[derive(Default)]
struct Reference {
    listeners: BTreeMap<ListenerKey, Arc<Listener>>,
    rest: BTreeMap<Key, Resource>,
}

/// The greater, the more specific.
fn specificity(pattern: Option<&HostPattern>) -> (u8, usize) {
    match pattern {
        Some(HostPattern::Exact(_)) => (2, 0),
        Some(HostPattern::Wildcard(suffix)) => (1, suffix.len()),
        None => (0, 0),
    }
}

fn means(pattern: Option<&HostPattern>, host: &str) -> bool {
    pattern.is_none_or(|pattern| pattern.matches(host))
}

fn whole(text: &str, value: &str) -> bool {
    Regex::new(&format!("^(?:{text})$"))
        .expect("it is valid")
        .is_match(value)
}

fn fits(wanted: &StringMatch, value: Option<&str>) -> bool {
    value.is_some_and(|value| match wanted {
        StringMatch::Exact(text) => text == value,
        StringMatch::Regex(text) => whole(text, value),
    })
}

impl Reference {
    fn take(&mut self, change: &Change) {
        match change {
            Change::Upsert(Resource::Listener(listener)) => {
                self.listeners.insert(listener.key.clone(), Arc::clone(listener));
            }
            Change::Remove(Key::Listener(key)) => drop(self.listeners.remove(key)),
            Change::Upsert(resource) => drop(self.rest.insert(resource.key(), resource.clone())),
            Change::Remove(key) => drop(self.rest.remove(key)),
        }
    }

    fn resources(&self) -> Vec<Resource> {
        let listeners = self
            .listeners
            .values()
            .map(|listener| Resource::Listener(Arc::clone(listener)));
        self.rest.values().cloned().chain(listeners).collect()
    }

    fn find(&self, probe: &Probe) -> String {
        let plain = |host: &str| {
            let host = host.split(':').next().unwrap_or_default().to_lowercase();
            host.strip_suffix('.').map_or(host.clone(), str::to_owned)
        };
        let host = plain(probe.host);
        let on_port: Vec<_> = self
            .listeners
            .values()
            .filter(|listener| listener.port == probe.port)
            .collect();
        let Some(protocol) = on_port.first().map(|listener| listener.protocol) else {
            return "no port".to_owned();
        };
        let on_port: Vec<_> = on_port
            .into_iter()
            .filter(|listener| listener.protocol == protocol)
            .collect();
        let best = |host: &str| {
            let fitting = on_port
                .iter()
                .filter(|listener| means(listener.hostname.as_ref(), host));
            fitting
                .map(|listener| listener.hostname.as_ref())
                .max_by_key(|hostname| specificity(*hostname))
        };
        let Some(hostname) = best(&host) else {
            return "404".to_owned();
        };
        if protocol == ListenerProtocol::Https && best(&plain(probe.sni.unwrap_or_default())) != Some(hostname) {
            return "421".to_owned();
        }
        let group: BTreeSet<_> = on_port
            .iter()
            .filter(|listener| listener.hostname.as_ref() == hostname)
            .map(|listener| &listener.key)
            .collect();

        let mut candidates = Vec::new();
        for resource in self.rest.values() {
            let Resource::Route(route) = resource else { continue };
            if !route.listeners.iter().any(|key| group.contains(key)) {
                continue;
            }
            let served: Vec<Option<HostPattern>> = match (route.hostnames.as_slice(), hostname) {
                ([], hostname) => vec![hostname.cloned()],
                (own, None) => own.iter().cloned().map(Some).collect(),
                (own, Some(hostname)) => own.iter().filter_map(|own| own.intersect(hostname)).map(Some).collect(),
            };
            let served = served
                .iter()
                .map(Option::as_ref)
                .filter(|pattern| means(*pattern, &host));
            let Some(level) = served.map(specificity).max() else {
                continue;
            };
            for (index, one) in route.matches.iter().enumerate() {
                if let Some(path) = takes(one, probe) {
                    let owner = &route.owner;
                    let names = |names: Vec<&String>| Reverse(names.into_iter().collect::<BTreeSet<_>>().len());
                    let rank = (
                        (Reverse(level), path, one.method.is_none()),
                        names(one.headers.iter().map(|header| &header.name).collect()),
                        names(one.query.iter().map(|parameter| &parameter.name).collect()),
                        (
                            owner.created,
                            format!("{}/{}", owner.namespace, owner.name),
                            owner.rule,
                            index,
                        ),
                    );
                    candidates.push((rank, format!("{} match {index}", route.key)));
                }
            }
        }
        candidates.into_iter().min().map_or("404".to_owned(), |(_, name)| name)
    }
}

/// How specific the match's path is, the lesser the more, if it takes the request.
fn takes(one: &RouteMatch, probe: &Probe) -> Option<(u8, Reverse<usize>)> {
    let path = probe.path;
    let (fitting, kind) = match &one.path {
        PathMatch::Exact(exact) => (exact == path, (0, Reverse(0))),
        PathMatch::Regex(text) => (whole(text, path), (1, Reverse(text.len()))),
        PathMatch::Prefix(prefix) => {
            let segments = prefix.trim_end_matches('/');
            let fitting = segments.is_empty() || format!("{path}/").starts_with(&format!("{segments}/"));
            (fitting, (2, Reverse(segments.len())))
        }
    };
    let mut seen = BTreeSet::new();
    let headers = one
        .headers
        .iter()
        .filter(|header| seen.insert(&header.name))
        .all(|header| {
            let value =
                Fields::get(&probe.fields, &header.name).map(|value| std::str::from_utf8(value).expect("ASCII"));
            fits(&header.value, value)
        });
    let mut seen = BTreeSet::new();
    let query = one
        .query
        .iter()
        .filter(|parameter| seen.insert(&parameter.name))
        .all(|parameter| {
            let pairs = probe
                .query
                .unwrap_or_default()
                .split('&')
                .filter_map(|pair| pair.split_once('='));
            let value = pairs
                .into_iter()
                .find(|(name, _)| *name == parameter.name)
                .map(|(_, value)| value);
            fits(&parameter.value, value)
        });
    let method = one.method.as_deref().is_none_or(|method| method == probe.method);
    (fitting && headers && query && method).then_some(kind)
}

fn find(snapshot: &Snapshot, probe: &Probe) -> String {
    match snapshot
        .port(probe.port)
        .map(|port| port.find(&probe.view(), probe.sni))
    {
        None => "no port".to_owned(),
        Some(Found::Rule(found)) => format!("{} match {}", found.rule.route.key, found.index),
        Some(Found::NoRoute) => "404".to_owned(),
        Some(Found::Misdirected) => "421".to_owned(),
    }
}

/// What policies say of a request.
fn judged(snapshot: &Snapshot, probe: &Probe) -> (Vec<Judged>, Option<String>) {
    let explanation = explain(snapshot, probe.port, probe.sni, &probe.view(), &Asker::default());
    (explanation.policies, explanation.denied)
}

/// Where each backend of each rule, and each service, leads.
fn destinations(snapshot: &Snapshot) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for rule in snapshot.rules() {
        let backends = rule.backends.iter().map(|backend| match &backend.target {
            Target::Service(id) => format!("{:?}", snapshot.resolve(*id).map(|entry| &entry.service.key)),
            Target::Invalid(reason) => reason.to_string(),
        });
        all.insert(rule.route.key.to_string(), backends.collect());
    }
    for entry in snapshot.services() {
        all.insert(
            entry.service.key.to_string(),
            entry.endpoints.iter().map(|e| e.address.to_string()).collect(),
        );
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn edits_lead_where_a_scan_of_all_rules_says(
        batches in vec(vec(changes(), 1..12), 1..6),
        probes in vec(probes(), 40),
    ) {
        let mut configuration = Configuration::new();
        let mut reference = Reference::default();
        let mut older: Vec<(Arc<Snapshot>, Vec<String>)> = Vec::new();
        for batch in batches {
            let mut bad = Vec::new();
            for (change, refused) in &batch {
                match change {
                    Change::Upsert(resource) if *refused => bad.push(resource.key()),
                    _ => reference.take(change),
                }
            }
            let applied = configuration.apply(batch.into_iter().map(|(change, _)| change).collect());
            let refused = applied.rejected.into_iter().map(|rejected| rejected.key);
            let refused: Vec<_> = refused.filter(|key| !matches!(key, Key::Listener(_))).collect();
            prop_assert_eq!(refused, bad);

            let snapshot = applied.snapshot;
            let found: Vec<_> = probes.iter().map(|probe| find(&snapshot, probe)).collect();
            for (probe, found) in probes.iter().zip(&found) {
                prop_assert_eq!(found, &reference.find(probe), "{}{} on {}", probe.host, probe.path, probe.port);
            }
            older.push((Arc::clone(&snapshot), found));

            let mut resources = reference.resources();
            prop_assert_eq!(snapshot.resources(), resources.clone());
            resources.reverse();
            let fresh = Configuration::new().apply(resources.into_iter().map(Change::Upsert).collect()).snapshot;
            prop_assert_eq!(destinations(&snapshot), destinations(&fresh));
            for probe in &probes {
                prop_assert_eq!(find(&fresh, probe), find(&snapshot, probe));
            }
            for probe in probes.iter().take(10) {
                prop_assert_eq!(judged(&fresh, probe), judged(&snapshot, probe));
            }
        }
        for (snapshot, found) in older {
            let again: Vec<_> = probes.iter().map(|probe| find(&snapshot, probe)).collect();
            prop_assert_eq!(again, found, "an older snapshot has changed");
        }
    }
}

#[test]
fn numbers_stay_while_the_key_does() {
    let mut configuration = Configuration::new();
    let id = |snapshot: &Snapshot| snapshot.rules().next().map(|rule| rule.id);
    let first = id(&configuration
        .apply(vec![named("n", "r", 0).put(), service("r").put()])
        .snapshot);
    let service_id = |snapshot: &Snapshot| snapshot.services().next().map(|entry| entry.id);
    let changed = configuration.apply(vec![named("n", "r", 0).at(&["/x"]).put()]).snapshot;
    assert_eq!(id(&changed), first);
    let numbered = service_id(&changed);
    let busy = configuration
        .apply(vec![workload("n/p", "10.0.0.1", &[("r", 80)]).put()])
        .snapshot;
    assert_eq!(service_id(&busy), numbered);
    let gone = configuration
        .apply(vec![Change::Remove(Key::Route("HTTPRoute/n/r/0".into()))])
        .snapshot;
    assert_eq!(gone.rules().count(), 0);
    let again = configuration.apply(vec![named("n", "r", 0).put()]).snapshot;
    assert!(
        id(&again).is_some() && id(&again) != first,
        "a new route has a new number"
    );
}

#[test]
fn what_is_the_same_makes_no_new_snapshot() {
    let mut configuration = Configuration::new();
    let changes = || {
        vec![
            listener("g/a/1", 80, None).put(),
            named("n", "r", 0).put(),
            service("r").put(),
        ]
    };
    let first = configuration.apply(changes()).snapshot;
    let again = configuration.apply(changes()).snapshot;
    assert!(Arc::ptr_eq(&first, &again));
    let changed = configuration.apply(vec![named("n", "r", 0).at(&["/x"]).put()]).snapshot;
    assert!(changed.generation > first.generation);
}

#[test]
fn a_bad_route_keeps_its_older_version_and_blocks_no_other() {
    let mut configuration = Configuration::new();
    configuration.apply(vec![
        listener("g/a/1", 80, None).put(),
        named("n", "r", 0).on(&["g/a/1"]).put(),
    ]);
    let bad = named("n", "r", 0).on(&["g/a/1"]).at(&["/x"]).header("a", "~(");
    let good = named("n", "s", 0).on(&["g/a/1"]).at(&["/s"]);
    let applied = configuration.apply(vec![bad.put(), good.put()]);
    let [rejected] = applied.rejected.as_slice() else {
        panic!("{:?}", applied.rejected)
    };
    assert_eq!(rejected.key, Key::Route("HTTPRoute/n/r/0".into()));
    assert!(
        rejected
            .reason
            .starts_with("match 0: \"(\" is not a regular expression"),
        "{}",
        rejected.reason
    );
    assert_eq!(super::support::taker(&applied.snapshot, "a.com/other", &[]), "r");
    assert_eq!(super::support::taker(&applied.snapshot, "a.com/s", &[]), "s");
}
