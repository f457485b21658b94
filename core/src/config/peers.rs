//! All BGP peers together. A node has one session with a router, so of two peers that name the same one for the same nodes
//! the older stays (ties by name), as with pools. Whether different selectors select the same node is seen on the node.

use super::peer::{self, Peer, RawPeer};
use super::{Config, PeerEndpoint};
use crate::reason::{Reason, Refusal};

/// Checks the peers and puts those that are obeyed into the configuration; answers with the verdicts.
pub(super) fn check(written: &[RawPeer], config: &mut Config) -> Vec<(String, Refusal)> {
    let mut by_age: Vec<&RawPeer> = written.iter().collect();
    by_age.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let mut verdicts = Vec::new();
    for raw in by_age {
        let verdict = match peer::check::check(raw) {
            Ok(peer) => match config.peers.values().find(|older| covers(older, &peer)) {
                Some(older) => duplicate(older, &peer),
                None => {
                    let verdict = in_use(&peer);
                    config.peers.insert(raw.name.clone(), peer);
                    verdict
                }
            },
            Err(refusal) => refusal,
        };
        verdicts.push((raw.name.clone(), verdict));
    }
    verdicts
}

/// Does every node that has the younger one's session have the older one's, with the same router?
fn covers(older: &Peer, younger: &Peer) -> bool {
    let everywhere = older.nodes.is_empty() || older.nodes == younger.nodes;
    !older.disabled && !younger.disabled && everywhere && same_router(older, younger)
}

fn same_router(a: &Peer, b: &Peer) -> bool {
    (&a.endpoint, &a.vrf) == (&b.endpoint, &b.vrf)
}

fn duplicate(older: &Peer, younger: &Peer) -> Refusal {
    let place = match &younger.endpoint {
        PeerEndpoint::Address(address) => address.to_string(),
        PeerEndpoint::Interface(name) => format!("interface {name}"),
    };
    let vrf = younger.vrf.as_ref().map(|vrf| format!(" in VRF {vrf}"));
    let message = format!(
        "BGPPeer {}, which is older, is at {place}{} for the same nodes",
        older.name,
        vrf.unwrap_or_default()
    );
    Refusal::new(Reason::DuplicatePeer, message)
}

fn in_use(peer: &Peer) -> Refusal {
    if peer.disabled {
        return Refusal::new(
            Reason::PeerDisabled,
            "spec.disabled is true: no node has the session",
        );
    }
    if peer.bfd.is_some() && peer.graceful_restart.is_some() {
        let message = "in use; spec.gracefulRestart is in vain where spec.bfd notices the loss: the router then drops \
                       the routes at once (RFC 5882 §4.3)";
        return Refusal::new(Reason::GracefulRestartIneffective, message);
    }
    Refusal::new(Reason::Accepted, "in use")
}
