//! Objects from YAML, for all tests of the crate.

use std::collections::BTreeMap;

use weft_crds::{Kind, Object, ObjectRef};
use weft_translate::{CONTROLLER, Edit, Options, Output, Translator};

/// A translator of an empty world.
pub(crate) fn translator(standalone: bool) -> Translator {
    Translator::new(Options {
        controller_name: CONTROLLER.into(),
        standalone,
        mesh: !standalone,
    })
}

/// Puts objects, all at once.
pub(crate) fn apply(translator: &mut Translator, objects: impl IntoIterator<Item = Object>) -> Output {
    translator.apply(objects.into_iter().map(Edit::Put).collect())
}

/// The objects of a YAML stream.
pub(crate) fn manifests(text: &str) -> BTreeMap<ObjectRef, Object> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(text).expect("YAML");
    let objects = documents.into_iter().map(|document| {
        let field = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (field("apiVersion"), field("kind"));
        let kind = Kind::of(&version, &kind).unwrap_or_else(|| panic!("{version} {kind} is not read"));
        Object::from_value(kind, document).expect("an object of its kind")
    });
    let mut found = BTreeMap::new();
    for object in objects {
        let before = found.insert(object.reference(), object);
        assert!(before.is_none(), "{} stands twice", before.expect("one").reference());
    }
    found
}
