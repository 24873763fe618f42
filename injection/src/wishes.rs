//! What annotations ask of a sidecar.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde_json::Value;
use weft_model::Collector;

use crate::{
    Namespace,
    names::{INJECT, PREFIX},
    quantity::Quantity,
    settings::{LogLevel, Resources, Spans},
    text, texts,
    why::Refusal,
};

/// The annotations that are known, without [`PREFIX`].
pub const KNOWN: [&str; 13] = [
    "skip-inbound-ports",
    "skip-outbound-ports",
    "skip-outbound-cidrs",
    "skip-uids",
    "sidecar-cpu-request",
    "sidecar-memory-request",
    "sidecar-cpu-limit",
    "sidecar-memory-limit",
    "sidecar-log-level",
    "sidecar-access-log",
    "sidecar-image",
    "sidecar-spans",
    "sidecar-spans-sample",
];
/// Less memory than this is a slip: `100m` is a tenth of a byte.
const LEAST_MEMORY: f64 = 4.0 * 1024.0 * 1024.0;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wishes {
    pub(crate) skip_inbound_ports: Vec<u16>,
    pub(crate) skip_outbound_ports: Vec<u16>,
    pub(crate) skip_outbound_cidrs: Vec<IpNet>,
    pub(crate) skip_uids: Vec<u32>,
    pub(crate) resources: Resources,
    pub(crate) log_level: Option<LogLevel>,
    pub(crate) access_log: Option<String>,
    pub(crate) image: Option<String>,
    /// Where spans go, or nowhere.
    pub(crate) spans: Option<Option<Collector>>,
    pub(crate) spans_sample: Option<f64>,
    /// What was asked for and is not known.
    pub(crate) warnings: Vec<String>,
}

/// Whether a pod says that it is to be left alone.
pub(crate) fn opted_out(metadata: &Value) -> Result<bool, Refusal> {
    let mut out = false;
    for (field, what) in [("labels", "label"), ("annotations", "annotation")] {
        match text(metadata, field, INJECT) {
            None | Some("enabled") => {}
            Some("disabled") => out = true,
            Some(other) => {
                return Err(Refusal::new(format!(
                    "the {what} {INJECT} of the pod: {other:?} is neither disabled nor enabled"
                )));
            }
        }
    }
    Ok(out)
}

/// Says whether an annotation, its name without [`PREFIX`], may have a value.
///
/// # Errors
/// It may not, and why.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let annotations = [(format!("{PREFIX}{name}"), value.to_owned())].into();
    let namespace = Namespace {
        annotations,
        ..Namespace::default()
    };
    let read = Wishes::read(&Value::Null, &namespace).map_err(|refusal| refusal.to_string());
    let of = format!("the annotation {PREFIX}{name} of the namespace: ");
    read.map(drop)
        .map_err(|why| why.strip_prefix(&of).unwrap_or(&why).to_owned())
}

impl Wishes {
    /// Those of a pod, and those of its namespace where the pod has none.
    pub(crate) fn read(metadata: &Value, namespace: &Namespace) -> Result<Self, Refusal> {
        let reader = Reader { metadata, namespace };
        let wishes = Self {
            skip_inbound_ports: reader.list("skip-inbound-ports", port)?,
            skip_outbound_ports: reader.list("skip-outbound-ports", port)?,
            skip_outbound_cidrs: reader.list("skip-outbound-cidrs", network)?,
            skip_uids: reader.list("skip-uids", uid)?,
            resources: Resources {
                cpu_request: reader.one("sidecar-cpu-request", quantity)?,
                memory_request: reader.one("sidecar-memory-request", memory)?,
                cpu_limit: reader.one("sidecar-cpu-limit", quantity)?,
                memory_limit: reader.one("sidecar-memory-limit", memory)?,
            },
            log_level: reader.one("sidecar-log-level", parsed::<LogLevel>)?,
            access_log: reader.one("sidecar-access-log", access_log)?,
            image: reader.one("sidecar-image", image)?,
            spans: reader.one("sidecar-spans", Spans::read)?,
            spans_sample: reader.one("sidecar-spans-sample", Spans::share)?,
            warnings: reader.unknown(),
        };
        match wishes.resources.problem() {
            Some(problem) => Err(Refusal::new(format!("the annotations {PREFIX}sidecar-*: {problem}"))),
            None => Ok(wishes),
        }
    }
}

