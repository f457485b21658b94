//! Metrics; all names begin with `fairlead_speaker_`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of probes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProbeLabels {
    /// `service`, `proxy` or `agent`.
    pub kind: &'static str,
    /// `success` or `failure`.
    pub result: &'static str,
}

/// Labels of what happened with something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabels {
    /// What happened.
    pub result: &'static str,
}

/// Labels of gossip that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GossipLabels {
    /// Why.
    pub reason: &'static str,
}

/// Labels of what happened with something on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WireLabels {
    /// `ipv4` (ARP) or `ipv6` (neighbour discovery).
    pub family: &'static str,
    /// What happened.
    pub result: &'static str,
}

/// Labels of changes between announcing and not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransitionLabels {
    /// `announced` or `withdrawn`.
    pub to: &'static str,
}

/// Labels of what is known of one BGP session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabels {
    /// Name of the BGPPeer.
    pub peer: String,
}

/// Labels of changes of a BGP session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SessionLabels {
    /// Name of the BGPPeer.
    pub peer: String,
    /// The state it came to.
    pub to: &'static str,
}

/// All metrics of the speaker; clones share the values.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Addresses that this node announces.
    pub announced: Gauge,
    /// Addresses that this node holds back.
    pub held_back: Gauge,
    /// Decisions. None is made while nothing changes.
    pub decisions: Counter,
    /// Changes between announcing and not.
    pub transitions: Family<TransitionLabels, Counter>,
    /// Probes.
    pub probes: Family<ProbeLabels, Counter>,
    /// Duration of probes in seconds.
    pub probe_seconds: Histogram,
    /// ARP requests and neighbour solicitations by what was done with them: `answered`, `ignored` or `failed`.
    pub l2_requests: Family<WireLabels, Counter>,
    /// Gratuitous ARP, unsolicited neighbour advertisements and probes: `sent` or `failed`.
    pub l2_announcements: Family<WireLabels, Counter>,
    /// Frames in which a stranger uses an address that this node announces or is about to: `defended` or `reported`.
    pub l2_conflicts: Family<WireLabels, Counter>,
    /// Writes of the NodeState: `success` or `failure`.
    pub node_state_writes: Family<ResultLabels, Counter>,
    /// Speakers that are alive, this one included.
    pub live_speakers: Gauge,
    /// Datagrams of the gossip: `sent`, `received` or `failed` to be sent.
    pub gossip_datagrams: Family<ResultLabels, Counter>,
    /// Their bytes, without the headers of UDP and IP.
    pub gossip_bytes: Family<ResultLabels, Counter>,
    /// Datagrams, and messages in them, that were not taken.
    pub gossip_refused: Family<GossipLabels, Counter>,
    /// Probes of other speakers that were not answered.
    pub gossip_suspicions: Counter,
    /// Speakers that were found dead or have left.
    pub gossip_deaths: Counter,
    /// How late this node was of late, in seconds.
    pub gossip_lateness: Gauge<f64, AtomicU64>,
    /// Does the BGP daemon do what it is told?
    pub bgp_daemon_up: Gauge,
    /// Networks that this node announces by BGP.
    pub bgp_routes: Gauge,
    /// Is the session established?
    pub bgp_session_up: Family<PeerLabels, Gauge>,
    /// Networks that the router was told of.
    pub bgp_prefixes: Family<PeerLabels, Gauge>,
    /// Changes of sessions.
    pub bgp_transitions: Family<SessionLabels, Counter>,
    /// How long changes at the daemon took, in seconds.
    pub bgp_apply_seconds: Histogram,
}

