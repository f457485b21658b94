//! Plan → ruleset.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairlead_core::forward::pods::PodLinks;
use fairlead_core::forward::{Backend, Destination, Forwarding, Outcome, Source, Target};
use fairlead_core::model::{Family, Protocol, ServiceKey, TrafficPolicy};
use ipnet::IpNet;

use super::ruleset::{
    Action, Chain, Choice, Elements, FAMILIES, Key, Kind, Match, Rule, Ruleset, Set, Value,
};

/// Chains of a group (same kind, family and stickiness) for up to so many endpoints stand as soon as one of the
/// group is needed. To bind a map to a new rule the kernel walks through all elements, so that a rare number of
/// endpoints would otherwise be paid for with each roll-out.
pub const STANDING: u32 = 16;

/// Builds the table for a plan. `mark` is our bit of the conntrack mark.
pub fn build(plan: &Forwarding, mark: u32) -> Ruleset {
    let mut chains = fixed_chains(mark, &plan.pods.links);
    let mut elements = node_elements(plan);
    for address in plan.backends.values().flat_map(hairpins) {
        let (key, value) = hairpin(address);
        elements.insert(key, value);
    }
    for service in plan.services.keys() {
        let part = service_part(plan, service);
        chains.extend(part.chains);
        elements.extend(part.elements);
    }
    let wanted: BTreeSet<&Chain> = elements.values().filter_map(target).collect();
    let wanted: BTreeSet<Chain> = wanted.into_iter().flat_map(with_standing).collect();
    chains.extend(wanted.into_iter().filter_map(|chain| {
        let rules = rules_of(&chain, mark)?;
        Some((chain, rules))
    }));
    Ruleset { chains, elements }
}

/// The chain that an element leads to.
pub fn target(value: &Value) -> Option<&Chain> {
    match value {
        Value::Goto(chain) => Some(chain),
        _ => None,
    }
}

/// A chain that elements lead to, and the chains that stand because of it.
pub fn with_standing(chain: &Chain) -> Vec<Chain> {
    match chain {
        Chain::Choose(choice) => {
            let of = |count| Chain::Choose(Choice { count, ..*choice });
            let beyond = (choice.count > STANDING).then(|| chain.clone());
            (1..=STANDING).map(of).chain(beyond).collect()
        }
        _ => vec![chain.clone()],
    }
}

/// The rules of a chain that does not belong to a Service; `None` for others.
pub fn rules_of(chain: &Chain, mark: u32) -> Option<Vec<Rule>> {
    match chain {
        Chain::Choose(choice) => Some(choose(choice, mark)),
        Chain::Affine(family, seconds) => {
            let remember = |protocol| {
                let action = Action::Remember(Set::Affinity(*family), *seconds);
                Rule::new([Match::Protocol(protocol)], [action])
            };
            Some(Protocol::ALL.map(remember).to_vec())
        }
        _ => None,
    }
}

/// The part of the table that is there for one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its chains: those of source ranges.
    pub chains: BTreeMap<Chain, Vec<Rule>>,
    /// Its elements, but for those in [`Set::Hairpin`], which Services may share.
    pub elements: Elements,
}

/// Builds the part of one Service.
pub fn service_part(plan: &Forwarding, service: &ServiceKey) -> Part {
    let mut part = Part::default();
    for destination in plan.services.get(service).into_iter().flatten() {
        let Some(target) = plan.destinations.get(destination) else {
            continue; // a plan always has them
        };
        if let Some(backend) = plan.backends.get(&target.backend) {
            serve(&mut part, plan, destination, target, backend);
        }
    }
    part
}

