//! `weft`, as its users run it.

use std::process::{Output, Stdio};

use anyhow::{Context as _, ensure};

/// Runs it; returns what it says.
pub(crate) async fn weft(args: &[&str]) -> anyhow::Result<String> {
    let (output, all) = run(args).await?;
    ensure!(
        output.status.success(),
        "weft {} ended with {}:\n{all}",
        args.join(" "),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs it where it is to refuse; returns all that it says.
pub(crate) async fn refused(args: &[&str]) -> anyhow::Result<String> {
    let (output, all) = run(args).await?;
    ensure!(
        output.status.code() == Some(1),
        "weft {} ended with {}, and was to be refused:\n{all}",
        args.join(" "),
        output.status
    );
    Ok(all)
}

async fn run(args: &[&str]) -> anyhow::Result<(Output, String)> {
    let program =
        std::env::var("WEFT_PROGRAM").context("WEFT_PROGRAM is to say where weft is: cargo xtask injection")?;
    let mut command = tokio::process::Command::new(program);
    command.kill_on_drop(true);
    let output = command.args(args).stdin(Stdio::null()).output().await?;
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned());
    Ok((output, said.concat()))
}
