//! The walk itself.

use std::net::{IpAddr, SocketAddr};

use fairlead_core::forward::Destination;
use fairlead_core::model::{Family, Protocol};
use ipnet::IpNet;

use super::{Delivery, Facts, Flow, Origin, Outcome, Packet, Payload, Step, Trace};
use crate::nft::render;
use crate::nft::ruleset::{Action, Chain, ChainType, Key, Match, Rule, Ruleset, Set, Value};

/// What a base chain, or a hook with all its chains, says.
enum Verdict {
    Continue,
    Stop(Outcome),
}

/// How the destination was translated.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Translated {
    No,
    /// To the node itself, which answers.
    Echo,
    /// To one of these.
    To(Vec<SocketAddr>),
}

#[derive(Clone)]
struct Walk<'a> {
    ruleset: &'a Ruleset,
    packet: &'a Packet,
    facts: &'a Facts,
    /// The destination as it is now.
    destination: IpAddr,
    /// Bits of the flow's mark that were set on the way.
    mark: u32,
    translated: Translated,
    masqueraded: bool,
    steps: Vec<Step>,
}

pub(super) fn walk(ruleset: &Ruleset, packet: &Packet, facts: &Facts) -> Trace {
    let mut walk = Walk {
        ruleset,
        packet,
        facts,
        destination: packet.destination,
        mark: 0,
        translated: Translated::No,
        masqueraded: false,
        steps: Vec::new(),
    };
    let outcome = walk.run();
    Trace {
        steps: walk.steps,
        outcome,
    }
}

