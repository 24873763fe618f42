//! A strict reader of OpenMetrics text: what it takes, Prometheus takes. For tests, of the page that a process makes and of the
//! pages that pods expose.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};

/// What a page calls itself.
pub const CONTENT_TYPE: &str = "application/openmetrics-text";

/// A family of metrics.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// Its type: counter, gauge or histogram.
    pub kind: String,
    /// What it is about.
    pub help: String,
    /// Its values.
    pub samples: Vec<Sample>,
}

/// One value.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name, suffix included.
    pub name: String,
    /// What tells it apart from others of that name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// The value of a label; empty if it has none.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Reads a page.
///
/// # Errors
/// It says something that the specification does not allow, or that no page of Weft has.
pub fn parse(text: &str) -> anyhow::Result<BTreeMap<String, Family>> {
    let body = text.strip_suffix("# EOF\n").context("it does not end with # EOF")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    for line in body.split_terminator('\n') {
        if let Some(metadata) = line.strip_prefix("# ") {
            let mut words = metadata.splitn(3, ' ');
            let (what, name, said) = (words.next(), words.next(), words.next());
            let (Some(what), Some(name), Some(said)) = (what, name, said) else {
                bail!("{line:?} is incomplete");
            };
            ensure!(is_name(name), "{name} is no name");
            if name != current {
                ensure!(!families.contains_key(name), "{name} stands in two places");
                families.insert(name.to_owned(), Family::default());
                name.clone_into(&mut current);
            }
            let family = families.entry(name.to_owned()).or_default();
            ensure!(family.samples.is_empty(), "{line:?} comes after its samples");
            let field = match what {
                "TYPE" => &mut family.kind,
                "HELP" => &mut family.help,
                _ => bail!("{line:?} says what is not known"),
            };
            ensure!(
                field.is_empty() && !said.is_empty(),
                "{line:?} says it twice, or nothing"
            );
            said.clone_into(field);
        } else {
            let sample = sample(line).with_context(|| format!("{line:?} is no sample"))?;
            let once = seen.insert((sample.name.clone(), sample.labels.clone()));
            ensure!(once, "{line:?} stands there twice");
            let family = families
                .get_mut(&current)
                .with_context(|| format!("{line:?} is of no family"))?;
            let suffix = sample.name.strip_prefix(&current);
            let suffix = suffix.with_context(|| format!("{line:?} does not stand in its family"))?;
            let fits = match family.kind.as_str() {
                "counter" => suffix == "_total" && sample.value >= 0.0,
                "gauge" => suffix.is_empty(),
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                other => bail!("{current} is of the type {other:?}"),
            };
            ensure!(fits, "{line:?} is not a sample of a {}", family.kind);
            family.samples.push(sample);
        }
    }
    for (name, family) in &families {
        ensure!(
            ["counter", "gauge", "histogram"].contains(&&*family.kind),
            "{name} is of the type {:?}",
            family.kind
        );
        if family.kind == "histogram" {
            histogram(family).with_context(|| format!("{name} is no histogram"))?;
        }
    }
    Ok(families)
}

/// The sum of the samples whose labels are these, and any others.
#[must_use]
pub fn sum(family: &Family, labels: &[(&str, &str)]) -> f64 {
    let fits = |sample: &&Sample| labels.iter().all(|(name, value)| sample.label(name) == *value);
    family.samples.iter().filter(fits).map(|sample| sample.value).sum()
}

/// Buckets are cumulative, and the last holds all.
fn histogram(family: &Family) -> anyhow::Result<()> {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    let of = |suffix: &'static str| {
        let samples = family.samples.iter();
        samples.filter(move |sample| sample.name.ends_with(suffix))
    };
    for sample in of("_bucket") {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le").context("a bucket has no bound")?;
        series.entry(labels).or_default().push((
            bound.parse().with_context(|| format!("{bound:?} is no bound"))?,
            sample.value,
        ));
    }
    for suffix in ["_sum", "_count"] {
        let all: BTreeSet<_> = of(suffix).map(|sample| &sample.labels).collect();
        ensure!(
            all == series.keys().collect::<BTreeSet<_>>(),
            "there is not a {suffix} for each series"
        );
    }
    for (labels, buckets) in &series {
        let grow = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
        ensure!(buckets.windows(2).all(grow), "{labels:?} has the buckets {buckets:?}");
        let count = of("_count").find(|sample| sample.labels == *labels);
        let last = buckets.last().map(|(bound, count)| (*bound, *count));
        ensure!(
            last == count.map(|count| (f64::INFINITY, count.value)),
            "the last bucket of {labels:?} does not hold all"
        );
    }
    Ok(())
}

