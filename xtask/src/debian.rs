//! Root file systems made of Debian packages, for images of what others have written. Nothing is installed on this machine.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::tools;

/// Packages, and what is left out of them and of those that they need.
pub(crate) struct Root {
    pub(crate) name: &'static str,
    pub(crate) packages: &'static [&'static str],
    /// Patterns, as tar reads them.
    pub(crate) without: &'static [&'static str],
}

impl Root {
    /// Downloads and unpacks them unless that has been done; returns where they are.
    pub(crate) fn build(&self) -> anyhow::Result<PathBuf> {
        let mut key = DefaultHasher::new();
        // Of one release they are the same but for mended faults.
        let release =
            fs::read_to_string("/etc/debian_version").context("this is no Debian, whose packages it takes")?;
        (release, self.packages, self.without).hash(&mut key);
        let root = tools::folder()?.join(format!("{}-{:016x}", self.name, key.finish()));
        if root.exists() {
            return Ok(root);
        }
        println!("unpacking {} into {}", self.packages.join(" "), root.display());
        let unfinished = root.with_extension(std::process::id().to_string());
        let made = self.make(&unfinished);
        if made.is_ok() {
            fs::rename(unfinished.join("root"), &root)?;
        }
        fs::remove_dir_all(&unfinished)?;
        made.map(|()| root)
    }

    fn make(&self, folder: &Path) -> anyhow::Result<()> {
        let (root, archives) = (folder.join("root"), folder.join("archives"));
        fs::create_dir_all(&root)?;
        fs::create_dir_all(archives.join("partial"))?;
        // As on a machine where nothing is installed yet: all that they need comes along.
        let status = folder.join("status");
        fs::write(&status, "")?;
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        run(Command::new("apt-get")
            .args(["-qq", "-y", "--download-only", "--no-install-recommends", "install"])
            .args(["-o", "APT::Sandbox::User=root"])
            .args(["-o", &format!("Dir::State::status={}", status.display())])
            .args(["-o", &format!("Dir::Cache::archives={}", archives.display())])
            .args(self.packages))?;
        let without: Vec<String> = self.without.iter().map(|path| format!("--exclude=./{path}")).collect();
        let mut packages: Vec<PathBuf> = fs::read_dir(&archives)?
            .map(|entry| Ok(entry?.path()))
            .collect::<anyhow::Result<_>>()?;
        packages.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        packages.sort();
        ensure!(!packages.is_empty(), "apt-get has downloaded nothing");
        for package in packages {
            run(Command::new("sh")
                .args(["-c", r#"package=$1 root=$2; shift 2; dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --no-same-owner "$@""#, "sh"])
                .args([&package, &root])
                .args(&without))?;
        }
        Ok(())
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{command:?} could not be started"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
