//! How far namespaces are, and what of the stage before still holds for a while.
//!
//! Nobody hears of a stage at the same moment as all others. So what lets in holds at once, and what shuts out only once
//! everybody has heard: who comes in clear is let in for some time after `observe`, though the namespace is `strict` by now, and
//! workloads are asked for proof for some time after `secure` and `strict`, though nobody has to give it any more. Both is as if
//! the namespace had gone by way of `secure`, and not too fast.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_model::{DefaultAction, MeshNamespace, NamespaceKey, Stage};

/// So long it may take until all have heard of a stage.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// So long a workload that comes with proof is waited for as in `secure`, after that. Its own time begins later than here.
const HEARD: Duration = Duration::from_secs(15);

/// The namespaces in the mesh, and those that have left it just now.
#[derive(Clone, Debug, Default)]
pub(super) struct Stages {
    namespaces: HashMap<NamespaceKey, Staged>,
    /// Whether everything was told once. Only then is a namespace of which nothing was told known to be in no mesh.
    complete: bool,
}

#[derive(Clone, Debug, Default)]
struct Staged {
    told: Option<Arc<MeshNamespace>>,
    /// Until when its workloads let in who comes in clear, whatever was told since `observe`.
    open: Option<Instant>,
    /// Until when they are asked for proof, whatever was told since `secure` or `strict`.
    proves: Option<Instant>,
    /// Until when they hear who comes with proof before a server that speaks first.
    hears: Option<Instant>,
}

impl Staged {
    fn stage(&self) -> Stage {
        self.told.as_ref().map_or(Stage::Observe, |told| told.stage)
    }

    fn times(&self) -> [Option<Instant>; 3] {
        [self.open, self.proves, self.hears]
    }
}

impl Stages {
    /// Takes what is told of a namespace: how far it is, or that it is in the mesh no longer.
    pub(super) fn tell(&mut self, key: &NamespaceKey, told: Option<Arc<MeshNamespace>>, now: Instant) {
        let known = self.complete || self.namespaces.contains_key(key);
        let staged = self.namespaces.entry(key.clone()).or_default();
        // Who has just started, and is told of `strict` first, was never open.
        let before = known.then(|| staged.stage());
        staged.told = told;
        let after = staged.stage();
        match (before, after) {
            (Some(Stage::Observe), Stage::Secure | Stage::Strict) => {
                *staged = Staged {
                    told: staged.told.take(),
                    open: Some(now + GRACE),
                    ..Staged::default()
                };
            }
            (Some(Stage::Secure | Stage::Strict), Stage::Observe) => {
                *staged = Staged {
                    told: staged.told.take(),
                    proves: Some(now + GRACE),
                    hears: Some(now + HEARD),
                    ..Staged::default()
                };
            }
            _ => {}
        }
        self.forget();
    }

    /// Everything was told.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Says that it was.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// How the workloads of a namespace are to be come to, as they see it, and what becomes there of what no policy decides.
    pub(super) fn inbound(&self, key: &NamespaceKey) -> (Stage, DefaultAction) {
        let Some(staged) = self.namespaces.get(key) else {
            return Default::default();
        };
        let Some(told) = &staged.told else {
            return Default::default();
        };
        let stage = match told.stage {
            Stage::Strict if staged.open.is_some() => Stage::Secure,
            stage => stage,
        };
        (stage, told.default_action)
    }

    /// The same, as those see it who come.
    pub(super) fn outbound(&self, key: &NamespaceKey) -> Stage {
        self.namespaces
            .get(key)
            .map_or(Stage::Observe, |staged| match staged.stage() {
                Stage::Observe if staged.proves.is_some() => Stage::Secure,
                stage => stage,
            })
    }

    /// Whether who comes in clear is let in only since it was until just now.
    pub(super) fn is_closing(&self, key: &NamespaceKey) -> bool {
        let staged = self.namespaces.get(key);
        staged.is_some_and(|staged| staged.stage() == Stage::Strict && staged.open.is_some())
    }

    /// Whether workloads may come with proof though nobody asks them for it.
    pub(super) fn hears(&self, key: &NamespaceKey) -> bool {
        self.namespaces.get(key).is_some_and(|staged| staged.hears.is_some())
    }

    /// Until when workloads of a namespace that has left the mesh are asked for proof: for so long it matters who they are.
    pub(super) fn leaves(&self, key: &NamespaceKey) -> Option<Instant> {
        let staged = self.namespaces.get(key)?;
        staged.proves.filter(|_| staged.told.is_none())
    }

    /// When something holds no longer.
    pub(super) fn due(&self) -> Option<Instant> {
        let namespaces = self.namespaces.values();
        namespaces.flat_map(Staged::times).flatten().min()
    }

    /// Ends what holds no longer.
    pub(super) fn settle(&mut self, now: Instant) {
        for (key, staged) in &mut self.namespaces {
            if staged.open.take_if(|until| *until <= now).is_some() && staged.stage() == Stage::Strict {
                tracing::debug!(namespace = %key, "nobody is let in any more who comes in clear");
            }
            staged.proves.take_if(|until| *until <= now);
            staged.hears.take_if(|until| *until <= now);
        }
        self.forget();
    }

    fn forget(&mut self) {
        let of_use = |staged: &Staged| staged.told.is_some() || staged.times().iter().any(Option::is_some);
        self.namespaces.retain(|_, staged| of_use(staged));
    }

