//! Objects out of folders, files and standard input.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use weft_crds::{Kind, Object, ObjectRef};
use weft_translate::{Diagnostic, Level};

use super::{
    problem::{Place, Problem},
    schema,
    tree::{self, Mark, Node},
};

/// Bytes of one file.
const LARGEST: u64 = 16 * 1024 * 1024;

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

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Its objects.
    pub objects: Vec<Located>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// Whether it could not be read to the end: then what it held before is not gone, only unknown.
    pub broken: bool,
    /// Kinds that Weft does not read, and how many there are.
    pub unknown: BTreeMap<String, usize>,
}

/// An object and where it stands.
#[derive(Clone, Debug)]
pub struct Located {
    /// The object.
    pub object: Object,
    file: Arc<PathBuf>,
    text: Arc<str>,
    tree: Arc<Node>,
}

/// All objects of all files.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects, each once.
    pub objects: BTreeMap<ObjectRef, Located>,
    /// What is wrong with the files.
    pub problems: Vec<Problem>,
    /// Kinds that Weft does not read, and how many there are.
    pub unknown: BTreeMap<String, usize>,
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
        Ok(Loaded::join(self.files()?.values()))
    }

    /// Reads everything, file by file.
    ///
    /// # Errors
    /// A path that was named cannot be read.
    pub fn files(&self) -> Result<BTreeMap<PathBuf, File>, SourcesError> {
        let mut files = BTreeMap::new();
        for path in &self.paths {
            let unreadable = |error| SourcesError::Unreadable {
                path: path.display().to_string(),
                error,
            };
            if path.as_os_str() == "-" {
                let mut text = String::new();
                io::stdin()
                    .take(LARGEST)
                    .read_to_string(&mut text)
                    .map_err(unreadable)?;
                files.insert(path.clone(), File::parse(path, &text));
                continue;
            }
            let metadata = fs::metadata(path).map_err(unreadable)?;
            if metadata.is_dir() {
                for file in manifests(path).map_err(unreadable)? {
                    let read = File::read(&file);
                    files.insert(file, read);
                }
            } else {
                files.insert(path.clone(), File::read(path));
            }
        }
        Ok(files)
    }
}

/// The manifests under a folder, in the order of their names. What is hidden is passed over, as are the data folders of
/// mounted ConfigMaps, whose files are seen through their links.
fn manifests(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'))
        {
            continue;
        }
        if entry.is_dir() {
            found.extend(manifests(&entry)?);
        } else if entry
            .extension()
            .is_some_and(|extension| matches!(extension.to_str(), Some("yaml" | "yml" | "json")))
        {
            found.push(entry);
        }
    }
    Ok(found)
}

impl File {
    /// Reads a file.
    pub fn read(path: &Path) -> Self {
        let text = fs::metadata(path).and_then(|metadata| {
            if metadata.len() > LARGEST {
                return Err(io::Error::other("the file is larger than 16 MiB"));
            }
            fs::read_to_string(path)
        });
        match text {
            Ok(text) => Self::parse(path, &text),
            Err(error) => Self {
                broken: true,
                problems: vec![Problem {
                    code: "M0001".into(),
                    level: Level::Error,
                    place: Some(Place {
                        file: Arc::new(path.to_owned()),
                        line: 1,
                        column: 1,
                    }),
                    object: None,
                    message: format!("the file cannot be read: {error}"),
                    remedy: "see that it is UTF-8 text that may be read".into(),
                    snippet: None,
                }],
                ..Self::default()
            },
        }
    }

    /// Reads the text of a file.
    pub fn parse(path: &Path, text: &str) -> Self {
        let mut file = Self::default();
        let (path, text) = (Arc::new(path.to_owned()), Arc::<str>::from(text));
        let (documents, error) = tree::parse(&text);
        if let Some(error) = error {
            file.broken = true;
            let remedy = "correct the YAML; what the file held before stays in use";
            file.problems
                .push(problem(&path, &text, error.mark, "M0002", error.message, remedy.into()));
        }
        for document in documents {
            file.document(&path, &text, document);
        }
        file
    }

    fn document(&mut self, path: &Arc<PathBuf>, text: &Arc<str>, document: Node) {
        if matches!(document.kind, tree::NodeKind::Scalar(serde_json::Value::Null)) {
            return;
        }
        let word = |name: &str| match document.get(name)?.value() {
            serde_json::Value::String(word) => Some(word),
            _ => None,
        };
        let (Some(version), Some(kind_name)) = (word("apiVersion"), word("kind")) else {
            let message = "the document has no apiVersion or no kind".to_owned();
            let remedy = "start it with both, like `apiVersion: v1` and `kind: Service`";
            return self
                .problems
                .push(problem(path, text, document.mark, "M0003", message, remedy.into()));
        };
        if kind_name == "List" || kind_name.ends_with("List") && document.get("items").is_some() {
            if let Some(Node {
                kind: tree::NodeKind::Sequence(items),
                ..
            }) = document.get("items")
            {
                for item in items.clone() {
                    self.document(path, text, item);
                }
            }
            return;
        }
        let Some(kind) = Kind::of(&version, &kind_name) else {
            *self.unknown.entry(format!("{version} {kind_name}")).or_default() += 1;
            return;
        };
        for unknown in schema::unknown_fields(kind, &document) {
            let message = format!("unknown field {:?} in a {kind}", unknown.name);
            let known = unknown.known.join(", ");
            let remedy = match schema::meant(&unknown.name, &unknown.known) {
                Some(meant) => format!("did you mean {meant:?}? known fields: {known}"),
                None => format!("known fields: {known}"),
            };
            self.problems
                .push(problem(path, text, unknown.mark, "M0005", message, remedy));
        }
        match Object::from_value(kind, document.value()) {
            Ok(object) if object.metadata().name.is_empty() => {
                let message = format!("the {kind} has no name");
                let mark = document.place_of("metadata");
                self.problems
                    .push(problem(path, text, mark, "M0006", message, "add metadata.name".into()));
            }
            Ok(object) => {
                let located = Located {
                    object,
                    file: path.clone(),
                    text: text.clone(),
                    tree: Arc::new(document),
                };
                self.objects.push(located);
            }
            Err(error) => {
                let at = error.path().to_string();
                let mark = document.place_of(&at);
                let message = format!("{at}: {}", error.inner());
                let remedy = format!(
                    "see the fields of {kind} with `kubectl explain {}`",
                    kind.name().to_lowercase()
                );
                self.problems.push(problem(path, text, mark, "M0004", message, remedy));
            }
        }
    }
}

