//! The table: each figure as the median over the rounds, with its spread.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    measure::median,
    peer::DIRECT,
    scenario::{Figures, Scenario, is_peer},
};

/// What was measured so far.
#[derive(Default)]
pub(crate) struct Report {
    runs: BTreeMap<Scenario, Vec<(usize, &'static str, Figures)>>,
}

impl Report {
    pub(crate) fn add(&mut self, scenario: Scenario, round: usize, name: &'static str, figures: Figures) {
        self.runs.entry(scenario).or_default().push((round, name, figures));
    }

    /// A proxy's cost in each round, as a ratio to the best peer of that round.
    fn ratios(&self, scenario: Scenario, name: &str, of_run: fn(&Figures) -> f64) -> Vec<f64> {
        let runs = self.runs.get(&scenario).map(Vec::as_slice).unwrap_or_default();
        let of = |wanted: &str| {
            runs.iter()
                .filter(move |(_, name, _)| *name == wanted)
                .collect::<Vec<_>>()
        };
        let best = |round: usize| {
            let peers = runs
                .iter()
                .filter(|(at, name, _)| *at == round && is_peer(name))
                .map(|(.., figures)| of_run(figures));
            peers.fold(f64::INFINITY, f64::min)
        };
        of(name)
            .into_iter()
            .map(|(round, _, figures)| of_run(figures) / best(*round))
            .filter(|ratio| ratio.is_finite())
            .collect()
    }

    /// Whether Weft is within every bound of these scenarios. One in which every run failed is not.
    pub(crate) fn gates_hold(&self, scenarios: &[Scenario]) -> bool {
        scenarios
            .iter()
            .all(|scenario| self.gate(*scenario).0 && self.tail(*scenario).is_none_or(|tail| tail <= 1.0))
    }

    /// Weft's 99th percentile as a ratio to the best peer's, where all are asked for the same and none is asked for more than it can.
    fn tail(&self, scenario: Scenario) -> Option<f64> {
        (scenario == Scenario::Even2k).then(|| median(&self.ratios(scenario, "weft", p99)))
    }

    fn gate(&self, scenario: Scenario) -> (bool, f64) {
        let value = if scenario.is_memory() {
            let runs = self.runs.get(&scenario).into_iter().flatten();
            median(
                &runs
                    .filter(|(_, name, _)| *name == "weft")
                    .map(|(.., figures)| cost(figures))
                    .collect::<Vec<_>>(),
            )
        } else {
            median(&self.ratios(scenario, "weft", cost))
        };
        (scenario.gate().is_none_or(|gate| value <= gate), value)
    }

    /// The report as Markdown.
    pub(crate) fn table(&self, rounds: usize, seconds: u64, described: &str) -> String {
        let mut out = format!(
            "# Benchmarks\n\nMade by `cargo xtask bench`: {rounds} rounds of {seconds} s runs, {described}.\n\nEvery proxy has one worker on core 0; load and origin share core 1. All route by host and path, tell the backend\nwho asked, and write no access log. `cost` is CPU time in microseconds a request, or bytes a connection; `ratio` is\nthe cost over that of the best peer of the same round; each is the median of the rounds (least..most). `p99 ratio`\nis the same for the 99th percentile. `added` is the latency over no proxy at all, where that was measured too.\n\nWhere as much is asked for as can be, latencies are of the queue before whichever core is full; that is the one of load and\norigin where a proxy needs less than they do. So p99 has its bound where all are asked for the same: at 2,000 requests/s that come evenly.\n"
        );
        for (scenario, runs) in &self.runs {
            let (holds, value) = self.gate(*scenario);
            let verdict = match (scenario.gate(), holds) {
                (None, _) => format!("is {value:.2}"),
                (Some(gate), true) => format!("at most {gate}, is {value:.2}: met"),
                (Some(gate), false) => format!("at most {gate}, is {value:.2}: missed"),
            };
            let tail = self.tail(*scenario).map_or_else(String::new, |tail| {
                let verdict = if tail <= 1.0 { "met" } else { "missed" };
                format!("; p99 at most 1, is {tail:.2}: {verdict}")
            });
            // Writing to a String cannot fail, here and below.
            let _ = write!(out, "\n## {}: {verdict}{tail}\n\n", scenario.name());
            out.push_str("| proxy | cost | ratio | requests/s | p50 us | added | p99 us | added | p99 ratio |\n|---|---|---|---|---|---|---|---|---|\n");
            let mut names: Vec<&str> = runs.iter().map(|(_, name, _)| *name).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let figures: Vec<&Figures> = runs
                    .iter()
                    .filter(|(_, of, _)| *of == name)
                    .map(|(.., figures)| figures)
                    .collect();
                let costs: Vec<f64> = figures.iter().map(|figures| cost(figures)).collect();
                let ratios = self.ratios(*scenario, name, cost);
                let tails = self.ratios(*scenario, name, p99);
                let added = |pick: fn(&Figures) -> f64| {
                    let of = |wanted: &str| {
                        let runs = runs.iter().filter(|(_, of, _)| *of == wanted);
                        median(&runs.map(|(.., figures)| pick(figures)).collect::<Vec<_>>())
                    };
                    let added = of(name) - of(DIRECT);
                    if added.is_finite() && name != DIRECT {
                        format!("{added:.0}")
                    } else {
                        "-".to_owned()
                    }
                };
                let loads = |pick: fn(&crate::load::Load) -> f64| {
                    let values: Vec<f64> = figures
                        .iter()
                        .filter_map(|figures| match figures {
                            Figures::Load { load, .. } => Some(pick(load)),
                            Figures::Bytes(_) => None,
                        })
                        .collect();
                    if values.is_empty() {
                        "-".to_owned()
                    } else {
                        format!("{:.0}", median(&values))
                    }
                };
                let _ = writeln!(
                    out,
                    "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    spread(&costs, 1),
                    spread(&ratios, 2),
                    loads(|load| load.per_second),
                    loads(|load| load.p50_us),
                    added(p50),
                    loads(|load| load.p99_us),
                    added(p99),
                    spread(&tails, 2),
                );
            }
        }
        out
    }
}

fn cost(figures: &Figures) -> f64 {
    match figures {
        Figures::Load { cpu_us, .. } => *cpu_us,
        Figures::Bytes(bytes) => *bytes,
    }
}

fn p50(figures: &Figures) -> f64 {
    match figures {
        Figures::Load { load, .. } => load.p50_us,
        Figures::Bytes(_) => f64::NAN,
    }
}

fn p99(figures: &Figures) -> f64 {
    match figures {
        Figures::Load { load, .. } => load.p99_us,
        Figures::Bytes(_) => f64::NAN,
    }
}

fn spread(values: &[f64], digits: usize) -> String {
    let (least, most) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
    if values.is_empty() || !least.is_finite() {
        return "-".into();
    }
    format!("{:.digits$} ({least:.digits$}..{most:.digits$})", median(values))
}
