//! Steps that are run one after the other, each said with how long it took; all are run, so that one run shows all.

use std::{
    process::{Command, ExitCode},
    time::Instant,
};

/// How the steps went so far.
#[derive(Default)]
pub(crate) struct Steps {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Steps {
    /// Runs a program, with its output where it belongs.
    pub(crate) fn run(&mut self, name: &str, program: &str, args: &[&str]) {
        self.step(name, || {
            println!("$ {program} {}", args.join(" "));
            let status = Command::new(program).args(args).status()?;
            anyhow::ensure!(status.success(), "{program} ended with {status}");
            Ok(())
        });
    }

    /// Runs a step.
    pub(crate) fn step(&mut self, name: &str, run: impl FnOnce() -> anyhow::Result<()>) {
        println!("\n=== {name}");
        let start = Instant::now();
        match run() {
            Ok(()) => {
                self.passed += 1;
                println!("=== {name}: passed in {:.0} s", start.elapsed().as_secs_f64());
            }
            Err(error) => {
                println!(
                    "=== {name}: FAILED after {:.0} s: {error:#}",
                    start.elapsed().as_secs_f64()
                );
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Says that a step is left out, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("\n=== {name}: skipped: {why}");
        self.skipped += 1;
    }

    /// Says how all went.
    pub(crate) fn finish(self) -> ExitCode {
        if !self.failed.is_empty() {
            println!("\nfailed: {}", self.failed.join(", "));
        }
        println!(
            "\nsteps: {} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped
        );
        if self.failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
