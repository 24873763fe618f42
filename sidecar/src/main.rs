//! `weft-sidecar`: beside an application in its pod. `intercept` turns the pod's connections to it, once, before the
//! application starts; `run` takes them, and carries them to where they were going.

mod intercept;
mod ports;
mod run;
mod told;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weft_process::log::{self, Lines};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The mesh beside an application. Injection puts both steps into pods; there is no need to start them by hand.
#[derive(Debug, Parser)]
#[command(name = "weft-sidecar", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn the connections of this network namespace to the sidecar; needs NET_ADMIN
    Intercept(intercept::Args),
    /// Take the connections, and carry them to where they were going
    Run(Box<run::Args>),
}

fn main() -> ExitCode {
    let args = Args::parse();
    log::start(Lines::Json, &[]);
    let result = match args.command {
        Command::Intercept(args) => intercept::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Run(args) => run::run(*args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