fn serve(part: &mut Part, plan: &Forwarding, destination: &Destination, target: &Target, backend: &Backend) {
    let family = Family::of(destination.address);
    let mut goto = |set, chain| {
        part.elements
            .insert((set, Key::Destination(*destination)), Value::Goto(chain));
    };
    let verdict = match (backend.outcome(Source::Outside), backend.outcome(Source::Pod)) {
        (Outcome::Forward { .. }, _) => Chain::Served,
        (_, Outcome::Forward { .. }) => Chain::Inside,
        _ => Chain::Refuse,
    };
    if target.source_ranges.is_empty() {
        goto(Set::Filter(family), verdict);
    } else {
        let chain = Chain::Ranges(Arc::new(target.backend.clone()));
        let ranges = with_itself(&target.source_ranges, destination, &plan.node_addresses);
        part.chains.insert(chain.clone(), guard(ranges, &verdict));
        goto(Set::Filter(family), chain);
    }
    let choice = |kind, endpoints: &[SocketAddr]| {
        Chain::Choose(Choice {
            kind,
            family,
            sticky: backend.affinity.is_some(),
            count: u32::try_from(endpoints.len()).unwrap_or(u32::MAX),
        })
    };
    let (all, local) = (&backend.cluster, &backend.local);
    match backend.policy {
        TrafficPolicy::Cluster if !all.is_empty() => goto(Set::Nat(family), choice(Kind::Cluster, all)),
        TrafficPolicy::Local if !all.is_empty() => {
            goto(Set::Inside(family), choice(Kind::Pick, all));
            if !local.is_empty() {
                goto(Set::Nat(family), choice(Kind::Local, local));
            }
        }
        _ => return,
    }
    if let Some(seconds) = backend.affinity {
        goto(Set::Sticky(family), Chain::Affine(family, seconds));
    }
    for (set, endpoints) in [(Set::Endpoints(family), all), (Set::Locals(family), local)] {
        part.elements
            .extend((0u32..).zip(endpoints).map(|(number, endpoint)| {
                let key = Key::Numbered(*destination, number);
                ((set, key), Value::Endpoint(*endpoint))
            }));
    }
}

/// As kube-proxy has it: where a node may be a source, so may the address itself, which a flow that was turned round at
/// the address has as its source.
fn with_itself(ranges: &[IpNet], destination: &Destination, node: &[IpAddr]) -> Vec<IpNet> {
    let mut ranges = ranges.to_vec();
    let within = |address: &IpAddr| ranges.iter().any(|range| range.contains(address));
    if node.iter().any(within) && !within(&destination.address) {
        ranges.push(IpNet::from(destination.address));
    }
    ranges
}

fn guard(ranges: Vec<IpNet>, verdict: &Chain) -> Vec<Rule> {
    let allow = |range| Rule::new([Match::SourceWithin(range)], [Action::Goto(verdict.clone())]);
    let mut rules: Vec<Rule> = ranges.into_iter().map(allow).collect();
    rules.push(Rule::new([], [Action::Drop]));
    rules
}

/// Endpoints on this node that may be given a flow of their own, unmarked: the answer would go to the pod itself.
pub fn hairpins(backend: &Backend) -> impl Iterator<Item = IpAddr> {
    backend.local.iter().map(SocketAddr::ip)
}

/// The element for such an endpoint.
pub fn hairpin(address: IpAddr) -> ((Set, Key), Value) {
    let set = Set::Hairpin(Family::of(address));
    ((set, Key::Pair(address, address)), Value::Member)
}

/// Elements that belong to no single Service.
fn node_elements(plan: &Forwarding) -> Elements {
    let mut elements = Elements::new();
    for &vip in plan.addresses.keys() {
        let family = Family::of(vip);
        elements.insert((Set::Vips(family), Key::Address(vip)), Value::Member);
        if let Some(node) = plan.node_addresses.iter().find(|a| Family::of(**a) == family) {
            elements.insert((Set::Echo(family), Key::Address(vip)), Value::Address(*node));
        }
    }
    for range in &plan.pods.ranges {
        let set = Set::Pods(Family::of(range.addr()));
        elements.insert((set, Key::Range(*range)), Value::Member);
    }
    if let PodLinks::AllBut(uplinks) = &plan.pods.links {
        let key = |name: &String| (Set::Uplinks, Key::Interface(name.as_str().into()));
        elements.extend(uplinks.iter().map(|name| (key(name), Value::Member)));
    }
    elements
}

fn choose(choice: &Choice, mark: u32) -> Vec<Rule> {
    let mut rules = Vec::new();
    if choice.kind == Kind::Cluster {
        rules.push(Rule::new([], [Action::Mark(mark)]));
    }
    if choice.sticky {
        let remembered = Action::DnatRemembered(Set::Affinity(choice.family));
        rules.push(Rule::new([], [remembered]));
    }
    // A packet that comes here while the last of several endpoints goes finds none with its number. There is always
    // one with number 0.
    for count in BTreeSet::from([choice.count, 1]).into_iter().rev() {
        rules.push(Rule::new([], [Action::Dnat(choice.endpoints(), count)]));
    }
    rules
}

