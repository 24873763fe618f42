//! `weft tap`: requests as they come.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use clap::Parser;
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use serde_json::Value;
use weft_model::view;

use super::explained;
use crate::{cluster::Cluster, output::Output, print::print};

#[derive(Debug, Parser)]
pub(crate) struct Tap {
    /// Only of this workload, as web or deploy/web; gateway/edge for a Gateway.
    workload: Option<String>,
    /// Its namespace [default: that of the context].
    #[arg(long, short)]
    namespace: Option<String>,
    /// Only requests with this method.
    #[arg(long)]
    method: Option<String>,
    /// Only requests whose paths begin like this.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only requests that ended with a 5xx status or broke off.
    #[arg(long)]
    failed: bool,
    /// End after so many.
    #[arg(long, value_name = "N")]
    max: Option<usize>,
    /// A context of the kubeconfig [default: the current one].
    #[arg(long)]
    context: Option<String>,
    /// The form of what is told.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) async fn run(args: Tap) -> anyhow::Result<ExitCode> {
    let client = Cluster::connect(args.context.as_deref()).await?.client;
    let namespace = args
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let request = http::Request::get(path(&args, &namespace)).body(Vec::new())?;
    let stream = client.request_stream(request).await.map_err(explained)?;
    let mut lines = std::pin::pin!(stream.lines());
    let mut told = 0;
    while args.max.is_none_or(|max| told < max) {
        let line = tokio::select! {
            line = lines.try_next() => line?,
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        };
        let Some(line) = line else {
            eprintln!("the operator has ended it; weft tap begins anew");
            return Ok(ExitCode::SUCCESS);
        };
        match args.output {
            Output::Json => print(&(line + "\n"))?,
            Output::Text => print(&text(&serde_json::from_str(&line)?))?,
        }
        told += 1;
    }
    Ok(ExitCode::SUCCESS)
}

fn path(args: &Tap, namespace: &str) -> String {
    let mut path = format!(
        "/apis/{}/{}/namespaces/{namespace}/taps?watch=true",
        view::GROUP,
        view::VERSION
    );
    let workload = args.workload.as_deref().map(|workload| match workload.split_once('/') {
        Some(("deploy" | "deployment" | "deployments", name)) => format!("Deployment/{name}"),
        Some(("sts" | "statefulset" | "statefulsets", name)) => format!("StatefulSet/{name}"),
        Some(("ds" | "daemonset" | "daemonsets", name)) => format!("DaemonSet/{name}"),
        Some(("gateway" | "gateways" | "gtw", name)) => format!("Gateway/{name}"),
        Some(("pod" | "pods", name)) => format!("Pod/{name}"),
        Some(("job" | "jobs", name)) => format!("Job/{name}"),
        _ => workload.to_owned(),
    });
    for (name, value) in [
        ("workload", workload.as_ref()),
        ("method", args.method.as_ref()),
        ("path", args.path.as_ref()),
    ] {
        if let Some(value) = value {
            let _ = write!(path, "&{name}=");
            for byte in value.bytes() {
                let _ = match byte {
                    byte if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) => {
                        write!(path, "{}", char::from(byte))
                    }
                    byte => write!(path, "%{byte:02X}"),
                };
            }
        }
    }
    if args.failed {
        path.push_str("&failed=true");
    }
    path
}

/// A line: when, who told, what was asked, and how it went.
fn text(request: &Value) -> String {
    let field = |name: &str| request[name].as_str().filter(|text| !text.is_empty());
    let number = |name: &str| request[name].as_u64().unwrap_or_default();
    let time = i64::try_from(number("time_ms"))
        .ok()
        .and_then(|time| jiff::Timestamp::from_millisecond(time).ok());
    let time = time
        .map(|time| time.strftime("%H:%M:%S%.3f").to_string())
        .unwrap_or_default();
    let took = Duration::from_micros(number("duration_us")).as_secs_f64() * 1000.0;
    let mut line = format!(
        "{time} {} {} {}{} {} {}",
        field("pod").unwrap_or("-"),
        field("method").unwrap_or("-"),
        field("host").unwrap_or_default(),
        field("path").unwrap_or("-"),
        number("status"),
        super::milliseconds(took),
    );
    for (name, of) in [
        ("from", field("peer").or(field("client"))),
        ("to", field("service").or(field("endpoint"))),
    ] {
        if let Some(of) = of {
            let _ = write!(line, " {name} {of}");
        }
    }
    if let Some(flag) = field("flag") {
        let _ = write!(line, " {flag}");
    }
    // What clients say of themselves must not move the cursor of a terminal.
    let safe = line
        .chars()
        .map(|char| if char.is_control() { '\u{fffd}' } else { char });
    safe.chain(['\n']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_a_line_whatever_it_says() {
        let request = json!({
            "time_ms": 1_000, "pod": "web-1", "method": "GET", "host": "web", "path": "/\u{1b}[2J", "status": 503,
            "duration_us": 1500, "peer": "", "client": "10.0.0.1:5", "service": "shop/web:80", "flag": "no_endpoint",
        });
        let expected = "00:00:01.000 web-1 GET web/\u{fffd}[2J 503 1.5ms from 10.0.0.1:5 to shop/web:80 no_endpoint\n";
        assert_eq!(text(&request), expected);
    }

    #[test]
    fn what_is_wanted_is_asked_for() {
        let args = Tap::try_parse_from(["tap", "deploy/web", "--path=/a&b", "--failed"]).expect("it can be said");
        let expected = "/apis/view.weft.dev/v1alpha1/namespaces/shop/taps?watch=true&workload=Deployment%2Fweb&path=%2Fa%26b&failed=true";
        assert_eq!(path(&args, "shop"), expected);
    }
}
