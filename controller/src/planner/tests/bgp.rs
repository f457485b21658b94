//! BGP: verdicts, sessions, and addresses that several nodes announce.

use super::*;
use crate::view::SessionView;

impl Cluster {
    fn peer(&mut self, name: &str, more: Value) {
        let mut value = json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "BGPPeer",
            "metadata": {"name": name, "uid": name, "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"myASN": 65001, "remoteASN": 65002, "address": "192.0.2.254"},
        });
        merge(&mut value["spec"], &more);
        self.put(Object::Peer(name.into()), value);
    }

    /// A node reports what it announces by BGP, and its sessions: the peer, and the error unless it is established.
    fn bgp_view(&mut self, node: &str, announced: &[&str], sessions: &[(&str, Option<&str>)]) {
        let session = |(peer, error): &(&str, Option<&str>)| {
            let view = SessionView {
                established: error.is_none(),
                last_error: error.unwrap_or_default().to_owned(),
            };
            ((*peer).to_owned(), view)
        };
        let view = NodeView {
            bgp: announced.iter().map(|text| text.parse().unwrap()).collect(),
            sessions: sessions.iter().map(session).collect(),
            ..NodeView::empty(node.into())
        };
        self.index.views.apply(node, Some(view));
    }

    /// `True Accepted`, and the sessions of a peer.
    fn peer_status(&self, name: &str) -> (String, String) {
        let status = &self.objects[&Object::Peer(name.into())]["status"];
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let condition = &status["conditions"][0];
        (
            format!("{} {}", text(&condition["status"]), text(&condition["reason"])),
            text(&status["sessions"]),
        )
    }
}

#[test]
fn verdicts_are_told_on_the_objects() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.peer("good", json!({}));
    cluster.peer("same", json!({}));
    cluster.peer("off", json!({"disabled": true}));
    cluster.peer(
        "both",
        json!({"address": "192.0.2.253", "bfd": {}, "gracefulRestart": {}}),
    );
    cluster.peer("bad", json!({"myASN": 23456}));
    let advertise = |cluster: &mut Cluster, name: &str, spec: Value| {
        let value = json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "BGPAdvertisement",
            "metadata": {"name": name, "uid": name, "generation": 1}, "spec": spec,
        });
        cluster.put(Object::BgpAdvertisement(name.into()), value);
    };
    advertise(
        &mut cluster,
        "fine",
        json!({"peers": ["good"], "addressPools": ["blue"]}),
    );
    advertise(&mut cluster, "unknown", json!({"peers": ["good", "bad"]}));
    advertise(&mut cluster, "odd", json!({"communities": ["x"]}));
    let mut events = cluster.settle();
    events.sort();
    let begins = [
        "Warning DuplicatePeer: BGPPeer good",
        "Warning GracefulRestartIneffective: in use",
        "Warning InvalidField: spec.communities[0]",
        "Warning InvalidField: spec.myASN",
        "Warning UnknownPeer: no usable BGPPeer is named bad",
    ];
    assert_eq!(events.len(), begins.len(), "{events:#?}");
    for (event, begin) in events.iter().zip(begins) {
        assert!(event.starts_with(begin), "{event}");
    }
    let accepted = |name: &str| cluster.peer_status(name).0;
    assert_eq!(accepted("good"), "True Accepted");
    assert_eq!(accepted("same"), "False DuplicatePeer");
    assert_eq!(accepted("off"), "True PeerDisabled");
    assert_eq!(accepted("both"), "True GracefulRestartIneffective");
    assert_eq!(accepted("bad"), "False InvalidField");
    let advertisement = |name: &str| {
        let condition = &cluster.objects[&Object::BgpAdvertisement(name.into())]["status"]["conditions"][0];
        ["status", "reason"].map(|field| condition[field].as_str().unwrap_or("-").to_owned())
    };
    assert_eq!(advertisement("fine"), ["True", "Accepted"]);
    assert_eq!(advertisement("unknown"), ["False", "UnknownPeer"]);
    assert_eq!(advertisement("odd"), ["False", "InvalidField"]);
    // The older one goes, and the younger one takes its place.
    cluster.index.peers.delete("good");
    cluster.objects.remove(&Object::Peer("good".into()));
    cluster.settle();
    assert_eq!(cluster.peer_status("same").0, "True Accepted");
    assert!(cluster.settle().is_empty());
}

