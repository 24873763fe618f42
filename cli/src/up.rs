//! `weft up`.

use std::{io::IsTerminal as _, num::NonZeroUsize, process::ExitCode, time::Duration};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use weft_gateway::{Standalone, StandaloneOptions, files::Sources, names::NamesOptions};
use weft_process::log::{self, Lines};
use weft_proxy::{Limits, Options, descriptors};

use crate::{analyze::summary, args::Up, report::Report, view::View};

pub(crate) fn run(args: Up) -> anyhow::Result<ExitCode> {
    let view = std::io::stdout().is_terminal() && !args.no_view;
    if !view {
        log::start(Lines::Text, &["notify"]);
    }
    descriptors::raise();
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let options = StandaloneOptions {
        proxy: Options {
            address: args.address,
            port_offset: args.port_offset,
            workers: args.workers.unwrap_or(cores),
            drain: args.drain,
            limits: Limits::default(),
            access_log: args.log(view),
            spans: args.spans(),
            priority: None,
        },
        sources: Sources::new(&args.paths),
        echo: args.echo,
        admin: Some(args.admin),
        names: NamesOptions::standalone(),
    };
    // The data plane has threads of its own; this one is for files, echo and the admin pages.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, options, view))
}

/// The signals that end it.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve(args: Up, options: StandaloneOptions, view: bool) -> anyhow::Result<ExitCode> {
    let mut stop = Stop {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    };
    let standalone = Standalone::start(options).await?;
    let mut applied = standalone.applied();
    let mut report = Report::default();
    eprintln!("{}", report.start(&args, &applied.borrow_and_update()));
    if let Some(admin) = standalone.admin() {
        eprintln!("metrics, health and configuration: http://{admin}/");
    }
    if view {
        watch(&standalone, &mut stop).await?;
    } else {
        loop {
            tokio::select! {
                () = stop.asked() => break,
                changed = applied.changed() => {
                    changed.context("the reloading of manifests ended")?;
                    let applied = applied.borrow_and_update().clone();
                    tracing::info!(
                        generation = applied.generation,
                        problems = %summary(&applied.problems),
                        "the manifests have changed"
                    );
                    for line in report.change(&applied) {
                        eprintln!("{line}");
                    }
                }
            }
        }
    }
    eprintln!("draining: requests in flight may end; a second signal ends them");
    tokio::select! {
        () = standalone.shutdown() => Ok(ExitCode::SUCCESS),
        () = stop.asked() => Ok(ExitCode::FAILURE),
    }
}

/// The live view, until it is quit.
async fn watch(standalone: &Standalone, stop: &mut Stop) -> anyhow::Result<()> {
    let mut view = View::open()?;
    loop {
        let stats = standalone.state().proxy().stats().await;
        let problems = standalone.applied().borrow().problems.clone();
        view.draw(&stats, &problems)?;
        while !view.is_due() {
            if tokio::task::block_in_place(|| view.is_quit())? {
                return Ok(());
            }
            if tokio::time::timeout(Duration::ZERO, stop.asked()).await.is_ok() {
                return Ok(());
            }
        }
    }
}
