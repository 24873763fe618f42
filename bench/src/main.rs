//! Weft beside its peers, in one run.
//!
//! Every proxy has one worker, on core 0; the load and the origin share core 1. All are up at the same time, and take
//! turns: round by round, scenario by scenario, in an order that rotates. What is compared is the CPU time of a request
//! (from the kernel's accounting of each thread) as a ratio to the best peer *of the same round*: absolute figures drift
//! with the machine, paired ones do not.

mod configurations;
mod load;
mod measure;
mod mesh;
mod peer;
mod report;
mod routes;
mod scaling;
mod scenario;
mod steady;
mod tls;
mod udp;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{load::Load, peer::Bench, report::Report, scenario::Scenario, steady::Steady};

/// Weft beside nginx, HAProxy (also with splice) and Envoy, in one run.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds; each runs every scenario with every proxy.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// One short round, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios.
    #[arg(long, value_enum)]
    scenario: Vec<Scenario>,
    /// No peers: for a profile of what Weft does.
    #[arg(long, conflicts_with_all = ["write", "routes"])]
    alone: bool,
    /// Write the table to docs/benchmarks.md.
    #[arg(long)]
    write: bool,
    /// Only load and edits of many routes.
    #[arg(long, conflicts_with = "scenario")]
    routes: bool,
    /// Only the sidecars of two pods beside two Envoys, on the cluster that runs.
    #[arg(long, conflicts_with_all = ["scenario", "routes", "alone"])]
    mesh: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the benchmark runs of itself, in processes of their own.
#[derive(Debug, Subcommand)]
enum Part {
    /// Send datagrams back.
    #[command(hide = true)]
    UdpEcho { port: u16 },
    /// Send datagrams, and wait for their answers.
    #[command(hide = true)]
    UdpLoad { port: u16, seconds: u64 },
    /// Ask at a fixed rate.
    #[command(hide = true)]
    SteadyLoad(Steady),
}

fn main() -> anyhow::Result<ExitCode> {
    let mut args = Args::parse();
    match args.part {
        Some(Part::UdpEcho { port }) => return udp::echo(port).map(|()| ExitCode::SUCCESS),
        Some(Part::UdpLoad { port, seconds }) => return printed(&udp::load(port, seconds)?),
        Some(Part::SteadyLoad(steady)) => return printed(&steady.load()?),
        None => {}
    }
    if args.routes {
        let (text, met) = routes::measure()?;
        println!("{text}");
        return Ok(exit(met));
    }
    if args.mesh {
        let (text, met) = mesh::measure(args.rounds, args.seconds)?;
        println!("{text}");
        return Ok(exit(met));
    }
    if args.quick {
        (args.rounds, args.seconds) = (1, 1);
    }
    let scenarios = if args.scenario.is_empty() {
        Scenario::ALL.to_vec()
    } else {
        args.scenario.clone()
    };
    let bench = Bench::start(args.alone)?;
    let mut report = Report::default();
    let described = bench.describe();
    println!("{described}");
    for round in 0..args.rounds {
        for scenario in scenarios.iter().filter(|scenario| round == 0 || !scenario.is_memory()) {
            let names = bench.names();
            for turn in 0..names.len() {
                let name = names[(turn + round) % names.len()];
                match scenario.run(&bench, name, args.seconds) {
                    Ok(Some(figures)) => {
                        println!("round {} {:<10} {name:<15} {figures}", round + 1, scenario.name());
                        report.add(*scenario, round, name, figures);
                    }
                    Ok(None) => {}
                    Err(error) => println!(
                        "round {} {:<10} {name:<15} failed: {error:#}",
                        round + 1,
                        scenario.name()
                    ),
                }
            }
        }
    }
    drop(bench);
    if args.alone {
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = report.table(args.rounds, args.seconds, &described);
    let mut met = report.gates_hold(&scenarios);
    if args.scenario.is_empty() {
        let (more, routes_met) = routes::measure()?;
        text.push_str(&more);
        met &= routes_met;
        text.push_str(&scaling::measure(args.rounds, args.seconds)?);
    }
    println!("\n{text}");
    if args.write {
        std::fs::write(PathBuf::from("docs/benchmarks.md"), text)?;
    }
    Ok(exit(met))
}

fn printed(load: &Load) -> anyhow::Result<ExitCode> {
    println!("{load}");
    Ok(ExitCode::SUCCESS)
}

fn exit(met: bool) -> ExitCode {
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