    /// As they were told.
    pub(super) fn told(&self) -> impl Iterator<Item = &Arc<MeshNamespace>> {
        self.namespaces.values().filter_map(|staged| staged.told.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUST_BEFORE: Duration = Duration::from_millis(9_999);

    struct Shop {
        stages: Stages,
        now: Instant,
    }

    impl Shop {
        fn new(complete: bool) -> Self {
            let mut stages = Stages::default();
            if complete {
                stages.complete();
            }
            Self {
                stages,
                now: Instant::now(),
            }
        }

        fn tell(&mut self, stage: Option<Stage>) {
            let told = stage.map(|stage| {
                Arc::new(MeshNamespace {
                    key: "shop".into(),
                    stage,
                    default_action: DefaultAction::default(),
                })
            });
            self.stages.tell(&"shop".into(), told, self.now);
        }

        fn wait(&mut self, time: Duration) {
            self.now += time;
            self.stages.settle(self.now);
        }

        /// How its workloads are come to: as they see it, and as those see it who come.
        fn stage(&self) -> (Stage, Stage) {
            let key = "shop".into();
            (self.stages.inbound(&key).0, self.stages.outbound(&key))
        }
    }

    #[test]
    fn straight_to_strict_who_has_not_heard_of_it_is_let_in_for_some_time() {
        for before in [Some(Stage::Observe), None] {
            let mut shop = Shop::new(true);
            shop.tell(before);
            shop.tell(Some(Stage::Strict));
            assert_eq!(shop.stage(), (Stage::Secure, Stage::Strict), "from {before:?}");
            assert!(shop.stages.is_closing(&"shop".into()));
            shop.wait(JUST_BEFORE);
            // What is told again begins nothing anew.
            shop.tell(Some(Stage::Strict));
            assert_eq!(shop.stage(), (Stage::Secure, Stage::Strict));
            shop.wait(Duration::from_millis(1));
            assert_eq!(shop.stage(), (Stage::Strict, Stage::Strict));
            assert!(!shop.stages.is_closing(&"shop".into()) && shop.stages.due().is_none());
        }
    }

    #[test]
    fn it_is_no_shorter_by_way_of_secure() {
        let mut shop = Shop::new(true);
        shop.tell(Some(Stage::Observe));
        shop.tell(Some(Stage::Secure));
        shop.wait(Duration::from_secs(4));
        shop.tell(Some(Stage::Strict));
        assert_eq!(shop.stage(), (Stage::Secure, Stage::Strict));
        shop.wait(Duration::from_secs(6));
        assert_eq!(shop.stage(), (Stage::Strict, Stage::Strict));
        shop.tell(Some(Stage::Secure));
        shop.tell(Some(Stage::Strict));
        assert_eq!(
            shop.stage(),
            (Stage::Strict, Stage::Strict),
            "everybody proves who he is"
        );
    }

    #[test]
    fn who_starts_in_strict_was_never_open() {
        let mut shop = Shop::new(false);
        shop.tell(Some(Stage::Strict));
        assert_eq!(shop.stage(), (Stage::Strict, Stage::Strict));
        shop.stages.complete();
        shop.tell(Some(Stage::Strict));
        assert_eq!(shop.stage(), (Stage::Strict, Stage::Strict));
        // One that goes on with what was kept knows that it was.
        let mut shop = Shop::new(false);
        shop.tell(Some(Stage::Observe));
        shop.tell(Some(Stage::Strict));
        assert_eq!(shop.stage(), (Stage::Secure, Stage::Strict));
    }

    #[test]
    fn back_in_observe_workloads_are_asked_for_proof_for_some_time() {
        let from = [Stage::Secure, Stage::Strict];
        for (before, after) in from
            .into_iter()
            .flat_map(|from| [(from, Some(Stage::Observe)), (from, None)])
        {
            let mut shop = Shop::new(true);
            shop.tell(Some(before));
            shop.wait(GRACE);
            shop.tell(after);
            assert_eq!(shop.stage(), (Stage::Observe, Stage::Secure), "{before:?} to {after:?}");
            assert!(shop.stages.hears(&"shop".into()));
            assert_eq!(shop.stages.leaves(&"shop".into()).is_some(), after.is_none());
            shop.wait(JUST_BEFORE);
            assert_eq!(shop.stage(), (Stage::Observe, Stage::Secure));
            shop.wait(Duration::from_millis(1));
            assert_eq!(shop.stage(), (Stage::Observe, Stage::Observe));
            assert!(shop.stages.hears(&"shop".into()), "others have heard of it later");
            shop.wait(HEARD);
            assert!(!shop.stages.hears(&"shop".into()) && shop.stages.due().is_none());
            assert_eq!(shop.stages.namespaces.len(), usize::from(after.is_some()));
        }
    }

    #[test]
    fn who_goes_back_and_forth_is_open_for_some_time_each_time() {
        let mut shop = Shop::new(true);
        shop.tell(Some(Stage::Secure));
        shop.wait(GRACE);
        shop.tell(Some(Stage::Observe));
        assert_eq!(shop.stage(), (Stage::Observe, Stage::Secure));
        shop.tell(Some(Stage::Strict));
        assert_eq!(shop.stage(), (Stage::Secure, Stage::Strict));
        assert!(!shop.stages.hears(&"shop".into()) && shop.stages.leaves(&"shop".into()).is_none());
        shop.tell(None);
        assert_eq!(shop.stage(), (Stage::Observe, Stage::Secure));
        assert!(shop.stages.leaves(&"shop".into()).is_some());
        shop.wait(HEARD);
        assert!(shop.stages.namespaces.is_empty());
    }
}