impl Walk<'_> {
    fn run(&mut self) -> Outcome {
        let first = match self.packet.origin {
            Origin::Arrived(_) => "prerouting",
            Origin::Node => "output",
        };
        if let Verdict::Stop(outcome) = self.hook(first) {
            return outcome;
        }
        if self.packet.flow == Flow::Known {
            return Outcome::AsItsFlow; // translated as the first packet was
        }
        match self.translated.clone() {
            Translated::Echo => Outcome::AnsweredAsEcho,
            Translated::No => match self.rest() {
                Verdict::Stop(outcome) => outcome,
                Verdict::Continue => Outcome::NotOurs,
            },
            Translated::To(endpoints) => self.deliver(&endpoints),
        }
    }

    /// What comes after the endpoint choice, for every endpoint.
    fn deliver(&mut self, endpoints: &[SocketAddr]) -> Outcome {
        let mut kinds: Vec<Vec<Step>> = Vec::new();
        let mut deliveries = Vec::new();
        for endpoint in endpoints {
            let mut one = self.clone();
            one.steps.clear();
            one.destination = endpoint.ip();
            if let Verdict::Stop(outcome) = one.rest() {
                self.steps.extend(one.steps);
                return outcome;
            }
            deliveries.push(Delivery {
                endpoint: *endpoint,
                masqueraded: one.masqueraded,
            });
            let rules = |steps: &[Step]| {
                steps
                    .iter()
                    .map(|s| (s.chain.clone(), s.rule.clone()))
                    .collect::<Vec<_>>()
            };
            if !kinds.iter().any(|known| rules(known) == rules(&one.steps)) {
                kinds.push(one.steps);
            }
        }
        self.steps.extend(kinds.into_iter().flatten());
        Outcome::Forward(deliveries)
    }

    /// The hooks after the first.
    fn rest(&mut self) -> Verdict {
        let here = self.facts.own.contains(&self.destination);
        let hooks: &[&str] = match (&self.packet.origin, here) {
            (Origin::Node, true) => &["postrouting", "input"],
            (Origin::Node, false) => &["postrouting"],
            (Origin::Arrived(_), true) => &["input"],
            (Origin::Arrived(_), false) => &["forward", "postrouting"],
        };
        for hook in hooks {
            if let Verdict::Stop(outcome) = self.hook(hook) {
                return Verdict::Stop(outcome);
            }
        }
        Verdict::Continue
    }

    fn hook(&mut self, hook: &str) -> Verdict {
        let ruleset = self.ruleset;
        let of_hook = |chain: &Chain| {
            let base = chain.base().filter(|base| base.hook == hook)?;
            let (chain, rules) = ruleset.chains.get_key_value(chain)?;
            Some((base.priority, base.kind, chain, rules))
        };
        let mut chains: Vec<_> = Chain::FIXED.iter().filter_map(of_hook).collect();
        chains.sort_by_key(|(priority, ..)| *priority);
        // One translation a hook: of the destination before routing, of the source after it.
        let mut translated = false;
        for (_, kind, chain, rules) in chains {
            if kind == ChainType::Nat && (translated || self.packet.flow != Flow::New) {
                continue;
            }
            let before = (self.translated.clone(), self.masqueraded);
            if let Some(outcome) = self.chain(chain, rules) {
                return Verdict::Stop(outcome);
            }
            translated |= before != (self.translated.clone(), self.masqueraded);
        }
        Verdict::Continue
    }

    /// A base chain with all that it leads to; the outcome, unless the packet goes on to the next base chain.
    fn chain(&mut self, chain: &Chain, rules: &[Rule]) -> Option<Outcome> {
        let (mut chain, mut rules) = (chain, rules);
        let ruleset = self.ruleset;
        'chain: loop {
            for rule in rules {
                match self.rule(chain, rule) {
                    Next::Rule => {}
                    Next::Accept => return None,
                    Next::Stop(outcome) => return Some(outcome),
                    Next::Goto(next) => {
                        let Some((known, its)) = ruleset.chains.get_key_value(&next) else {
                            return None; // the kernel lets no element lead to nowhere
                        };
                        (chain, rules) = (known, its);
                        continue 'chain;
                    }
                }
            }
            return None; // all policies accept
        }
    }

    fn rule(&mut self, chain: &Chain, rule: &Rule) -> Next {
        if !rule.matches.iter().all(|condition| self.holds(condition)) {
            return Next::Rule;
        }
        let mut found = None;
        for action in &rule.actions {
            let next = match action {
                Action::Accept => Next::Accept,
                Action::Drop => Next::Stop(Outcome::Dropped),
                Action::Reset => Next::Stop(Outcome::Reset),
                Action::Unreachable => Next::Stop(Outcome::Unreachable),
                Action::Goto(next) => Next::Goto(next.clone()),
                Action::Lookup(set) | Action::LookupOriginal(set) => {
                    let Some((key, Value::Goto(next))) = self.destination_in(*set) else {
                        return Next::Rule;
                    };
                    let next = next.clone();
                    found = Some(render::element(&key, &Value::Goto(next.clone())));
                    Next::Goto(next)
                }
                Action::DnatBy(set) => {
                    let key = Key::Address(self.destination);
                    let Some(value) = self.ruleset.elements.get(&(*set, key.clone())) else {
                        return Next::Rule;
                    };
                    found = Some(render::element(&key, value));
                    if let Value::Address(address) = value {
                        self.destination = *address;
                    }
                    self.translated = Translated::Echo;
                    Next::Accept
                }
                Action::DnatRemembered(_) => {
                    let Some(endpoint) = self.facts.remembered else {
                        return Next::Rule;
                    };
                    found = Some(format!("{} had {endpoint}", self.packet.source));
                    self.destination = endpoint.ip();
                    self.translated = Translated::To(vec![endpoint]);
                    Next::Accept
                }
                Action::Dnat(set, count) => match self.choose(*set, *count, &mut found) {
                    Next::Rule if found.is_none() => return Next::Rule,
                    next => next,
                },
                Action::Remember(..) => Next::Rule,
                Action::Mark(mark) => {
                    self.mark |= mark;
                    Next::Rule
                }
                Action::Masquerade => {
                    self.masqueraded = true;
                    Next::Accept
                }
            };
            if !matches!(next, Next::Rule) {
                self.met(chain, rule, found, &next);
                return next;
            }
        }
        self.met(chain, rule, found, &Next::Rule);
        Next::Rule
    }

    fn met(&mut self, chain: &Chain, rule: &Rule, found: Option<String>, next: &Next) {
        let then = match next {
            Next::Goto(next) => next.to_string(),
            // The rule says the rest.
            _ => String::new(),
        };
        self.steps.push(Step {
            chain: chain.clone(),
            rule: render::rule(rule),
            found,
            then,
        });
    }

    /// Any of so many endpoints. Numbers without an element leave the choice to the next rule as well.
    fn choose(&mut self, set: Set, count: u32, found: &mut Option<String>) -> Next {
        let Some(target) = self.packet.target() else {
            return Next::Rule;
        };
        let ruleset = self.ruleset;
        let at = |number| (set, Key::Numbered(target, number));
        let endpoints: Vec<SocketAddr> = match count.checked_sub(1) {
            Some(last) => ruleset.elements.range(at(0)..=at(last)),
            None => return Next::Rule,
        }
        .filter_map(|(_, value)| match value {
            Value::Endpoint(endpoint) => Some(*endpoint),
            _ => None,
        })
        .collect();
        let Some(first) = endpoints.first() else {
            return Next::Rule;
        };
        let all = endpoints.len() == usize::try_from(count).unwrap_or(usize::MAX);
        let list: Vec<String> = endpoints.iter().map(SocketAddr::to_string).collect();
        *found = Some(list.join(", "));
        let mut known = match &self.translated {
            Translated::To(known) => known.clone(),
            _ => Vec::new(),
        };
        // Until `deliver` takes them one by one, the first stands for all: what comes between cares for VIPs only.
        self.destination = first.ip();
        known.extend(endpoints);
        known.sort();
        known.dedup();
        self.translated = Translated::To(known);
        if all { Next::Accept } else { Next::Rule }
    }

    fn holds(&self, condition: &Match) -> bool {
        let (source, family, facts) = (self.packet.source, self.packet.family(), self.facts);
        match condition {
            Match::KnownFlow => self.packet.flow == Flow::Known,
            Match::Untracked => self.packet.flow == Flow::Untracked,
            Match::Invalid => self.packet.flow == Flow::Invalid,
            Match::MidFlow => {
                matches!(
                    self.packet.payload,
                    Payload::Ports {
                        protocol: Protocol::Tcp,
                        opens: false,
                        ..
                    }
                ) && self.packet.flow == Flow::New
            }
            Match::Protocol(of) => {
                matches!(self.packet.payload, Payload::Ports { protocol, .. } if protocol == *of)
            }
            Match::Echo(of) => self.packet.payload == Payload::Echo && family == *of,
            Match::NeighbourDiscovery => false,
            Match::SourceIn(set) => self.is_in(*set, source),
            Match::SourceWithin(range) => range.contains(&source),
            Match::SourceLocal => facts.own.contains(&source),
            Match::FromOther(set) => self
                .element(*set, &Key::Interface(self.interface().into()))
                .is_none(),
            Match::FromInterface(prefix) => self.interface().starts_with(&**prefix),
            Match::DestinationIn(set) => self.is_in(*set, self.destination),
            Match::Hairpin(set) => {
                self.translated != Translated::No
                    && self.element(*set, &Key::Pair(source, self.destination)).is_some()
            }
            Match::Marked(mark) => self.mark & mark == *mark,
        }
    }

    /// The name of the interface that the packet came in by; what the node itself sends has an empty one.
    fn interface(&self) -> &str {
        match &self.packet.origin {
            Origin::Arrived(name) => name,
            Origin::Node => "",
        }
    }

    fn element(&self, set: Set, key: &Key) -> Option<&Value> {
        self.ruleset.elements.get(&(set, key.clone()))
    }

    /// Is the address, or a range with it, an element?
    fn is_in(&self, set: Set, address: IpAddr) -> bool {
        let Set::Pods(_) = set else {
            return self.element(set, &Key::Address(address)).is_some();
        };
        let range = |length| IpNet::new(address, length).map(|net| Key::Range(net.trunc()));
        (0..=128)
            .map_while(|length| range(length).ok())
            .any(|key| self.element(set, &key).is_some())
    }

    /// The element of what the packet was sent to at first: chains that ask for it do so before it is translated, or ask
    /// for the original.
    fn destination_in(&self, set: Set) -> Option<(Key, &Value)> {
        let target: Destination = self.packet.target()?;
        if set.family() != Some(Family::of(target.address)) {
            return None;
        }
        let key = Key::Destination(target);
        let value = self.element(set, &key)?;
        Some((key, value))
    }
}

enum Next {
    /// The next rule of the chain.
    Rule,
    /// The next base chain.
    Accept,
    Stop(Outcome),
    Goto(Chain),
}
