//! More workers: whether requests a second grow with cores, and whether a request costs the same.

use std::{
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
    thread,
};

use crate::{
    load::wrk,
    measure::{cpu_ns, median},
    peer::{Running, free_port, wait, weft_binary},
};

/// Measures one worker for each core there is, and says so in Markdown.
pub(crate) fn measure(rounds: usize, seconds: u64) -> anyhow::Result<String> {
    let cores = thread::available_parallelism()?.get();
    let mut out = format!(
        "\n## More workers\n\nThis machine has {cores} cores, which the load needs too: requests a second grow only as far as it leaves room, but the\nCPU time of a request shows whether workers wait for each other. The answers are redirects, so there is no backend.\n\n| workers | requests/s | CPU us a request |\n|---|---|---|\n"
    );
    let folder = tempfile::tempdir()?;
    let port = free_port()?;
    let manifests = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  gatewayClassName: weft\n  listeners: [{{name: http, protocol: HTTP, port: {port}}}]\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{name: g}}]\n  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{statusCode: 302, hostname: elsewhere.example}}}}]}}]\n"
    );
    fs::write(folder.path().join("all.yaml"), manifests)?;
    for workers in 1..=cores {
        let child = Command::new(weft_binary()?)
            .arg("up")
            .arg(folder.path())
            .args(["--no-view", "--access-log", "off", "--workers", &workers.to_string()])
            .args(["--admin", &format!("127.0.0.1:{}", free_port()?)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let running = Running(child);
        wait(port)?;
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let before = cpu_ns(running.0.id())?;
            let load = wrk(&format!("http://127.0.0.1:{port}/"), 64, seconds, false)?;
            let used = cpu_ns(running.0.id())? - before;
            rates.push(load.per_second);
            costs.push(used as f64 / 1000.0 / load.requests as f64);
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "| {workers} | {:.0} | {:.1} |", median(&rates), median(&costs));
    }
    Ok(out)
}
