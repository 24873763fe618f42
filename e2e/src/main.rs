//! What Weft must bear in a real cluster, beside what the official suites ask of it.
//!
//! Run inside the cluster's network: `cargo xtask failures`, `cargo xtask injection`, `cargo xtask smi`, `cargo xtask sample`,
//! `cargo xtask acme`, `cargo xtask cert-manager`, `cargo xtask lifecycle`, `cargo xtask scale`.

mod acme;
mod cert_manager;
mod cluster;
mod edge;
mod failures;
mod families;
mod injection;
mod load;
mod monitors;
mod path;
mod removal;
mod report;
mod sample;
mod scale;
mod scene;
mod seeing;
mod smi;
mod weft;
mod workloads;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "What Weft must bear in a real cluster")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lets parts of the cluster fail under load, and sees what that does to traffic and statuses.
    Failures {
        /// Only those whose names contain this.
        filter: Option<String>,
    },
    /// Lets pods get sidecars, and sees what that does to them.
    Injection {
        /// Only those parts whose names contain this.
        filter: Option<String>,
    },
    /// Runs the SMI conformance tests.
    Smi {
        /// Only those parts whose names contain this.
        filter: Option<String>,
    },
    /// Removes Weft while an application of the mesh is in use.
    Removal,
    /// Has Gateways' certificates ordered from a CA.
    Acme,
    /// Has certificates of workloads signed by cert-manager.
    CertManager,
    /// Lets an application of many protocols take the path through the mesh and back.
    Sample,
    /// Measures many routes and Services: how soon an edit reaches traffic, what it costs.
    Scale(scale::Options),
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Failures { filter } => failures::run(filter.as_deref()).await,
        Command::Injection { filter } => injection::run(filter.as_deref()).await,
        Command::Smi { filter } => smi::run(filter.as_deref()).await,
        Command::Removal => removal::run().await,
        Command::Acme => acme::run().await,
        Command::CertManager => cert_manager::run().await,
        Command::Sample => sample::run().await,
        Command::Scale(options) => scale::run(&options).await,
    }
}
