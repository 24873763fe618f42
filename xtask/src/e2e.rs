//! What Weft must bear in the cluster beside the official suite: the program of `e2e/`, run inside the cluster's network.

use anyhow::ensure;

use crate::{cluster, tools};

const PROGRAM: &str = "weft-e2e";

/// Lets parts of the cluster fail under load.
pub(crate) fn failures(filter: Option<&str>) -> anyhow::Result<()> {
    let filter = filter.map(str::to_owned);
    run("failures", &Vec::from_iter(filter))
}

/// Lets pods get sidecars.
pub(crate) fn injection() -> anyhow::Result<()> {
    run("injection", &[])
}

/// Runs the SMI conformance tests.
pub(crate) fn smi(filter: Option<&str>) -> anyhow::Result<()> {
    let filter = filter.map(str::to_owned);
    run("smi", &Vec::from_iter(filter))
}

/// Measures many routes and Services.
pub(crate) fn scale(args: &[String]) -> anyhow::Result<()> {
    run("scale", args)
}

/// Measures sidecars beside Envoys, on a cluster that was started with `--profile dist`.
pub(crate) fn bench(args: &[String]) -> anyhow::Result<()> {
    cluster::ensure_up()?;
    let program = tools::build("dist")?.join("weft-bench");
    let status = cluster::inside(program).args(args).status()?;
    ensure!(status.success(), "the benchmark ended with {status}");
    Ok(())
}

fn run(command: &str, args: &[String]) -> anyhow::Result<()> {
    cluster::ensure_up()?;
    let folder = tools::build("dev")?;
    let mut program = cluster::inside(folder.join(PROGRAM));
    // What users see is looked at as they see it.
    program.env("WEFT_PROGRAM", folder.join("weft"));
    let status = program.arg(command).args(args).status()?;
    ensure!(status.success(), "{PROGRAM} {command} ended with {status}");
    Ok(())
}
