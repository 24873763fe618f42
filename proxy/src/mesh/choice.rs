//! Which endpoint of a Service a connection is made to, where that is not left to somebody else.
//!
//! Behind the address of a Service somebody else chooses, so that nobody here knows whether it will be a workload that can prove
//! who it is. If all of them can, or none, or none has to, that does not matter. Otherwise it is chosen here.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::{Either, select};
use tokio::{
    net::TcpStream,
    time::{timeout, timeout_at},
};
use weft_model::{ServiceKey, Stage, WorkloadKey};

use super::{
    DECIDES, Expected, Mesh,
    workloads::{Workloads, canonical},
};
use crate::{
    dial::{dial, tune},
    worker::Worker,
};

/// Endpoints that are tried for a connection before it is given up.
const TRIES: usize = 3;
/// What is told of pods and of endpoints comes by different ways. For so long it is waited, where nobody comes in clear, for
/// what is told of the pod of an endpoint that has just been told of, or of the endpoints of a Service that is new.
const APART: Duration = Duration::from_secs(2);

/// Where a connection to an address is made to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// There.
    Itself,
    /// To one of these endpoints of a Service, in this order.
    Among(ServiceKey, Vec<SocketAddr>),
    /// It may be known until then.
    Soon(Instant),
    /// To nobody: the Service has no endpoints, and nobody is spoken to in clear.
    Nobody(ServiceKey),
}

impl Workloads {
    /// Where a connection to an address is made to from a pod.
    pub(super) fn target(
        &self,
        to: SocketAddr,
        own: Option<&WorkloadKey>,
        now: Instant,
        mut random: impl FnMut() -> u64,
    ) -> Target {
        let to = canonical(to);
        let Some(told) = self.behind_address(to) else {
            return Target::Itself;
        };
        let service = &told.service;
        let (namespace, ..) = service.key.parts();
        let stage = self.stage_of_others(&namespace.into());
        let until = told.since + APART;
        if service.endpoints.is_empty() && stage == Stage::Strict {
            return match self.last(told).next() {
                // Somebody else may know of one already, and whoever it is proves it.
                Some(_) => Target::Itself,
                None if now < until => Target::Soon(until),
                None => Target::Nobody(service.key.clone()),
            };
        }
        let proves = |to: &SocketAddr| self.peer(*to).is_some();
        if stage < Stage::Secure || service.local || service.endpoints.iter().all(proves) {
            return Target::Itself;
        }
        let is_known = |to: &SocketAddr| self.at(to.ip()).is_some();
        let reachable = service.endpoints.iter().filter(|at| at.is_ipv4() == to.is_ipv4());
        let mut among: Vec<_> = reachable
            .map(|at| {
                // Of whom nothing is known is outside of the mesh, and would not let anybody from here in, or has just gone.
                let unwanted = stage == Stage::Strict && !is_known(at);
                let place = if service.sticky { of_client(own, *at) } else { random() };
                (unwanted, service.leaving.contains(at), place, *at)
            })
            .collect();
        if !among.iter().any(|(.., at)| proves(at)) {
            let fresh = stage == Stage::Strict && now < until && among.iter().any(|(unwanted, ..)| *unwanted);
            return if fresh { Target::Soon(until) } else { Target::Itself };
        }
        if among.len() > TRIES {
            among.select_nth_unstable(TRIES - 1);
            among.truncate(TRIES);
        }
        among.sort_unstable();
        Target::Among(service.key.clone(), among.into_iter().map(|(.., at)| at).collect())
    }
}

/// The place of an endpoint for one client: always the same, and not changed by other endpoints that come or go.
fn of_client(own: Option<&WorkloadKey>, at: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (own, at).hash(&mut hasher);
    hasher.finish()
}

/// A connection to where somebody was going.
pub(crate) struct Reached {
    pub(crate) stream: TcpStream,
    /// Whom it was made to.
    pub(crate) address: SocketAddr,
    /// Who has to prove there that it is.
    pub(crate) expected: Option<Expected>,
    /// The Service of which this is the endpoint, if it was chosen here.
    pub(crate) service: Option<ServiceKey>,
}

/// Connects to where somebody was going. An endpoint that does not answer is passed over for another, if there may be one.
pub(crate) async fn reach(worker: &Worker, to: SocketAddr, limit: Duration) -> io::Result<Reached> {
    // Where an endpoint has come to be known by its name, nobody has asked yet.
    let (_talking, known) = worker.mesh.met(to, DECIDES).await;
    reach_by(worker, to, limit, known).await
}

