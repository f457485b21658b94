//! Which entries of connection tracking stand in the way of what is served now.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairlead_core::forward::{Backend, BackendKey, Destination, Forwarding};
use fairlead_core::model::{Family, Protocol, ServiceKey};

use super::flow::{Filter, Flow};

/// The served destinations whose entries are to be looked at, each with the endpoints that may go on answering.
///
/// Only the first packet of a flow is asked where it goes. A UDP flow has no end that a packet would show: as long as the
/// client sends, it stays with an endpoint that has gone, or, if it began before the address was known, with nobody. So
/// does the first packet of a TCP connection that is sent again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    destinations: HashMap<Destination, Arc<HashSet<SocketAddr>>>,
}

impl Served {
    /// All that a plan serves.
    pub fn of(plan: &Forwarding) -> Self {
        wanted(plan, |_, _| true)
    }

    /// Adds one destination with its backend.
    pub fn insert(&mut self, destination: Destination, backend: Option<&Backend>) {
        self.destinations
            .insert(destination, Arc::new(endpoints(destination, backend)));
    }

    /// Takes over what `newer` says.
    pub fn merge(&mut self, newer: Self) {
        self.destinations.extend(newer.destinations);
    }

    /// Is there nothing to look at?
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
    }

    /// Number of destinations.
    pub fn len(&self) -> usize {
        self.destinations.len()
    }

    /// Is this entry to be deleted?
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let destination = Destination {
            address: flow.destination.ip(),
            protocol: flow.protocol,
            port: flow.destination.port(),
        };
        let Some(endpoints) = self.destinations.get(&destination) else {
            return false;
        };
        match flow.protocol {
            Protocol::Udp => !endpoints.contains(&flow.answers),
            // Connections that are open are never cut, whatever becomes of their endpoint.
            Protocol::Tcp | Protocol::Sctp => !flow.answered && flow.answers == flow.destination,
        }
    }

    /// What to ask the kernel for, so that it lists little else.
    pub fn filters(&self) -> Vec<Filter> {
        let mut addresses: HashMap<(Family, Protocol), HashSet<IpAddr>> = HashMap::new();
        for destination in self.destinations.keys() {
            let kind = (Family::of(destination.address), destination.protocol);
            addresses.entry(kind).or_default().insert(destination.address);
        }
        let mut filters: Vec<Filter> = addresses
            .into_iter()
            .map(|((family, protocol), addresses)| Filter {
                family,
                protocol,
                // The kernel walks through its whole table for each list, so several are no better than a longer one.
                // And of IPv6 it lists all addresses but the one it is asked for (seen with Linux 6.18).
                address: addresses
                    .iter()
                    .next()
                    .copied()
                    .filter(|_| addresses.len() == 1 && family == Family::V4),
                unanswered: protocol != Protocol::Udp,
            })
            .collect();
        filters.sort_by_key(|filter| (filter.family, filter.protocol));
        filters
    }

    fn insert_shared<'a>(
        &mut self,
        known: &mut HashMap<&'a BackendKey, Arc<HashSet<SocketAddr>>>,
        plan: &'a Forwarding,
        destination: Destination,
        key: &'a BackendKey,
    ) {
        let endpoints = known
            .entry(key)
            .or_insert_with(|| Arc::new(endpoints(destination, plan.backends.get(key))));
        self.destinations.insert(destination, Arc::clone(endpoints));
    }
}

/// The endpoints that entries may lead to.
fn endpoints(destination: Destination, backend: Option<&Backend>) -> HashSet<SocketAddr> {
    match (destination.protocol, backend) {
        (Protocol::Udp, Some(backend)) => of(backend).copied().collect(),
        _ => HashSet::new(),
    }
}

fn of(backend: &Backend) -> impl Iterator<Item = &SocketAddr> {
    [&backend.cluster, &backend.local, &backend.lasting]
        .into_iter()
        .flatten()
}

/// What the kernel served last, so that only what has changed since is looked at.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    destinations: HashSet<Destination>,
    /// Of UDP alone.
    backends: HashMap<BackendKey, HashSet<SocketAddr>>,
}

impl Memory {
    /// A whole plan is in the kernel: what entries may stand in the way of. That is everything at first, then destinations
    /// that are new, and those of UDP that have lost an endpoint.
    pub fn whole(&mut self, plan: &Forwarding) -> Served {
        let lost = self.lost(plan.backends.iter());
        let fresh = |destination: &Destination| !self.destinations.contains(destination);
        let served = wanted(plan, |destination, key| fresh(destination) || lost.contains(key));
        self.destinations = plan.destinations.keys().copied().collect();
        self.backends.retain(|key, _| plan.backends.contains_key(key));
        served
    }

