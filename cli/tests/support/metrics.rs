//! A strict reader of OpenMetrics text: what it takes, Prometheus takes.

use std::collections::{BTreeMap, BTreeSet};

/// A family of metrics.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub samples: Vec<Sample>,
}

/// One value.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Reads a page; panics at what the specification does not allow.
pub fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(is_name(name), "{name} is no name");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            let family = Family {
                kind: kind.into(),
                ..Family::default()
            };
            assert!(
                families.insert(name.into(), family).is_none(),
                "{name} stands in two places"
            );
            current = name.into();
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a text");
            assert!(name == current && !help.is_empty(), "{line}");
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let sample = sample(line);
            assert!(
                seen.insert((sample.name.clone(), sample.labels.clone())),
                "twice: {line}"
            );
            let family = families.get_mut(&current).expect("a type comes first");
            let suffix = sample.name.strip_prefix(&current).expect("it stands in its family");
            let fits = match family.kind.as_str() {
                "counter" => suffix == "_total" && sample.value >= 0.0,
                "gauge" => suffix.is_empty(),
                _ => ["_bucket", "_sum", "_count"].contains(&suffix),
            };
            assert!(fits, "{line} is not a sample of a {}", family.kind);
            family.samples.push(sample);
        }
    }
    for (name, family) in families.iter().filter(|(_, family)| family.kind == "histogram") {
        histogram(name, family);
    }
    families
}

/// The sum of the samples whose labels are these, and any others.
pub fn sum(family: &Family, labels: &[(&str, &str)]) -> f64 {
    let fits = |sample: &&Sample| labels.iter().all(|(name, value)| sample.label(name) == *value);
    family.samples.iter().filter(fits).map(|sample| sample.value).sum()
}

/// Buckets are cumulative, and the last holds all.
fn histogram(name: &str, family: &Family) {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in family.samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le").expect("a bucket has a bound");
        let bound = if bound == "+Inf" {
            f64::INFINITY
        } else {
            bound.parse().expect("a number")
        };
        series.entry(labels).or_default().push((bound, sample.value));
    }
    for (labels, buckets) in series {
        assert!(
            buckets
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1),
            "{name} {buckets:?}"
        );
        let count = family
            .samples
            .iter()
            .find(|sample| sample.name.ends_with("_count") && sample.labels == labels);
        let last = buckets.last().expect("there is a bucket");
        assert_eq!(
            (last.0, Some(last.1)),
            (f64::INFINITY, count.map(|sample| sample.value)),
            "{name}"
        );
    }
}

fn sample(line: &str) -> Sample {
    let at = line.find(['{', ' ']).expect("a name ends");
    let (name, mut rest) = line.split_at(at);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").expect("a label has a value");
            assert!(is_name(label), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "twice: {line}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').expect("a value follows");
    Sample {
        name: name.into(),
        labels,
        value: value.parse().unwrap_or_else(|_| panic!("{line} has no number")),
    }
}

fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next().expect("an escape goes on").1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    panic!("{text} has no end");
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
