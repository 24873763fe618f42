//! `weft analyze`.

use std::process::ExitCode;

use weft_gateway::{
    analyze::analyze,
    files::{Level, Problem, Sources},
};

use crate::{args::Analyze, output::Output, print::print};

pub(crate) fn run(args: &Analyze) -> anyhow::Result<ExitCode> {
    let loaded = Sources::new(&args.paths).load()?;
    let problems = analyze(&loaded).problems;
    let report = match args.output {
        Output::Json => serde_json::to_string_pretty(&problems)? + "\n",
        Output::Text => {
            let problems_said: String = problems.iter().map(|problem| format!("{problem}\n\n")).collect();
            format!("{problems_said}{} in {} objects\n", summary(&problems), loaded.len())
        }
    };
    print(&report)?;
    let failed = problems.iter().any(|problem| problem.level == Level::Error);
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// How many problems there are of each level.
pub(crate) fn summary(problems: &[Problem]) -> String {
    let count = |level| problems.iter().filter(|problem| problem.level == level).count();
    format!(
        "{} errors, {} warnings, {} notes",
        count(Level::Error),
        count(Level::Warning),
        count(Level::Info)
    )
}
