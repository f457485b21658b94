//! Who is alive: SWIM, by the library foca, with what a load balancer needs on top of it.
//!
//! * A node that answers no probe is *accused*: told so itself, at short intervals and by detours, as long as it is only
//!   suspected. One datagram that gets through either way clears it.
//! * Death is told to all at once, not by rumour.
//! * This node's own lateness (a busy machine, a frozen process) makes it slower to find others dead, as in Lifeguard
//!   (Dadgar, Phillips, Currey: "Lifeguard: SWIM-ing with Situational Awareness", 2017): what it did not hear it may have
//!   been too slow to hear.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use fairlead_core::model::NodeName;
use foca::{
    AccumulatingRuntime, Codec as _, Config, Foca, Member, NoCustomBroadcast, PeriodicParams, State, Timer,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tracing::debug;

use super::identity::{Codec, Identity};
use super::wire::Message;

/// How the detector works. The times hold for every node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From one probe of some node to the next.
    pub period: Duration,
    /// How long the answer may take before others are asked to probe as well.
    pub patience: Duration,
    /// From a failed probe to the finding that the node is dead.
    pub suspicion: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            period: Duration::from_millis(80),
            patience: Duration::from_millis(30),
            suspicion: Duration::from_millis(240),
        }
    }
}

/// Nodes that are asked to probe in our stead.
const INDIRECT: usize = 3;
/// Between two accusations of one node.
const ACCUSE: Duration = Duration::from_millis(40);
/// Between two attempts to reach nodes that are not alive, and how many of them are tried.
const SEEK: Duration = Duration::from_millis(300);
const SOUGHT: usize = 3;
/// The same while nobody at all is alive, at the beginning.
const SEEK_FIRST: Duration = Duration::from_millis(50);
const FIRST: Duration = Duration::from_secs(3);
/// So much lateness doubles the time of suspicion, twice as much triples it, and so on.
const LATENESS: Duration = Duration::from_millis(40);
/// The longest that suspicion is stretched. What has arrived is taken in before anybody is found dead, so lateness alone
/// finds nobody dead; it is a sign that others may be late as well.
const STRETCH: u32 = 4;
/// Lateness is forgotten by halves in this time.
const FORGET: Duration = Duration::from_secs(2);
/// A message of foca's fits in one of ours with this size.
const PACKET: usize = 1150;

/// The detector. Without clocks and sockets: time is an argument, messages are handed out.
pub struct Detector {
    settings: Settings,
    foca: Foca<Identity, Codec, SmallRng, NoCustomBroadcast>,
    timers: BTreeMap<(Duration, u64), Pending>,
    numbered: u64,
    /// Whom this node itself suspects: in which incarnation, and when to accuse again.
    suspects: BTreeMap<Identity, (u16, Duration)>,
    /// How late this node was of late.
    lateness: Duration,
    measured: Duration,
    peers: BTreeSet<NodeName>,
    live: BTreeMap<NodeName, Identity>,
    sought: usize,
    seek: Duration,
    started: Duration,
    out: Vec<(NodeName, Message)>,
    /// Nodes found dead by this one, and suspicions, since the start.
    pub counts: Counts,
    /// Rises whenever somebody comes or goes.
    pub version: u64,
}

/// What the detector has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Probes without an answer, by which a node was suspected.
    pub suspicions: u64,
    /// Nodes that were found dead, here or elsewhere.
    pub deaths: u64,
}

struct Pending {
    timer: Timer<Identity>,
    submitted: Duration,
}

impl Detector {
    /// A speaker that starts now.
    pub fn new(me: Identity, settings: Settings, seed: u64, now: Duration) -> Self {
        Self {
            settings,
            foca: Foca::new(me, config(&settings), SmallRng::seed_from_u64(seed), Codec),
            timers: BTreeMap::new(),
            numbered: 0,
            suspects: BTreeMap::new(),
            lateness: Duration::ZERO,
            measured: now,
            peers: BTreeSet::new(),
            live: BTreeMap::new(),
            sought: 0,
            seek: now,
            started: now,
            out: Vec::new(),
            counts: Counts::default(),
            version: 0,
        }
    }

    /// These nodes may have a speaker. This one is not among them.
    pub fn set_peers(&mut self, peers: BTreeSet<NodeName>) {
        self.peers = peers;
    }

    /// The nodes that may have a speaker, this one excluded.
    pub fn peers(&self) -> &BTreeSet<NodeName> {
        &self.peers
    }

    /// The other nodes that are alive.
    pub fn live(&self) -> impl Iterator<Item = &NodeName> {
        self.live.keys()
    }

    /// Who this speaker is at present.
    pub fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    /// What is to be sent, and to whom.
    pub fn take_output(&mut self) -> Vec<(NodeName, Message)> {
        std::mem::take(&mut self.out)
    }

    /// How late this node was of late: zero on a machine that is not overloaded.
    pub fn lateness(&self) -> Duration {
        self.lateness
    }

