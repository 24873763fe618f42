//! What somebody reads who listens between the pods.

use std::{collections::BTreeSet, net::IpAddr, process::Stdio};

use anyhow::{Context as _, ensure};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
};

use super::{PROTOCOLS, REPORT};
use crate::cluster::PATIENCE;

/// The bridge that leads from each pod to all others.
const BRIDGE: &str = "cni0";
/// The length of what comes first in a capture.
const HEADER: usize = 24;

/// Somebody who listens.
pub(super) struct Wire {
    process: Child,
    reading: JoinHandle<anyhow::Result<BTreeSet<&'static str>>>,
}

impl Wire {
    /// Begins to listen to all that is said to and by some pods, but for what the tests themselves ask of them.
    pub(super) async fn listen(pods: Vec<IpAddr>) -> anyhow::Result<Self> {
        let hosts: Vec<String> = pods.iter().map(|pod| format!("host {pod}")).collect();
        let what = format!(
            "tcp and not port {REPORT} and not port 15020 and ({})",
            hosts.join(" or ")
        );
        let mut process = Command::new("tcpdump")
            .args(["-i", BRIDGE, "-n", "-s", "0", "-U", "-w", "-", &what])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("tcpdump could not be started")?;
        let mut output = process.stdout.take().context("tcpdump has no output")?;
        let begun = tokio::time::timeout(PATIENCE, output.read_exact(&mut [0; HEADER])).await;
        begun.context("tcpdump does not begin")?.context("tcpdump has ended")?;
        Ok(Self {
            process,
            reading: tokio::spawn(read(output)),
        })
    }

    /// Ends; returns the protocols of which something could be read.
    pub(super) async fn end(mut self) -> anyhow::Result<BTreeSet<&'static str>> {
        self.process.start_kill()?;
        self.process.wait().await?;
        self.reading.await?
    }
}

async fn read(mut output: ChildStdout) -> anyhow::Result<BTreeSet<&'static str>> {
    let mut found = BTreeSet::new();
    let (mut held, mut total) = (Vec::new(), 0);
    loop {
        let more = output.read_buf(&mut held).await?;
        total += more;
        if more == 0 {
            ensure!(total > 0, "nothing at all was heard");
            return Ok(found);
        }
        let mut longest = 0;
        for protocol in &PROTOCOLS {
            let Some(clear) = protocol.clear else { continue };
            longest = longest.max(clear.len());
            if !found.contains(protocol.name) && held.windows(clear.len()).any(|window| window == clear) {
                found.insert(protocol.name);
            }
        }
        // The end may be the beginning of what is looked for.
        held.drain(..held.len().saturating_sub(longest));
    }
}
