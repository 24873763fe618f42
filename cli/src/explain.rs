//! `weft explain`.

use std::process::ExitCode;

use weft_gateway::{
    explain::{Question, explain},
    files::Sources,
};
use weft_model::{Action, BackendTarget, Transport};
use weft_proxy::config::{Explanation, Judged, Level, Share, Verdict};

use crate::{args::Explain, output::Output, print::print};

pub(crate) fn run(args: &Explain) -> anyhow::Result<ExitCode> {
    let question = Question::new(&args.url, &args.method, &args.headers)?
        .asked_from(args.from.clone())
        .asked_by(Some(args.client), args.client_certificate.as_deref())?;
    let loaded = Sources::new(&args.paths).load()?;
    let explanation = explain(&loaded, &question);
    let asked = match question.url.scheme_str() {
        Some("udp") => question.url.to_string(),
        _ => format!("{} {}", question.method, question.url),
    };
    print(&match args.output {
        Output::Json => serde_json::to_string_pretty(&explanation)? + "\n",
        Output::Text => text(&explanation, &asked),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The explanation, line by line.
fn text(explanation: &Explanation, asked: &str) -> String {
    let mut lines = vec![asked.to_owned()];
    let listeners: Vec<_> = explanation.listeners.iter().map(ToString::to_string).collect();
    if !listeners.is_empty() {
        let hostname = explanation
            .hostname
            .as_ref()
            .map_or("any host".to_owned(), ToString::to_string);
        lines.push(format!("  listener  {} ({hostname})", listeners.join(", ")));
    }
    if let Some(why) = &explanation.denied {
        let how = match explanation.opaque.as_ref().map(|opaque| opaque.transport) {
            Some(Transport::Tcp) => "resets the connection",
            Some(Transport::Udp) => "drops the datagrams",
            None => "answers   403",
        };
        lines.push(format!("  {how}: {why}"));
    }
    match (&explanation.verdict, &explanation.taken) {
        (_, Some(taken)) => {
            let name = taken
                .rule_name
                .as_ref()
                .map(|name| format!(" ({name})"))
                .unwrap_or_default();
            lines.push(format!(
                "  route     {}{name}, match {}",
                taken.route, taken.match_index
            ));
            if let Some(why) = &taken.broken {
                lines.push(format!("  answers   500: {why}"));
            }
            lines.extend(taken.backends.iter().map(|share| backend(share, "answers 500")));
        }
        (Verdict::Misdirected, _) => lines
            .push("  answers   421: the host belongs to another listener than the name of the TLS connection".into()),
        (Verdict::Opaque | Verdict::Denied, _) => {
            if let Some(opaque) = &explanation.opaque {
                let (how, otherwise) = match (opaque.transport, opaque.terminated) {
                    (Transport::Udp, _) => ("all datagrams of a client, as they are", "drops the datagrams"),
                    (_, true) => ("the whole connection, TLS ends here", "closes the connection"),
                    (_, false) => ("the whole connection, as it is", "closes the connection"),
                };
                lines.push(format!("  route     {}, {how}", opaque.route));
                lines.extend(opaque.backends.iter().map(|share| backend(share, otherwise)));
            }
        }
        (Verdict::Closed, _) => lines.push("  closed    no route takes its connection".into()),
        (Verdict::Unrouted, _) => lines.push("  unrouted  no route is for it: it goes where it was going".into()),
        (Verdict::NoPort, _) => lines.push("  nothing listens on that port".into()),
        (Verdict::NoTunnel, _) => lines.push("  answers   405: no route takes CONNECT there".into()),
        (Verdict::NoListener, _) => lines.push("  answers   404: no listener answers for that host".into()),
        _ => lines.push("  answers   404: no route takes it".into()),
    }
    if !explanation.policies.is_empty() {
        lines.push("  policies".into());
        lines.extend(explanation.policies.iter().map(policy));
    }
    if !explanation.passed.is_empty() {
        lines.push("  not taken by".into());
        lines.extend(
            explanation
                .passed
                .iter()
                .map(|passed| format!("    {}  {}", passed.route, passed.text)),
        );
    }
    lines.join("\n") + "\n"
}

/// A policy that was asked.
fn policy(judged: &Judged) -> String {
    let level = match judged.level {
        Level::Gateway => "for the Gateway",
        Level::ListenerSet => "for the ListenerSet",
        Level::Route => "for the route",
    };
    let does = match (judged.action, judged.takes) {
        (Action::Allow, true) => "allows it",
        (Action::Allow, false) => "does not allow it",
        (Action::Deny, true) => "denies it",
        (Action::Deny, false) => "does not deny it",
        (Action::Audit, true) => "tells of it",
        (Action::Audit, false) => "does not tell of it",
    };
    format!("    {}  {level}, {does}", judged.policy)
}

/// A backend and its share.
fn backend(share: &Share, otherwise: &str) -> String {
    match (&share.target, &share.broken) {
        (BackendTarget::Service(key), None) => {
            let tls = share.tls.as_ref().map(|name| format!("  TLS to {name}"));
            // A name is resolved where it is served, not here.
            let mut names = share
                .names
                .iter()
                .map(|name| format!("{}:{}", name.hostname, name.port));
            let where_to = match names.next() {
                Some(first) => names.fold(first, |all, name| all + ", " + &name),
                None => format!("{} endpoints", share.endpoints),
            };
            format!(
                "  backend   {key}  {:.1} %  {where_to}{}",
                share.percent,
                tls.unwrap_or_default()
            )
        }
        (BackendTarget::Service(_), Some(why)) | (BackendTarget::Invalid(why), _) => {
            format!("  backend   {otherwise}  {:.1} %  {why}", share.percent)
        }
    }
}