    /// Goes on under a later start number.
    pub fn restart(&mut self, start: i64, now: Duration) {
        let identity = Identity {
            start,
            bump: 0,
            ..self.foca.identity().clone()
        };
        self.with(now, |foca, runtime| foca.change_identity(identity, runtime));
    }

    /// Seeks the nodes that are not alive at once.
    pub fn hurry(&mut self, now: Duration) {
        self.seek = self.seek.min(now);
    }

    /// Says farewell to everybody.
    pub fn leave(&mut self) {
        self.tell_all(&Message::Obituary(self.foca.identity().clone(), 0));
    }

    fn tell_all(&mut self, message: &Message) {
        let told = self.live.keys().map(|node| (node.clone(), message.clone()));
        self.out.extend(told);
    }

    /// Takes in a message of another speaker's detector.
    pub fn receive(&mut self, from: &NodeName, message: &[u8], now: Duration) {
        if !self.live.contains_key(from)
            && let Ok(header) = Codec.decode_header(message)
        {
            self.correct(&header.src);
        }
        self.with(now, |foca, runtime| foca.handle_data(message, runtime));
    }

    /// A process that counts itself as earlier than one of its node that is known to be dead is told of that one, since
    /// nobody takes it for alive until it has a later number.
    fn correct(&mut self, from: &Identity) {
        let later = |known: &&Identity| known.node == from.node && known.start > from.start;
        let known = self.foca.iter_membership_state().map(Member::id).filter(later);
        if let Some(known) = known.max().cloned() {
            self.out.push((from.node.clone(), Message::Obituary(known, 0)));
        }
    }

    /// Somebody was found dead by another node, or has left.
    pub fn obituary(&mut self, dead: Identity, incarnation: u16, now: Duration) {
        let update = Member::new(dead, incarnation, State::Down);
        self.with(now, |foca, runtime| {
            foca.apply_many([update].into_iter(), true, runtime)
        });
    }

    /// Somebody is suspected. If it is this node, it clears itself; otherwise the one concerned is told.
    pub fn accused(&mut self, accused: Identity, incarnation: u16, by: NodeName, now: Duration) {
        if accused.node != self.foca.identity().node {
            // Passed on once: told to a third node it would be told to a fourth.
            if self.live.contains_key(&accused.node) || self.peers.contains(&accused.node) {
                self.out.push((
                    accused.node.clone(),
                    Message::Accusation {
                        accused,
                        incarnation,
                        by,
                    },
                ));
            }
            return;
        }
        let update = Member::new(accused, incarnation, State::Suspect);
        self.with(now, |foca, runtime| {
            foca.apply_many([update].into_iter(), true, runtime)
        });
        // Whatever comes from this node from now on clears it, most of all with the accuser.
        self.with(now, |foca, runtime| {
            foca.announce(Identity::unknown(&by), runtime)
        });
    }

    /// When to call [`Self::tick`] next.
    pub fn next(&self) -> Duration {
        let timers = self.timers.keys().next().map(|(due, _)| *due);
        let accusations = self.suspects.values().map(|(_, due)| *due).min();
        [timers, accusations, Some(self.seek)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.seek)
    }