struct Reader<'a> {
    metadata: &'a Value,
    namespace: &'a Namespace,
}

impl Reader<'_> {
    /// The value of an annotation, and whose it is.
    fn find(&self, name: &str) -> Result<Option<(&str, &'static str)>, Refusal> {
        let name = format!("{PREFIX}{name}");
        match texts(self.metadata, "annotations").and_then(|own| own.get(&name)) {
            Some(Value::String(own)) => Ok(Some((own, "pod"))),
            Some(_) => Err(Refusal::new(format!(
                "the annotation {name} of the pod is no text: put it in quotes"
            ))),
            None => Ok(self
                .namespace
                .annotations
                .get(&name)
                .map(|value| (value.as_str(), "namespace"))),
        }
    }

    fn one<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Refusal> {
        let Some((value, of)) = self.find(name)? else {
            return Ok(None);
        };
        let value = read(value.trim());
        value
            .map(Some)
            .map_err(|why| Refusal::new(format!("the annotation {PREFIX}{name} of the {of}: {why}")))
    }

    /// Members are separated by commas.
    fn list<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Refusal> {
        let members = |value: &str| {
            let members = value.split(',').map(str::trim).filter(|member| !member.is_empty());
            members.map(&read).collect::<Result<Vec<T>, String>>()
        };
        Ok(self.one(name, members)?.unwrap_or_default())
    }

    /// What looks like one of these annotations and is none: a slip that would otherwise go unseen.
    fn unknown(&self) -> Vec<String> {
        let own = texts(self.metadata, "annotations");
        let own = own.into_iter().flat_map(|own| own.keys());
        let names = own.chain(self.namespace.annotations.keys());
        let ours = names.filter_map(|name| name.strip_prefix(PREFIX));
        let unknown = ours.filter(|name| name.starts_with("skip-") || name.starts_with("sidecar-"));
        let mut unknown: Vec<&str> = unknown.filter(|name| !KNOWN.contains(name)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        let warning = |name: &&str| {
            format!(
                "the annotation {PREFIX}{name} is not known; there are {}",
                KNOWN.join(", ")
            )
        };
        unknown.iter().map(warning).collect()
    }
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("{text:?} is not a port: write numbers from 1 to 65535, like 25,587"))
}

fn uid(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a user: write numbers, like 0,1000"))
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = IpNet::from_str(text).map(|network| network.trunc());
    network
        .or_else(|_| IpAddr::from_str(text).map(IpNet::from))
        .map_err(|_| format!("{text:?} is not a network: write addresses like 10.0.0.0/8 or 2001:db8::1"))
}

fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn quantity(text: &str) -> Result<Quantity, String> {
    let quantity: Quantity = parsed(text)?;
    if quantity.value() > 0.0 {
        Ok(quantity)
    } else {
        Err(format!("{text:?} is nothing"))
    }
}

fn memory(text: &str) -> Result<Quantity, String> {
    let quantity = quantity(text)?;
    if quantity.value() >= LEAST_MEMORY {
        Ok(quantity)
    } else {
        Err(format!(
            "{text:?} is too little memory to run in: write megabytes like 64Mi"
        ))
    }
}

/// A text with fields would have to be known to this very version, which the sidecar's need not be.
fn access_log(text: &str) -> Result<String, String> {
    if ["off", "json"].contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is neither off nor json"))
    }
}

fn image(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not an image"))
    }
}
