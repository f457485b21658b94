//! What is told of BGP in the NodeState and by metrics.

use std::collections::BTreeMap;

use fairlead_api::node_state::{BgpSession, BgpState};
use fairlead_core::announce::bgp::Plan;
use fairlead_core::config::{Peer, PeerEndpoint};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{DaemonState, Observed, Session, State};
use crate::metrics::{Metrics, PeerLabels, SessionLabels};

/// Sessions that are listed at the most.
const LISTED: usize = 64;

/// The state for people. A session that was never seen to change is as it is since `begun`.
pub fn state(observed: &Observed, plan: &Plan, begun: Timestamp) -> BgpState {
    let (daemon, problem) = match &observed.daemon {
        DaemonState::Unasked => ("not asked yet", String::new()),
        DaemonState::Up => ("running", contradiction(plan)),
        DaemonState::Down(why) => ("awaited", format!("DaemonDown: {why}")),
        DaemonState::TooOld(why) => ("refused", format!("DaemonTooOld: {why}")),
    };
    let none = Session::default();
    let sessions = plan.wanted.sessions.iter().take(LISTED).map(|(name, peer)| {
        let session = observed.sessions.get(name).unwrap_or(&none);
        BgpSession {
            peer: name.clone(),
            remote: remote(session, peer),
            state: session.state.as_str().to_owned(),
            since: Time(session.since.unwrap_or(begun)),
            last_error: error(session),
            prefixes: session.advertised.values().sum::<u64>().cast_signed(),
            families: session.families.iter().map(ToString::to_string).collect(),
            bfd: match session.bfd {
                Some(true) => "Up".to_owned(),
                Some(false) => "Down".to_owned(),
                None => String::new(),
            },
        }
    });
    BgpState {
        daemon: daemon.to_owned(),
        problem,
        sessions: sessions.collect(),
        routes: observed.routes as i64,
    }
}

/// What advertisements contradict each other in, told of one address.
fn contradiction(plan: &Plan) -> String {
    let Some((address, refusal)) = plan.conflicts.first_key_value() else {
        return String::new();
    };
    let more = match plan.conflicts.len() - 1 {
        0 => String::new(),
        count => format!(", and {count} more"),
    };
    format!("{}: {address}{more}: {}", refusal.reason, refusal.message)
}

fn remote(session: &Session, peer: &Peer) -> String {
    match (session.peer, &peer.endpoint) {
        (Some(address), _) => address.to_string(),
        (None, PeerEndpoint::Address(address)) => address.to_string(),
        (None, PeerEndpoint::Interface(name)) => name.clone(),
    }
}

fn error(session: &Session) -> String {
    if let Some(refusal) = &session.refusal {
        return format!("{}: {refusal}", refusal.reason());
    }
    match (&session.error, &session.attempts) {
        (Some(error), Some(attempts)) => format!("{error}; since then {attempts}"),
        (error, attempts) => error.as_ref().or(attempts.as_ref()).cloned().unwrap_or_default(),
    }
}

/// Keeps the metrics at what is observed.
#[derive(Debug, Default)]
pub struct Meter {
    counted: BTreeMap<(String, State), u64>,
    applied: u64,
}

impl Meter {
    /// Takes a new observation.
    pub fn observe(&mut self, observed: &Observed, metrics: &Metrics) {
        metrics
            .bgp_daemon_up
            .set(i64::from(observed.daemon == DaemonState::Up));
        metrics.bgp_routes.set(observed.routes as i64);
        if observed.applied != self.applied {
            self.applied = observed.applied;
            metrics
                .bgp_apply_seconds
                .observe(observed.apply_time.as_secs_f64());
        }
        // Sessions that are gone are not told of any more.
        metrics.bgp_session_up.clear();
        metrics.bgp_prefixes.clear();
        for (name, session) in &observed.sessions {
            let peer = || PeerLabels { peer: name.clone() };
            let up = session.state == State::Established;
            metrics.bgp_session_up.get_or_create(&peer()).set(i64::from(up));
            let prefixes = session.advertised.values().sum::<u64>().cast_signed();
            metrics.bgp_prefixes.get_or_create(&peer()).set(prefixes);
            for (state, count) in &session.transitions {
                let counted = self.counted.entry((name.clone(), *state)).or_default();
                let labels = SessionLabels {
                    peer: name.clone(),
                    to: state.as_str(),
                };
                let more = count.saturating_sub(*counted);
                metrics.bgp_transitions.get_or_create(&labels).inc_by(more);
                *counted = *count;
            }
        }
        self.counted
            .retain(|(name, _), _| observed.sessions.contains_key(name));
    }
}

