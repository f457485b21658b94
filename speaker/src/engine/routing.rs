//! BGP's part of the loop: the daemon is told what is decided, and what comes of it goes into the next decision.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_bgpd::word::End;
use fairlead_bgpd::{API_SOCKET, PARENT_SOCKET, heartbeat};
use fairlead_core::announce::bgp::{Announced, Plan, Wanted};
use fairlead_core::hash::{FNV_OFFSET, fnv1a};
use fairlead_core::model::NodeName;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::bgp::report::Meter;
use crate::bgp::{self, DaemonState, Input, Observed, OwnAddresses, State};
use crate::decide::Decision;
use crate::metrics::Metrics;
use crate::passwords::Passwords;
use crate::snapshot;

/// For the daemon to do what it was told last, when the speaker ends.
const LAST_CHANGE: Duration = Duration::from_secs(2);
/// How long other nodes pass on to this one what was open through it when it ceased to announce an address.
const PARTED: Duration = Duration::from_secs(60);
/// How long an address counts as announced after its route was withdrawn: routers need a moment to do without it.
const LINGER: Duration = Duration::from_secs(1);

/// Of more changes than this at once only the number is logged.
const LOGGED_ONE_BY_ONE: usize = 10;

/// How BGP is spoken.
#[derive(Clone, Debug)]
pub struct BgpSettings {
    /// Where the sockets of the daemon and its parent are.
    pub directory: PathBuf,
    /// How long routes of a node that is cordoned go out as less preferred ones before they are withdrawn.
    pub drain_time: Duration,
    /// The Secrets that the speaker may read passwords from.
    pub secrets: BTreeSet<String>,
}

/// The connection to the daemon.
pub(super) struct Router {
    settings: Option<BgpSettings>,
    me: NodeName,
    /// Who this node is in its sessions, and was to the process before.
    identity: snapshot::Identity,
    input: watch::Sender<Option<Input>>,
    observed: Option<watch::Receiver<Observed>>,
    end: watch::Sender<Option<End>>,
    heart: Option<JoinHandle<()>>,
    meter: Meter,
    /// Since when addresses are not announced any more, for as long as that matters.
    ceased: BTreeMap<IpAddr, Instant>,
    routed: BTreeSet<IpAddr>,
    /// Those that are announced as less preferred ones.
    draining: BTreeSet<IpAddr>,
}

impl Router {
    /// Says to the daemon's parent from now on that the speaker is alive; the daemon itself is told nothing yet.
    pub(super) fn new(settings: Option<BgpSettings>, me: NodeName, before: snapshot::Identity) -> Self {
        let (end, ends) = watch::channel(None);
        let heart = settings.as_ref().map(|settings| {
            let parent = settings.directory.join(PARENT_SOCKET);
            tokio::spawn(heartbeat::follow(parent, ends))
        });
        Self {
            settings,
            me,
            identity: before,
            input: watch::Sender::new(None),
            observed: None,
            end,
            heart,
            meter: Meter::default(),
            ceased: BTreeMap::new(),
            routed: BTreeSet::new(),
            draining: BTreeSet::new(),
        }
    }

    pub(super) fn enabled(&self) -> bool {
        self.settings.is_some()
    }

    pub(super) fn drain_time(&self) -> Duration {
        self.settings
            .as_ref()
            .map_or(Duration::ZERO, |settings| settings.drain_time)
    }

    /// Waits until something is observed; for ever if the daemon was told nothing yet.
    pub(super) async fn news(&mut self) {
        let told = match &mut self.observed {
            Some(observed) => observed.changed().await.is_ok(),
            None => false,
        };
        if !told {
            std::future::pending::<()>().await;
        }
    }

    /// What is observed now.
    pub(super) fn observe(&mut self, metrics: &Metrics) -> Observed {
        let Some(observed) = &mut self.observed else {
            return Observed::default();
        };
        let observed = observed.borrow_and_update().clone();
        self.meter.observe(&observed, metrics);
        observed
    }