    /// Does what is due. What has arrived must have been taken in before: an answer that waits in the socket counts.
    pub fn tick(&mut self, now: Duration) {
        self.measure(now);
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let pending = entry.remove();
            let Timer::ChangeSuspectToDown {
                member_id,
                incarnation,
                ..
            } = &pending.timer
            else {
                self.with(now, |foca, runtime| foca.handle_timer(pending.timer, runtime));
                continue;
            };
            let due = pending.submitted + self.stretched();
            if due > now {
                self.schedule(due, pending);
                continue;
            }
            let (dead, incarnation) = (member_id.clone(), *incarnation);
            let lived = self.live.contains_key(&dead.node);
            self.with(now, |foca, runtime| foca.handle_timer(pending.timer, runtime));
            self.suspects.remove(&dead);
            if lived && !self.live.contains_key(&dead.node) {
                self.tell_all(&Message::Obituary(dead, incarnation));
            }
        }
        self.accuse(now);
        self.seek(now);
    }

    fn measure(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.measured);
        self.measured = now;
        self.lateness = self
            .lateness
            .mul_f64(0.5f64.powf(elapsed.as_secs_f64() / FORGET.as_secs_f64()));
        if let Some((due, _)) = self.timers.keys().next() {
            self.lateness = self.lateness.max(now.saturating_sub(*due));
        }
    }

    fn stretched(&self) -> Duration {
        let factor = 1.0 + self.lateness.as_secs_f64() / LATENESS.as_secs_f64();
        self.settings
            .suspicion
            .mul_f64(factor.clamp(1.0, f64::from(STRETCH)))
    }

    fn accuse(&mut self, now: Duration) {
        // A suspect that has cleared itself, died or restarted is one no more.
        let suspected: BTreeMap<&Identity, u16> = self
            .foca
            .iter_membership_state()
            .filter(|member| member.state() == State::Suspect)
            .map(|member| (member.id(), member.incarnation()))
            .collect();
        self.suspects
            .retain(|who, (incarnation, _)| suspected.get(who) == Some(incarnation));
        let me = self.foca.identity().node.clone();
        for (accused, (incarnation, due)) in self.suspects.iter_mut().filter(|(_, (_, due))| *due <= now) {
            *due = now + ACCUSE;
            let told = Message::Accusation {
                accused: accused.clone(),
                incarnation: *incarnation,
                by: me.clone(),
            };
            self.out.push((accused.node.clone(), told.clone()));
            // By a detour as well, another one each time.
            let others: Vec<&NodeName> = self.live.keys().filter(|node| **node != accused.node).collect();
            if !others.is_empty() {
                self.sought = self.sought.wrapping_add(1);
                self.out.push((others[self.sought % others.len()].clone(), told));
            }
        }
    }

    fn seek(&mut self, now: Duration) {
        if self.seek > now {
            return;
        }
        let early = self.live.is_empty() && now < self.started + FIRST;
        self.seek = now + if early { SEEK_FIRST } else { SEEK };
        let missing: Vec<NodeName> = self
            .peers
            .iter()
            .filter(|node| !self.live.contains_key(*node))
            .cloned()
            .collect();
        for _ in 0..SOUGHT.min(missing.len()) {
            self.sought = self.sought.wrapping_add(1);
            let node = &missing[self.sought % missing.len()];
            self.with(now, |foca, runtime| {
                foca.announce(Identity::unknown(node), runtime)
            });
            self.seek_by_detour(node, self.sought / missing.len());
        }
    }

    /// Somebody else may hear a node that this one does not, and that does not know that it was found dead here. It is
    /// told by way of another: what nobody could clear itself of makes it go on under a new identity.
    fn seek_by_detour(&mut self, node: &NodeName, turn: usize) {
        let dead = |member: &&Member<Identity>| member.id().node == *node && member.state() == State::Down;
        let dead = self.foca.iter_membership_state().find(dead).map(Member::id);
        let over = self.live.keys().nth(turn % self.live.len().max(1));
        if let Some((dead, over)) = dead.zip(over) {
            let told = Message::Accusation {
                accused: dead.clone(),
                incarnation: u16::MAX,
                by: self.foca.identity().node.clone(),
            };
            self.out.push((over.clone(), told));
        }
    }

    /// Calls foca, and takes in what it wants done.
    fn with(
        &mut self,
        now: Duration,
        call: impl FnOnce(
            &mut Foca<Identity, Codec, SmallRng, NoCustomBroadcast>,
            &mut AccumulatingRuntime<Identity>,
        ) -> Result<(), foca::Error>,
    ) {
        let mut runtime = AccumulatingRuntime::new();
        let before = (self.identity().start, self.identity().bump);
        let mut result = call(&mut self.foca, &mut runtime);
        if before != (self.identity().start, self.identity().bump) {
            // A new identity probes nobody until foca looks at who is alive, which it does with the next message from
            // one of those: never, if that was the last of them.
            let looked = self.foca.apply_many(std::iter::empty(), true, &mut runtime);
            result = result.and(looked);
        }
        if let Err(error) = result {
            debug!(%error, "failure detector");
        }
        while let Some((to, data)) = runtime.to_send() {
            self.out.push((to.node, Message::Swim(data.to_vec())));
        }
        while let Some((after, timer)) = runtime.to_schedule() {
            let mut due = now + after;
            if let Timer::ChangeSuspectToDown {
                member_id,
                incarnation,
                ..
            } = &timer
            {
                self.counts.suspicions += 1;
                due = now + self.stretched();
                self.suspects.insert(member_id.clone(), (*incarnation, now));
            }
            self.schedule(
                due,
                Pending {
                    timer,
                    submitted: now,
                },
            );
        }
        // The library's own list is the truth; its notifications, of one identity each, are not.
        let known = |member: &Member<Identity>| self.live.get(&member.id().node) == Some(member.id());
        if self.foca.num_members() == self.live.len() && self.foca.iter_members().all(known) {
            return;
        }
        let live: BTreeMap<NodeName, Identity> = self
            .foca
            .iter_members()
            .map(|member| (member.id().node.clone(), member.id().clone()))
            .collect();
        let gone = self.live.keys().filter(|node| !live.contains_key(*node)).count();
        self.counts.deaths += gone as u64;
        self.live = live;
        self.version += 1;
    }

    fn schedule(&mut self, due: Duration, pending: Pending) {
        self.numbered += 1;
        self.timers.insert((due, self.numbered), pending);
    }
}

fn config(settings: &Settings) -> Config {
    let number = |n: usize| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
    Config {
        probe_period: settings.period,
        probe_rtt: settings.patience,
        num_indirect_probes: number(INDIRECT),
        max_transmissions: NonZeroU8::new(10).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: settings.suspicion,
        // Long enough for a rumour to be over; a node that is removed from the cluster is forgotten then.
        remove_down_after: Some(Duration::from_secs(3600)),
        max_packet_size: number(PACKET),
        notify_down_members: true,
        // Nodes that are not alive are sought by this module.
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams {
            frequency: Duration::from_millis(100),
            num_members: number(2),
        }),
    }
}
