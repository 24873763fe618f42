//! Fuzzing: builds the targets of `fuzz/` as cargo-fuzz does, but with the toolchain that builds Weft, and runs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};

use crate::tools;

/// What libFuzzer needs to know of where an input leads. Applies to Rust code, dependencies included.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "--cfg=fuzzing",
];
/// Bytes of an input: enough for two of everything that is parsed.
const LONGEST: usize = 4096;

/// Inputs that are read beside the target's own seeds.
fn more_seeds(target: &str) -> &'static [&'static str] {
    match target {
        "manifests" => &["translate/tests/goldens", "examples"],
        _ => &[],
    }
}

/// Runs targets, or all there are, for so many seconds each, as many at a time as there are processors.
pub(crate) fn run(target: Option<&str>, seconds: u32) -> anyhow::Result<()> {
    let targets = match target {
        Some(target) => vec![known(target)?],
        None => all()?,
    };
    let programs = build()?;
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let mut failed = Vec::new();
    for targets in targets.chunks(at_once) {
        thread::scope(|scope| {
            let running: Vec<_> = targets
                .iter()
                .map(|target| (target, scope.spawn(|| fuzz(&programs, target, seconds))))
                .collect();
            for (target, run) in running {
                match run.join() {
                    Ok(Ok(summary)) => println!("{target}: {summary}"),
                    Ok(Err(error)) => {
                        println!("{target}: {error:#}");
                        failed.push(target.as_str());
                    }
                    Err(_) => failed.push(target.as_str()),
                }
            }
        });
    }
    ensure!(failed.is_empty(), "found something: {}", failed.join(", "));
    Ok(())
}

/// Gives a target one input, say one at which it has failed.
pub(crate) fn reproduce(target: &str, input: &Path) -> anyhow::Result<()> {
    let target = known(target)?;
    ensure!(input.is_file(), "there is no file {}", input.display());
    let status = Command::new(build()?.join(&target)).arg(input).status()?;
    ensure!(status.success(), "{target} fails at {}", input.display());
    println!("{target} takes {}", input.display());
    Ok(())
}

/// The targets, in the order of their names.
fn all() -> anyhow::Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir("fuzz/fuzz_targets").context("run it at the root of the repository")? {
        let path = entry?.path();
        targets.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    targets.sort();
    Ok(targets)
}

fn known(target: &str) -> anyhow::Result<String> {
    let targets = all()?;
    if !targets.iter().any(|known| known == target) {
        bail!("there is no target {target}; there are: {}", targets.join(", "));
    }
    Ok(target.to_owned())
}

/// What is built and found, outside the tree if builds are.
fn folder() -> anyhow::Result<PathBuf> {
    Ok(tools::target()?.join("fuzz"))
}

/// Builds all targets; returns where they are.
fn build() -> anyhow::Result<PathBuf> {
    let (folder, host) = (folder()?, host()?);
    // The versions are those of the root, whatever changes there; what the root does not have is pinned by the manifest.
    fs::copy("Cargo.lock", "fuzz/Cargo.lock").context("run it at the root of the repository")?;
    // With a target named, the flags are not those of build scripts and macros.
    let status = Command::new("cargo")
        .args([
            "build",
            "--bins",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--target",
            &host,
        ])
        .arg("--target-dir")
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env_remove("RUSTFLAGS")
        .status()?;
    ensure!(status.success(), "the fuzz targets could not be built");
    Ok(folder.join(host).join("debug"))
}

fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say what it runs on")?.to_owned())
}

/// Runs a target. What it learns is kept for the next time; says how far it came.
fn fuzz(programs: &Path, target: &str, seconds: u32) -> anyhow::Result<String> {
    let (corpus, found) = (
        folder()?.join("corpus").join(target),
        folder()?.join("artifacts").join(target),
    );
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&found)?;
    let start = Instant::now();
    let output = Command::new(programs.join(target))
        .arg(&corpus)
        .arg(format!("fuzz/seeds/{target}"))
        .args(more_seeds(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={LONGEST}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-timeout=10", "-print_final_stats=1"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let after = |what: &str| {
        text.lines()
            .find_map(|line| Some(line.split_once(what)?.1.trim().to_owned()))
    };
    if !output.status.success() {
        let said: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        println!("{}", said[said.len().saturating_sub(60)..].join("\n"));
        let input = after("Test unit written to ").context("it failed, and left no input")?;
        bail!("it failed; the input is kept in {input}; to see it again: cargo xtask fuzz {target} --input {input}");
    }
    let inputs = after("stat::number_of_executed_units:").context("it does not say what it did")?;
    Ok(format!("{inputs} inputs in {:.0} s", start.elapsed().as_secs_f64()))
}
