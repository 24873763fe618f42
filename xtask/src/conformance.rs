//! The official Gateway API suite, run against the Weft of the cluster.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::{
    cluster,
    tools::{self, GoProgram},
};

/// How long the whole suite may take; alone on two cores it takes about twenty minutes.
const TIME: &str = "2h";

const SUITE: GoProgram = GoProgram {
    name: "conformance",
    module: "conformance",
    package: ".",
    tests: true,
    link: "",
};

/// The GatewayClass that the chart makes.
const CLASS: &str = "weft";

/// The XMesh that the chart makes.
const MESH: &str = "weft";

/// The label of the suite's namespaces, by which those of the mesh's tests are in the mesh.
const NAMESPACE_LABELS: &str = "weft.dev/mesh=observe";

/// The profiles that Gateways are held to.
const GATEWAY_PROFILES: &str = "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS,GATEWAY-TCP,GATEWAY-UDP";
/// The profiles that the mesh is held to.
const MESH_PROFILES: &str = "MESH-HTTP,MESH-GRPC";

/// All tests of the suite, a name a line. Those of the mesh begin with Mesh.
const TESTS: &str = include_str!("../../docs/conformance/tests.txt");

/// How many lines of the log are shown when the suite fails before any test does.
const LINES: usize = 20;

/// What is run, and as what.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One test, by its short name, say HTTPRouteMatching; the whole suite when left out. What all tests need is then
    /// kept for the next.
    test: Option<String>,
    /// Profiles, say GATEWAY-HTTP,GATEWAY-GRPC; those that the GatewayClass claims when left out. With profiles of the mesh,
    /// say MESH-HTTP,MESH-GRPC, the namespaces of the suite are in the mesh; with none but these no Gateway is tested.
    #[arg(long, value_name = "LIST", conflicts_with = "test")]
    profiles: Option<String>,
    /// Features; those that the GatewayClass and the XMesh claim when left out.
    #[arg(long, value_name = "LIST", conflicts_with = "test")]
    features: Option<String>,
    /// The GatewayClass that is tested.
    #[arg(long, default_value = CLASS)]
    class: String,
    /// The XMesh that is tested.
    #[arg(long, default_value = MESH)]
    mesh: String,
    /// Passed on to the suite, after --.
    #[arg(last = true)]
    more: Vec<String>,
}

impl Options {
    /// All of the profiles that Weft claims for Gateways, by name: one that fell out of the claim would fail.
    pub(crate) fn of_gateways() -> Self {
        Self::of(GATEWAY_PROFILES)
    }

    /// The same for the mesh. By itself: the backends of Gateways are not in the mesh, as most are not.
    pub(crate) fn of_mesh() -> Self {
        Self::of(MESH_PROFILES)
    }

    /// The same with mutual TLS between all that are tested.
    pub(crate) fn of_secure_mesh() -> Self {
        Self {
            more: vec!["-namespace-labels=weft.dev/mesh=secure".to_owned()],
            ..Self::of_mesh()
        }
    }

    fn of(profiles: &str) -> Self {
        Self {
            test: None,
            profiles: Some(profiles.to_owned()),
            features: None,
            class: CLASS.to_owned(),
            mesh: MESH.to_owned(),
            more: Vec::new(),
        }
    }

    /// Whether all of Gateways' profiles are tested, or all of the mesh's, with whatever is claimed.
    fn is_whole(&self) -> bool {
        let all = [GATEWAY_PROFILES, MESH_PROFILES].map(Some);
        self.test.is_none() && self.features.is_none() && all.contains(&self.profiles.as_deref())
    }

    /// Whether Gateways, and whether the mesh is tested.
    fn tests(&self) -> (bool, bool) {
        match (&self.test, &self.profiles) {
            (Some(test), _) => {
                let mesh = test.starts_with("Mesh");
                (!mesh, mesh)
            }
            (None, Some(list)) => {
                let mesh = |profile: &str| profile.starts_with("MESH-");
                (!list.split(',').all(mesh), list.split(',').any(mesh))
            }
            (None, None) => (true, false),
        }
    }
}

