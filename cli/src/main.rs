//! `weft`: from a gateway on a laptop to a mesh.

mod analyze;
mod args;
mod cluster;
mod explain;
mod inject;
mod output;
mod print;
mod report;
mod table;
mod translate;
mod up;
mod view;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Args, Command};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.command {
        Command::Up(up) => up::run(up),
        Command::Analyze(analyze) => analyze::run(&analyze),
        Command::Translate(translate) => translate::run(&translate),
        Command::Explain(explain) => explain::run(&explain),
        Command::Inject(args) => inject::run(&args),
        Command::Uninject(args) => inject::undo(&args),
        Command::Install(install) => cluster::run(cluster::install::run(install)),
        Command::Check(check) => cluster::run(cluster::check::run(check)),
        Command::Stat(stat) => cluster::run(cluster::seen::stat::run(stat)),
        Command::Edges(edges) => cluster::run(cluster::seen::edges::run(edges)),
        Command::Top(top) => cluster::run(cluster::seen::top::run(top)),
        Command::Tap(tap) => cluster::run(cluster::seen::tap::run(tap)),
        Command::Routes(routes) => cluster::run(cluster::seen::routes::run(routes)),
        Command::Path(path) => cluster::run(cluster::path::show(path)),
        Command::Advance(advance) => cluster::run(cluster::path::advance(advance)),
        Command::Retreat(retreat) => cluster::run(cluster::path::retreat(retreat)),
        Command::Uninstall(uninstall) => cluster::run(cluster::uninstall::run(uninstall)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
