//! HTTP/2 conformance by h2spec, against a real `weft up`: in clear and over TLS.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::{steps::Steps, tools};

const PACKAGE: &str = "github.com/summerwind/h2spec/cmd/h2spec";
const VERSION: &str = "v2.2.1+incompatible";
/// Tests that this version has.
const TESTS: usize = 145;
/// How long Weft may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Installs h2spec if need be, and runs it whole.
pub(crate) fn run(steps: &mut Steps) {
    if !tools::has_go() {
        return steps.skip(
            "HTTP/2 conformance",
            "it needs h2spec, and h2spec needs Go: install Go to run it",
        );
    }
    steps.step("HTTP/2 conformance", || {
        let h2spec = tools::go_install(PACKAGE, VERSION)?;
        let weft = Weft::start()?;
        for (port, tls) in [(weft.http, false), (weft.https, true)] {
            println!("h2spec {}", if tls { "over TLS" } else { "in clear" });
            let mut command = Command::new(&h2spec);
            command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-o", "5"]);
            if tls {
                command.args(["-t", "-k"]);
            }
            let output = command.output().context("h2spec could not be run")?;
            let text = String::from_utf8_lossy(&output.stdout);
            let summary = text
                .lines()
                .rev()
                .find(|line| line.contains("tests,"))
                .unwrap_or("no summary");
            println!("{summary}");
            if !output.status.success() {
                println!("{text}");
                bail!("h2spec found failures: {summary}");
            }
            whole(summary)?;
        }
        Ok(())
    });
}

/// Whether a summary says that all tests were run, and that all have passed.
fn whole(summary: &str) -> anyhow::Result<()> {
    // `145 tests, 145 passed, 0 skipped, 0 failed`
    let count = |what: &str| -> Option<usize> {
        let mut parts = summary.split(", ").filter_map(|part| part.trim().split_once(' '));
        parts.find(|(_, kind)| *kind == what)?.0.parse().ok()
    };
    let (tests, passed) = (count("tests").unwrap_or(0), count("passed").unwrap_or(0));
    ensure!(
        tests >= TESTS && passed == tests && count("skipped") == Some(0) && count("failed") == Some(0),
        "h2spec did not pass whole: {summary}; it has {TESTS} tests at least, and none may be skipped"
    );
    Ok(())
}

/// A running gateway, stopped when dropped.
struct Weft {
    process: Child,
    folder: PathBuf,
    http: u16,
    https: u16,
}

impl Weft {
    fn start() -> anyhow::Result<Self> {
        let program = tools::build("dev")?.join("weft");
        let folder = env::temp_dir().join(format!("weft-h2spec-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let (http, https, admin) = (free_port()?, free_port()?, free_port()?);
        fs::write(folder.join("manifests.yaml"), manifests(http, https)?)?;
        let process = Command::new(program)
            .arg("up")
            .arg(&folder)
            .args(["--echo", "--no-view", "--access-log", "off", "--workers", "1"])
            .args(["--admin", &format!("127.0.0.1:{admin}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("weft could not be started")?;
        let weft = Self {
            process,
            folder,
            http,
            https,
        };
        let end = Instant::now() + PATIENCE;
        while !ready(admin) {
            ensure!(Instant::now() < end, "weft was not ready in time");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(weft)
    }
}

impl Drop for Weft {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn ready(admin: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, admin))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// One route for everything, on a port in clear and one over TLS. The certificate is the example's.
fn manifests(http: u16, https: u16) -> anyhow::Result<String> {
    let example = fs::read_to_string(Path::new("examples/storefront/10-gateway.yaml"))?;
    let secret = example
        .split("\n---\n")
        .nth(1)
        .context("the example's second document is its Secret")?;
    let secret = secret.replace("namespace: store", "namespace: default");
    Ok(format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  gatewayClassName: weft\n  listeners:\n  - {{name: http, protocol: HTTP, port: {http}}}\n  - {{name: https, protocol: HTTPS, port: {https}, tls: {{certificateRefs: [{{name: storefront-tls}}]}}}}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: all}}\nspec:\n  parentRefs: [{{name: edge}}]\n  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{ports: [{{port: 80}}]}}\n---\n{secret}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_run_passes() {
        assert!(whole("145 tests, 145 passed, 0 skipped, 0 failed").is_ok());
        for summary in [
            "145 tests, 144 passed, 1 skipped, 0 failed",
            "145 tests, 144 passed, 0 skipped, 1 failed",
            "1 tests, 1 passed, 0 skipped, 0 failed",
            "no summary",
        ] {
            assert!(whole(summary).is_err(), "{summary}");
        }
    }
}