/// The same, of where it is known who is there.
pub(crate) async fn reach_by(
    worker: &Worker,
    to: SocketAddr,
    limit: Duration,
    known: Arc<Workloads>,
) -> io::Result<Reached> {
    let (target, known) = worker.mesh.target(worker, to, known).await;
    let reached = |stream, address, service| Reached {
        stream,
        address,
        // What is wanted may have changed while it was connected. Who had to prove it still can, also where one of the
        // endpoints has ended meanwhile, so that not all are known any more: nothing goes in clear for that.
        expected: worker
            .mesh
            .expected(address)
            .or_else(|| known.expected(address, worker.mesh.own_key())),
        service,
    };
    let (service, among) = match target {
        Target::Among(service, among) => (Some(service), among),
        Target::Itself | Target::Soon(_) => (None, Vec::new()),
        Target::Nobody(service) => {
            let reason = format!(
                "the Service port {service} has no endpoints, and its namespace is strict: see whether its selector finds pods, and these are ready"
            );
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, reason));
        }
    };
    // Who chooses behind the address of a Service does so for each connection anew.
    let tries = match among.len() {
        0 if known.is_service(to) => TRIES,
        0 => 1,
        among => among,
    };
    let attempts = Attempts {
        worker,
        to,
        among,
        tries,
        soon: limit.min(worker.options.limits.connect_timeout),
        limit,
    };
    let (stream, address) = attempts.from(0).await?;
    Ok(reached(stream, address, service))
}

/// Attempts to connect, of which the first that succeeds counts.
struct Attempts<'w> {
    worker: &'w Worker,
    /// Where all go if there are none to go to among.
    to: SocketAddr,
    among: Vec<SocketAddr>,
    tries: usize,
    /// How long one is waited for before another is made beside it.
    soon: Duration,
    limit: Duration,
}

impl Attempts<'_> {
    /// Makes one, and the next once it has failed or has not been answered soon.
    async fn from(&self, number: usize) -> io::Result<(TcpStream, SocketAddr)> {
        let address = self.among.get(number).copied().unwrap_or(self.to);
        let mut attempt = pin!(connect(self.worker, address, self.limit));
        let made = |stream| (stream, address);
        if number + 1 >= self.tries {
            return attempt.await.map(made);
        }
        match timeout(self.soon, attempt.as_mut()).await {
            Ok(Ok(stream)) => Ok(made(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "an endpoint is passed over");
                Box::pin(self.from(number + 1)).await
            }
            Err(_) => {
                tracing::debug!(%address, "an endpoint does not answer, and another is tried too");
                // This one goes on: if it were given up, the next would get its port, and with that the way it has been led, or
                // whatever else has hold of it.
                match select(attempt, Box::pin(self.from(number + 1))).await {
                    Either::Left((Ok(stream), _)) => Ok(made(stream)),
                    Either::Left((Err(_), others)) => others.await,
                    Either::Right((Err(_), attempt)) => attempt.await.map(made),
                    Either::Right((other, _)) => other,
                }
            }
        }
    }
}

async fn connect(worker: &Worker, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = timeout(limit, dial(to, worker.options.priority)).await??;
    tune(&stream)?;
    worker.count_connections(|stats| stats.upstream_opened += 1);
    Ok(stream)
}