    /// The endpoints of these Services are in the kernel, and nothing else has changed: what entries may stand in the way
    /// of.
    pub fn services(&mut self, plan: &Forwarding, services: &BTreeSet<ServiceKey>) -> Served {
        let of = |service: &ServiceKey| {
            let first = BackendKey {
                service: service.clone(),
                family: Family::V4,
                protocol: Protocol::Tcp,
                port: 0,
            };
            let service = service.clone();
            plan.backends
                .range(first..)
                .take_while(move |(key, _)| key.service == service)
        };
        let lost = self.lost(services.iter().flat_map(of));
        if lost.is_empty() {
            return Served::default();
        }
        wanted(plan, |_, key| lost.contains(key))
    }

    /// The UDP backends that have lost an endpoint; remembers all of them as they are now.
    fn lost<'a>(
        &mut self,
        backends: impl Iterator<Item = (&'a BackendKey, &'a Backend)>,
    ) -> HashSet<&'a BackendKey> {
        let mut lost = HashSet::new();
        for (key, backend) in backends.filter(|(key, _)| key.protocol == Protocol::Udp) {
            let now: HashSet<SocketAddr> = of(backend).copied().collect();
            let before = self.backends.insert(key.clone(), now);
            if before.is_some_and(|before| has_lost(backend, &before)) {
                lost.insert(key);
            }
        }
        lost
    }
}

/// Is one of the endpoints that it had before not the backend's any more?
fn has_lost(backend: &Backend, before: &HashSet<SocketAddr>) -> bool {
    let now: HashSet<&SocketAddr> = of(backend).collect();
    before.iter().any(|endpoint| !now.contains(endpoint))
}

