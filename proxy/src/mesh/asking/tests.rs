use std::{future::Future, pin::pin};

use futures::poll;
use weft_model::{Change, Key, MeshNamespace, MeshService, Peer, Resource, ServiceKey, Stage};

use super::*;
use crate::{mesh::choice::Target, worker::Worker};

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
const SERVICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

fn peer(name: &str, address: IpAddr) -> Change {
    Change::Upsert(Resource::Peer(Arc::new(Peer {
        key: name.into(),
        addresses: vec![address],
        namespace: name.split('/').next().unwrap_or_default().into(),
        account: "default".to_owned(),
        owner: None,
        direct_ports: Vec::new(),
        probe_ports: Vec::new(),
        asks_only: false,
    })))
}

fn service(endpoints: &[IpAddr]) -> Change {
    Change::Upsert(Resource::MeshService(Arc::new(MeshService {
        key: ServiceKey::new("shop", "back", 80),
        addresses: vec![SERVICE],
        endpoints: endpoints.iter().map(|ip| SocketAddr::new(*ip, 8080)).collect(),
        leaving: Vec::new(),
        sticky: false,
        local: false,
    })))
}

fn gone(pod: &str) -> Change {
    Change::Remove(Key::Peer(pod.into()))
}

fn service_gone() -> Change {
    Change::Remove(Key::MeshService(ServiceKey::new("shop", "back", 80)))
}

fn shop() -> Vec<String> {
    vec!["shop".to_owned()]
}

fn at() -> SocketAddr {
    SocketAddr::new(A, 80)
}

/// Beside a pod in `web`, which knows how far `shop` is, as everybody does.
fn beside(mesh: &Mesh) {
    mesh.set_pod("web", "w-1");
    mesh.cannot_ask();
    mesh.apply(vec![Change::Upsert(Resource::MeshNamespace(Arc::new(MeshNamespace {
        key: "shop".into(),
        stage: Stage::Strict,
        default_action: weft_model::DefaultAction::default(),
    })))]);
}

fn mesh() -> Mesh {
    let mesh = Mesh::default();
    beside(&mesh);
    mesh.can_ask();
    mesh
}

/// A connection that is about to be made: whether who is there has to prove it. It would go in clear otherwise.
async fn proof(mesh: &Mesh, to: IpAddr) -> bool {
    let to = SocketAddr::new(to, 80);
    let (_talking, known) = mesh.met(to, DECIDES).await;
    known.expected(to, mesh.own_key()).is_some()
}

/// What comes of it at once.
async fn now(going: impl Future<Output = bool>) -> bool {
    let std::task::Poll::Ready(proof) = poll!(pin!(going)) else {
        panic!("it waits");
    };
    proof
}

#[tokio::test]
async fn a_connection_waits_for_whose_an_address_is_and_the_next_one_does_not() {
    let mesh = mesh();
    let mut meeting = pin!(mesh.meet(at(), DECIDES));
    assert!(poll!(meeting.as_mut()).is_pending());
    assert_eq!(mesh.to_say().await, (vec![A], vec![]));
    let mut other = pin!(proof(&mesh, A));
    assert!(poll!(other.as_mut()).is_pending());
    mesh.apply(vec![peer("shop/a", A)]);
    mesh.answered(A, shop());
    assert!(poll!(meeting).is_ready() && now(other).await);
    assert_eq!(mesh.told_of(), BTreeSet::from(["shop".to_owned()]));
    let asked = mesh.asked();
    assert_eq!((asked.asked, asked.somebodys, asked.unanswered), (1, 1, 0));
    assert!(now(proof(&mesh, A)).await);
    // It is asked about again once nothing is known of it.
    mesh.apply(vec![gone("shop/a")]);
    let mut later = pin!(proof(&mesh, A));
    assert!(poll!(later.as_mut()).is_pending());
    mesh.answered(A, vec![]);
    assert!(!now(later).await);
    assert!(
        !now(proof(&mesh, A)).await,
        "it is nobody's, which holds until more is said"
    );
    mesh.forget_answer(A);
    assert!(poll!(pin!(proof(&mesh, A))).is_pending());
}