    /// Who this node is in its sessions.
    pub(super) fn identity(&self) -> &snapshot::Identity {
        &self.identity
    }

    /// Tells the daemon what was decided. `own` are the node's addresses, if they are known.
    pub(super) fn tell(&mut self, decision: &Decision, own: &[IpAddr], passwords: &Passwords, now: Instant) {
        self.note(decision, now);
        let Some(settings) = &self.settings else {
            return;
        };
        if !own.is_empty() {
            self.identity = snapshot::Identity {
                // It stays what it is, since another one would end all sessions.
                router_id: self.identity.router_id.or_else(|| router_id(own, &self.me)),
                addresses: own.to_vec(),
            };
        }
        let Some(router_id) = self.identity.router_id else {
            return;
        };
        let wanted = &decision.bgp.wanted;
        let input = Input {
            wanted: Arc::default(),
            passwords: self.passwords_for(wanted, passwords, settings),
            addresses: own_addresses(&self.identity.addresses),
        };
        self.input.send_if_modified(|told| match told {
            Some(told)
                if *told.wanted == *wanted
                    && told.passwords == input.passwords
                    && told.addresses == input.addresses =>
            {
                false
            }
            _ => {
                *told = Some(Input {
                    wanted: Arc::new(wanted.clone()),
                    ..input
                });
                true
            }
        });
        if self.observed.is_none() {
            let socket = settings.directory.join(API_SOCKET);
            let settings = bgp::Settings { socket, router_id };
            self.observed = Some(bgp::start(settings, self.input.subscribe()));
        }
    }

    /// The passwords that sessions need. Those that may not be read are told of by the name of the value that allows it.
    fn passwords_for(&self, wanted: &Wanted, known: &Passwords, settings: &BgpSettings) -> Passwords {
        let names = wanted
            .sessions
            .values()
            .filter_map(|peer| peer.password_secret.as_ref());
        let found = |name: &String| match known.get(name) {
            Some(password) => password.clone(),
            None if settings.secrets.contains(name) => {
                Err(format!("the Secret {name} has not been read yet"))
            }
            None => Err(format!(
                "the speaker may not read the Secret {name}: name it in the chart's value speaker.bgp.passwordSecrets"
            )),
        };
        names.map(|name| (name.clone(), found(name))).collect()
    }

    fn note(&mut self, decision: &Decision, now: Instant) {
        let announced = &decision.bgp.announced;
        let gone = self
            .routed
            .iter()
            .filter(|address| !announced.contains_key(*address));
        self.ceased.extend(gone.map(|address| (*address, now)));
        self.ceased
            .retain(|address, since| now < *since + PARTED && !announced.contains_key(address));
        self.routed = announced.keys().copied().collect();
        let draining = announced.iter().filter(|(_, one)| one.draining);
        self.draining = draining.map(|(address, _)| *address).collect();
    }

    /// The addresses for which routers may send packets here.
    pub(super) fn announcing(&self, now: Instant) -> BTreeSet<IpAddr> {
        let lingering = self.ceased.iter().filter(|(_, since)| now < **since + LINGER);
        let lingering = lingering.map(|(address, _)| *address);
        self.routed.iter().copied().chain(lingering).collect()
    }

    /// The addresses for which other nodes may have to pass packets here.
    pub(super) fn parted(&self) -> BTreeSet<IpAddr> {
        self.ceased.keys().chain(&self.draining).copied().collect()
    }

