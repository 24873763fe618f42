//! The project's own commands: `cargo xtask test` is what CI runs, `cargo xtask bench` measures.

mod h2spec;
mod steps;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Everything that must hold before a change lands: formatting, lints, tests, protocol conformance.
    Test {
        /// Leave out what needs tools beside Rust.
        #[arg(long)]
        fast: bool,
    },
    /// Measure Weft beside its peers, in one run.
    Bench {
        /// Passed on to the benchmark; --help says what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Test { fast } => Ok(test(fast)),
        Command::Bench { args } => {
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
    steps.run("tests", "cargo", &["test", "--workspace", "--locked"]);
    if fast {
        steps.skip("HTTP/2 conformance", "left out by --fast");
    } else {
        h2spec::run(&mut steps);
    }
    steps.finish()
}