fn sample(line: &str) -> anyhow::Result<Sample> {
    let at = line.find(['{', ' ']).context("its name does not end")?;
    let (name, mut rest) = line.split_at(at);
    ensure!(is_name(name), "{name:?} is no name");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").context("a label has no value")?;
            ensure!(is_name(label), "{label:?} is no name of a label");
            let (value, after) = quoted(after)?;
            ensure!(
                labels.insert(label.to_owned(), value).is_none(),
                "{label} is said twice"
            );
            rest = match after.strip_prefix(',') {
                Some(rest) => rest,
                None if after.starts_with('}') => after,
                None => bail!("labels are not separated"),
            };
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').context("no value follows")?;
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().with_context(|| format!("{value:?} is no number"))?,
    })
}

fn quoted(text: &str) -> anyhow::Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match characters.next().context("an escape does not go on")?.1 {
                'n' => value.push('\n'),
                other @ ('"' | '\\') => value.push(other),
                other => bail!("\\{other} is no escape"),
            },
            other => value.push(other),
        }
    }
    bail!("a value has no end")
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP a_requests What was asked.
# TYPE a_requests counter
a_requests_total{of="x \"y\"\\\n",class="2xx"} 3
a_requests_total{of="z",class="2xx"} 4
# TYPE b gauge
# HELP b How it is.
b -1.5
# TYPE c_seconds histogram
# HELP c_seconds How long it took.
c_seconds_bucket{le="0.1"} 1
c_seconds_bucket{le="+Inf"} 2
c_seconds_sum 1.5
c_seconds_count 2
# EOF
"#;

    #[test]
    fn what_is_valid_is_read() {
        let families = parse(PAGE).expect("it can be read");
        assert_eq!(families.len(), 3);
        let requests = &families["a_requests"];
        assert_eq!(
            (requests.kind.as_str(), requests.help.as_str()),
            ("counter", "What was asked.")
        );
        assert_eq!(requests.samples[0].label("of"), "x \"y\"\\\n");
        assert_eq!(sum(requests, &[("class", "2xx")]), 7.0);
        assert_eq!(sum(requests, &[("of", "z")]), 4.0);
        assert_eq!(families["b"].samples[0].value, -1.5);
    }

    #[test]
    fn what_is_not_valid_is_refused() {
        for (right, wrong) in [
            ("# EOF\n", ""),
            ("# EOF\n", "# EOF\n\n"),
            ("# TYPE b gauge\n", ""),
            ("# TYPE b gauge\n", "# TYPE b thing\n"),
            ("# TYPE b gauge\n", "# TYPE b gauge\n# TYPE b gauge\n"),
            ("# TYPE b gauge\n", "# SAID b gauge\n# TYPE b gauge\n"),
            ("# TYPE b gauge\n", "# TYPE b gauge\n\n"),
            ("b -1.5\n", "b -1.5\nb -1.5\n"),
            ("b -1.5\n", "b -1.5\n# TYPE a_requests counter\n"),
            ("b -1.5\n", "b -1.5\na_requests_total 1\n"),
            ("b -1.5\n", "b nothing\n"),
            ("b -1.5\n", "b_total -1.5\n"),
            ("class=\"2xx\"} 3", "class=\"2xx\"} -3"),
            ("class=\"2xx\"} 3", "of=\"2xx\"} 3"),
            ("\",class", "\"class"),
            ("\\n\"", "\\t\""),
            ("{le=\"0.1\"} 1", "{le=\"0.1\"} 3"),
            ("{le=\"0.1\"} 1", "{le=\"often\"} 1"),
            ("le=\"+Inf\"", "le=\"5\""),
            ("c_seconds_count 2\n", ""),
            ("c_seconds_sum 1.5\n", ""),
        ] {
            let page = PAGE.replacen(right, wrong, 1);
            assert_ne!(page, PAGE, "{right}");
            assert!(parse(&page).is_err(), "{page}");
        }
    }
}
