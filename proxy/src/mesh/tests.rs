//! Workloads of a mesh with two roots.

use std::{sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _};
use tokio::{io::AsyncReadExt as _, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_model::{MeshTrust, Revocations, Serial, SpiffeId, TrustDomain};

use super::{
    Identity, Mesh, PeerError, Peers, Trust,
    trust::{End, Peer},
};

const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/front";
const BACK: &str = "spiffe://cluster.local/ns/shop/sa/back";

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca(name: &str) -> Ca {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).expect("made").pem();
    Ca {
        pem,
        issuer: Issuer::new(params, key),
    }
}

fn names(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("ASCII"));
    params.subject_alt_names = uris.iter().map(uri).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

impl Ca {
    fn sign(&self, params: &CertificateParams) -> (String, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        (signed.pem(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    fn identity(&self, id: &str) -> Identity {
        let (chain, key) = self.sign(&names(&[id]));
        Identity::new(&chain, key, 1).expect("an identity")
    }
}

fn trust(roots: &[&Ca], revoked: Revocations) -> MeshTrust {
    MeshTrust {
        trust_domain: TrustDomain::parse("cluster.local").expect("a trust domain"),
        roots_pem: roots.iter().map(|ca| ca.pem.as_str()).collect(),
        revoked,
    }
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("an identity")
}

fn revoked(identities: &[&str], serials: &[&Serial]) -> Revocations {
    Revocations {
        identities: identities.iter().map(|text| id(text)).collect(),
        serials: serials.iter().map(|serial| (*serial).clone()).collect(),
    }
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    chain.expect("PEM")
}

#[test]
fn a_certificate_that_begins_by_a_clock_a_little_ahead_is_believed() {
    let ours = ca("ours");
    let trust = Trust::new(trust(&[&ours], Revocations::default())).expect("there is a root");
    let mut new = names(&[FRONT]);
    new.not_before = rcgen::date_time_ymd(2030, 1, 1);
    let start = u64::try_from(new.not_before.unix_timestamp()).expect("after 1970");
    let (pem, _) = ours.sign(&new);
    let before = |seconds| {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(start - seconds));
        trust.verify(&chain(&pem), End::Server, at)
    };
    assert!(before(0).is_ok() && before(60).is_ok());
    assert!(matches!(before(600), Err(PeerError::Untrusted(_))));
}

#[test]
fn a_peer_is_who_one_uri_of_its_certificate_says_and_of_this_mesh() {
    let (ours, other) = (ca("ours"), ca("other"));
    let trust = Trust::new(trust(&[&ours], Revocations::default())).expect("there is a root");
    let verify = |ca: &Ca, params: &CertificateParams, end| {
        let (pem, _) = ca.sign(params);
        trust.verify(&chain(&pem), end, UnixTime::now()).map(|(id, _)| id)
    };
    for end in [End::Client, End::Server] {
        assert_eq!(verify(&ours, &names(&[FRONT]), end), Ok(id(FRONT)));
        assert!(matches!(
            verify(&other, &names(&[FRONT]), end),
            Err(PeerError::Untrusted(_))
        ));
        for uris in [&[FRONT, BACK][..], &[], &["https://cluster.local/ns/shop/sa/front"]] {
            let refused = verify(&ours, &names(uris), end);
            assert!(matches!(refused, Err(PeerError::Nameless(_))), "{uris:?}: {refused:?}");
        }
        let foreign = verify(&ours, &names(&["spiffe://elsewhere/ns/shop/sa/front"]), end);
        assert!(matches!(foreign, Err(PeerError::Foreign { .. })), "{foreign:?}");
        let mut late = names(&[FRONT]);
        late.not_after = rcgen::date_time_ymd(2020, 1, 1);
        assert!(matches!(verify(&ours, &late, end), Err(PeerError::Untrusted(_))));
    }
    let mut one_way = names(&[FRONT]);
    one_way.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    assert!(verify(&ours, &one_way, End::Client).is_ok());
    assert!(matches!(
        verify(&ours, &one_way, End::Server),
        Err(PeerError::Untrusted(_))
    ));
    assert_eq!(trust.verify(&[], End::Client, UnixTime::now()), Err(PeerError::Nothing));
}

#[test]
fn what_cannot_be_used_leaves_in_use_what_is() {
    let ours = ca("ours");
    let mesh = Mesh::default();
    mesh.set_trust(trust(&[&ours], Revocations::default())).expect("usable");
    mesh.set_identity(ours.identity(FRONT)).expect("usable");
    assert!(mesh.set_trust(trust(&[], Revocations::default())).is_err());
    let mut damaged = trust(&[&ours], Revocations::default());
    damaged.roots_pem = damaged.roots_pem.replace("MI", "XX");
    assert!(mesh.set_trust(damaged).is_err());
    assert_eq!(mesh.trust().expect("set").roots(), 1);
    let (pem, _) = ours.sign(&names(&[FRONT]));
    let (_, key) = ours.sign(&names(&[FRONT]));
    assert!(Identity::new(&pem, key, 1).is_err(), "the key is another's");
    let (pem, key) = ours.sign(&names(&["https://a"]));
    assert!(Identity::new(&pem, key, 1).is_err());
    assert_eq!(*mesh.identity().expect("set").id(), id(FRONT));
}

/// A handshake between two workloads; says who each is for the other.
async fn shake(client: &Mesh, server: &Mesh) -> Result<(Peer, Peer), String> {
    let (to, from) = tokio::io::duplex(64 * 1024);
    let (client, server) = (client.credentials(), server.credentials());
    let (asks, answers) = (client.tls.as_ref().expect("set"), server.tls.as_ref().expect("set"));
    let name = std::net::IpAddr::from([192, 0, 2, 1]).into();
    let connecting = async {
        let mut stream = TlsConnector::from(asks.tcp.clone()).connect(name, to).await?;
        // Only then is it known whether the server has taken what it was shown.
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        Ok::<_, std::io::Error>(stream)
    };
    let accepting = async {
        let mut stream = TlsAcceptor::from(answers.server.clone()).accept(from).await?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await?;
        tokio::io::AsyncWriteExt::flush(&mut stream).await?;
        Ok::<_, std::io::Error>(stream)
    };
    let (connected, accepted) = timeout(Duration::from_secs(30), async { tokio::join!(connecting, accepting) })
        .await
        .expect("it comes to something");
    let accepted = accepted.map_err(|error| error.to_string())?;
    let connected = connected.map_err(|error| error.to_string())?;
    let of = |session: Option<&[CertificateDer<'_>]>, trust: &Option<Arc<Trust>>, end| {
        let trust = trust.as_ref().expect("set");
        trust.peer(session.unwrap_or_default(), end).expect("believed")
    };
    assert_eq!(connected.get_ref().1.alpn_protocol(), Some(&b"weft/tcp"[..]));
    Ok((
        of(connected.get_ref().1.peer_certificates(), &client.trust, End::Server),
        of(accepted.get_ref().1.peer_certificates(), &server.trust, End::Client),
    ))
}

fn workload(ca: &Ca, id: &str, trusts: MeshTrust) -> Mesh {
    let mesh = Mesh::default();
    mesh.set_identity(ca.identity(id)).expect("usable");
    mesh.set_trust(trusts).expect("usable");
    mesh
}

#[tokio::test]
async fn workloads_prove_to_each_other_who_they_are_while_roots_rotate() {
    let (old, new) = (ca("old"), ca("new"));
    let both = || trust(&[&old, &new], Revocations::default());
    let (front, back) = (workload(&old, FRONT, both()), workload(&old, BACK, both()));
    let (server, client) = shake(&front, &back).await.expect("believed");
    assert_eq!((server.id, client.id), (id(BACK), id(FRONT)));
    // One has a certificate of the new root already, the other not yet.
    back.set_identity(new.identity(BACK)).expect("usable");
    shake(&front, &back).await.expect("believed");
    shake(&back, &front).await.expect("believed");
    // To one that knows only the new root, the old one is nobody.
    back.set_trust(trust(&[&new], Revocations::default())).expect("usable");
    shake(&front, &back).await.expect_err("the client is not believed");
    front.set_identity(new.identity(FRONT)).expect("usable");
    shake(&front, &back).await.expect("believed");
}

#[tokio::test]
async fn who_is_revoked_is_refused_and_what_is_under_way_ends() {
    let ours = ca("ours");
    let none = || trust(&[&ours], Revocations::default());
    let (front, back) = (workload(&ours, FRONT, none()), workload(&ours, BACK, none()));
    let peers = Peers::default();
    let generation = back.credentials().generation;
    let (_, client) = shake(&front, &back).await.expect("believed");
    let serial = client.serial().clone();
    let by_id = peers.connected(&back, generation, client.clone()).expect("believed");
    let (server, _) = shake(&back, &front).await.expect("believed");
    let other = peers.connected(&back, generation, server).expect("believed");
    peers.check(&back);
    assert_eq!(by_id.is_over(), None);

    // Another certificate of one's own ends nothing.
    back.set_identity(ours.identity(BACK)).expect("usable");
    peers.check(&back);
    assert_eq!(by_id.is_over(), None);

    back.set_trust(trust(&[&ours], revoked(&[FRONT], &[]))).expect("usable");
    peers.check(&back);
    assert_eq!(by_id.over().await, PeerError::Revoked(id(FRONT)));
    assert_eq!(other.over().await, PeerError::Revoked(id(FRONT)));
    shake(&front, &back).await.expect_err("revoked");
    shake(&back, &front).await.expect_err("revoked");
    // A handshake that was under way meanwhile.
    let late = peers.connected(&back, generation, client.clone());
    assert_eq!(late.err(), Some(PeerError::Revoked(id(FRONT))));
    drop((by_id, other));

    // One certificate; the next one is good again.
    back.set_trust(none()).expect("usable");
    let by_serial = peers
        .connected(&back, back.credentials().generation, client)
        .expect("believed");
    back.set_trust(trust(&[&ours], revoked(&[], &[&serial])))
        .expect("usable");
    peers.check(&back);
    let expected = PeerError::RevokedCertificate { id: id(FRONT), serial };
    assert_eq!(by_serial.over().await, expected);
    front.set_identity(ours.identity(FRONT)).expect("usable");
    shake(&front, &back).await.expect("another certificate");
}

#[tokio::test]
async fn a_connection_outlives_the_certificate_it_was_made_with_but_not_its_root() {
    let (old, new) = (ca("old"), ca("new"));
    let trusts = trust(&[&old], Revocations::default());
    let mesh = workload(&old, BACK, trusts);
    let mut short = names(&[FRONT]);
    let (start, end) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2020, 1, 2));
    (short.not_before, short.not_after) = (start, end);
    let (pem, _) = old.sign(&short);
    let at = UnixTime::since_unix_epoch(Duration::from_secs(
        u64::try_from(start.unix_timestamp()).expect("positive") + 1,
    ));
    let trusted = mesh.trust().expect("set");
    let peer = trusted
        .peer_at(&chain(&pem), End::Client, at)
        .expect("it was believed then");
    assert!(trusted.peer(&chain(&pem), End::Client).is_err(), "it has ended");
    assert_eq!(trusted.stands_by(&peer), Ok(()));
    let other = Trust::new(trust(&[&new], Revocations::default())).expect("there is a root");
    assert!(other.stands_by(&peer).is_err());
}
