//! Which files have changed: by the system's word, and by looking now and then in case it says nothing.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use notify::{RecursiveMode, Watcher as _};
use tokio::{sync::mpsc, time::timeout};

use crate::files::{Found, STANDARD_INPUT, Sources, SourcesError};

/// After a sign of change, files are read when there has been no other for this long: editors write in several steps.
const SETTLE: Duration = Duration::from_millis(5);
/// But not later than this: where something changes all the time, edits are served all the same.
const SETTLE_AT_MOST: Duration = Duration::from_millis(25);
/// A file that is empty or gone may be about to be written anew: what it held stays for this long.
const GRACE: Duration = Duration::from_millis(40);
/// Files are looked at this often even if the system says nothing, as it may on network file systems.
const LOOK: Duration = Duration::from_secs(5);
/// File times are no finer than this: a file that was read so soon after a change may have changed again unseen.
const FILE_CLOCK: Duration = Duration::from_millis(20);

/// Watches the files of sources.
pub(crate) struct Watch {
    sources: Sources,
    watcher: Option<notify::RecommendedWatcher>,
    signs: mpsc::Receiver<()>,
    sender: mpsc::Sender<()>,
    seen: BTreeMap<PathBuf, Seen>,
    /// Files that are empty or gone.
    waning: HashMap<PathBuf, Waning>,
    /// A source could not be read: what the system watches may be another folder than the one that is there now.
    lost: bool,
}

/// Since when a file is empty or gone; if it is there, with its time, since it may have been filled between two looks.
#[derive(Clone, Copy, Debug)]
struct Waning {
    since: Instant,
    modified: Option<SystemTime>,
}

/// How a file that is to be read looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    /// It is not there, and was not for long enough that it is meant so.
    Gone,
    /// It is empty, likewise.
    Empty,
    /// It holds something.
    Filled,
}

/// How a file looked, and when.
#[derive(Clone, Copy, Debug)]
struct Seen {
    found: Found,
    at: SystemTime,
}

impl Seen {
    /// Whether the file may hold something else than when it was last looked at.
    fn may_differ(&self, now: &Found) -> bool {
        let latest = now.modified.max(now.changed);
        self.found != *now || self.at < latest + FILE_CLOCK
    }
}

impl Watch {
    /// Starts to watch. Signs of change are gathered from now on, so that none is missed.
    pub(crate) fn new(sources: Sources) -> Self {
        let (sender, signs) = mpsc::channel(1);
        let mut watch = Self {
            sources,
            watcher: None,
            signs,
            sender,
            seen: BTreeMap::new(),
            waning: HashMap::new(),
            lost: false,
        };
        watch.watcher = watch.watcher();
        watch
    }

    /// Asks the system to say when something changes. Folders are watched, not files: editors and mounted ConfigMaps
    /// replace files rather than write to them.
    fn watcher(&self) -> Option<notify::RecommendedWatcher> {
        let sender = self.sender.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // One sign is as good as many.
                let _ = sender.try_send(());
            }
        })
        .inspect_err(|error| tracing::warn!(%error, "changes are only seen every few seconds"))
        .ok()?;
        for path in self.sources.paths() {
            for (folder, mode) in watched(path) {
                if let Err(error) = watcher.watch(&folder, mode) {
                    tracing::warn!(folder = %folder.display(), %error, "changes are only seen every few seconds");
                }
            }
        }
        Some(watcher)
    }

    /// Waits for a sign of change, until files have settled, or for a while.
    pub(crate) async fn wait(&mut self) {
        let patience = if self.waning.is_empty() { LOOK } else { GRACE };
        if timeout(patience, self.signs.recv()).await.is_err() {
            return;
        }
        let end = Instant::now() + SETTLE_AT_MOST;
        while Instant::now() < end && timeout(SETTLE, self.signs.recv()).await.is_ok() {}
    }

    /// The files that are to be read again, each with how it looks. It may look otherwise by the time it is read: then there
    /// is a sign of that, or the next look shows it.
    ///
    /// # Errors
    /// A path that was named cannot be read.
    pub(crate) fn changed(&mut self) -> Result<Vec<(PathBuf, Looks)>, SourcesError> {
        let at = SystemTime::now();
        let files = self.sources.files().inspect_err(|_| self.lost = true)?;
        if std::mem::take(&mut self.lost) {
            self.watcher = self.watcher();
        }
        let now = Instant::now();
        let mut changed = Vec::new();
        let mut seen = BTreeMap::new();
        for (path, before) in &self.seen {
            if files.contains_key(path) {
                continue;
            }
            if is_over(&mut self.waning, path, None, now) {
                changed.push((path.clone(), Looks::Gone));
            } else {
                seen.insert(path.clone(), *before);
            }
        }
        for (path, found) in files {
            let before = self.seen.get(&path);
            let emptied = found.length == 0 && before.is_some_and(|before| before.found.length > 0);
            if emptied && !is_over(&mut self.waning, &path, Some(found.modified), now) {
                seen.extend(before.map(|before| (path, *before)));
                continue;
            }
            self.waning.remove(&path);
            if before.is_none_or(|before| before.may_differ(&found)) {
                let looks = if found.length == 0 { Looks::Empty } else { Looks::Filled };
                changed.push((path.clone(), looks));
            }
            seen.insert(path, Seen { found, at });
        }
        self.seen = seen;
        Ok(changed)
    }
}