    /// When something that is told changes by itself.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        let ends = self
            .ceased
            .values()
            .flat_map(|since| [*since + LINGER, *since + PARTED]);
        ends.filter(|end| *end > now).min()
    }

    /// Waits, not for long, until the daemon has done what it was told, and tells its parent whether the routes that are
    /// left are to stay with the routers.
    pub(super) async fn end(mut self, keep: bool) {
        if let Some(observed) = &mut self.observed {
            let routes = self
                .input
                .borrow()
                .as_ref()
                .map_or(0, |input| input.wanted.routes.len());
            let done = observed.wait_for(|observed| {
                observed.daemon != DaemonState::Up || (observed.settled && observed.routes == routes)
            });
            if tokio::time::timeout(LAST_CHANGE, done).await.is_err() {
                warn!("the BGP daemon has not withdrawn all routes in time");
            }
        }
        self.end
            .send_replace(Some(if keep { End::Keep } else { End::Withdraw }));
        if let Some(mut heart) = self.heart.take()
            && tokio::time::timeout(LAST_CHANGE, &mut heart).await.is_err()
        {
            warn!("the parent of the BGP daemon was not told how the speaker ends");
            heart.abort();
        }
    }
}

/// Logs what begins and ends to be announced by BGP.
pub(super) fn log_changes(before: &Plan, decision: &Decision) {
    let now = &decision.bgp.announced;
    // A session that comes or goes takes all its routes along.
    let changed =
        |address: &IpAddr| now.get(address).map(essence) != before.announced.get(address).map(essence);
    let all = now.keys().chain(
        before
            .announced
            .keys()
            .filter(|address| !now.contains_key(*address)),
    );
    let changed: Vec<&IpAddr> = all.filter(|address| changed(address)).collect();
    if changed.len() > LOGGED_ONE_BY_ONE {
        info!(
            changed = changed.len(),
            addresses = now.len(),
            "announcing by BGP"
        );
        return;
    }
    for address in changed {
        if let Some(announced) = now.get(address) {
            let Announced { peers, draining, .. } = announced;
            info!(%address, ?peers, draining, "announcing by BGP");
        } else {
            let evaluation = decision.evaluations.get(address);
            let refusal = evaluation
                .and_then(|evaluation| evaluation.bgp_refusal())
                .or(decision.bgp.refusals.get(address));
            let reason = refusal.map_or_else(
                || "no advertisement has it any more".to_owned(),
                |refusal| format!("{}: {}", refusal.reason, refusal.message),
            );
            info!(%address, reason, "withdrawn from BGP");
        }
    }
}

fn essence(announced: &Announced) -> (&BTreeSet<String>, bool) {
    (&announced.peers, announced.draining)
}

/// The peers with which a session is established.
pub(super) fn established(observed: &Observed) -> BTreeSet<String> {
    let up = observed
        .sessions
        .iter()
        .filter(|(_, session)| session.state == State::Established);
    up.map(|(name, _)| name.clone()).collect()
}

fn own_addresses(own: &[IpAddr]) -> OwnAddresses {
    OwnAddresses {
        v4: own.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        }),
        v6: own.iter().find_map(|ip| match ip {
            IpAddr::V6(ip) => Some(*ip),
            IpAddr::V4(_) => None,
        }),
    }
}

/// The BGP identifier: the node's IPv4 address, or on a node without one a number made of its name (RFC 6286 asks for no
/// more than that it differs within the AS).
fn router_id(own: &[IpAddr], me: &NodeName) -> Option<Ipv4Addr> {
    let made = || {
        let hash = fnv1a(FNV_OFFSET, me.as_str().as_bytes());
        Ipv4Addr::from_bits(((hash ^ (hash >> 32)) as u32).max(1))
    };
    Some(own_addresses(own).v4.unwrap_or_else(made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_an_identifier_with_and_without_ipv4() {
        let of = |own: &[&str], me: &str| {
            let own: Vec<IpAddr> = own.iter().map(|ip| ip.parse().unwrap()).collect();
            router_id(&own, &me.into()).unwrap()
        };
        assert_eq!(
            of(&["2001:db8::1", "192.0.2.1"], "n1"),
            Ipv4Addr::new(192, 0, 2, 1)
        );
        let made = of(&["2001:db8::1"], "n1");
        assert_eq!(made, of(&["2001:db8::9"], "n1"), "the address does not matter");
        assert_ne!(made, of(&["2001:db8::1"], "n2"));
    }
}
