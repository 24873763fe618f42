//! `weft analyze`.

use std::process::ExitCode;

use weft_gateway::{
    analyze::analyze,
    files::{Level, Problem, Sources},
};

use crate::args::{Analyze, Report};

pub(crate) fn run(args: &Analyze) -> anyhow::Result<ExitCode> {
    let loaded = Sources::new(&args.paths).load()?;
    let problems = analyze(&loaded).problems;
    match args.output {
        Report::Json => println!("{}", serde_json::to_string_pretty(&problems)?),
        Report::Text => {
            for problem in &problems {
                println!("{problem}\n");
            }
            println!("{} in {} objects", summary(&problems), loaded.len());
        }
    }
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
