//! `weft-operator`: the control plane.

mod acme;
mod admin;
mod args;
mod authority;
mod certificates;
mod children;
mod connections;
mod controller;
mod conversion;
mod events;
mod guards;
mod identity;
mod infrastructure;
mod injection;
mod lease;
mod metrics;
#[cfg(test)]
mod mock;
mod nodes;
mod object;
mod operator;
mod peers;
mod queue;
#[cfg(test)]
mod scene;
mod seen;
mod status;
mod tokens;
mod view;
mod watch;
mod workloads;
mod world;

use std::process::ExitCode;

use clap::Parser as _;
use weft_process::log::{self, Lines};

use crate::args::Args;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    log::start(Lines::by_terminal(), &[]);
    // Two threads: one is enough for what is watched, translated and written, the other for what is streamed meanwhile.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let result = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(operator::run(args)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