fn wanted(plan: &Forwarding, want: impl Fn(&Destination, &BackendKey) -> bool) -> Served {
    let (mut served, mut known) = (Served::default(), HashMap::new());
    for (destination, target) in &plan.destinations {
        if want(destination, &target.backend) {
            served.insert_shared(&mut known, plan, *destination, &target.backend);
        }
    }
    served
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_core::forward::Target;
    use fairlead_core::model::TrafficPolicy;

    fn backend(cluster: &[&str], local: &[&str], lasting: &[&str]) -> Backend {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Backend {
            cluster: parse(cluster),
            local: parse(local),
            lasting: parse(lasting),
            ..Backend::new(TrafficPolicy::Cluster)
        }
    }

    /// Destinations, written `protocol address:port`, all of one Service.
    fn plan(destinations: &[&str], backend: &Backend) -> Forwarding {
        let mut plan = Forwarding::default();
        for text in destinations {
            let destination = destination(text);
            let key = BackendKey {
                service: ServiceKey::new("default", "dns"),
                family: Family::of(destination.address),
                protocol: destination.protocol,
                port: 53,
            };
            plan.backends.insert(key.clone(), backend.clone());
            let target = Target {
                backend: key,
                source_ranges: vec![],
            };
            plan.destinations.insert(destination, target);
        }
        plan
    }

    fn protocol(text: &str) -> Protocol {
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        all.into_iter()
            .find(|protocol| protocol.as_str() == text)
            .unwrap()
    }

    fn destination(text: &str) -> Destination {
        let (name, address) = text.split_once(' ').unwrap();
        let address: SocketAddr = address.parse().unwrap();
        Destination {
            address: address.ip(),
            protocol: protocol(name),
            port: address.port(),
        }
    }

    fn flow(text: &str, answers: &str, answered: bool) -> Flow {
        let (name, address) = text.split_once(' ').unwrap();
        Flow {
            protocol: protocol(name),
            destination: address.parse().unwrap(),
            answers: answers.parse().unwrap(),
            answered,
        }
    }

    const ALL: &[&str] = &[
        "udp 192.0.2.1:53",
        "tcp 192.0.2.1:53",
        "sctp 192.0.2.1:53",
        "udp 172.30.0.11:30053",
        "udp [2001:db8::1]:53",
    ];

    #[test]
    fn what_is_stale() {
        let backend = backend(
            &["10.0.1.2:53", "[fd00:1::2]:53"],
            &["10.0.1.3:53"],
            &["10.0.1.4:53"],
        );
        let served = Served::of(&plan(ALL, &backend));
        for (to, answers, answered, stale) in [
            // UDP: the endpoints of either list, and those that still serve, keep what they have.
            ("udp 192.0.2.1:53", "10.0.1.2:53", true, false),
            ("udp 192.0.2.1:53", "10.0.1.3:53", false, false),
            ("udp 192.0.2.1:53", "10.0.1.4:53", true, false),
            ("udp 192.0.2.1:53", "10.0.1.5:53", true, true),
            ("udp 192.0.2.1:53", "10.0.1.2:54", true, true), // another target port
            ("udp 192.0.2.1:53", "192.0.2.1:53", false, true), // never translated
            ("udp 192.0.2.1:53", "192.0.2.1:53", true, true),
            ("udp 172.30.0.11:30053", "10.0.1.5:53", true, true), // a node port
            ("udp 172.30.0.11:30053", "10.0.1.2:53", true, false),
            ("udp [2001:db8::1]:53", "[fd00:1::2]:53", true, false),
            ("udp [2001:db8::1]:53", "[fd00:1::3]:53", true, true),
            // What is not served is none of our business.
            ("udp 192.0.2.2:53", "192.0.2.2:53", true, false),
            ("udp 192.0.2.1:54", "192.0.2.1:54", true, false),
            ("udp 10.0.1.5:53", "10.0.1.5:53", true, false),
            // TCP and SCTP: only what began before the address was known and has got no answer.
            ("tcp 192.0.2.1:53", "192.0.2.1:53", false, true),
            ("tcp 192.0.2.1:53", "192.0.2.1:53", true, false),
            ("tcp 192.0.2.1:53", "10.0.1.5:53", true, false),
            ("tcp 192.0.2.1:53", "10.0.1.5:53", false, false),
            ("sctp 192.0.2.1:53", "192.0.2.1:53", false, true),
            ("sctp 192.0.2.1:53", "10.0.1.5:53", false, false),
        ] {
            let flow = flow(to, answers, answered);
            assert_eq!(served.is_stale(&flow), stale, "{flow:?}");
        }
    }

    #[test]
    fn without_an_endpoint_no_udp_entry_stays() {
        let served = Served::of(&plan(ALL, &backend(&[], &[], &[])));
        assert!(served.is_stale(&flow("udp 192.0.2.1:53", "10.0.1.2:53", true)));
    }

    #[test]
    fn only_what_lost_an_endpoint_or_is_new_is_looked_at() {
        let two = backend(&["10.0.1.2:53", "10.0.1.3:53"], &[], &[]);
        let (one, drains) = (
            backend(&["10.0.1.2:53"], &[], &[]),
            backend(&["10.0.1.2:53"], &[], &["10.0.1.3:53"]),
        );
        let both = &["udp 192.0.2.1:53", "tcp 192.0.2.1:53"][..];
        let service = BTreeSet::from([ServiceKey::new("default", "dns")]);
        // In one go with the whole plan, or with the endpoints of the Service alone.
        let mut memory = Memory::default();
        assert_eq!(memory.whole(&plan(both, &one)).len(), 2, "at the start");
        assert_eq!(memory.whole(&plan(both, &one)).len(), 0);
        for whole in [true, false] {
            let mut memory = memory.clone();
            let mut next = |backend| {
                let plan = plan(both, backend);
                let served = match whole {
                    true => memory.whole(&plan),
                    false => memory.services(&plan, &service),
                };
                served.destinations.into_keys().collect::<Vec<_>>()
            };
            assert_eq!(next(&two), [], "one more");
            assert_eq!(next(&drains), [], "it still serves");
            assert_eq!(next(&one), [destination(both[0])], "it is gone");
            assert_eq!(next(&one), []);
        }
        assert_eq!(memory.whole(&Forwarding::default()).len(), 0);
        assert_eq!(memory.whole(&plan(both, &one)).len(), 2, "back again");
    }

    #[test]
    fn the_kernel_is_asked_for_as_little_as_possible() {
        let filter = |family, protocol, address: Option<&str>| Filter {
            family,
            protocol,
            address: address.map(|text| text.parse().unwrap()),
            unanswered: protocol != Protocol::Udp,
        };
        let served = Served::of(&plan(ALL, &backend(&[], &[], &[])));
        assert_eq!(
            served.filters(),
            [
                filter(Family::V4, Protocol::Tcp, Some("192.0.2.1")),
                filter(Family::V4, Protocol::Udp, None),
                filter(Family::V4, Protocol::Sctp, Some("192.0.2.1")),
                filter(Family::V6, Protocol::Udp, None),
            ]
        );
        assert_eq!(Served::default().filters(), []);
    }
}