/// Runs the suite, or one test of it. With `publish` the report of a whole run goes to the docs.
pub(crate) fn run(options: &Options, publish: bool) -> anyhow::Result<()> {
    cluster::ensure_up()?;
    let suite = SUITE.build()?;
    let _lock = cluster::lock("conformance")?;
    wait_for_the_last()?;
    let folder = tools::target()?.join("conformance");
    fs::create_dir_all(&folder)?;
    let log = folder.join(format!("{}.log", options.test.as_deref().unwrap_or("all")));
    let report = folder.join("report.yaml");
    // One that is there afterwards is of this run.
    let _ = fs::remove_file(&report);
    let mut process = cluster::inside(suite)
        .args(["-test.run=^TestConformance$", "-test.v"])
        .arg(format!("-test.timeout={TIME}"))
        .args(flags(options, &report))
        .args(&options.more)
        .stdout(Stdio::piped())
        .stderr(File::create(log.with_extension("errors"))?)
        .spawn()
        .context("the suite could not be started")?;
    let output = process.stdout.take().context("the suite has no output")?;
    let results = follow(BufReader::new(output), &log, options.test.is_none())?;
    let status = process.wait()?;
    println!(
        "{} passed, {} failed, {} skipped",
        results.passed.len(),
        results.failed.len(),
        results.skipped.len()
    );
    if options.test.is_none() {
        for name in &results.skipped {
            println!("skipped {name}");
        }
    }
    for name in &results.failed {
        println!("FAILED {name}");
    }
    println!("all that was said: {}", log.display());
    if publish && report.exists() && !results.passed.is_empty() {
        let published = published(options.tests().0);
        fs::create_dir_all(published.parent().unwrap_or(Path::new(".")))?;
        fs::copy(&report, &published)?;
        println!("report: {}", published.display());
    }
    if !status.success() && results.failed.is_empty() {
        println!("\nno test failed; the suite ended with:\n{}", last_words(&log)?);
    }
    ensure!(status.success(), "the suite ended with {status}");
    ensure!(!results.passed.is_empty(), "no test was run");
    if options.is_whole() {
        results.are_whole(options.tests().1)?;
    }
    Ok(())
}

/// What the suite is told.
fn flags(options: &Options, report: &Path) -> Vec<String> {
    let (gateways, mesh) = options.tests();
    let mut flags = vec![
        // Without a name there is none, and nothing that is claimed for it.
        format!("-gateway-class={}", if gateways { &options.class } else { "" }),
        format!("-usable-address={}", cluster::FREE_ADDRESS),
        format!("-unusable-address={}", cluster::IMPOSSIBLE_ADDRESS),
        // Meant for machines of few cores; it changes what runs at a time and nothing that is tested.
        "-disable-parallel-tests".to_owned(),
    ];
    if mesh {
        flags.extend([
            format!("-mesh-name={}", options.mesh),
            format!("-namespace-labels={NAMESPACE_LABELS}"),
        ]);
    }
    if let Some(test) = &options.test {
        flags.extend([format!("-run-test={test}"), "-cleanup-base-resources=false".to_owned()]);
        return flags;
    }
    for (name, list) in [
        ("conformance-profiles", &options.profiles),
        ("supported-features", &options.features),
    ] {
        if let Some(list) = list {
            flags.push(format!("-{name}={list}"));
        }
    }
    flags.extend([
        format!("-report-output={}", report.display()),
        "-organization=weft".to_owned(),
        "-project=weft".to_owned(),
        "-url=https://weft.dev".to_owned(),
        format!("-version=v{}", env!("CARGO_PKG_VERSION")),
        "-contact=https://weft.dev".to_owned(),
    ]);
    flags
}

/// Where the report of a whole run belongs, under the name that the Gateway API project wants it under. One of the mesh alone
/// has a place of its own.
fn published(gateways: bool) -> PathBuf {
    let folder = if gateways {
        "docs/conformance"
    } else {
        "docs/conformance/mesh"
    };
    let name = format!("experimental-v{}-default-report.yaml", env!("CARGO_PKG_VERSION"));
    Path::new(folder).join(name)
}

/// How the tests of the suite went.
#[derive(Default)]
struct Results {
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Results {
    /// Holds that every test of the suite that is about Gateways, or every one about the mesh, has passed: one of a feature that
    /// is claimed no longer would be skipped, and one that has another name now would not be missed.
    fn are_whole(&self, of_mesh: bool) -> anyhow::Result<()> {
        let known: BTreeSet<&str> = TESTS.lines().collect();
        let is_of = |name: &&str| name.starts_with("Mesh") == of_mesh;
        let passed: BTreeSet<&str> = self.passed.iter().map(String::as_str).collect();
        let run = self.passed.iter().chain(&self.failed).chain(&self.skipped);
        let new: Vec<&str> = run.map(String::as_str).filter(|name| !known.contains(name)).collect();
        ensure!(
            new.is_empty(),
            "the suite has tests that docs/conformance/tests.txt does not name: {}",
            new.join(", ")
        );
        let missing: Vec<&str> = known
            .iter()
            .copied()
            .filter(is_of)
            .filter(|name| !passed.contains(name))
            .collect();
        ensure!(
            missing.is_empty(),
            "these have not passed, skipped or not: {}; is a feature claimed no longer (translate/src/features.rs)?",
            missing.join(", ")
        );
        Ok(())
    }
}

/// Reads what the suite says: all of it goes to the log, and the end of each test is shown.
fn follow(output: impl BufRead, log: &Path, all: bool) -> anyhow::Result<Results> {
    let mut log = File::create(log)?;
    let mut results = Results::default();
    for line in output.split(b'\n') {
        let line = line?;
        log.write_all(&line)?;
        log.write_all(b"\n")?;
        let line = String::from_utf8_lossy(&line);
        let Some((verdict, name)) = verdict(&line) else {
            continue;
        };
        match verdict {
            "PASS" => results.passed.push(name.to_owned()),
            "FAIL" => results.failed.push(name.to_owned()),
            _ => results.skipped.push(name.to_owned()),
        }
        if all || verdict != "SKIP" {
            println!("{}", line.trim_start_matches(['-', ' ']));
        }
    }
    Ok(results)
}

/// The verdict about a test of the suite, and its name: "    --- PASS: TestConformance/NAME (1.00s)".
fn verdict(line: &str) -> Option<(&str, &str)> {
    let (verdict, rest) = line
        .trim_start()
        .strip_prefix("--- ")?
        .split_once(": TestConformance/")?;
    let (name, _) = rest.split_once(' ')?;
    // What a test has below it counts with it.
    (!name.contains('/')).then_some((verdict, name))
}

/// What was wrong before any test: the first error, or else the end of the log.
fn last_words(log: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(log)? + &fs::read_to_string(log.with_extension("errors"))?;
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| line.contains("Error Trace:"));
    // Just before it stands what was waited for.
    let first = first.map_or(lines.len().saturating_sub(LINES), |first| first.saturating_sub(1));
    Ok(lines[first..lines.len().min(first + LINES)].join("\n"))
}