fn problem(path: &Arc<PathBuf>, text: &str, mark: Mark, code: &str, message: String, remedy: String) -> Problem {
    let snippet = text
        .lines()
        .nth(mark.line - 1)
        .map(|line| line.chars().take(160).collect());
    Problem {
        code: code.into(),
        level: Level::Error,
        place: Some(Place {
            file: path.clone(),
            line: mark.line,
            column: mark.column,
        }),
        object: None,
        message,
        remedy,
        snippet,
    }
}

impl Located {
    /// Where a field of the object stands.
    pub fn place_of(&self, path: &str) -> Place {
        let mark = self.tree.place_of(path);
        Place {
            file: self.file.clone(),
            line: mark.line,
            column: mark.column,
        }
    }

    /// What is wrong with the object, at its place.
    pub fn problem(&self, diagnostic: &Diagnostic) -> Problem {
        let mark = self.tree.place_of(&diagnostic.path);
        let message = diagnostic.message.clone();
        let mut found = problem(
            &self.file,
            &self.text,
            mark,
            diagnostic.code.as_str(),
            message,
            diagnostic.remedy.clone(),
        );
        found.level = diagnostic.level;
        found.object = Some(self.object.reference().to_string());
        // A Secret's lines are not for showing.
        if self.object.kind() == Kind::Secret {
            found.snippet = None;
        }
        found
    }
}

impl Loaded {
    /// Joins what files hold. Of an object that stands twice, the first counts.
    pub fn join<'f>(files: impl IntoIterator<Item = &'f File>) -> Self {
        let mut loaded = Self::default();
        let mut places: HashMap<ObjectRef, Place> = HashMap::new();
        for file in files {
            loaded.problems.extend(file.problems.iter().cloned());
            for (kind, count) in &file.unknown {
                *loaded.unknown.entry(kind.clone()).or_default() += count;
            }
            for located in &file.objects {
                let reference = located.object.reference();
                let place = located.place_of("metadata.name");
                if let Some(first) = places.get(&reference) {
                    let message = format!("{reference} stands twice: the first is at {first}");
                    let mark = Mark {
                        line: place.line,
                        column: place.column,
                    };
                    let remedy = "remove one of them, or give it another name".to_owned();
                    loaded
                        .problems
                        .push(problem(&located.file, &located.text, mark, "M0007", message, remedy));
                    continue;
                }
                places.insert(reference.clone(), place);
                loaded.objects.insert(reference, located.clone());
            }
        }
        loaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File::parse(Path::new("a.yaml"), text)
    }

    #[test]
    fn an_unknown_field_is_shown_where_it_stands_with_what_was_meant() {
        let file = file(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: a\nspec:\n  rules:\n  - backendRef: []\n",
        );
        let text = file.problems[0].to_string();
        assert!(text.starts_with(
            "error[M0005]: unknown field \"backendRef\" in a HTTPRoute\n  --> a.yaml:7:5\n   |\n 7 |   - backendRef: []\n   |     ^\n  = help: did you mean \"backendRefs\"? known fields: backendRefs, filters, matches, name"
        ), "{text}");
        assert_eq!(file.objects.len(), 1, "the rest is served");
    }

    #[test]
    fn a_wrong_type_is_shown_where_it_stands() {
        let file = file("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: http\n");
        assert_eq!(file.problems[0].code, "M0004");
        assert_eq!(
            file.problems[0].place.as_ref().expect("placed").to_string(),
            "a.yaml:6:5"
        );
        assert!(file.objects.is_empty());
    }

    #[test]
    fn lists_are_unpacked_and_other_kinds_counted() {
        let file = file(
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}\n---\n{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"n\"}}\n",
        );
        assert!(file.problems.is_empty(), "{:?}", file.problems);
        assert_eq!(file.objects.len(), 2);
        assert_eq!(file.unknown, [("apps/v1 Deployment".to_owned(), 1)].into());
    }

    #[test]
    fn an_object_that_stands_twice_counts_once() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";
        let loaded = Loaded::join([&file(text), &file(text)]);
        assert_eq!(loaded.objects.len(), 1);
        assert_eq!(loaded.problems[0].code, "M0007");
    }

    #[test]
    fn broken_yaml_keeps_what_came_before_it() {
        let file = file("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\na: [\n");
        assert!(file.broken);
        assert_eq!((file.objects.len(), file.problems[0].code.as_str()), (1, "M0002"));
    }
}