impl Metrics {
    /// Registers all metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            announced: Gauge::default(),
            held_back: Gauge::default(),
            decisions: Counter::default(),
            transitions: Family::default(),
            probes: Family::default(),
            probe_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 12)),
            l2_requests: Family::default(),
            l2_announcements: Family::default(),
            l2_conflicts: Family::default(),
            node_state_writes: Family::default(),
            live_speakers: Gauge::default(),
            gossip_datagrams: Family::default(),
            gossip_bytes: Family::default(),
            gossip_refused: Family::default(),
            gossip_suspicions: Counter::default(),
            gossip_deaths: Counter::default(),
            gossip_lateness: Gauge::default(),
            bgp_daemon_up: Gauge::default(),
            bgp_routes: Gauge::default(),
            bgp_session_up: Family::default(),
            bgp_prefixes: Family::default(),
            bgp_transitions: Family::default(),
            bgp_apply_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
        };
        let registry = registry.sub_registry_with_prefix("fairlead_speaker");
        registry.register(
            "announced_addresses",
            "Addresses that this node announces",
            metrics.announced.clone(),
        );
        registry.register(
            "held_back_addresses",
            "Addresses that this node knows and does not announce",
            metrics.held_back.clone(),
        );
        registry.register(
            "decisions",
            "Decisions about all addresses, each after some change",
            metrics.decisions.clone(),
        );
        registry.register(
            "transitions",
            "Changes between announcing an address and not",
            metrics.transitions.clone(),
        );
        registry.register("probes", "Health probes", metrics.probes.clone());
        registry.register(
            "probe_duration_seconds",
            "Duration of health probes",
            metrics.probe_seconds.clone(),
        );
        registry.register(
            "l2_requests",
            "ARP requests and neighbour solicitations received, by what was done with them",
            metrics.l2_requests.clone(),
        );
        registry.register(
            "l2_announcements",
            "Gratuitous ARP, unsolicited neighbour advertisements and probes, by result",
            metrics.l2_announcements.clone(),
        );
        registry.register(
            "l2_conflicts",
            "Frames in which a machine that is no speaker uses an announced address, by what was done about it",
            metrics.l2_conflicts.clone(),
        );
        registry.register(
            "node_state_writes",
            "Writes of the NodeState",
            metrics.node_state_writes.clone(),
        );
        registry.register(
            "live_speakers",
            "Speakers that are alive, this one included",
            metrics.live_speakers.clone(),
        );
        registry.register(
            "gossip_datagrams",
            "Datagrams between speakers, by what became of them",
            metrics.gossip_datagrams.clone(),
        );
        registry.register(
            "gossip_bytes",
            "Bytes of the datagrams between speakers",
            metrics.gossip_bytes.clone(),
        );
        registry.register(
            "gossip_refused",
            "Datagrams between speakers that were not taken, by reason",
            metrics.gossip_refused.clone(),
        );
        registry.register(
            "gossip_suspicions",
            "Unanswered probes of other speakers",
            metrics.gossip_suspicions.clone(),
        );
        registry.register(
            "gossip_deaths",
            "Speakers that were found dead or have left",
            metrics.gossip_deaths.clone(),
        );
        registry.register(
            "gossip_lateness_seconds",
            "How late this node was of late in what it had to do for the gossip; others are found dead more slowly then",
            metrics.gossip_lateness.clone(),
        );
        registry.register(
            "bgp_daemon_up",
            "Whether the BGP daemon does what it is told",
            metrics.bgp_daemon_up.clone(),
        );
        registry.register(
            "bgp_routes",
            "Networks that this node announces by BGP",
            metrics.bgp_routes.clone(),
        );
        registry.register(
            "bgp_session_up",
            "Whether the session is established, by BGPPeer",
            metrics.bgp_session_up.clone(),
        );
        registry.register(
            "bgp_prefixes_advertised",
            "Networks that the router was told of, by BGPPeer",
            metrics.bgp_prefixes.clone(),
        );
        registry.register(
            "bgp_session_transitions",
            "Changes of BGP sessions, by BGPPeer and the state they came to",
            metrics.bgp_transitions.clone(),
        );
        registry.register(
            "bgp_apply_seconds",
            "How long changes at the BGP daemon took",
            metrics.bgp_apply_seconds.clone(),
        );
        metrics
    }
}
