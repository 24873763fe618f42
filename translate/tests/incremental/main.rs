//! Two properties of incremental translation: whatever was edited, and in whatever order, the outcome is that of the
//! objects there are now; and an edit costs the same however many objects it has nothing to do with.

mod cost;
mod follower;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use weft_crds::{Object, ObjectRef};
use weft_model::{Key, Resource};
use weft_translate::{Diagnostic, Edit, Status, Translator};

use self::{
    follower::Follower,
    support::{apply, translator},
    world::edits,
};

fn resources(translator: &Translator) -> BTreeMap<Key, Resource> {
    translator
        .resources()
        .map(|resource| (resource.key(), resource.clone()))
        .collect()
}

fn statuses(translator: &Translator) -> BTreeMap<ObjectRef, Status> {
    let all = translator.statuses();
    all.map(|(reference, status)| (reference.clone(), status.clone()))
        .collect()
}

fn diagnostics(translator: &Translator) -> BTreeMap<ObjectRef, Vec<Diagnostic>> {
    let mut all: BTreeMap<ObjectRef, Vec<Diagnostic>> = BTreeMap::new();
    for (reference, diagnostic) in translator.diagnostics() {
        all.entry(reference.clone()).or_default().push(diagnostic.clone());
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn edits_lead_to_what_their_outcome_alone_would(
        standalone in any::<bool>(),
        first in vec(edits(), 0..60),
        batches in vec(vec(edits(), 1..4), 1..16),
    ) {
        let mut translator = translator(standalone);
        let mut world: BTreeMap<ObjectRef, Object> = BTreeMap::new();
        let mut follower = Follower::default();
        let mut wanted = BTreeMap::new();
        for batch in std::iter::once(first).chain(batches) {
            for edit in &batch {
                match edit {
                    Edit::Put(object) => world.insert(object.reference(), object.clone()),
                    Edit::Delete(reference) => world.remove(reference),
                };
            }
            let output = translator.apply(batch);
            if output.acme {
                wanted = translator.wanted();
            }
            let needless = follower.follow(output);
            prop_assert_eq!(needless, Vec::<String>::new());

            let mut fresh = support::translator(standalone);
            apply(&mut fresh, world.values().cloned());
            prop_assert_eq!(resources(&translator), resources(&fresh));
            prop_assert_eq!(statuses(&translator), statuses(&fresh));
            prop_assert_eq!(diagnostics(&translator), diagnostics(&fresh));
            prop_assert_eq!(&wanted, &fresh.wanted());

            prop_assert_eq!(&follower.resources, &resources(&fresh));
            prop_assert_eq!(&follower.diagnostics, &diagnostics(&fresh));
            // Of objects that are gone or no longer ours nothing is said.
            follower.statuses.retain(|reference, _| statuses(&fresh).contains_key(reference));
            prop_assert_eq!(&follower.statuses, &statuses(&fresh));
        }
    }
}
