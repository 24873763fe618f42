//! `weft top`: the busiest of those that talk to each other, as it is now.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use crossterm::{
    cursor::MoveTo,
    execute,
    terminal::{self, Clear, ClearType},
};
use weft_model::view::{EdgeView, pairs};

use super::{Pods, Scope, edges, json};
use crate::{output::Output, print::print};

/// How often it is asked.
const PACE: Duration = Duration::from_secs(2);
/// How many are shown where nobody says how much room there is.
const ROWS: usize = 30;

#[derive(Debug, Parser)]
pub(crate) struct Top {
    #[command(flatten)]
    scope: Scope,
    /// Only once.
    #[arg(long)]
    once: bool,
}

pub(crate) async fn run(args: Top) -> anyhow::Result<ExitCode> {
    let seen = args.scope.connect().await?;
    let live = !args.once && args.scope.output == Output::Text && io::stdout().is_terminal();
    let mut pods = Pods::default();
    pods.learn(&seen.client).await;
    loop {
        let mut list = seen.edges().await?;
        let room = if live {
            terminal::size().map_or(ROWS, |(_, rows)| usize::from(rows).saturating_sub(4).max(1))
        } else {
            ROWS
        };
        list.items = busiest(list.items, room);
        match args.scope.output {
            Output::Json => print(&json(&list)?)?,
            Output::Text => {
                let text = edges::text(&list.items, &pods, Some(list.window_seconds));
                if live {
                    execute!(io::stdout(), Clear(ClearType::All), MoveTo(0, 0))?;
                }
                print(&format!(
                    "{text}\nof the last {} s; Ctrl-C ends it\n",
                    list.window_seconds
                ))?;
            }
        }
        if !live {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Those with most requests, then those with most connections.
fn busiest(all: Vec<EdgeView>, room: usize) -> Vec<EdgeView> {
    let mut all = pairs(all);
    all.sort_by_key(|edge| std::cmp::Reverse((edge.flow.requests.requests(), edge.flow.connections)));
    all.truncate(room);
    all
}

#[cfg(test)]
mod tests {
    use super::{super::stat::tests::edge, *};

    #[test]
    fn the_busiest_come_first_and_there_is_an_end() {
        let all = vec![
            edge("a", "web", "server", 1, 0),
            edge("b", "web", "server", 30, 0),
            edge("c", "web", "server", 20, 0),
        ];
        let requests: Vec<u64> = busiest(all, 2)
            .iter()
            .map(|edge| edge.flow.requests.requests())
            .collect();
        assert_eq!(requests, [30, 20]);
    }
}
