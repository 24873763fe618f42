//! `weft up`.

use std::{io::IsTerminal as _, num::NonZeroUsize, process::ExitCode};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use weft_gateway::{Standalone, StandaloneOptions, files::Sources, standalone::Applied};
use weft_proxy::{Limits, Options};
use weft_translate::Status;

use crate::{analyze::summary, args::Up, log, table, view::View};

pub(crate) fn run(args: Up) -> anyhow::Result<ExitCode> {
    let view = std::io::stdout().is_terminal() && !args.no_view;
    if !view {
        log::start();
    }
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let options = StandaloneOptions {
        proxy: Options {
            address: args.address,
            port_offset: args.port_offset,
            workers: args.workers.unwrap_or(cores),
            drain: args.drain,
            limits: Limits::default(),
            access_log: args.log(view),
        },
        sources: Sources::new(&args.paths),
        echo: args.echo,
        admin: Some(args.admin),
    };
    // The data plane has threads of its own; this one is for files, echo and the admin pages.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, options, view))
}

async fn serve(args: Up, options: StandaloneOptions, view: bool) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let standalone = Standalone::start(options).await?;
    let mut applied = standalone.applied();
    report(&args, &applied.borrow_and_update());
    if let Some(admin) = standalone.admin() {
        eprintln!("metrics, health and configuration: http://{admin}/");
    }
    if view {
        watch(&standalone).await?;
    } else {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                changed = applied.changed() => {
                    changed.context("the reloading of manifests ended")?;
                    changes(&applied.borrow_and_update());
                }
            }
        }
    }
    eprintln!("draining: requests in flight may end; a second signal ends them");
    tokio::select! {
        () = standalone.shutdown() => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => Ok(ExitCode::FAILURE),
    }
}

/// The live view, until it is quit.
async fn watch(standalone: &Standalone) -> anyhow::Result<()> {
    let mut view = View::open()?;
    loop {
        let stats = standalone.state().proxy().stats().await;
        view.draw(&stats, &standalone.applied().borrow())?;
        if tokio::task::block_in_place(|| view.wait())? {
            return Ok(());
        }
    }
}

/// What is served, what is wrong, and where to send a request.
fn report(args: &Up, applied: &Applied) {
    for problem in applied.problems.iter() {
        eprintln!("{problem}\n");
    }
    eprintln!("{}", table::tables(applied));
    if !applied.unknown.is_empty() {
        let kinds: Vec<String> = applied
            .unknown
            .iter()
            .map(|(kind, count)| format!("{kind} ({count})"))
            .collect();
        eprintln!("not read: {}\n", kinds.join(", "));
    }
    if !applied.problems.is_empty() {
        eprintln!("{}: see `weft analyze`", summary(&applied.problems));
    }
    let served = applied.statuses.values().any(|status| match status {
        Status::Gateway(gateway) => gateway
            .conditions
            .iter()
            .any(|c| c.condition_type == "Programmed" && c.status == "True"),
        _ => false,
    });
    if served {
        eprintln!(
            "listening on {}, ports as in the listeners plus {}",
            args.address, args.port_offset
        );
    } else {
        eprintln!("no Gateway is served yet: add one to the manifests, they are read again when they change");
    }
}

/// What a change of the manifests came to.
fn changes(applied: &Applied) {
    tracing::info!(generation = applied.generation, problems = %summary(&applied.problems), "the manifests have changed");
    for problem in applied.problems.iter() {
        eprintln!("{problem}\n");
    }
}
