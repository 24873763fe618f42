//! Many routes: how long they take to load, what memory they need, and how soon an edit reaches traffic.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    measure::{median, pss},
    peer::{Running, free_port, weft_binary},
};

const EDITS: usize = 30;
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked for of the most routes (milliseconds, MB).
const LOAD_MS: f64 = 1000.0;
const MEMORY_MB: f64 = 40.0;
const EDIT_MS: f64 = 20.0;

/// Measures among 50 and among 5,000 routes, and says so in Markdown, and whether it is as asked for.
pub(crate) fn measure() -> anyhow::Result<(String, bool)> {
    let mut met = true;
    let mut out = String::from(
        "\n## Many routes\n\nAsked for: 1 s, 40 MB, 20 ms. Memory is the most that was seen, when it was ready and after the edits.\n\n| routes | from start to ready | memory | edit to traffic, median of 30 |\n|---|---|---|---|\n",
    );
    for count in [50, 5000] {
        let folder = tempfile::tempdir()?;
        let (port, admin) = (free_port()?, free_port()?);
        let mut text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  gatewayClassName: weft\n  listeners: [{{name: http, protocol: HTTP, port: {port}}}]\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{ports: [{{port: 80}}]}}\n"
        );
        for number in 0..count {
            text.push_str("---\n");
            text.push_str(&route(&format!("r{number}"), &format!("h{number}.example"), "/"));
        }
        fs::write(folder.path().join("all.yaml"), text)?;
        let start = Instant::now();
        let child = Command::new(weft_binary()?)
            .arg("up")
            .arg(folder.path())
            .args([
                "--echo",
                "--no-view",
                "--access-log",
                "off",
                "--workers",
                "1",
                "--admin",
                &format!("127.0.0.1:{admin}"),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let running = Running(child);
        until(|| status(admin, "localhost", "/ready") == Some(200))?;
        let loaded = start.elapsed();
        let at_first = pss(running.0.id())?;
        let mut edits = Vec::new();
        for number in 0..EDITS {
            edits.push(edit(folder.path(), port, number)?.as_secs_f64() * 1000.0);
        }
        let memory = at_first.max(pss(running.0.id())?) as f64 / 1e6;
        let (load, edit) = (loaded.as_secs_f64() * 1000.0, median(&edits));
        met &= load <= LOAD_MS && memory <= MEMORY_MB && edit <= EDIT_MS;
        // Writing to a String cannot fail.
        let _ = writeln!(out, "| {count} | {load:.0} ms | {memory:.1} MB | {edit:.1} ms |");
    }
    Ok((out, met))
}

fn route(name: &str, host: &str, path: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{name: g}}]\n  hostnames: [{host}]\n  rules: [{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: s, port: 80}}]}}]\n"
    )
}

/// Adds a route and waits until a request takes it.
fn edit(folder: &Path, port: u16, number: usize) -> anyhow::Result<Duration> {
    let host = format!("edit{number}.example");
    let (hidden, file) = (folder.join(".new"), folder.join("edit.yaml"));
    fs::write(&hidden, route("edit", &host, "/"))?;
    let start = Instant::now();
    fs::rename(hidden, file)?;
    until(|| status(port, &host, "/") == Some(200))?;
    Ok(start.elapsed())
}

fn until(mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        ensure!(Instant::now() < end, "weft was not ready in time");
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

fn status(port: u16, host: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}