#[tokio::test]
async fn nobody_waits_for_long_nor_where_nobody_else_is() {
    let mesh = mesh();
    let _ = mesh.meet(at(), Duration::from_millis(1)).await;
    assert_eq!(mesh.asked().unanswered, 1);
    mesh.answered(A, vec![]);
    assert!(!now(proof(&mesh, A)).await);
    assert!(!now(proof(&mesh, [127, 0, 0, 1].into())).await);
    // One that tells everything is not asked.
    let mut other = pin!(proof(&mesh, B));
    assert!(poll!(other.as_mut()).is_pending());
    assert!(mesh.may_be_peer(B) && !mesh.may_be_peer(A));
    mesh.need_not_ask();
    assert!(!now(other).await && !now(proof(&mesh, SERVICE)).await && !mesh.may_be_peer(B));
}

#[tokio::test]
async fn what_comes_in_parts_is_waited_for_to_its_end() {
    let mesh = mesh();
    let mut first = pin!(proof(&mesh, SERVICE));
    assert!(poll!(first.as_mut()).is_pending());
    mesh.apply(vec![peer("shop/a", A)]);
    assert!(poll!(first.as_mut()).is_pending());
    let mut second = pin!(proof(&mesh, SERVICE));
    assert!(poll!(second.as_mut()).is_pending());
    assert!(now(proof(&mesh, A)).await, "who is known is known");
    mesh.apply(vec![peer("shop/b", B)]);
    assert!(poll!(first.as_mut()).is_pending() && poll!(second.as_mut()).is_pending());
    mesh.apply(vec![service(&[A, B])]);
    mesh.answered(SERVICE, shop());
    assert!(now(first).await && now(second).await && now(proof(&mesh, SERVICE)).await);
    assert_eq!(mesh.asked().asked, 1);
}

#[tokio::test]
async fn a_service_that_is_told_before_its_pods_waits_for_them() {
    let mesh = mesh();
    mesh.apply(vec![service(&[A, B])]);
    let mut going = pin!(proof(&mesh, SERVICE));
    assert!(poll!(going.as_mut()).is_pending());
    let (mut said, _) = mesh.to_say().await;
    said.sort_unstable();
    assert_eq!(said, [A, B]);
    mesh.apply(vec![peer("shop/a", A)]);
    mesh.answered(A, shop());
    assert!(poll!(going.as_mut()).is_pending());
    mesh.apply(vec![peer("shop/b", B)]);
    mesh.answered(B, shop());
    assert!(now(going).await);
    // And one of which the operator itself does not know the pods yet.
    let other = IpAddr::from([10, 0, 0, 3]);
    mesh.apply(vec![service(&[other])]);
    let mut going = pin!(proof(&mesh, SERVICE));
    assert!(poll!(going.as_mut()).is_pending());
    mesh.answered(other, vec![]);
    assert!(poll!(going).is_ready());
    let worker = Worker::of_nothing();
    let to = SocketAddr::new(SERVICE, 80);
    let known = mesh.workloads.load_full();
    let mut target = pin!(mesh.target(&worker, to, known));
    assert!(poll!(target.as_mut()).is_pending());
    mesh.apply(vec![peer("shop/c", other)]);
    let std::task::Poll::Ready((target, known)) = poll!(target) else {
        panic!("it waits");
    };
    assert!(target == Target::Itself && known.expected(to, None).is_some());
}

#[tokio::test]
async fn what_one_operator_has_begun_to_tell_another_is_asked_for() {
    let mesh = mesh();
    let mut going = pin!(proof(&mesh, SERVICE));
    assert!(poll!(going.as_mut()).is_pending());
    assert_eq!(mesh.to_say().await.0, [SERVICE]);
    mesh.apply(vec![peer("shop/a", A)]);
    mesh.cannot_ask();
    assert!(poll!(going.as_mut()).is_pending());
    assert!(!mesh.asked().connected);
    // It does not know that this is talked to, and takes back what was told of it.
    assert_eq!(mesh.talks(), BTreeSet::new());
    mesh.can_ask();
    assert_eq!(mesh.to_say().await.0, [SERVICE]);
    mesh.apply(vec![gone("shop/a")]);
    assert!(poll!(going.as_mut()).is_pending());
    let mut direct = pin!(proof(&mesh, A));
    assert!(poll!(direct.as_mut()).is_pending());
    mesh.apply(vec![peer("shop/a", A)]);
    mesh.apply(vec![service(&[A])]);
    mesh.answered(SERVICE, shop());
    mesh.answered(A, shop());
    assert!(now(going).await && now(direct).await);
    assert_eq!(mesh.asked().unanswered, 0);
}

