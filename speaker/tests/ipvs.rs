//! An interface as kube-proxy in IPVS mode makes it. Needs root and iproute2.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "other tests use the rest")]
mod netns;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use fairlead_speaker::ipvs::follow;
use netns::Wire;
use tokio::sync::watch;

/// Longer than the time between two looks at kernel settings.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn addresses_that_every_node_answers_for_are_found_and_strict_arp_mends_it() {
    let wire = Wire::new();
    let (sender, mut answered) = watch::channel(BTreeSet::new());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let following = wire.on_speaker(async move || {
        tokio::select! {
            () = follow(sender) => {}
            _ = stopped => {}
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut expect = |addresses: &[&str]| {
        let expected: BTreeSet<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let waited = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, answered.wait_for(|found| *found == expected))
                .await
                .map(|found| found.is_ok())
        });
        assert_eq!(
            waited,
            Ok(true),
            "expected {expected:?}, found {:?}",
            answered.borrow()
        );
    };
    // Any kind of interface will do; not every kernel has dummies.
    wire.speaker_ip("link add kube-ipvs0 type bridge");
    wire.speaker_ip("addr add 192.0.2.100/32 dev kube-ipvs0");
    wire.speaker_ip("addr add 2001:db8::100/128 dev kube-ipvs0 nodad");
    expect(&["192.0.2.100"]);
    wire.speaker_ip("addr add 192.0.2.101/32 dev kube-ipvs0");
    expect(&["192.0.2.100", "192.0.2.101"]);
    for setting in ["arp_ignore=1", "arp_announce=2"] {
        wire.speaker_sysctl(&format!("net.ipv4.conf.all.{setting}"));
    }
    expect(&[]);
    wire.speaker_sysctl("net.ipv4.conf.all.arp_ignore=0");
    expect(&["192.0.2.100", "192.0.2.101"]);
    wire.speaker_ip("link del kube-ipvs0");
    expect(&[]);
    stop.send(()).unwrap();
    following.join().unwrap();
}
