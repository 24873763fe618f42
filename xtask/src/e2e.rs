//! What Weft must bear in the cluster beside the official suite: the program of `e2e/`, run inside the cluster's network.

use std::path::{Path, PathBuf};

use anyhow::ensure;

use crate::{cluster, packages, pebble, tools, workspace::SKIPPED};

const PROGRAM: &str = "weft-e2e";

/// Lets parts of the cluster fail under load.
pub(crate) fn failures(filter: Option<&str>) -> anyhow::Result<()> {
    let filter = filter.map(str::to_owned);
    run("failures", &Vec::from_iter(filter))
}

/// Lets pods get sidecars. What cannot be run is written into a list, if there is one.
pub(crate) fn injection(filter: Option<&str>, skipped: Option<&Path>) -> anyhow::Result<()> {
    let filter = filter.map(str::to_owned);
    let skipped = skipped.map(|list| (SKIPPED, list.to_owned()));
    run_with("injection", &Vec::from_iter(filter), &Vec::from_iter(skipped))
}

/// Runs the SMI conformance tests.
pub(crate) fn smi(filter: Option<&str>) -> anyhow::Result<()> {
    let filter = filter.map(str::to_owned);
    run("smi", &Vec::from_iter(filter))
}

/// Removes Weft while an application of the mesh is in use.
pub(crate) fn removal() -> anyhow::Result<()> {
    run("removal", &[])
}

/// Has Gateways' certificates ordered from a CA.
pub(crate) fn acme() -> anyhow::Result<()> {
    let [pebble, names] = pebble::build()?;
    run_with("acme", &[], &[("WEFT_PEBBLE", pebble), ("WEFT_PEBBLE_NAMES", names)])
}

/// Has certificates of workloads signed by cert-manager.
pub(crate) fn cert_manager() -> anyhow::Result<()> {
    cluster::ensure_up()?;
    let definitions = cluster::cert_manager()?;
    let outcome = run("cert-manager", &[]);
    definitions.remove()?;
    outcome
}

/// Lets an application of many protocols take the path.
pub(crate) fn sample() -> anyhow::Result<()> {
    cluster::ensure_up()?;
    packages::install(&packages::SAMPLE)?;
    cluster::sample()?;
    run("sample", &[])
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
    run_with(command, args, &[])
}

fn run_with(command: &str, args: &[String], paths: &[(&str, PathBuf)]) -> anyhow::Result<()> {
    cluster::ensure_up()?;
    let folder = tools::build("dev")?;
    let mut program = cluster::inside(folder.join(PROGRAM));
    // What users see is looked at as they see it.
    program.env("WEFT_PROGRAM", folder.join("weft"));
    program.envs(paths.iter().map(|(name, path)| (name, path)));
    let status = program.arg(command).args(args).status()?;
    ensure!(status.success(), "{PROGRAM} {command} ended with {status}");
    Ok(())
}
