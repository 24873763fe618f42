//! All that was read, file by file.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use smallvec::SmallVec;
use weft_crds::ObjectRef;

use super::{
    load::File,
    located::{Located, twice},
    problem::Problem,
};

/// All objects of all files. A file that is read again costs as much as the file holds, whatever the others do.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    files: BTreeMap<Arc<Path>, File>,
    /// The files in which an object stands, mostly one; the first counts.
    holders: HashMap<ObjectRef, SmallVec<[Arc<Path>; 1]>>,
}

impl Loaded {
    /// Takes over what a file holds now; nothing when it is gone. Returns the objects that may be others now.
    pub fn replace(&mut self, path: &Path, file: Option<File>) -> BTreeSet<ObjectRef> {
        let mut touched = BTreeSet::new();
        if let Some(before) = self.files.remove(path) {
            for reference in before.index.into_keys() {
                if let Some(holders) = self.holders.get_mut(&reference) {
                    holders.retain(|holder| **holder != *path);
                    if holders.is_empty() {
                        self.holders.remove(&reference);
                    }
                }
                touched.insert(reference);
            }
        }
        if let Some(file) = file {
            let path: Arc<Path> = path.into();
            for reference in file.index.keys() {
                let holders = self.holders.entry(reference.clone()).or_default();
                let at = holders.partition_point(|holder| *holder < path);
                holders.insert(at, path.clone());
                touched.insert(reference.clone());
            }
            self.files.insert(path, file);
        }
        touched
    }

    /// A file, as it was last read.
    pub fn file(&self, path: &Path) -> Option<&File> {
        self.files.get(path)
    }

    /// The paths of the files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(AsRef::as_ref)
    }

    /// An object. Of one that stands twice, the first counts.
    pub fn get(&self, reference: &ObjectRef) -> Option<&Located> {
        let file = self.files.get(self.holders.get(reference)?.first()?)?;
        file.objects.get(*file.index.get(reference)?)
    }

    /// Every object, once.
    pub fn objects(&self) -> impl Iterator<Item = &Located> {
        self.holders.keys().filter_map(|reference| self.get(reference))
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// What is wrong with the files.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .files
            .values()
            .flat_map(|file| file.problems.iter().cloned())
            .collect();
        for (reference, holders) in self.holders.iter().filter(|(_, holders)| holders.len() > 1) {
            let located = |path: &Arc<Path>| {
                let file = self.files.get(path)?;
                file.objects.get(*file.index.get(reference)?)
            };
            let Some(first) = holders.first().and_then(located) else {
                continue;
            };
            problems.extend(
                holders
                    .iter()
                    .skip(1)
                    .filter_map(located)
                    .map(|second| twice(first, second)),
            );
        }
        problems
    }

    /// Kinds that Weft does not read, and how many objects of each there are.
    pub fn unknown(&self) -> BTreeMap<String, usize> {
        let mut unknown = BTreeMap::new();
        for (kind, count) in self.files.values().flat_map(|file| &file.unknown) {
            *unknown.entry(kind.clone()).or_default() += count;
        }
        unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_stands_twice_counts_once() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";
        let mut loaded = Loaded::default();
        loaded.replace(Path::new("a.yaml"), Some(File::parse(Path::new("a.yaml"), text)));
        loaded.replace(
            Path::new("b.yaml"),
            Some(File::parse(Path::new("b.yaml"), format!("{text}---\n{text}"))),
        );
        assert_eq!(loaded.len(), 1);
        assert_eq!(
            loaded
                .problems()
                .iter()
                .map(|problem| problem.code.as_str())
                .collect::<Vec<_>>(),
            ["M0007", "M0007"]
        );
        let touched = loaded.replace(Path::new("a.yaml"), None);
        assert_eq!((touched.len(), loaded.len(), loaded.problems().len()), (1, 1, 1));
    }
}