/// Whether a file has been empty or gone for long enough that it is meant so.
fn is_over(waning: &mut HashMap<PathBuf, Waning>, path: &Path, modified: Option<SystemTime>, now: Instant) -> bool {
    let anew = Waning { since: now, modified };
    let entry = waning.entry(path.to_owned()).or_insert(anew);
    if entry.modified != modified {
        *entry = anew;
    }
    let over = now.duration_since(entry.since) >= GRACE;
    if over {
        waning.remove(path);
    }
    over
}

/// What to watch for a source: a folder and all in it, or the folder of a file, and of the file that a link leads to.
fn watched(path: &Path) -> Vec<(PathBuf, RecursiveMode)> {
    if path.as_os_str() == STANDARD_INPUT {
        return Vec::new();
    }
    if path.is_dir() {
        return vec![(path.to_owned(), RecursiveMode::Recursive)];
    }
    let folder = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = vec![(folder(path), RecursiveMode::NonRecursive)];
    if path.is_symlink()
        && let Ok(target) = path.canonicalize()
    {
        folders.push((folder(&target), RecursiveMode::NonRecursive));
    }
    folders
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What has changed; asked until something has.
    fn next(watch: &mut Watch) -> Vec<(PathBuf, Looks)> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let changed = watch.changed().expect("the folder is there");
            if !changed.is_empty() {
                return changed;
            }
            assert!(Instant::now() < end, "nothing has changed");
        }
    }

    #[test]
    fn files_that_are_new_changed_or_gone_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, b) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        fs::write(&a, "a: 1").expect("written");
        let mut watch = Watch::new(Sources::new([folder.path()]));
        assert_eq!(next(&mut watch), [(a.clone(), Looks::Filled)]);
        fs::write(&b, "b: 1").expect("written");
        assert!(next(&mut watch).contains(&(b.clone(), Looks::Filled)));
        fs::remove_file(&a).expect("removed");
        let first: Vec<_> = watch.changed().expect("it is there");
        assert!(!first.contains(&(a.clone(), Looks::Gone)), "it may come back");
        while !next(&mut watch).contains(&(a.clone(), Looks::Gone)) {}
    }

    #[test]
    fn a_file_that_is_emptied_for_a_moment_is_not_read_empty() {
        let folder = tempfile::tempdir().expect("a folder");
        let a = folder.path().join("a.yaml");
        fs::write(&a, "a: 1").expect("written");
        let mut watch = Watch::new(Sources::new([&a]));
        assert_eq!(next(&mut watch), [(a.clone(), Looks::Filled)]);
        fs::write(&a, "").expect("written");
        let begun = Instant::now();
        assert_eq!(next(&mut watch), [(a.clone(), Looks::Empty)]);
        assert!(begun.elapsed() >= GRACE);
    }

    #[test]
    fn a_file_that_was_read_right_after_a_change_is_read_again() {
        let now = SystemTime::now();
        let found = Found {
            modified: now,
            changed: now,
            length: 1,
            device: 1,
            inode: 1,
        };
        let seen = |at| Seen { found, at };
        assert!(
            seen(now).may_differ(&found),
            "a change within the same tick of the clock"
        );
        assert!(!seen(now + FILE_CLOCK).may_differ(&found));
        assert!(seen(now + FILE_CLOCK).may_differ(&Found { inode: 2, ..found }));
    }

    #[test]
    fn the_folders_of_files_are_watched() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it is there");
        fs::create_dir(root.join("real")).expect("made");
        fs::write(root.join("real/a.yaml"), "").expect("written");
        std::os::unix::fs::symlink("real/a.yaml", root.join("a.yaml")).expect("linked");
        let one = RecursiveMode::NonRecursive;
        assert_eq!(
            watched(&root.join("a.yaml")),
            [(root.clone(), one), (root.join("real"), one)]
        );
        assert_eq!(watched(&root), [(root.clone(), RecursiveMode::Recursive)]);
        assert_eq!(watched(Path::new("a.yaml")), [(PathBuf::from("."), one)]);
        assert_eq!(watched(Path::new("-")), []);
    }
}