/// The chains that are always there.
fn fixed_chains(mark: u32, links: &PodLinks) -> BTreeMap<Chain, Vec<Rule>> {
    let by_family = |make: fn(Family) -> Rule| FAMILIES.map(make).to_vec();
    let to_vip = |family, chain| Rule::new([Match::DestinationIn(Set::Vips(family))], [Action::Goto(chain)]);
    // What is a pod of this node: its address says it, or the way to it.
    let behind = match links {
        PodLinks::None => Vec::new(),
        PodLinks::AllBut(_) => vec![Match::FromOther(Set::Uplinks)],
        PodLinks::Prefixes(prefixes) => {
            let behind = |prefix: &String| Match::FromInterface(prefix.as_str().into());
            prefixes.iter().map(behind).collect()
        }
    };
    let pods = |family| std::iter::once(Match::SourceIn(Set::Pods(family))).chain(behind.clone());
    let mut filter = vec![Rule::new([Match::KnownFlow], [Action::Accept])];
    filter.extend(FAMILIES.map(|family| Rule::new([], [Action::Lookup(Set::Filter(family))])));
    filter.extend(FAMILIES.map(|family| to_vip(family, Chain::Unserved)));
    let guard = FAMILIES.map(|family| to_vip(family, Chain::Refuse)).to_vec();
    // What is passed on to the owner before us is still addressed to the VIP, as it must be.
    let mut sent = vec![Rule::new([Match::Untracked], [Action::Accept])];
    sent.extend(guard.clone());
    let lookup = |set| Rule::new([], [Action::Lookup(set)]);
    let echo = by_family(|family| Rule::new([Match::Echo(family)], [Action::DnatBy(Set::Echo(family))]));
    let mut prerouting = Vec::new();
    let mut output = FAMILIES.map(|family| lookup(Set::Inside(family))).to_vec();
    for family in FAMILIES {
        let inside = |pod| Rule::new([pod], [Action::Lookup(Set::Inside(family))]);
        prerouting.extend(pods(family).map(inside));
    }
    for chain in [&mut prerouting, &mut output] {
        chain.extend(FAMILIES.map(|family| lookup(Set::Nat(family))));
        chain.extend(echo.clone());
    }
    let remember: Vec<Rule> = FAMILIES
        .into_iter()
        .flat_map(|family| Protocol::ALL.map(|protocol| (family, protocol)))
        .map(|(family, protocol)| {
            Rule::new(
                [Match::Protocol(protocol)],
                [Action::LookupOriginal(Set::Sticky(family))],
            )
        })
        .collect();
    let mut masquerade = vec![Rule::new([Match::Marked(mark)], [Action::Masquerade])];
    masquerade.extend(by_family(|family| {
        Rule::new([Match::Hairpin(Set::Hairpin(family))], [Action::Masquerade])
    }));
    let served = vec![
        // Out of its window or otherwise broken: resetting a flow that lives would be worse than silence.
        Rule::new([Match::Invalid], [Action::Drop]),
        Rule::new([Match::MidFlow], [Action::Reset]),
        // The node itself gets any endpoint under every policy, with an address that the answer comes back to.
        Rule::new([Match::SourceLocal], [Action::Mark(mark), Action::Accept]),
        Rule::new([], [Action::Accept]),
    ];
    let to_served = |source| Rule::new([source], [Action::Goto(Chain::Served)]);
    let mut inside: Vec<Rule> = FAMILIES
        .into_iter()
        .map(|family| to_served(Match::SourceIn(Set::Pods(family))))
        .collect();
    inside.extend(behind.into_iter().map(to_served));
    inside.push(to_served(Match::SourceLocal));
    inside.push(Rule::new([], [Action::Drop]));
    let refuse = vec![
        Rule::new([Match::Protocol(Protocol::Tcp)], [Action::Reset]),
        Rule::new([], [Action::Unreachable]),
    ];
    let mut unserved = by_family(|family| Rule::new([Match::Echo(family)], [Action::Accept]));
    unserved.push(Rule::new([Match::NeighbourDiscovery], [Action::Drop]));
    unserved.push(Rule::new([], [Action::Goto(Chain::Refuse)]));
    BTreeMap::from([
        (Chain::FilterPrerouting, filter.clone()),
        (Chain::FilterOutput, filter),
        (Chain::FilterForward, guard),
        (Chain::FilterSent, sent),
        (Chain::NatPrerouting, prerouting),
        (Chain::NatOutput, output),
        (Chain::RememberPostrouting, remember.clone()),
        (Chain::RememberInput, remember),
        (Chain::NatPostrouting, masquerade),
        (Chain::Served, served),
        (Chain::Inside, inside),
        (Chain::Refuse, refuse),
        (Chain::Unserved, unserved),
    ])
}