#[test]
fn sessions_are_counted_and_their_loss_is_told_once() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.peer("tor", json!({}));
    cluster.bgp_view("n1", &[], &[("tor", None)]);
    cluster.bgp_view("n2", &[], &[("tor", Some("connection refused"))]);
    // One that has no Node object does not count.
    cluster.bgp_view("n3", &[], &[("tor", None)]);
    assert_eq!(
        cluster.settle(),
        ["Normal SessionUp: the session of node n1 is established"]
    );
    assert_eq!(cluster.peer_status("tor").1, "1/2");
    cluster.bgp_view("n2", &[], &[("tor", None)]);
    cluster.after(10_000);
    assert_eq!(
        cluster.settle(),
        ["Normal SessionUp: the session of node n2 is established"]
    );
    assert_eq!(cluster.peer_status("tor").1, "2/2");
    cluster.bgp_view("n1", &[], &[("tor", Some("hold timer expired"))]);
    cluster.after(1000);
    assert_eq!(
        cluster.settle(),
        ["Warning SessionDown: the session of node n1 was lost: hold timer expired"]
    );
    assert_eq!(cluster.peer_status("tor").1, "1/2");
    // Another error of the same loss.
    cluster.bgp_view("n1", &[], &[("tor", Some("no route to host"))]);
    assert!(cluster.after(60_000).settle().is_empty());
    // Another controller leads: what is so already is no news.
    cluster.restart(OURS);
    assert!(cluster.settle().is_empty());
    cluster.index.nodes.delete("n1");
    cluster.after(2000);
    assert!(cluster.settle().is_empty());
    assert_eq!(cluster.peer_status("tor").1, "1/1");
}

#[test]
fn counts_are_written_once_a_second_however_often_they_change() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.peer("tor", json!({}));
    cluster.bgp_view("n1", &[], &[("tor", None)]);
    cluster.settle();
    let mut writes = 0;
    for step in 0..100 {
        let error = (step / 3 % 2 == 0).then_some("flaps");
        cluster.bgp_view("n1", &[], &[("tor", error)]);
        cluster.after(100);
        let step = cluster.step();
        writes += step.writes.len();
        for write in &step.writes {
            cluster.send(write);
            cluster.show(&write.object);
        }
    }
    assert!((2..=11).contains(&writes), "{writes}");
}

#[test]
fn nodes_that_come_and_go_over_bgp_make_no_noise() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.settle();
    cluster.bgp_view("n1", &["192.0.2.0"], &[]);
    assert_eq!(
        cluster.settle(),
        ["Normal Announced: announced over BGP by node n1"]
    );
    let said = |cluster: &Cluster| cluster.condition("a", "Announced");
    cluster.bgp_view("n2", &["192.0.2.0"], &[]);
    assert!(cluster.after(100).settle().is_empty());
    assert_eq!(
        said(&cluster),
        "True Announced: announced over BGP by nodes n1, n2"
    );
    // Named anew at most every ten seconds.
    cluster.bgp_view("n1", &[], &[]);
    assert!(cluster.after(1000).settle().is_empty());
    assert_eq!(
        said(&cluster),
        "True Announced: announced over BGP by nodes n1, n2"
    );
    assert!(cluster.planner.wake(cluster.now).is_some());
    assert!(cluster.after(10_000).settle().is_empty());
    assert_eq!(said(&cluster), "True Announced: announced over BGP by node n2");
    // The last one goes: that is told as ever.
    cluster.bgp_view("n2", &[], &[]);
    assert!(cluster.after(100).settle().is_empty());
    let events = cluster.after(5000).settle();
    assert!(
        events.len() == 1 && events[0].starts_with("Warning NoSpeaker"),
        "{events:?}"
    );
}

#[test]
fn an_owner_beside_bgp_is_told_of_as_without() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.bgp_view("n1", &["192.0.2.0"], &[]);
    cluster.settle();
    cluster.view("n2", &[("192.0.2.0", 1)], &[]);
    assert_eq!(
        cluster.after(100).settle(),
        ["Normal Announced: announced by node n2"]
    );
    assert_eq!(
        cluster.condition("a", "Announced"),
        "True Announced: announced by node n2; over BGP by node n1"
    );
    cluster.view("n2", &[], &[]);
    cluster.view("n1", &[("192.0.2.0", 2)], &[]);
    cluster.bgp_view("n2", &["192.0.2.0"], &[]);
    assert_eq!(
        cluster.after(20_000).settle(),
        ["Normal OwnerChanged: announced by node n1 (was node n2)"]
    );
    cluster.view("n1", &[], &[]);
    assert_eq!(
        cluster.after(20_000).settle(),
        ["Normal Announced: announced over BGP by node n2"]
    );
}
