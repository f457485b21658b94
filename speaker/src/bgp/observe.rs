//! What the daemon says of a session, in our words.

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
    let established = session.state == State::Established;
    session.remote_asn = established.then_some(state.peer_asn);
    if established {
        session.attempts = None;
        session.error = complaint(wanted, state);
    } else {
        session.families.clear();
        session.advertised.clear();
        session.error = excess(seen).or_else(|| session.error.take());
    }
}

/// What no event tells: families, BFD, and if they were `counted` the numbers of routes.
pub(super) fn detail(session: &mut Session, wanted: &Peer, seen: &api::Peer, counted: bool) {
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
    if !counted {
        return;
    }
    let states = seen.afi_safis.iter().filter_map(|family| family.state.as_ref());
    session.advertised = states
        .filter_map(|state| Some((family_of(state.family.as_ref())?, state.advertised)))
        .filter(|(family, _)| session.families.contains(family))
        .collect();
}

/// Messages by which attempts to make a session, and ends of one, are told apart: the daemon knows the reasons, but
/// tells nothing but numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub opens_sent: u64,
    opens_received: u64,
    notifications_sent: u64,
    notifications_received: u64,
}

impl Counters {
    /// As the daemon counts them.
    pub fn of(seen: &api::Peer) -> Self {
        let messages = seen.state.as_ref().and_then(|state| state.messages.as_ref());
        let sent = messages.and_then(|messages| messages.sent).unwrap_or_default();
        let received = messages
            .and_then(|messages| messages.received)
            .unwrap_or_default();
        Self {
            opens_sent: sent.open,
            opens_received: received.open,
            notifications_sent: sent.notification,
            notifications_received: received.notification,
        }
    }
}

/// Why a session has ended that was up when the daemon had counted this.
pub(super) fn end(wanted: &Peer, before: Counters, now: Counters) -> String {
    if now.notifications_received > before.notifications_received {
        return "the peer ended the session with a NOTIFICATION".to_owned();
    }
    if now.notifications_sent > before.notifications_sent {
        let hold = format!(
            "nothing was heard from the peer for the hold time ({:?} or less)",
            wanted.hold_time
        );
        let bfd = if wanted.bfd.is_some() {
            ", or BFD lost it"
        } else {
            ""
        };
        return format!("the session was ended here: {hold}{bfd}, or it sent what is not valid BGP");
    }
    "the connection to the peer was closed without a word".to_owned()
}

/// What the attempts to make the session have come to since the daemon had counted this.
pub(super) fn attempts(wanted: &Peer, before: Counters, now: Counters) -> String {
    let port = wanted.port;
    if now.opens_sent <= before.opens_sent {
        let password = if wanted.password_secret.is_some() {
            ", or has another password"
        } else {
            ""
        };
        format!("no TCP connection comes about: the router does not answer at port {port}{password}")
    } else if now.opens_received <= before.opens_received {
        "the router closes the connection without a word: it may not know this node as a neighbour, or from another \
         address"
            .to_owned()
    } else if now.notifications_sent > before.notifications_sent {
        "what the router says in its OPEN does not fit: it may have another ASN than the BGPPeer says"
            .to_owned()
    } else {
        "the router answers, and the session does not come up".to_owned()
    }
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

/// Too much was sent to us.
pub(super) fn excess(seen: &api::Peer) -> Option<String> {
    let state = seen.state.as_ref()?;
    (state.admin_state() == peer_state::AdminState::PfxCt).then(|| {
        format!(
            "the peer sent more than {MOST_PREFIXES} prefixes, and the session was ended; none of them is used here, \
             so let it send fewer or none"
        )
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
