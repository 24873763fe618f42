//! Objects out of files.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use smallvec::SmallVec;
use weft_crds::{Kind, Object, ObjectRef};
use weft_translate::Level;

use super::{
    located::{Located, Origin, SECRET, problem, twice},
    problem::{Place, Problem},
    reader::TreeReader,
    schema,
    text::{Text, holds, text},
    tree::{Node, NodeKind},
};

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Its objects.
    pub objects: Vec<Located>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// Its text, if it could be read.
    text: Option<Arc<Text>>,
    /// Whether it could not be read to the end: then what it held before is not gone, only unknown.
    pub broken: bool,
    /// Kinds that Weft does not read, and how many there are.
    pub unknown: BTreeMap<String, usize>,
    /// Where among the objects each stands.
    pub(super) index: HashMap<ObjectRef, usize>,
}

impl File {
    /// Reads a file.
    pub fn read(path: &Path) -> Self {
        Self::of(path, text(path))
    }

    /// Reads a file that has changed and that, when it was looked at, was `filled` or was empty. None if there is nothing to
    /// do: it holds what it held before, or was emptied or removed meanwhile, and the next look says whether it stays so.
    pub(crate) fn read_anew(path: &Path, filled: bool, before: Option<&Self>) -> Option<Self> {
        let known = before.and_then(|before| before.text.as_ref());
        if known.is_some_and(|known| holds(path, &known.text).unwrap_or(false)) {
            return None;
        }
        let text = text(path);
        match &text {
            Ok(text) if filled && text.is_empty() => None,
            Err(error) if filled && error.kind() == io::ErrorKind::NotFound => None,
            _ => Some(Self::of(path, text)),
        }
    }

    fn of(path: &Path, text: io::Result<String>) -> Self {
        match text {
            Ok(text) => Self::parse(path, text),
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
                    remedy: "name UTF-8 text that may be read; what a program writes can be piped to standard input, named -"
                        .into(),
                    snippet: None,
                }],
                ..Self::default()
            },
        }
    }

    /// Reads the text of a file.
    pub fn parse(path: &Path, text: impl Into<Box<str>>) -> Self {
        let mut file = Self::default();
        let (path, text) = (Arc::new(path.to_owned()), Arc::new(Text::new(text.into())));
        file.text = Some(text.clone());
        let mut reader = TreeReader::new(&text.text);
        loop {
            match reader.document() {
                Ok(Some((line, document))) => {
                    let origin = Origin {
                        line,
                        items: SmallVec::new(),
                    };
                    file.document(&path, &text, origin, document);
                }
                Ok(None) => {
                    file.objects.shrink_to_fit();
                    return file;
                }
                Err(error) => {
                    file.broken = true;
                    let remedy = "correct the YAML; what the file held before stays in use";
                    let found = problem(&path, &text, error.mark, "M0002", error.message, remedy.into());
                    // What object the place belongs to is not known.
                    file.problems.push(found.without_line(text.text.contains(SECRET)));
                    return file;
                }
            }
        }
    }

    fn document(&mut self, path: &Arc<PathBuf>, text: &Arc<Text>, origin: Origin, mut document: Node) {
        if matches!(document.kind, NodeKind::Scalar(serde_json::Value::Null)) {
            return;
        }
        let word = |name: &str| match document.get(name)?.value() {
            serde_json::Value::String(word) => Some(word),
            _ => None,
        };
        let (Some(version), Some(kind_name)) = (word("apiVersion"), word("kind")) else {
            let message = "the document has no apiVersion or no kind".to_owned();
            let remedy = "start it with both, like `apiVersion: v1` and `kind: Service`";
            let found = problem(path, text, document.mark, "M0003", message, remedy.into());
            return self.problems.push(found.without_line(text.text.contains(SECRET)));
        };
        if kind_name == "List" || kind_name.ends_with("List") && document.get("items").is_some() {
            return self.list(path, text, &origin, &mut document);
        }
        let Some(kind) = Kind::of(&version, &kind_name) else {
            match meant(&version, &kind_name) {
                Some(kind) => {
                    let message = format!("{kind} of {version} is not read");
                    let remedy = format!("use {}", kind.versions().join(" or "));
                    let mark = document.place_of("apiVersion");
                    let mut found = problem(path, text, mark, "M0008", message, remedy);
                    found.level = Level::Warning;
                    self.problems.push(found);
                }
                None => *self.unknown.entry(format!("{version} {kind_name}")).or_default() += 1,
            }
            return;
        };
        for unknown in schema::unknown_fields(kind, &document) {
            let message = format!("unknown field {:?} in a {kind}", unknown.name);
            let known = unknown.known.join(", ");
            let remedy = match schema::meant(&unknown.name, &unknown.known) {
                Some(meant) => format!("did you mean {meant:?}? known fields: {known}"),
                None => format!("known fields: {known}"),
            };
            let found = problem(path, text, unknown.mark, "M0005", message, remedy);
            self.problems.push(found.without_line(kind == Kind::Secret));
        }
        match Object::from_value(kind, document.value()) {
            Ok(object) if object.metadata().name.is_empty() => {
                let message = format!("the {kind} has no name");
                let mark = document.place_of("metadata");
                let found = problem(path, text, mark, "M0006", message, "add metadata.name".into());
                self.problems.push(found.without_line(kind == Kind::Secret));
            }
            Ok(object) => {
                self.put(Located {
                    object,
                    file: path.clone(),
                    text: text.clone(),
                    origin,
                });
            }
            Err(error) => {
                let at = error.path().to_string();
                let mark = document.place_of(&at);
                let message = match kind {
                    // What serde says quotes the value.
                    Kind::Secret => format!("{at} has not the type it must have"),
                    _ => format!("{at}: {}", error.inner()),
                };
                let remedy = format!(
                    "see the fields of {kind} with `kubectl explain {}`",
                    kind.name().to_lowercase()
                );
                let found = problem(path, text, mark, "M0004", message, remedy);
                self.problems.push(found.without_line(kind == Kind::Secret));
            }
        }
    }

    /// Unpacks what `kubectl get -o yaml` writes.
    fn list(&mut self, path: &Arc<PathBuf>, text: &Arc<Text>, origin: &Origin, document: &mut Node) {
        match document.take("items").map(|items| (items.mark, items.kind)) {
            Some((_, NodeKind::Sequence(items))) => {
                for (at, item) in (0..).zip(items) {
                    let mut origin = origin.clone();
                    origin.items.push(at);
                    self.document(path, text, origin, item);
                }
            }
            None | Some((_, NodeKind::Scalar(serde_json::Value::Null))) => {}
            Some((mark, _)) => {
                let message = "items: a list of objects is expected".to_owned();
                let remedy = "start each object with `- `".to_owned();
                self.problems.push(problem(path, text, mark, "M0004", message, remedy));
            }
        }
    }

    fn put(&mut self, located: Located) {
        let reference = located.object.reference();
        match self.index.get(&reference).and_then(|at| self.objects.get(*at)) {
            Some(first) => self.problems.push(twice(first, &located)),
            None => {
                self.index.insert(reference, self.objects.len());
                self.objects.push(located);
            }
        }
    }

    /// Takes the objects of an earlier reading, when this one could not be read to its end.
    pub fn keep_objects_of(&mut self, before: &Self) {
        self.objects.clone_from(&before.objects);
        self.index.clone_from(&before.index);
    }
}