#[cfg(test)]
mod tests {
    use fairlead_core::announce::bgp::Wanted;
    use fairlead_core::config::RemoteAsn;
    use fairlead_core::model::Family;
    use fairlead_core::reason::Reason;

    use super::*;
    use crate::bgp::Refusal;

    fn peer(name: &str, endpoint: PeerEndpoint) -> (String, Peer) {
        let peer = Peer {
            my_asn: 64500,
            remote_asn: RemoteAsn::Number(64512),
            families: vec![Family::V4],
            ..fairlead_core::testing::bgp_peer(name, endpoint)
        };
        (name.to_owned(), peer)
    }

    #[test]
    fn sessions_are_told_of_with_what_is_wrong() {
        let wanted = Wanted {
            sessions: [
                peer("tor", PeerEndpoint::Address("192.0.2.1".parse().unwrap())),
                peer("wire", PeerEndpoint::Interface("eth1".to_owned())),
            ]
            .into(),
            ..Wanted::default()
        };
        let mut plan = Plan {
            wanted,
            ..Plan::default()
        };
        let refused = Session {
            refusal: Some(Refusal::NoNeighbour("eth1".to_owned())),
            ..Session::default()
        };
        let up = Session {
            state: State::Established,
            since: Some(Timestamp::from_second(50).unwrap()),
            advertised: [(Family::V4, 3), (Family::V6, 1)].into(),
            transitions: [(State::Established, 2)].into(),
            bfd: Some(true),
            ..Session::default()
        };
        let mut observed = Observed {
            daemon: DaemonState::Up,
            sessions: [("tor".to_owned(), up), ("wire".to_owned(), refused)].into(),
            routes: 4,
            ..Observed::default()
        };
        let told = state(&observed, &plan, Timestamp::UNIX_EPOCH);
        let [tor, wire] = &told.sessions[..] else {
            panic!("{told:?}")
        };
        assert_eq!(
            (
                tor.state.as_str(),
                tor.prefixes,
                tor.since.0.as_second(),
                tor.bfd.as_str()
            ),
            ("Established", 4, 50, "Up")
        );
        assert_eq!((wire.state.as_str(), wire.remote.as_str()), ("Idle", "eth1"));
        assert!(
            wire.last_error.starts_with("NoNeighbour: "),
            "{}",
            wire.last_error
        );
        assert_eq!(wire.since.0, Timestamp::UNIX_EPOCH);
        assert_eq!(told.problem, "");
        for last in [1, 2] {
            let conflict =
                fairlead_core::reason::Refusal::new(Reason::ConflictingAttributes, "a and b differ in med");
            plan.conflicts.insert([192, 0, 2, last].into(), conflict);
        }
        assert_eq!(
            state(&observed, &plan, Timestamp::UNIX_EPOCH).problem,
            "ConflictingAttributes: 192.0.2.1, and 1 more: a and b differ in med"
        );

        let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
        let mut meter = Meter::default();
        meter.observe(&observed, &metrics);
        meter.observe(&observed, &metrics);
        let entered = SessionLabels {
            peer: "tor".to_owned(),
            to: "Established",
        };
        assert_eq!(metrics.bgp_transitions.get_or_create(&entered).get(), 2);
        observed.daemon = DaemonState::Down("it is gone".to_owned());
        observed.sessions.clear();
        meter.observe(&observed, &metrics);
        assert_eq!(metrics.bgp_daemon_up.get(), 0);
        assert!(!state(&observed, &plan, Timestamp::UNIX_EPOCH).problem.is_empty());
    }
}