/// Waits until what an earlier run has removed is gone: nothing can be made in a namespace that is about to go.
fn wait_for_the_last() -> anyhow::Result<()> {
    let terminating = r#"jsonpath={range .items[?(@.status.phase=="Terminating")]}{.metadata.name}{"\n"}{end}"#;
    for namespace in cluster::kubectl(&["get", "namespaces", "-l", "gateway-conformance", "-o", terminating])?.lines() {
        cluster::kubectl(&["wait", "namespace", namespace, "--for=delete", "--timeout=180s"])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mesh_is_tested_by_its_profiles_and_its_tests() {
        let tests = |test: Option<&str>, profiles: Option<&str>| {
            let options = Options {
                test: test.map(str::to_owned),
                profiles: profiles.map(str::to_owned),
                ..Options::of_gateways()
            };
            let flags = flags(&options, Path::new("report.yaml")).join(" ");
            let flag = |flag: &str| flags.contains(flag);
            (
                flag("-gateway-class=weft"),
                flag("-mesh-name=weft -namespace-labels=weft.dev/mesh=observe"),
            )
        };
        assert_eq!(tests(None, None), (true, false));
        assert_eq!(tests(None, Some("GATEWAY-HTTP,GATEWAY-TLS")), (true, false));
        assert_eq!(tests(None, Some("MESH-HTTP,MESH-GRPC")), (false, true));
        assert_eq!(tests(None, Some("GATEWAY-HTTP,MESH-HTTP")), (true, true));
        assert_eq!(tests(Some("HTTPRouteMatching"), None), (true, false));
        assert_eq!(tests(Some("MeshHTTPRouteMatching"), None), (false, true));
    }

    #[test]
    fn verdicts_are_those_of_the_tests_of_the_suite() {
        let text = "=== RUN   TestConformance\n    --- PASS: TestConformance/One (0.10s)\n        --- FAIL: TestConformance/Two/part (0.10s)\n    --- FAIL: TestConformance/Two (1.00s)\n    --- SKIP: TestConformance/Three (0.00s)\n--- FAIL: TestConformance (2.00s)\n";
        let log = std::env::temp_dir().join(format!("weft-verdicts-{}", std::process::id()));
        let results = follow(text.as_bytes(), &log, false).expect("it can be read");
        assert_eq!(fs::read_to_string(&log).expect("there is a log"), text);
        fs::remove_file(log).expect("it can be removed");
        assert_eq!(
            (results.passed, results.failed, results.skipped),
            (vec!["One".to_owned()], vec!["Two".to_owned()], vec!["Three".to_owned()])
        );
    }

    #[test]
    fn a_run_is_whole_if_all_tests_that_it_is_about_have_passed() {
        assert!(Options::of_gateways().is_whole() && Options::of_secure_mesh().is_whole());
        let part = Options::of("GATEWAY-HTTP");
        let one = Options {
            test: Some("HTTPRouteMatching".to_owned()),
            ..Options::of_gateways()
        };
        assert!(!part.is_whole() && !one.is_whole());
        let (mesh, gateways): (Vec<_>, Vec<_>) = TESTS
            .lines()
            .map(str::to_owned)
            .partition(|name| name.starts_with("Mesh"));
        assert!(mesh.len() > 20 && gateways.len() > 100);
        let results = |passed: &[String], skipped: &[String]| Results {
            passed: passed.to_vec(),
            failed: Vec::new(),
            skipped: skipped.to_vec(),
        };
        results(&mesh, &gateways).are_whole(true).expect("all of the mesh");
        results(&gateways, &mesh).are_whole(false).expect("all of Gateways");
        results(&gateways, &mesh).are_whole(true).expect_err("none of the mesh");
        let (last, others) = gateways.split_last().expect("there are some");
        let said = results(others, std::slice::from_ref(last)).are_whole(false);
        let said = said.expect_err("one is skipped").to_string();
        assert!(said.contains(last), "{said}");
        results(others, &[]).are_whole(false).expect_err("one is not run");
        let more = [&gateways[..], &["HTTPRouteTeapot".to_owned()]].concat();
        results(&more, &mesh).are_whole(false).expect_err("one is not known");
    }
}