/// The kind that a document was most likely meant to be of: its group and name are known, its version is not, or its
/// group was left out.
fn meant(version: &str, name: &str) -> Option<Kind> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let mut kinds = Kind::ALL.iter().copied().filter(|kind| kind.name() == name);
    kinds.find(|kind| group.is_empty() || kind.group() == group)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::text::LARGEST;

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
    fn nothing_of_a_secret_is_shown() {
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n";
        for (more, place) in [
            ("data:\n  password: [hunter2]\n", "a.yaml:5:3"),
            ("dat: {password: hunter2}\n", "a.yaml:4:1"),
            ("data: {password: hunter2\n", "a.yaml:"),
            ("data: {password: hunter2, password: hunter3}\n", "a.yaml:4:"),
            ("---\ndata: {password: hunter2}\n", "a.yaml:5:1"),
        ] {
            let file = file(&format!("{secret}{more}"));
            let text = file.problems[0].to_string();
            assert!(text.contains(place) && !text.contains("hunter"), "{text}");
        }
        let one_line =
            r#"{"apiVersion": "v1", "kind": "Secret", "data": {"password": "hunter2"}, "metadata": {"name": "a"}}"#;
        let text = file(&format!("{one_line}\n---\n{one_line}\n")).problems[0].to_string();
        assert!(text.contains("stands twice") && !text.contains("hunter"), "{text}");
        let service = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": 1}}"#;
        let list = format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{one_line}, {service}]}}"#);
        let text = file(&list).problems[0].to_string();
        assert!(text.contains("metadata.name") && !text.contains("hunter"), "{text}");
    }

    #[test]
    fn a_field_without_a_value_is_not_set() {
        let file = file("apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: }\nspec:\n  ports:\n");
        assert!(file.problems.is_empty(), "{:?}", file.problems);
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
    fn items_that_are_no_list_are_said() {
        let broken = file("apiVersion: v1\nkind: ServiceList\nitems:\n  kind: Service\n");
        let problem = &broken.problems[0];
        assert_eq!((problem.code.as_str(), broken.problems.len()), ("M0004", 1));
        assert_eq!(problem.place.as_ref().expect("placed").line, 4);
        assert!(file("apiVersion: v1\nkind: List\nitems:\n").problems.is_empty());
    }

    #[test]
    fn a_version_that_is_not_read_is_said_with_those_that_are() {
        let old = file("apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: HTTPRoute\nmetadata: {name: a}\n");
        let text = old.problems[0].to_string();
        assert!(
            text.starts_with(
                "warning[M0008]: HTTPRoute of gateway.networking.k8s.io/v1alpha2 is not read\n  --> a.yaml:1:1\n"
            ) && text.ends_with("= help: use gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1beta1"),
            "{text}"
        );
        assert!(old.unknown.is_empty());
        let bare = file("apiVersion: v1\nkind: Gateway\nmetadata: {name: a}\n");
        assert_eq!(bare.problems[0].code, "M0008");
        let core = file("apiVersion: v2\nkind: Service\nmetadata: {name: a}\n");
        assert!(
            core.problems[0].remedy.starts_with("use v1"),
            "{}",
            core.problems[0].remedy
        );
        let other = file("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n");
        assert!(
            other.problems.is_empty() && other.unknown.len() == 1,
            "a Service of somebody else"
        );
    }

    #[test]
    fn keys_with_dots_have_places() {
        let file = file(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\n    app.kubernetes.io/name: a\n    app.kubernetes.io/part: [1]\n",
        );
        assert_eq!(
            file.problems[0].place.as_ref().expect("placed").to_string(),
            "a.yaml:7:5"
        );
    }

    #[test]
    fn what_holds_the_same_is_not_read_anew_nor_what_is_empty_or_gone_only_now() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.yaml");
        let anew = |filled, before: Option<&File>| File::read_anew(&path, filled, before).is_some();
        assert!(!anew(true, None), "it is not there");
        for (content, read) in [(&b""[..], false), (b"a: 1", true), (b"\xff", true)] {
            fs::write(&path, content).expect("written");
            assert_eq!(anew(true, None), read, "{content:?}");
        }
        fs::write(&path, "").expect("written");
        assert!(anew(false, None), "it was empty for long");
        fs::write(&path, "a: 1").expect("written");
        assert!(!anew(true, Some(&File::read(&path))));
        assert!(anew(true, Some(&File::parse(&path, "a: 2"))));
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("large.yaml");
        let large = fs::File::create(&path).expect("made");
        large.set_len(LARGEST + 1).expect("it is sparse");
        let read = File::read(&path);
        assert!(
            read.broken && read.problems[0].message.contains("larger than 16 MiB"),
            "{:?}",
            read.problems
        );
    }

    #[test]
    fn a_byte_order_mark_and_windows_lines_are_no_matter() {
        let file = file(
            "\u{feff}apiVersion: v1\r\nkind: Service\r\nmetadata: {name: a}\r\nspec:\r\n  ports:\r\n  - port: x\r\n",
        );
        assert_eq!(file.problems.len(), 1, "{:?}", file.problems);
        assert!(
            file.problems[0].to_string().contains(" 6 |   - port: x\n"),
            "{}",
            file.problems[0]
        );
    }

    #[test]
    fn a_field_is_found_wherever_its_document_stands() {
        let text = "# first\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n...\n\n--- # second\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: b}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: \u{fc}}\n---\n{apiVersion: v1, kind: Service,\n metadata: {name: d}}\n";
        let file = file(text);
        assert_eq!(file.problems, [], "{:?}", file.problems);
        let places: Vec<(usize, usize)> = file
            .objects
            .iter()
            .map(|located| located.place_of("metadata.name"))
            .map(|place| (place.line, place.column))
            .collect();
        assert_eq!(places, [(5, 12), (14, 14), (17, 14), (20, 13)]);
    }

    #[test]
    fn a_carriage_return_alone_ends_a_line() {
        let file = file("apiVersion: v1\rkind: Service\rmetadata: {name: a}\rspec:\r  ports:\r  - port: x\r");
        assert_eq!(file.problems.len(), 1, "{:?}", file.problems);
        assert!(
            file.problems[0]
                .to_string()
                .contains("a.yaml:6:5\n   |\n 6 |   - port: x\n"),
            "{}",
            file.problems[0]
        );
    }

    #[test]
    fn broken_yaml_keeps_what_came_before_it() {
        let file = file("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\na: [\n");
        assert!(file.broken);
        assert_eq!((file.objects.len(), file.problems[0].code.as_str()), (1, "M0002"));
    }
}
