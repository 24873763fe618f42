//! What is made from the types and committed: the definitions of Weft's own kinds.

use std::{fs, path::PathBuf};

use anyhow::Context as _;

/// Where definitions go: a chart of their own, so that upgrades renew them.
const FOLDER: &str = "helm/weft-crds/templates";

/// Every file, and what is to be in it.
fn files() -> anyhow::Result<Vec<(PathBuf, String)>> {
    let definitions = weft_crds::definitions().into_iter();
    definitions
        .map(|(kind, definition)| {
            let path = PathBuf::from(FOLDER).join(format!("{}.yaml", kind.name().to_lowercase()));
            let yaml = serde_saphyr::to_string(&definition)?;
            Ok((
                path,
                format!("# Made by `cargo xtask generate` from the types in crds/.\n{yaml}"),
            ))
        })
        .collect()
}

/// Writes them all.
pub(crate) fn run() -> anyhow::Result<()> {
    fs::create_dir_all(FOLDER)?;
    for (path, text) in files()? {
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_is_made() {
        for (path, text) in files().expect("made") {
            let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
            let committed = fs::read_to_string(root.join(&path)).unwrap_or_default();
            assert_eq!(
                committed,
                text,
                "{} is not up to date: run `cargo xtask generate`",
                path.display()
            );
        }
    }
}
