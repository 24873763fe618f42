//! Where manifests come from: folders, files and standard input.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, FileType, Metadata},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{File, Loaded};

/// Stands for standard input among paths.
pub(crate) const STANDARD_INPUT: &str = "-";

/// Where manifests come from.
#[derive(Clone, Debug)]
pub struct Sources {
    paths: Vec<PathBuf>,
}

/// A source cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// There is no such file or folder, or it cannot be read.
    #[error("{path} cannot be read: {error}; name a file or a folder of YAML manifests, or - for standard input")]
    Unreadable {
        /// The path, as it was named.
        path: String,
        /// What the system says.
        error: io::Error,
    },
}

/// How a file looks without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// When its content changed last.
    pub modified: SystemTime,
    /// When anything of it changed last.
    pub changed: SystemTime,
    /// Its length.
    pub length: u64,
    /// With `inode`, which file it is, whatever its path.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
}

impl Found {
    fn new(metadata: &Metadata) -> Self {
        let seconds = std::time::Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
        let nanoseconds = std::time::Duration::from_nanos(u64::try_from(metadata.ctime_nsec()).unwrap_or(0));
        Self {
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            changed: SystemTime::UNIX_EPOCH + seconds + nanoseconds,
            length: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Of something whose look says nothing: standard input, or a link that leads nowhere.
    const NOTHING: Self = Self {
        modified: SystemTime::UNIX_EPOCH,
        changed: SystemTime::UNIX_EPOCH,
        length: 0,
        device: 0,
        inode: 0,
    };
}

impl Sources {
    /// Of files and folders, or `-` for standard input.
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self {
            paths: paths.into_iter().map(Into::into).collect(),
        }
    }

    /// The paths, as they were named.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads everything.
    ///
    /// # Errors
    /// A path that was named cannot be read. What is wrong within files is not an error here, but in the result.
    pub fn load(&self) -> Result<Loaded, SourcesError> {
        let mut loaded = Loaded::default();
        for path in self.files()?.into_keys() {
            loaded.replace(&path, Some(File::read(&path)));
        }
        Ok(loaded)
    }

    /// The files there are now, each once, by whatever path it is reached first; `-` stands for standard input.
    ///
    /// # Errors
    /// A path that was named cannot be read.
    pub fn files(&self) -> Result<BTreeMap<PathBuf, Found>, SourcesError> {
        let mut walk = Walk::default();
        for path in &self.paths {
            let unreadable = |error| SourcesError::Unreadable {
                path: path.display().to_string(),
                error,
            };
            if path.as_os_str() == STANDARD_INPUT {
                walk.files.insert(path.clone(), Found::NOTHING);
                continue;
            }
            let metadata = fs::metadata(path).map_err(unreadable)?;
            if metadata.is_dir() {
                walk.folder(path, &metadata).map_err(unreadable)?;
            } else {
                walk.file(path.clone(), &metadata);
            }
        }
        Ok(walk.files)
    }
}

/// What was found so far.
#[derive(Default)]
struct Walk {
    files: BTreeMap<PathBuf, Found>,
    /// Files and folders by device and inode: links may lead to one twice, or around in a circle.
    known: HashSet<(u64, u64)>,
}

impl Walk {
    /// The manifests under a folder. What is hidden is passed over, as are the data folders of mounted ConfigMaps,
    /// whose files are seen through their links.
    fn folder(&mut self, folder: &Path, metadata: &Metadata) -> io::Result<()> {
        if !self.known.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        let mut entries: Vec<(bool, PathBuf, FileType)> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type()?;
            entries.push((kind.is_symlink(), entry.path(), kind));
        }
        // Files by their own names before the links to them.
        entries.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (is_link, path, kind) in entries {
            let extension = path.extension().and_then(|extension| extension.to_str());
            let is_manifest = matches!(extension, Some("yaml" | "yml" | "json"));
            if !kind.is_dir() && !is_link && !is_manifest {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.folder(&path, &metadata)?,
                Ok(metadata) if is_manifest => self.file(path, &metadata),
                // A link that leads nowhere is said when it is read; what is gone since is gone.
                Err(_) if is_manifest && is_link => {
                    self.files.insert(path, Found::NOTHING);
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, metadata: &Metadata) {
        if self.known.insert((metadata.dev(), metadata.ino())) {
            self.files.insert(path, Found::new(metadata));
        }
    }
}

/// What a path leads to, if that is nothing that can be read to an end.
pub(super) fn not_a_file(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_socket() {
        Some("a socket")
    } else if kind.is_char_device() || kind.is_block_device() {
        Some("a device")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";

    fn names(sources: &Sources, root: &Path) -> Vec<String> {
        let files = sources.files().expect("all can be read").into_keys();
        files
            .map(|path| path.strip_prefix(root).expect("below").display().to_string())
            .collect()
    }

    #[test]
    fn links_that_lead_in_a_circle_are_followed_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir(root.join("sub")).expect("made");
        fs::write(root.join("sub/a.yaml"), SERVICE).expect("written");
        symlink(root, root.join("sub/loop")).expect("linked");
        symlink("self.yaml", root.join("self.yaml")).expect("linked");
        let sources = Sources::new([root]);
        assert_eq!(names(&sources, root), ["self.yaml", "sub/a.yaml"]);
        let loaded = sources.load().expect("it can be read");
        let problems = loaded.problems();
        assert_eq!(loaded.len(), 1);
        assert!(
            problems.len() == 1 && problems[0].message.contains("cannot be read"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_file_that_is_reached_by_two_paths_counts_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir(root.join("real")).expect("made");
        fs::write(root.join("real/z.yaml"), SERVICE).expect("written");
        symlink("real/z.yaml", root.join("a.yaml")).expect("linked");
        symlink("real", root.join("also")).expect("linked");
        let sources = Sources::new([root.to_owned(), root.join("real"), root.join("real/z.yaml")]);
        assert_eq!(names(&sources, root), ["real/z.yaml"]);
        assert!(sources.load().expect("it can be read").problems().is_empty());
    }

    #[test]
    fn a_mounted_config_map_is_read_through_its_links() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir(root.join("..2026")).expect("made");
        fs::write(root.join("..2026/a.yaml"), SERVICE).expect("written");
        symlink("..2026", root.join("..data")).expect("linked");
        symlink("..data/a.yaml", root.join("a.yaml")).expect("linked");
        assert_eq!(names(&Sources::new([root]), root), ["a.yaml"]);
    }

    #[test]
    fn what_is_no_file_is_said_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        let fifo = root.join("pipe.yaml");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("there is mkfifo").success());
        let _socket = UnixListener::bind(root.join("socket.yaml")).expect("bound");
        symlink("/dev/zero", root.join("zero.yaml")).expect("linked");
        fs::write(root.join("a.yaml"), SERVICE).expect("written");
        let loaded = Sources::new([root]).load().expect("it can be read");
        assert_eq!(loaded.len(), 1);
        let said: Vec<String> = loaded
            .problems()
            .iter()
            .map(|problem| problem.message.clone())
            .collect();
        let nothing = |kind: &str| format!("the file cannot be read: it is {kind}, not a file");
        assert_eq!(said, [nothing("a FIFO"), nothing("a socket"), nothing("a device")]);
    }
}
