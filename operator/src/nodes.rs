//! What is told of a node that is heard of again: for a while it is told as unready still. While a node was not heard of,
//! Kubernetes has called its pods unready, and its kubelet, once it is back, says of each how it stands only little by little.

use std::{collections::HashMap, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use weft_crds::{Object, ObjectRef};

use crate::{
    object::Seen,
    queue::until,
    watch::{News, Watched},
};

/// How long that is. A kubelet compares what is said of its pods with how they are every ten seconds; but it, and then the
/// controller of EndpointSlices, may each wait for half a minute before they begin a watch anew that they have lost.
const SETTLED: Duration = Duration::from_secs(120);

/// A node that is told as unready.
struct Lost {
    /// As it is told.
    told: Object,
    /// As it is by now, if it has come back, and when that is told.
    back: Option<(Instant, Box<Seen>, Object)>,
    /// Whether the list that is under way has it.
    listed: bool,
}

impl Lost {
    /// When it is told that it is back. One that a list does not have may be gone, which is known once the list is complete.
    fn due(&self) -> Option<Instant> {
        let (when, ..) = self.back.as_ref()?;
        self.listed.then_some(*when)
    }
}

/// Hands on what the watch of nodes has to say until one of the two ends is gone.
pub(crate) async fn relay(mut from: mpsc::Receiver<(Watched, News)>, to: mpsc::Sender<(Watched, News)>) {
    let mut lost: HashMap<ObjectRef, Lost> = HashMap::new();
    let watched = Watched::Kind(weft_crds::Kind::Node);
    loop {
        let due = lost.values().filter_map(Lost::due).min();
        let news = tokio::select! {
            news = from.recv() => match news {
                Some((_, news)) => vec![hold(&mut lost, news)],
                None => return,
            },
            () = until(due) => settled(&mut lost),
        };
        for news in news {
            if to.send((watched, news)).await.is_err() {
                return;
            }
        }
    }
}

/// What is told in the place of news.
fn hold(lost: &mut HashMap<ObjectRef, Lost>, news: News) -> News {
    match news {
        News::Put(seen, object) => {
            let unready = matches!(&object, Object::Node(node) if node.is_unready());
            if unready {
                let (told, back) = (object.clone(), None);
                lost.insert(
                    seen.reference.clone(),
                    Lost {
                        told,
                        back,
                        listed: true,
                    },
                );
            } else if let Some(lost) = lost.get_mut(&seen.reference) {
                lost.listed = true;
                let when = lost
                    .back
                    .take()
                    .map_or_else(|| Instant::now() + SETTLED, |(when, ..)| when);
                lost.back = Some((when, seen.clone(), object));
                return News::Put(seen, lost.told.clone());
            }
            News::Put(seen, object)
        }
        News::Delete(reference) => {
            lost.remove(&reference);
            News::Delete(reference)
        }
        News::Begin(resource) => {
            lost.values_mut().for_each(|lost| lost.listed = false);
            News::Begin(resource)
        }
        News::Complete => {
            lost.retain(|_, lost| lost.listed);
            News::Complete
        }
        other => other,
    }
}

/// Those that have been back for long enough.
fn settled(lost: &mut HashMap<ObjectRef, Lost>) -> Vec<News> {
    let now = Instant::now();
    let due = lost.extract_if(|_, lost| lost.due().is_some_and(|due| due <= now));
    due.filter_map(|(_, lost)| lost.back)
        .map(|(_, seen, object)| News::Put(seen, object))
        .collect()
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectMeta;
    use serde_json::{Value, json};
    use weft_crds::Kind;

    use super::*;
    use crate::object::seen;

    fn put(name: &str, ready: &str) -> News {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        let node = json!({"metadata": {"name": name}, "status": {"conditions": conditions}});
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        let object = Object::from_value(Kind::Node, node).expect("a Node");
        News::Put(Box::new(seen(Kind::Node, &metadata, Value::Null)), object)
    }

    struct Nodes {
        news: mpsc::Sender<(Watched, News)>,
        told: mpsc::Receiver<(Watched, News)>,
    }

    impl Nodes {
        fn new() -> Self {
            let (news, from) = mpsc::channel(8);
            let (to, told) = mpsc::channel(8);
            tokio::spawn(relay(from, to));
            Self { news, told }
        }

        /// What is told next, in a word, and how many seconds that takes.
        async fn told(&mut self) -> (String, u64) {
            let began = Instant::now();
            let (_, news) = self.told.recv().await.expect("somebody tells");
            let said = match news {
                News::Put(seen, Object::Node(node)) => {
                    let how = if node.is_unready() { "unready" } else { "ready" };
                    format!("{} {how}", seen.reference.name)
                }
                News::Delete(reference) => format!("{} gone", reference.name),
                other => format!("{other:?}"),
            };
            (said, began.elapsed().as_secs())
        }

        async fn tells(&mut self, news: News) -> String {
            let watched = Watched::Kind(Kind::Node);
            self.news.send((watched, news)).await.expect("it is taken");
            self.told().await.0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_told_as_unready_for_a_while_longer() {
        let mut nodes = Nodes::new();
        assert_eq!(nodes.tells(put("a", "True")).await, "a ready");
        assert_eq!(nodes.tells(put("a", "Unknown")).await, "a unready");
        assert_eq!(nodes.tells(put("a", "True")).await, "a unready");
        tokio::time::advance(SETTLED / 2).await;
        assert_eq!(nodes.tells(put("b", "True")).await, "b ready");
        assert_eq!(nodes.tells(put("a", "True")).await, "a unready", "no news");
        assert_eq!(nodes.told().await, ("a ready".into(), SETTLED.as_secs() / 2));
        assert_eq!(nodes.tells(put("a", "True")).await, "a ready");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_lost_again_or_gone_meanwhile_is_not_told_as_ready() {
        let mut nodes = Nodes::new();
        for name in ["a", "b", "c"] {
            assert_eq!(nodes.tells(put(name, "Unknown")).await, format!("{name} unready"));
            assert_eq!(nodes.tells(put(name, "True")).await, format!("{name} unready"));
        }
        assert_eq!(nodes.tells(put("a", "False")).await, "a unready");
        let gone = ObjectRef::new(Kind::Node, "", "b");
        assert_eq!(nodes.tells(News::Delete(gone)).await, "b gone");
        // The list is begun anew: there is no c in it.
        assert_eq!(nodes.tells(News::Begin(None)).await, "Begin(None)");
        assert_eq!(nodes.tells(put("a", "False")).await, "a unready");
        tokio::time::advance(SETTLED * 2).await;
        assert_eq!(nodes.tells(News::Complete).await, "Complete");
        assert_eq!(nodes.tells(put("d", "True")).await, "d ready");
        assert_eq!(nodes.tells(put("a", "True")).await, "a unready");
        assert_eq!(nodes.told().await, ("a ready".into(), SETTLED.as_secs()));
    }
}
