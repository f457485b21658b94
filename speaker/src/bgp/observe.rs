//! What the daemon says of a session, in our words.

use std::net::IpAddr;

use fairlead_core::config::{Peer, RemoteAsn};
use fairlead_core::model::Family;
use fairlead_gobgp::api::{self, capability::Cap, peer_state};
use jiff::Timestamp;

use super::session::MOST_PREFIXES;
use super::{Session, State};

/// An event: the session has another state.
pub(super) fn changed(session: &mut Session, wanted: &Peer, seen: &api::Peer, now: Timestamp) {
    let Some(state) = &seen.state else { return };
    enter(session, state_of(state), now);
    session.remote_asn = (state.peer_asn != 0).then_some(state.peer_asn);
    let established = session.state == State::Established;
    if established {
        session.error = complaint(wanted, state);
    } else {
        session.families.clear();
        session.advertised.clear();
        session.error = error(wanted, state).or_else(|| session.error.take());
    }
}

/// What no event tells: families, numbers of routes, BFD.
pub(super) fn detail(session: &mut Session, wanted: &Peer, seen: &api::Peer) {
    let Some(state) = &seen.state else { return };
    session.bfd = match (&wanted.bfd, &state.bfd_state) {
        (Some(_), Some(bfd)) => Some(bfd.session_state() == api::BfdSessionState::Up),
        _ => None,
    };
    if wanted.bfd.is_some() && state.bfd_state.is_none() {
        session.error = Some("the BGP daemon is older than GoBGP 4.6 and knows no BFD".to_owned());
    }
    if session.state != State::Established || state_of(state) != State::Established {
        return;
    }
    session.families = families(seen);
    let states = seen.afi_safis.iter().filter_map(|family| family.state.as_ref());
    session.advertised = states
        .filter_map(|state| Some((family_of(state.family.as_ref())?, state.advertised)))
        .filter(|(family, _)| session.families.contains(family))
        .collect();
}

/// The session is in this state from now on, if it was not before.
pub(super) fn enter(session: &mut Session, state: State, now: Timestamp) {
    if session.state == state && session.since.is_some() {
        return;
    }
    session.state = state;
    session.since = Some(now);
    *session.transitions.entry(state).or_default() += 1;
}

/// The daemon's key of a session: its address, with the interface if it is link-local.
pub(super) fn key(seen: &api::Peer) -> Option<&str> {
    let conf = seen.conf.as_ref()?;
    Some(conf.neighbor_address.as_str()).filter(|address| !address.is_empty())
}

/// The address of the peer.
pub(super) fn address(seen: &api::Peer) -> Option<IpAddr> {
    let key = key(seen)?;
    key.split('%').next()?.parse().ok()
}

fn state_of(state: &api::PeerState) -> State {
    match state.session_state() {
        peer_state::SessionState::Unspecified | peer_state::SessionState::Idle => State::Idle,
        peer_state::SessionState::Connect => State::Connect,
        peer_state::SessionState::Active => State::Active,
        peer_state::SessionState::Opensent => State::OpenSent,
        peer_state::SessionState::Openconfirm => State::OpenConfirm,
        peer_state::SessionState::Established => State::Established,
    }
}

fn family_of(family: Option<&api::Family>) -> Option<Family> {
    let family = family?;
    match (family.afi(), family.safi()) {
        (api::family::Afi::Ip, api::family::Safi::Unicast) => Some(Family::V4),
        (api::family::Afi::Ip6, api::family::Safi::Unicast) => Some(Family::V6),
        _ => None,
    }
}

/// Those that both sides named in their OPEN; a router that names none speaks IPv4 (RFC 4760 §8).
fn families(seen: &api::Peer) -> Vec<Family> {
    let theirs: Vec<Family> = capabilities(seen)
        .filter_map(|capability| match capability {
            Cap::MultiProtocol(family) => family_of(family.family.as_ref()),
            _ => None,
        })
        .collect();
    let named = |family: &Family| match theirs.as_slice() {
        [] => *family == Family::V4,
        theirs => theirs.contains(family),
    };
    let ours = seen
        .afi_safis
        .iter()
        .filter_map(|family| family.config.as_ref()?.family.as_ref());
    ours.filter_map(|family| family_of(Some(family)))
        .filter(named)
        .collect()
}

fn capabilities(seen: &api::Peer) -> impl Iterator<Item = &Cap> {
    let state = seen.state.as_ref();
    state
        .into_iter()
        .flat_map(|state| &state.remote_cap)
        .filter_map(|capability| capability.cap.as_ref())
}

fn error(wanted: &Peer, state: &api::PeerState) -> Option<String> {
    if state.admin_state() == peer_state::AdminState::PfxCt {
        return Some(format!(
            "the peer sent more than {MOST_PREFIXES} prefixes, and the session was ended; none of them is used here, \
             so let it send fewer or none"
        ));
    }
    let words = reason(state.disconnect_reason(), wanted)?;
    // The message begins with the daemon's own word for the reason.
    Some(match state.disconnect_message.trim().split_once(' ') {
        Some((_, rest)) => format!("{words} ({rest})"),
        None => words,
    })
}

/// What is wrong with a session that is up.
fn complaint(wanted: &Peer, state: &api::PeerState) -> Option<String> {
    (wanted.remote_asn == RemoteAsn::External && state.peer_asn == wanted.my_asn).then(|| {
        format!(
            "the peer's ASN is {}, as ours, and the BGPPeer says that it is another",
            state.peer_asn
        )
    })
}

fn reason(reason: peer_state::DisconnectReason, wanted: &Peer) -> Option<String> {
    use peer_state::DisconnectReason as Reason;
    let words = match reason {
        Reason::Unspecified | Reason::Deconfigured => return None,
        Reason::AdminDown => "the session was shut down here",
        Reason::HoldTimerExpired => {
            return Some(format!(
                "nothing was heard from the peer for the hold time ({:?} or less)",
                wanted.hold_time
            ));
        }
        Reason::NotificationSent => "the session was ended here with a NOTIFICATION",
        Reason::NotificationReceived => "the peer ended the session with a NOTIFICATION",
        Reason::ReadFailed => "the connection to the peer was closed",
        Reason::WriteFailed => "nothing could be sent to the peer",
        // Not ends, but steps between attempts.
        Reason::IdleTimerExpired => return None,
        Reason::RestartTimerExpired => "the peer did not come back within the restart time",
        Reason::GracefulRestart => "the peer restarts",
        Reason::InvalidMsg => "the peer sent what is not valid BGP, or settings that do not fit ours",
        Reason::HardReset => "the peer reset the session",
        Reason::BadPeerAs => "the peer has another ASN than the BGPPeer says",
    };
    Some(words.to_owned())
}
