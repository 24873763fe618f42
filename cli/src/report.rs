//! What `weft up` says of the manifests: all of it at the start, then what has changed.

use std::collections::BTreeSet;

use weft_crds::GatewayStatus;
use weft_gateway::{files::Problem, standalone::Applied};
use weft_translate::Status;

use crate::{analyze::summary, args::Up, table};

/// What was said so far, so that nothing is said twice.
#[derive(Default)]
pub(crate) struct Report {
    problems: Vec<Problem>,
    unknown: BTreeSet<String>,
}

impl Report {
    /// What is served, what is wrong, and where to send a request.
    pub(crate) fn start(&mut self, args: &Up, applied: &Applied) -> String {
        let mut lines: Vec<String> = applied.problems.iter().map(|problem| format!("{problem}\n")).collect();
        lines.push(table::tables(applied));
        lines.extend(self.not_read(applied).map(|line| line + "\n"));
        if !applied.problems.is_empty() {
            lines.push(format!("{}: see `weft analyze`", summary(&applied.problems)));
        }
        let gateways = applied.statuses.values().filter_map(|status| match &**status {
            Status::Gateway(gateway) => Some(gateway),
            _ => None,
        });
        let is_served = |gateway: &GatewayStatus| {
            let mut conditions = gateway.conditions.iter();
            conditions.any(|condition| condition.condition_type == "Programmed" && condition.status == "True")
        };
        let served: Vec<bool> = gateways.map(is_served).collect();
        lines.push(if served.contains(&true) {
            format!(
                "listening on {}, ports as in the listeners plus {}",
                args.address, args.port_offset
            )
        } else if served.is_empty() {
            "there is no Gateway: add one to the manifests, they are read again when they change".to_owned()
        } else {
            "no Gateway is served: correct what is wrong above, the manifests are read again when they change"
                .to_owned()
        });
        self.problems = applied.problems.to_vec();
        lines.join("\n")
    }

    /// What a change of the manifests came to: what is wrong now, and what no longer is.
    pub(crate) fn change(&mut self, applied: &Applied) -> Vec<String> {
        let is_among = |problems: &[Problem], problem: &Problem| problems.iter().any(|other| is_same(other, problem));
        let new = applied
            .problems
            .iter()
            .filter(|problem| !is_among(&self.problems, problem));
        let mut said: Vec<String> = new.map(|problem| format!("{problem}\n")).collect();
        let gone = self
            .problems
            .iter()
            .filter(|problem| !is_among(&applied.problems, problem));
        said.extend(gone.map(|problem| format!("no longer wrong: {}", first_line(problem))));
        said.extend(self.not_read(applied));
        self.problems = applied.problems.to_vec();
        said
    }

    /// The kinds that are not read and were not named before.
    fn not_read(&mut self, applied: &Applied) -> Option<String> {
        let new = applied
            .unknown
            .iter()
            .filter(|(kind, _)| self.unknown.insert((*kind).clone()));
        let kinds: Vec<String> = new.map(|(kind, count)| format!("{kind} ({count})")).collect();
        (!kinds.is_empty()).then(|| format!("not read: {}", kinds.join(", ")))
    }
}

/// A problem in one line.
pub(crate) fn first_line(problem: &Problem) -> String {
    problem.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Whether two are the same problem, though it may have moved within its file.
fn is_same(a: &Problem, b: &Problem) -> bool {
    let file = |problem: &Problem| problem.place.as_ref().map(|place| place.file.clone());
    (&a.code, &a.object, &a.message, file(a)) == (&b.code, &b.object, &b.message, file(b))
}
