//! What is said by Events.

use std::collections::BTreeMap;

use weft_crds::ObjectRef;
use weft_translate::Diagnostic;

use super::Controller;
use crate::{
    acme,
    events::{self, Transition},
};

impl Controller {
    /// Says by Events what is wrong with objects that have no status.
    pub(super) fn say_wrong(&self, wrong: Vec<(ObjectRef, Diagnostic)>) {
        let world = &self.parts.world;
        let mut said: BTreeMap<ObjectRef, Vec<Transition>> = BTreeMap::new();
        for (reference, diagnostic) in wrong {
            said.entry(reference).or_default().push(Transition {
                warning: true,
                condition: "Translate".to_owned(),
                reason: format!("{:?}", diagnostic.code),
                message: format!("{}: {} ({})", diagnostic.path, diagnostic.message, diagnostic.remedy),
            });
        }
        let said = said.into_iter().filter_map(|(reference, transitions)| {
            let (seen, resource) = (world.seen(&reference)?, world.resource(reference.kind)?);
            Some((seen.clone(), resource.api_version.clone(), transitions))
        });
        let said: Vec<_> = said.collect();
        if said.is_empty() {
            return;
        }
        let recorder = self.parts.recorder.clone();
        // One after the other: after a change of the Lease there may be many.
        tokio::spawn(async move {
            for (seen, version, transitions) in said {
                events::publish(&recorder, &seen, &version, transitions).await;
            }
        });
    }

    /// Says something by an Event.
    pub(super) fn say(&self, said: acme::Said) {
        let world = &self.parts.world;
        let (Some(seen), Some(resource)) = (world.seen(&said.owner), world.resource(said.owner.kind)) else {
            return;
        };
        let (seen, version) = (seen.clone(), resource.api_version.clone());
        let recorder = self.parts.recorder.clone();
        let transition = Transition {
            warning: said.warning,
            condition: "OrderCertificate".to_owned(),
            reason: said.reason.to_owned(),
            message: said.message,
        };
        // An Event that is not published is no reason to wait.
        tokio::spawn(async move { events::publish(&recorder, &seen, &version, vec![transition]).await });
    }
}
