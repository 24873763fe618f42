//! The project's own commands: `cargo xtask test` is what CI runs, `cargo xtask fuzz` looks for what it did not find,
//! `cargo xtask bench` measures, `cargo xtask cluster` is a Kubernetes to try things on and `cargo xtask conformance` runs the
//! official suite there.

mod charts;
mod cluster;
mod conformance;
mod debian;
mod dependencies;
mod e2e;
mod fuzz;
mod generate;
mod h2spec;
mod packages;
mod pebble;
mod steps;
mod tools;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Seconds that each fuzz target runs among the tests.
const FUZZING: u32 = 10;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "The project's own commands",
    arg_required_else_help = true
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything that must hold before a change lands: formatting, lints, tests, protocol conformance, a little
    /// fuzzing, and all that needs a cluster.
    Test {
        /// Leave out what needs tools beside Rust.
        #[arg(long)]
        fast: bool,
    },
    /// Give what parses bytes of others bytes that nobody would write.
    Fuzz {
        /// The target, by the name of its file in fuzz/fuzz_targets; all of them when left out.
        target: Option<String>,
        /// How long each target runs.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Give the target this file only, as it was kept when the target failed.
        #[arg(long, requires = "target", conflicts_with = "seconds")]
        input: Option<PathBuf>,
    },
    /// Hold what the charts render against what is committed.
    Charts {
        /// Write down what has changed.
        #[arg(long)]
        update: bool,
    },
    /// A Kubernetes of one node, on this machine and in a network of its own.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Run the official Gateway API suite, or one test of it, in the cluster.
    Conformance(conformance::Options),
    /// Let parts of the cluster fail under load, and see what that does.
    Failures {
        /// Only those whose names contain this.
        filter: Option<String>,
    },
    /// Let pods in the cluster get sidecars, and see that they work as without.
    Injection {
        /// Only those parts whose names contain this.
        filter: Option<String>,
    },
    /// Run the SMI conformance tests in the cluster, and what they leave out.
    Smi {
        /// Only those parts whose names contain this.
        filter: Option<String>,
    },
    /// Have Gateways in the cluster order certificates from Pebble.
    Acme,
    /// Have cert-manager sign the certificates of workloads in the cluster.
    CertManager,
    /// Let an application of many protocols take the path through the mesh and back, and see that nothing is lost or in clear.
    Sample,
    /// Remove Weft from the cluster, install and remove it as users do, and bring it back.
    Lifecycle,
    /// Measure 5,000 routes and 1,000 Services in the cluster; --help says what can be other.
    Scale {
        /// Passed on.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Order certificates from Pebble, a CA for tests.
    Pebble,
    /// Write what is made from the types: the definitions of Weft's own kinds.
    Generate,
    /// Measure Weft beside its peers, in one run.
    Bench {
        /// Passed on to the benchmark; --help says what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Start it, or bring it up to date with the tree: images, definitions, charts.
    Up {
        /// Cargo's profile for Weft's own images.
        #[arg(long, default_value = "dev")]
        profile: String,
    },
    /// Stop it and leave nothing of it.
    Down,
    /// Run a command inside its network, with kubectl, helm and ctr at hand.
    Run {
        /// The command; a shell when left out.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Test { fast } => Ok(test(fast)),
        Command::Fuzz { target, seconds, input } => {
            match (target, input) {
                (Some(target), Some(input)) => fuzz::reproduce(&target, &input)?,
                (target, _) => fuzz::run(target.as_deref(), seconds)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Charts { update } => {
            charts::run(update)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Cluster(command) => {
            match command {
                ClusterCommand::Up { profile } => cluster::up(&profile)?,
                ClusterCommand::Down => cluster::down()?,
                ClusterCommand::Run { command } => cluster::run(command)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Conformance(options) => {
            conformance::run(&options, true)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Failures { filter } => {
            e2e::failures(filter.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Injection { filter } => {
            e2e::injection(filter.as_deref(), None)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Smi { filter } => {
            e2e::smi(filter.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Acme => {
            e2e::acme()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::CertManager => {
            e2e::cert_manager()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Sample => {
            e2e::sample()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Lifecycle => {
            cluster::lifecycle()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Scale { args } => {
            e2e::scale(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Pebble => {
            pebble::run()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Generate => generate::run().map(|()| ExitCode::SUCCESS),
        Command::Bench { args } => {
            if args.iter().any(|arg| arg == "--mesh") {
                e2e::bench(&args)?;
                return Ok(ExitCode::SUCCESS);
            }
            let mut steps = steps::Steps::default();
            steps.run(
                "build weft as it is shipped",
                "cargo",
                &["build", "--locked", "--profile", "dist", "-p", "weft-cli"],
            );
            let mut bench = vec!["run", "--locked", "--profile", "dist", "-p", "weft-bench", "--"];
            bench.extend(args.iter().map(String::as_str));
            steps.run("measure", "cargo", &bench);
            Ok(steps.finish())
        }
    }
}

fn test(fast: bool) -> ExitCode {
    let mut steps = steps::Steps::default();
    steps.run("formatting", "cargo", &["fmt", "--all", "--check"]);
    let fuzz = ["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"];
    steps.run("formatting of the fuzz targets", "cargo", &fuzz);
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    steps.run("lints", "cargo", &lints);
    if !fast && cluster::is_root() {
        steps.step("packages for tests in network namespaces", || {
            packages::install(&packages::NAMESPACES)
        });
    }
    workspace::test(&mut steps, !fast && cluster::is_root());
    if fast {
        steps.skip("licences and sources of dependencies", "left out by --fast");
        steps.skip("HTTP/2 conformance", "left out by --fast");
        steps.skip("certificates by ACME", "left out by --fast");
        steps.skip("charts", "left out by --fast");
        steps.skip("fuzzing", "left out by --fast");
        steps.skip("cluster", "left out by --fast");
    } else {
        dependencies::check(&mut steps);
        h2spec::run(&mut steps);
        pebble::test(&mut steps);
        charts::test(&mut steps);
        steps.step("fuzzing", || fuzz::run(None, FUZZING));
        cluster::test(&mut steps);
    }
    steps.finish()
}
