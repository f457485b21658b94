use std::net::IpAddr;
use std::sync::Arc;

use fairlead_core::announce::bgp::Wanted;

use super::*;
use crate::bgp::{OwnAddresses, Password};

fn peer(endpoint: PeerEndpoint) -> Peer {
    Peer {
        remote_asn: RemoteAsn::Internal,
        keepalive_time: Duration::from_millis(2500),
        connect_retry_time: Duration::from_millis(1),
        ..fairlead_core::testing::bgp_peer("router", endpoint)
    }
}

fn at(address: &str) -> PeerEndpoint {
    PeerEndpoint::Address(address.parse::<IpAddr>().unwrap())
}

fn one(peer: Peer, secret: Option<&str>) -> Result<Target, Refusal> {
    let mut wanted = Wanted::default();
    wanted.sessions.insert(peer.name.clone(), peer);
    let password = secret.map(|secret| ("secret".to_owned(), Ok(Password::new(secret))));
    let input = Input {
        wanted: Arc::new(wanted),
        passwords: password.into_iter().collect(),
        addresses: OwnAddresses::default(),
    };
    let (mut targets, mut refusals) = targets(&Surroundings {
        input: &input,
        holders: &BTreeSet::new(),
        neighbours: &BTreeMap::from([("eth0".to_owned(), "fe80::1".parse().unwrap())]),
        has_interface: &|name| name.starts_with("eth"),
    });
    match (targets.remove("router"), refusals.remove("router")) {
        (Some(target), None) => Ok(target),
        (None, Some(refusal)) => Err(refusal),
        both => panic!("{both:?}"),
    }
}

#[test]
fn times_are_whole_seconds_and_never_the_daemons_own() {
    let target = one(peer(at("192.0.2.1")), None).unwrap();
    let timers = target.peer.timers.unwrap().config.unwrap();
    assert_eq!(
        (timers.hold_time, timers.keepalive_interval, timers.connect_retry),
        (9, 3, 1)
    );
    assert_eq!(target.peer.conf.unwrap().peer_asn, 64512);
}

#[test]
fn a_neighbours_packets_come_with_the_full_ttl() {
    for (hops, least) in [(1, 255), (2, 254), (254, 2)] {
        let mut peer = peer(at("192.0.2.1"));
        peer.ttl_security = Some(hops);
        assert_eq!(one(peer, None).unwrap().peer.ttl_security.unwrap().ttl_min, least);
    }
}

#[test]
fn graceful_restart_is_of_all_families() {
    let mut peer = peer(at("192.0.2.1"));
    peer.graceful_restart = Some(GracefulRestart {
        restart_time: Duration::from_secs(60),
        long_lived_time: Some(Duration::from_secs(600)),
    });
    let target = one(peer, None).unwrap();
    assert_eq!(target.peer.afi_safis.len(), 2);
    for family in target.peer.afi_safis {
        assert!(family.mp_graceful_restart.unwrap().config.unwrap().enabled);
        assert_eq!(
            family
                .long_lived_graceful_restart
                .unwrap()
                .config
                .unwrap()
                .restart_time,
            600
        );
    }
}

#[test]
fn a_link_local_address_needs_its_interface() {
    assert!(matches!(
        one(peer(at("fe80::1")), None),
        Err(Refusal::Unsupported(_))
    ));
    let target = one(peer(PeerEndpoint::Interface("eth0".to_owned())), None).unwrap();
    assert_eq!(
        (target.key.as_str(), target.transport),
        ("fe80::1%eth0", Transport::LinkLocal)
    );
    let refusal = one(peer(PeerEndpoint::Interface("eth1".to_owned())), None).unwrap_err();
    assert_eq!(refusal, Refusal::NoNeighbour("eth1".to_owned()));
    let refusal = one(peer(PeerEndpoint::Interface("wlan0".to_owned())), None).unwrap_err();
    assert_eq!(refusal, Refusal::NoInterface("wlan0".to_owned()));
}

#[test]
fn another_password_is_another_session_and_is_not_shown() {
    let mut peer = peer(at("192.0.2.1"));
    peer.password_secret = Some("secret".to_owned());
    let fingerprint = |target: &Target| target.peer.conf.as_ref().unwrap().description.clone();
    let (first, second) = (
        one(peer.clone(), Some("hunter1")).unwrap(),
        one(peer.clone(), Some("hunter2")).unwrap(),
    );
    assert_ne!(fingerprint(&first), fingerprint(&second));
    assert_eq!(
        fingerprint(&first),
        fingerprint(&one(peer.clone(), Some("hunter1")).unwrap())
    );
    assert!(!format!("{first:?}").contains("hunter"), "{first:?}");
    assert!(matches!(one(peer, None), Err(Refusal::PasswordMissing(_))));
}
