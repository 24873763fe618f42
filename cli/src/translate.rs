//! `weft translate`.

use std::process::ExitCode;

use serde_json::json;
use weft_gateway::{analyze::analyze, files::Sources};

use crate::{args::Translate, print::print};

pub(crate) fn run(args: &Translate) -> anyhow::Result<ExitCode> {
    let analysis = analyze(&Sources::new(&args.paths).load()?);
    let statuses: Vec<_> = analysis
        .statuses
        .iter()
        .map(|(reference, status)| {
            json!({"kind": reference.kind.name(), "namespace": reference.namespace, "name": reference.name, "status": status})
        })
        .collect();
    let told = json!({"resources": analysis.resources, "statuses": statuses});
    print(&(serde_json::to_string_pretty(&told)? + "\n"))?;
    Ok(ExitCode::SUCCESS)
}
