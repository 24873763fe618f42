//! Certificates by ACME: the operator and a gateway against Pebble, Let's Encrypt's small CA for tests.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};

use crate::{
    steps::Steps,
    tools::{self, GoProgram},
};

const PEBBLE: GoProgram = program("pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble");
/// The DNS server that leads it to loopback.
const NAMES: GoProgram = program(
    "pebble-challtestsrv",
    "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv",
);
/// The tests, which are left out where nobody says where Pebble is. Of the whole workspace, so that dependencies have the
/// features that they have there, and nothing is compiled twice.
const TESTS: [&str; 8] = [
    "test",
    "--locked",
    "--workspace",
    "--bin",
    "weft-operator",
    "acme::tests::",
    "--",
    "--ignored",
];

const fn program(name: &'static str, package: &'static str) -> GoProgram {
    GoProgram {
        name,
        module: "pebble",
        package,
        tests: false,
        link: "",
    }
}

/// Builds Pebble if need be, and runs the tests against it.
pub(crate) fn test(steps: &mut Steps) {
    if tools::has_go() {
        steps.step("certificates by ACME", run);
    } else {
        steps.skip(
            "certificates by ACME",
            "it needs Pebble, and Pebble needs Go: install Go to run it",
        );
    }
}

/// Builds Pebble, and the DNS server that it asks.
pub(crate) fn build() -> anyhow::Result<[PathBuf; 2]> {
    Ok([PEBBLE.build()?, NAMES.build()?])
}

/// The same by itself.
pub(crate) fn run() -> anyhow::Result<()> {
    let [pebble, names] = build()?;
    println!("$ cargo {}", TESTS.join(" "));
    let status = Command::new("cargo")
        .args(TESTS)
        .env("WEFT_PEBBLE", &pebble)
        .env("WEFT_PEBBLE_NAMES", &names)
        .status()
        .context("cargo could not be run")?;
    ensure!(status.success(), "cargo ended with {status}");
    Ok(())
}
