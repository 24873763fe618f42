//! Whatever way a manifest is written in: what is injected is taken out again to the last byte.

mod writer;

use proptest::{collection::vec, option, prelude::*, sample::select};
use weft_injection::{LogLevel, Namespace, Resources, Settings, Spans};

use self::writer::{Node, Writer};
use super::pods;

fn settings(image: &str) -> Settings {
    Settings {
        image: image.to_owned(),
        pull_policy: "Always".to_owned(),
        operator: "operator:15010".to_owned(),
        server_name: "operator.weft.dev".to_owned(),
        resources: Resources::default(),
        log_level: LogLevel::Info,
        spans: Spans::default(),
    }
}

fn inject(text: &str, image: &str) -> anyhow::Result<String> {
    pods::inject(text, &Namespace::default(), &settings(image), &mut Vec::new())
}

fn uninject(text: &str) -> anyhow::Result<String> {
    pods::uninject(text, &mut Vec::new())
}

/// A key that says nothing, in one of the ways that there are; `empty` is another.
fn nothing(empty: Node) -> impl Strategy<Value = Node> {
    let word = select(vec!["", "~", "null", "Null", "NULL"]).prop_map(Node::Nothing);
    prop_oneof![3 => word, 1 => Just(empty)]
}

fn text() -> impl Strategy<Value = Node> {
    select(vec!["app", "a b", "v1.2", "1 # no comment", "{}", "null"]).prop_map(Node::Text)
}

/// Some of these entries, in any order.
fn some(all: Vec<(&'static str, BoxedStrategy<Option<Node>>)>) -> impl Strategy<Value = Vec<(&'static str, Node)>> {
    let (names, nodes): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let entries = nodes.prop_map(move |nodes| {
        let entries = names.iter().copied().zip(nodes);
        entries
            .filter_map(|(name, node)| Some((name, node?)))
            .collect::<Vec<_>>()
    });
    entries.prop_shuffle()
}

fn may_be(node: impl Strategy<Value = Node> + 'static) -> BoxedStrategy<Option<Node>> {
    option::of(node).boxed()
}

fn is(node: impl Strategy<Value = Node> + 'static) -> BoxedStrategy<Option<Node>> {
    node.prop_map(Some).boxed()
}

fn texts() -> impl Strategy<Value = Node> {
    let entries = some(vec![
        ("app", is(text())),
        ("more", may_be(text())),
        ("note", may_be(Just(Node::Lines))),
    ]);
    prop_oneof![3 => entries.prop_map(Node::Map), 2 => nothing(Node::Map(vec![]))]
}

fn metadata() -> impl Strategy<Value = Node> {
    let entries = some(vec![
        ("name", may_be(Just(Node::Text("web")))),
        ("labels", may_be(texts())),
        ("annotations", may_be(texts())),
    ]);
    prop_oneof![5 => entries.prop_map(Node::Map), 1 => nothing(Node::Map(vec![]))]
}

fn named(more: &'static str) -> impl Strategy<Value = Node> {
    let entries = some(vec![("name", is(Just(Node::Text("it")))), (more, may_be(text()))]);
    entries.prop_map(Node::Map)
}

fn list(more: &'static str) -> impl Strategy<Value = Node> {
    prop_oneof![2 => vec(named(more), 1..3).prop_map(Node::List), 3 => nothing(Node::List(vec![]))]
}

fn pod() -> impl Strategy<Value = Vec<(&'static str, Node)>> {
    let containers = vec(named("image"), 1..3).prop_map(Node::List);
    let spec = some(vec![
        ("containers", is(containers)),
        ("initContainers", may_be(list("image"))),
        ("volumes", may_be(list("more"))),
        ("affinity", may_be(nothing(Node::Map(vec![])))),
    ]);
    some(vec![
        ("metadata", may_be(metadata())),
        ("spec", is(spec.prop_map(Node::Map))),
    ])
}

/// An object that pods are made of, or several.
fn object() -> impl Strategy<Value = Node> {
    let within = |kind: &'static str, path: &'static [&'static str], pod: Vec<(&'static str, Node)>| {
        let deep = path
            .iter()
            .rev()
            .fold(Node::Map(pod), |node, key| Node::Map(vec![(*key, node)]));
        let mut entries = vec![("kind", Node::Text(kind))];
        if let Node::Map(more) = deep {
            entries.extend(more);
        }
        Node::Map(entries)
    };
    let pods = pod().prop_map(move |pod| within("Pod", &[], pod));
    let deployments = pod().prop_map(move |pod| within("Deployment", &["spec", "template"], pod));
    let crons = pod().prop_map(move |pod| within("CronJob", &["spec", "jobTemplate", "spec", "template"], pod));
    let one = prop_oneof![pods, deployments, crons].boxed();
    let lists = vec(one.clone(), 1..3)
        .prop_map(|items| Node::Map(vec![("kind", Node::Text("List")), ("items", Node::List(items))]));
    prop_oneof![4 => one, 1 => lists]
}

prop_compose! {
    /// The text of some documents.
    fn manifests()(
        objects in vec(object(), 1..3),
        noise in vec(any::<u8>(), 1..200),
        json in prop::bool::weighted(0.2),
        windows in prop::bool::weighted(0.2),
        cut in prop::bool::weighted(0.2),
    ) -> String {
        let mut writer = Writer::new(noise, json);
        for (at, object) in objects.iter().enumerate() {
            writer.document(at, object);
        }
        let mut text = writer.text();
        if windows {
            text = text.replace('\n', "\r\n");
        }
        if cut {
            text.truncate(text.trim_end().len());
        }
        text
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn what_is_injected_is_taken_out_to_the_last_byte(text in manifests()) {
        let once = inject(&text, "a");
        let once = once.map_err(|error| TestCaseError::fail(format!("{error:#}\n{text}")))?;
        prop_assert_ne!(&once, &text);
        let back = uninject(&once).map_err(|error| TestCaseError::fail(format!("{error:#}\n{text}\n{once}")))?;
        prop_assert_eq!(&back, &text, "from {}", once);
        prop_assert_eq!(&inject(&once, "a").expect("it was before"), &once);
        prop_assert_eq!(&uninject(&text).expect("there is nothing"), &text);
        // With other settings it is as if it had been so from the beginning.
        let other = inject(&once, "b").expect("it was before");
        prop_assert_eq!(&inject(&text, "b").expect("it was before"), &other);
        prop_assert_eq!(uninject(&other).expect("it is as before"), text);
    }
}