impl Mesh {
    /// Where a connection to an address is made to, once that is known. Beside that what was known when it was decided: what is
    /// known now, or has come to be known meanwhile.
    pub(super) async fn target(
        &self,
        worker: &Worker,
        to: SocketAddr,
        known: Arc<Workloads>,
    ) -> (Target, Arc<Workloads>) {
        let by = |known: Arc<Workloads>| {
            let target = known.target(to, self.own_key(), Instant::now(), || worker.random());
            (target, known)
        };
        let now = || by(self.workloads.load_full());
        let (mut target, mut known) = by(known);
        if matches!(target, Target::Soon(_)) {
            let mut changed = self.changed.subscribe();
            (target, known) = now();
            while let Target::Soon(until) = target {
                let _ = timeout_at(until.into(), changed.changed()).await;
                (target, known) = now();
            }
        }
        (target, known)
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{Change, DefaultAction, MeshNamespace, MeshService, Peer, Resource};

    use super::*;

    const SERVICE: [u8; 4] = [10, 96, 0, 1];

    fn peer(number: u8, direct: &[u16]) -> Resource {
        Resource::Peer(Arc::new(Peer {
            key: format!("shop/{number}").into(),
            addresses: vec![[10, 0, 0, number].into()],
            namespace: "shop".into(),
            account: "back".to_owned(),
            owner: None,
            direct_ports: direct.to_vec(),
            probe_ports: Vec::new(),
            asks_only: false,
        }))
    }

    fn stage(stage: Stage) -> Resource {
        Resource::MeshNamespace(Arc::new(MeshNamespace {
            key: "shop".into(),
            stage,
            default_action: DefaultAction::default(),
        }))
    }

    fn at(number: u8) -> SocketAddr {
        ([10, 0, 0, number], 8080).into()
    }

    fn service(endpoints: &[u8]) -> MeshService {
        MeshService {
            key: ServiceKey::new("shop", "back", 80),
            addresses: vec![SERVICE.into()],
            endpoints: endpoints.iter().copied().map(at).collect(),
            leaving: Vec::new(),
            sticky: false,
            local: false,
        }
    }

    fn workloads(resources: impl IntoIterator<Item = Resource>) -> Workloads {
        let mut workloads = Workloads::default();
        for resource in resources {
            workloads.apply(Change::Upsert(resource));
        }
        workloads
    }

    fn tell(workloads: &mut Workloads, service: MeshService) {
        workloads.apply(Change::Upsert(Resource::MeshService(Arc::new(service))));
    }

    /// Whom a connection is made to, of a hundred.
    fn chosen(workloads: &Workloads, own: &str, later: Duration) -> Vec<Target> {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state
        };
        let now = Instant::now() + later;
        let mut target = || workloads.target((SERVICE, 80).into(), Some(&own.into()), now, &mut random);
        (0..100).map(|_| target()).collect()
    }

    fn first(target: &Target) -> SocketAddr {
        match target {
            Target::Among(_, among) => among[0],
            other => panic!("nothing is chosen: {other:?}"),
        }
    }

    #[test]
    fn it_is_chosen_only_where_it_matters() {
        let is_chosen = |workloads: &Workloads| {
            let targets = chosen(workloads, "shop/front", APART);
            let is = |target: &Target| matches!(target, Target::Among(..));
            assert!(targets.iter().all(is) || !targets.iter().any(is));
            is(&targets[0])
        };
        let mut mixed = workloads([stage(Stage::Observe), peer(1, &[])]);
        tell(&mut mixed, service(&[1, 2]));
        assert!(!is_chosen(&mixed), "in observe everything goes where it was going");
        mixed.apply(Change::Upsert(stage(Stage::Secure)));
        assert!(is_chosen(&mixed));
        let local = MeshService {
            local: true,
            ..service(&[1, 2])
        };
        tell(&mut mixed, local);
        assert!(!is_chosen(&mixed), "which are near is not known here");
        tell(&mut mixed, service(&[2]));
        assert!(!is_chosen(&mixed), "none proves anything");
        tell(&mut mixed, service(&[1]));
        assert!(!is_chosen(&mixed), "all do");
        mixed.apply(Change::Upsert(peer(1, &[8080])));
        tell(&mut mixed, service(&[1, 2]));
        assert!(!is_chosen(&mixed), "none does, at that port");
        let other = mixed.target(at(1), None, Instant::now(), || 0);
        assert_eq!(other, Target::Itself);
    }

    #[test]
    fn in_secure_all_are_chosen_and_in_strict_those_that_are_known() {
        let mut workloads = workloads([stage(Stage::Secure), peer(1, &[]), peer(2, &[]), peer(3, &[8080])]);
        tell(&mut workloads, service(&[1, 2, 3, 4]));
        let firsts = |workloads: &Workloads| {
            let targets = chosen(workloads, "shop/front", Duration::ZERO);
            let mut firsts: Vec<_> = targets.iter().map(first).collect();
            firsts.sort_unstable();
            firsts.dedup();
            firsts
        };
        assert_eq!(firsts(&workloads), [at(1), at(2), at(3), at(4)]);
        workloads.apply(Change::Upsert(stage(Stage::Strict)));
        assert_eq!(firsts(&workloads), [at(1), at(2), at(3)]);
        // Those that are about to go come last among their like.
        let leaving = MeshService {
            leaving: vec![at(2), at(3)],
            ..service(&[1, 2, 3, 4])
        };
        tell(&mut workloads, leaving);
        assert_eq!(firsts(&workloads), [at(1)]);
        let second = |target: &Target| match target {
            Target::Among(_, among) => among.clone(),
            other => panic!("{other:?}"),
        };
        let tried = chosen(&workloads, "shop/front", Duration::ZERO);
        assert!(tried.iter().map(second).all(|tried| !tried.contains(&at(4))));
    }