#[tokio::test]
async fn what_was_kept_holds_before_there_is_an_operator_and_the_rest_waits_for_one() {
    let mesh = Mesh::default();
    mesh.resume_talks(shop());
    beside(&mesh);
    mesh.apply(vec![peer("shop/a", A), service(&[A])]);
    assert!(now(proof(&mesh, A)).await && now(proof(&mesh, SERVICE)).await);
    let mut going = pin!(proof(&mesh, B));
    assert!(poll!(going.as_mut()).is_pending());
    // Another attempt has failed.
    mesh.cannot_ask();
    assert!(poll!(going.as_mut()).is_pending());
    assert_eq!(mesh.talks().len(), 1);
    mesh.can_ask();
    assert_eq!(mesh.to_say().await.0, [B]);
    mesh.apply(vec![peer("shop/b", B)]);
    mesh.answered(B, shop());
    assert!(now(going).await);
}

#[tokio::test]
async fn a_namespace_is_left_and_asked_for_again() {
    let mesh = mesh();
    mesh.apply(vec![peer("shop/a", A)]);
    mesh.answered(A, shop());
    let talking = mesh.meet(at(), DECIDES).await;
    let leave = || mesh.leave_unused_for(Duration::ZERO, &BTreeSet::new());
    leave();
    assert_eq!(mesh.told_of().len(), 1, "there is a connection");
    drop(talking);
    leave();
    assert_eq!(mesh.told_of().len(), 0);
    assert_eq!(mesh.to_say().await, (vec![], shop()));
    // Whoever comes before it is forgotten asks, since otherwise it would be forgotten beneath it.
    let mut going = pin!(proof(&mesh, A));
    assert!(poll!(going.as_mut()).is_pending());
    assert_eq!(mesh.to_say().await, (vec![A], vec![]));
    // It is forgotten after that, and told again.
    mesh.apply(vec![gone("shop/a")]);
    assert!(poll!(going.as_mut()).is_pending());
    mesh.apply(vec![peer("shop/a", A), peer("shop/b", B)]);
    mesh.answered(A, shop());
    assert!(now(going).await && now(proof(&mesh, B)).await);
    assert_eq!(mesh.talks(), BTreeSet::from(["shop".to_owned()]));
}

#[tokio::test]
async fn an_answer_from_before_a_namespace_was_left_does_not_outlive_what_it_was_about() {
    let mesh = mesh();
    mesh.apply(vec![peer("shop/a", A), service(&[A])]);
    mesh.answered(A, shop());
    mesh.leave_unused_for(Duration::ZERO, &BTreeSet::new());
    assert_eq!(mesh.to_say().await.1, ["shop"]);
    // It was found before the operator had heard of that.
    mesh.apply(vec![peer("shop/b", B)]);
    mesh.answered(B, shop());
    assert!(now(proof(&mesh, B)).await && now(proof(&mesh, SERVICE)).await);
    for part in [service_gone(), gone("shop/b"), gone("shop/a")] {
        mesh.apply(vec![part]);
        assert!(poll!(pin!(proof(&mesh, SERVICE))).is_pending());
    }
    for address in [A, B] {
        assert!(poll!(pin!(proof(&mesh, address))).is_pending());
    }
    let (mut said, _) = mesh.to_say().await;
    said.sort_unstable();
    assert_eq!(said, [A, B, SERVICE]);
}

#[tokio::test]
async fn a_namespace_of_which_only_routes_are_known_is_kept() {
    let mesh = mesh();
    mesh.answered(A, shop());
    mesh.leave_unused_for(Duration::ZERO, &BTreeSet::from(["shop".to_owned()]));
    assert_eq!(mesh.told_of().len(), 1);
    mesh.leave_unused_for(Duration::ZERO, &BTreeSet::new());
    assert_eq!(mesh.told_of().len(), 0);
}

#[tokio::test]
async fn what_it_was_told_of_and_talked_to_it_asks_for_when_it_connects() {
    let mesh = mesh();
    mesh.apply(vec![peer("shop/a", A)]);
    assert_eq!(mesh.talks(), BTreeSet::new(), "it has not talked to it");
    drop(mesh.meet(at(), DECIDES).await);
    assert_eq!(mesh.talks(), BTreeSet::from(["shop".to_owned()]));
}
