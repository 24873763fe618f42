//! `weft inject` and `weft uninject`: the sidecar in manifests, without a webhook.
//!
//! The text is changed, not written anew: what is not injected comes out byte for byte, comments and order stay, and taking
//! the sidecar out leaves the text as it was. What came of a change is read again and held against what it should be, so that
//! YAML which is too intricate is refused and never damaged.

mod edit;
mod places;
mod pods;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Parser;
use weft_injection::{LogLevel, Namespace, PREFIX, Quantity, Resources, Settings, Spans, check};

use crate::print::print;

/// The name that the operator's certificate has.
const SERVER_NAME: &str = "operator.weft.dev";

#[derive(Debug, Parser)]
pub(crate) struct Inject {
    /// Files of manifests, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The image of sidecars.
    #[arg(long, default_value = concat!("weft.dev/sidecar:", env!("CARGO_PKG_VERSION")), value_name = "IMAGE")]
    image: String,
    /// When it is pulled.
    #[arg(long, default_value = "IfNotPresent", value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// Where sidecars reach the operator.
    #[arg(
        long,
        default_value = "weft-operator.weft-system.svc:15010",
        value_name = "HOST:PORT"
    )]
    operator: String,
    /// How much sidecars log: off, error, warn, info, debug, trace.
    #[arg(long, default_value_t = LogLevel::Info, value_name = "LEVEL")]
    log_level: LogLevel,
    /// Where spans of requests go, by OTLP: off, or like http://collector.observability:4317.
    #[arg(long, default_value = "off", value_name = "URL", value_parser = checked("sidecar-spans"))]
    spans: String,
    /// The share of requests with which a trace is begun, from 0 to 1, where none comes with them.
    #[arg(long, default_value_t = Spans::SAMPLE, value_name = "SHARE", value_parser = Spans::share)]
    spans_sample: f64,
    /// Cores that each has in any case.
    #[arg(long, default_value = "10m", value_name = "AMOUNT")]
    cpu_request: Quantity,
    /// Memory that each has in any case.
    #[arg(long, default_value = "32Mi", value_name = "AMOUNT")]
    memory_request: Quantity,
    /// Cores that each has at most.
    #[arg(long, value_name = "AMOUNT")]
    cpu_limit: Option<Quantity>,
    /// Memory that each has at most.
    #[arg(long, value_name = "AMOUNT")]
    memory_limit: Option<Quantity>,
    #[command(flatten)]
    exclusions: Exclusions,
}

/// Connections that go directly, where the annotations of a pod do not say which.
#[derive(Debug, clap::Args)]
struct Exclusions {
    /// Ports of the application to which connections come directly, separated by commas.
    #[arg(long, value_name = "PORTS", value_parser = checked("skip-inbound-ports"))]
    skip_inbound_ports: Option<String>,
    /// Ports elsewhere to which connections go directly.
    #[arg(long, value_name = "PORTS", value_parser = checked("skip-outbound-ports"))]
    skip_outbound_ports: Option<String>,
    /// Addresses elsewhere to which connections go directly, like 10.0.0.0/8,2001:db8::/32.
    #[arg(long, value_name = "CIDRS", value_parser = checked("skip-outbound-cidrs"))]
    skip_outbound_cidrs: Option<String>,
    /// Users whose connections go directly.
    #[arg(long, value_name = "UIDS", value_parser = checked("skip-uids"))]
    skip_uids: Option<String>,
}

#[derive(Debug, Parser)]
pub(crate) struct Uninject {
    /// Files of manifests, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Reads what the annotation of that name may be.
fn checked(name: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |value| check(name, value).map(|()| value.to_owned())
}

/// `weft inject`.
pub(crate) fn run(args: &Inject) -> anyhow::Result<ExitCode> {
    let settings = args.settings()?;
    let namespace = args.exclusions.namespace();
    let mut said = Vec::new();
    let mut texts = Vec::new();
    for (name, text) in read(&args.files)? {
        let injected = pods::inject(&text, &namespace, &settings, &mut said);
        texts.push(injected.with_context(|| name.display().to_string())?);
    }
    finish(&texts, &said)
}

/// `weft uninject`.
pub(crate) fn undo(args: &Uninject) -> anyhow::Result<ExitCode> {
    let mut said = Vec::new();
    let mut texts = Vec::new();
    for (name, text) in read(&args.files)? {
        let bare = pods::uninject(&text, &mut said);
        texts.push(bare.with_context(|| name.display().to_string())?);
    }
    finish(&texts, &said)
}

fn finish(texts: &[String], said: &[String]) -> anyhow::Result<ExitCode> {
    for said in said {
        eprintln!("{said}");
    }
    print(&joined(texts))?;
    Ok(ExitCode::SUCCESS)
}

impl Inject {
    fn settings(&self) -> anyhow::Result<Settings> {
        let resources = Resources {
            cpu_request: Some(self.cpu_request.clone()),
            memory_request: Some(self.memory_request.clone()),
            cpu_limit: self.cpu_limit.clone(),
            memory_limit: self.memory_limit.clone(),
        };
        if let Some(problem) = resources.problem() {
            bail!("{problem}");
        }
        Ok(Settings {
            image: self.image.clone(),
            pull_policy: self.image_pull_policy.clone(),
            operator: self.operator.clone(),
            server_name: SERVER_NAME.to_owned(),
            resources,
            log_level: self.log_level,
            spans: Spans {
                collector: Spans::read(&self.spans).map_err(anyhow::Error::msg)?,
                sample: self.spans_sample,
            },
        })
    }
}

impl Exclusions {
    /// A namespace that says the same, for pods that say nothing.
    fn namespace(&self) -> Namespace {
        let said = [
            ("skip-inbound-ports", &self.skip_inbound_ports),
            ("skip-outbound-ports", &self.skip_outbound_ports),
            ("skip-outbound-cidrs", &self.skip_outbound_cidrs),
            ("skip-uids", &self.skip_uids),
        ];
        let said = said
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)));
        Namespace {
            labels: BTreeMap::new(),
            annotations: said.map(|(name, value)| (format!("{PREFIX}{name}"), value)).collect(),
        }
    }
}

fn read(files: &[PathBuf]) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut texts = Vec::new();
    for file in files {
        let text = if file == Path::new("-") {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            fs::read_to_string(file)
        };
        texts.push((
            file.clone(),
            text.with_context(|| format!("{} cannot be read", file.display()))?,
        ));
    }
    Ok(texts)
}

/// One text of several: documents of one file do not become those of another.
fn joined(texts: &[String]) -> String {
    let mut all = String::new();
    for text in texts {
        if !all.is_empty() {
            if !all.ends_with('\n') {
                all.push('\n');
            }
            if !text.starts_with("---") {
                all.push_str("---\n");
            }
        }
        all.push_str(text);
    }
    all
}