    #[test]
    fn a_client_comes_to_the_same_endpoint_where_that_is_wanted() {
        let mut workloads = workloads([stage(Stage::Secure), peer(1, &[])]);
        let sticky = |endpoints: &[u8]| MeshService {
            sticky: true,
            ..service(endpoints)
        };
        tell(&mut workloads, sticky(&[1, 2, 3, 4, 5]));
        let of = |workloads: &Workloads, client: &str| {
            let targets = chosen(workloads, client, Duration::ZERO);
            let of = first(&targets[0]);
            assert!(targets.iter().all(|target| first(target) == of));
            of
        };
        let clients: Vec<String> = (0..20).map(|client| format!("shop/client-{client}")).collect();
        let before: Vec<_> = clients.iter().map(|client| of(&workloads, client)).collect();
        assert!(before.iter().any(|at| *at != before[0]), "not all to one");
        tell(&mut workloads, sticky(&[1, 2, 3, 4]));
        for (client, before) in clients.iter().zip(before) {
            assert!(before == at(5) || of(&workloads, client) == before);
        }
    }

    #[test]
    fn in_strict_it_is_waited_for_a_pod_of_which_only_the_endpoint_is_known() {
        let mut workloads = workloads([stage(Stage::Strict)]);
        tell(&mut workloads, service(&[1]));
        let target = |workloads: &Workloads, later| chosen(workloads, "shop/front", later).swap_remove(0);
        assert!(matches!(target(&workloads, Duration::ZERO), Target::Soon(_)));
        assert_eq!(target(&workloads, APART), Target::Itself, "it is outside of the mesh");
        // What does not say anything new of endpoints does not begin it anew.
        let since = workloads.behind_address((SERVICE, 80).into()).map(|told| told.since);
        while since.is_some_and(|since| since.elapsed().is_zero()) {}
        tell(&mut workloads, service(&[1]));
        assert_eq!(
            workloads.behind_address((SERVICE, 80).into()).map(|told| told.since),
            since
        );
        workloads.apply(Change::Upsert(peer(1, &[])));
        assert_eq!(target(&workloads, Duration::ZERO), Target::Itself, "all prove it");
        workloads.apply(Change::Upsert(peer(1, &[8080])));
        assert_eq!(
            target(&workloads, Duration::ZERO),
            Target::Itself,
            "it proves nothing at that port"
        );
    }

    #[test]
    fn in_strict_nobody_is_spoken_to_in_clear_behind_a_service_without_endpoints() {
        let mut workloads = workloads([stage(Stage::Strict), peer(1, &[])]);
        let target = |workloads: &Workloads, later| chosen(workloads, "shop/front", later).swap_remove(0);
        let expected = |workloads: &Workloads| {
            let to = (SERVICE, 80).into();
            let expected = workloads.expected(to, None);
            assert_eq!(workloads.is_expected(to, None), expected.is_some());
            expected.map(|expected| expected.to_string())
        };
        tell(&mut workloads, service(&[]));
        assert!(
            matches!(target(&workloads, Duration::ZERO), Target::Soon(_)),
            "it is new"
        );
        let nobody = Target::Nobody(service(&[]).key);
        assert_eq!(target(&workloads, APART), nobody);
        // Whom it has led to last proves it, if somebody else leads there still, or again.
        tell(&mut workloads, service(&[1]));
        workloads.apply(Change::Remove(peer(1, &[]).key()));
        tell(&mut workloads, service(&[]));
        for _ in 0..2 {
            assert_eq!(target(&workloads, APART), Target::Itself);
            assert_eq!(expected(&workloads), Some("shop/back".to_owned()));
            tell(&mut workloads, service(&[]));
        }
        workloads.apply(Change::Upsert(stage(Stage::Secure)));
        assert_eq!(expected(&workloads), Some("shop/back".to_owned()));
        // Who proves nothing is spoken to as before, but for where nobody is.
        tell(&mut workloads, service(&[2]));
        tell(&mut workloads, service(&[]));
        assert_eq!(
            (target(&workloads, APART), expected(&workloads)),
            (Target::Itself, None)
        );
        workloads.apply(Change::Upsert(stage(Stage::Strict)));
        assert_eq!(target(&workloads, APART), nobody);
    }

    #[test]
    fn an_endpoint_is_of_the_family_of_the_address() {
        let mut workloads = workloads([stage(Stage::Secure), peer(1, &[])]);
        let v6 = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 8080));
        let mut both = service(&[1, 2]);
        both.endpoints.push(v6);
        tell(&mut workloads, both);
        let targets = chosen(&workloads, "shop/front", Duration::ZERO);
        assert!(targets.iter().all(|target| first(target) != v6));
    }
}
