//! The tests of the workspace, and which of them could not be run.

use std::{collections::BTreeMap, env, fs, path::Path, process::Command};

use anyhow::{bail, ensure};

use crate::steps::Steps;

/// Where tests that cannot be run write down their names and why: `name: why`, a line each.
pub(crate) const SKIPPED: &str = "WEFT_SKIPPED";

/// Runs them. Where all that they need should be there, none may be left out.
pub(crate) fn test(steps: &mut Steps, complete: bool) {
    step(steps, "tests", complete, |list| {
        let args = ["test", "--workspace", "--locked"];
        println!("$ cargo {}", args.join(" "));
        let status = Command::new("cargo").args(args).env(SKIPPED, list).status()?;
        ensure!(status.success(), "cargo ended with {status}");
        Ok(())
    });
}

/// Runs a step of many tests, with the list into which they are to write what cannot be run; names those.
pub(crate) fn step(steps: &mut Steps, name: &str, complete: bool, run: impl FnOnce(&Path) -> anyhow::Result<()>) {
    let list = env::temp_dir().join(format!("weft-skipped-{}", std::process::id()));
    steps.step(name, || run(&list));
    let skipped = Skipped::take(&list);
    for (why, tests) in &skipped.0 {
        let name = format!("{} of the tests ({})", tests.len(), tests.join(", "));
        if complete {
            steps.step(&name, || bail!("left out: {why}"));
        } else {
            steps.skip(&name, why);
        }
    }
}

/// Tests that were not run, by why.
struct Skipped(BTreeMap<String, Vec<String>>);

impl Skipped {
    /// Reads what tests have written, and removes it.
    fn take(list: &Path) -> Self {
        let text = fs::read_to_string(list).unwrap_or_default();
        let _ = fs::remove_file(list);
        Self::read(&text)
    }

    fn read(text: &str) -> Self {
        let mut skipped = BTreeMap::<String, Vec<String>>::new();
        for (test, why) in text.lines().filter_map(|line| line.split_once(": ")) {
            skipped.entry(why.to_owned()).or_default().push(test.to_owned());
        }
        skipped.values_mut().for_each(|tests| tests.sort());
        Self(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_by_why_they_were_left_out() {
        let skipped = Skipped::read("b: no root\na: no root\nc: there is no nft; install it\n");
        assert_eq!(skipped.0["no root"], ["a", "b"]);
        assert_eq!(skipped.0["there is no nft; install it"], ["c"]);
        assert!(Skipped::take(&Path::new("/nowhere").join("at-all")).0.is_empty());
    }
}
