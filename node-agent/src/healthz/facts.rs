//! What the answers are made from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use fairlead_core::model::{Family, Node, Service, ServiceKey, TrafficPolicy};
use fairlead_runtime::link::{AgentReport, LocalEndpoints};
use jiff::Timestamp;

/// A change that is not in the kernel after this time makes the service proxy unhealthy; the same as with kube-proxy
/// (twice its `syncPeriod`).
pub const LATE: Duration = Duration::from_secs(60);

/// What is known at some moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Ready endpoints on this node of each Service of policy Local in the kernel.
    pub endpoints: LocalEndpoints,
    /// Where health-check node ports are.
    pub ports: BTreeMap<SocketAddr, (ServiceKey, Family)>,
    /// The families of the node's InternalIPs.
    pub families: BTreeSet<Family>,
    /// Neither is the Node object being deleted, nor is the cluster autoscaler about to. So it is until something else is
    /// known.
    pub eligible: bool,
    /// There is a plan in the kernel.
    pub planned: bool,
    /// Since when there is a change that is not in the kernel.
    pub waiting: Option<Instant>,
    /// When a plan was last brought into the kernel, and its number.
    pub last: (Timestamp, u64),
}

/// What there is to look at.
pub struct Watched<'a> {
    /// This node's Node object.
    pub node: Option<&'a Node>,
    /// The Service of a name.
    pub service: &'a dyn Fn(&ServiceKey) -> Option<&'a Service>,
    /// Ready endpoints of what is in the kernel; `None` before the first plan is.
    pub endpoints: Option<&'a LocalEndpoints>,
    /// What of the plan is in the kernel.
    pub report: &'a AgentReport,
    /// Now, on both clocks.
    pub now: (Instant, Timestamp),
}

impl Facts {
    /// Nothing is known and nothing in the kernel yet.
    pub fn starting(now: Instant) -> Self {
        Self {
            endpoints: LocalEndpoints::new(),
            ports: BTreeMap::new(),
            families: BTreeSet::new(),
            eligible: true,
            planned: false,
            waiting: Some(now),
            last: (Timestamp::UNIX_EPOCH, 0),
        }
    }

    /// What is known after another look.
    pub fn updated(&self, watched: &Watched) -> Self {
        let (now, clock) = watched.now;
        let report = watched.report;
        let planned = watched.endpoints.is_some();
        let age = report.addresses.values().filter_map(|a| a.unapplied_ms).max();
        let endpoints = watched.endpoints.cloned().unwrap_or_default();
        let addresses = match watched.node {
            Some(node) => node.internal_ips.as_slice(),
            None => &[],
        };
        Self {
            ports: ports(&endpoints, addresses, watched.service),
            endpoints,
            families: addresses.iter().map(|address| Family::of(*address)).collect(),
            // A Node that is not there any more is still the one that was last seen.
            eligible: watched
                .node
                .map_or(self.eligible, |node| !node.deleting && !node.autoscaler_taint),
            planned,
            waiting: if planned {
                age.and_then(|age| now.checked_sub(Duration::from_millis(age)))
            } else {
                self.waiting
            },
            last: match report.plan {
                plan if plan == self.last.1 => self.last,
                plan => (clock, plan),
            },
        }
    }

    /// Is everything that is known in the kernel, or at least not late?
    pub fn healthy(&self, now: Instant) -> bool {
        self.waiting
            .is_none_or(|since| now.saturating_duration_since(since) < LATE)
    }

    /// The ports that are to be open: that of the proxy, and health-check node ports.
    pub fn wanted(&self, proxy: u16) -> BTreeMap<SocketAddr, Option<(ServiceKey, Family)>> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, proxy)); // of both families
        let services = self
            .ports
            .iter()
            .map(|(at, service)| (*at, Some(service.clone())));
        services.chain([(any, None)]).collect()
    }
}

fn ports<'a>(
    endpoints: &LocalEndpoints,
    addresses: &[IpAddr],
    service: &dyn Fn(&ServiceKey) -> Option<&'a Service>,
) -> BTreeMap<SocketAddr, (ServiceKey, Family)> {
    let mut ports = BTreeMap::new();
    for (key, family) in endpoints.keys() {
        let local = service(key).filter(|service| service.policy == TrafficPolicy::Local);
        let Some(port) = local.and_then(|service| service.health_check_node_port) else {
            continue;
        };
        for address in addresses
            .iter()
            .filter(|address| Family::of(**address) == *family)
        {
            // The API gives each number once; the older name keeps it should it ever be given twice.
            ports
                .entry(SocketAddr::new(*address, port))
                .or_insert_with(|| (key.clone(), *family));
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use fairlead_core::testing;
    use fairlead_runtime::link::AddressReport;

    use super::*;

    fn service(port: Option<u16>, policy: TrafficPolicy) -> Service {
        Service {
            policy,
            health_check_node_port: port,
            ..testing::service("web")
        }
    }

    fn report(plan: u64, unapplied_ms: Option<u64>) -> AgentReport {
        let address = AddressReport { plan, unapplied_ms };
        AgentReport {
            plan,
            addresses: BTreeMap::from([(IpAddr::from([192, 0, 2, 1]), address)]),
            ..AgentReport::default()
        }
    }

    /// What is known of one Service with a dual-stack node.
    fn known(service: &Service, node: Option<&Node>) -> Facts {
        let endpoints = LocalEndpoints::from([
            ((service.key.clone(), Family::V4), 2),
            ((service.key.clone(), Family::V6), 0),
        ]);
        let now = Instant::now();
        Facts::starting(now).updated(&Watched {
            node,
            service: &|_| Some(service),
            endpoints: Some(&endpoints),
            report: &report(1, None),
            now: (now, Timestamp::UNIX_EPOCH),
        })
    }

    fn node() -> Node {
        let mut node = testing::node("n1", "172.30.0.11");
        node.internal_ips.push("fd00:30::11".parse().unwrap());
        node
    }

    #[test]
    fn health_check_node_ports_are_on_the_internal_addresses_of_their_family() {
        let shown = |facts: Facts| -> Vec<String> {
            let wanted = facts.wanted(10256);
            wanted
                .into_iter()
                .map(|(at, service)| {
                    format!(
                        "{at} {}",
                        service.map_or("proxy".into(), |(key, _)| key.to_string())
                    )
                })
                .collect()
        };
        let local = service(Some(31000), TrafficPolicy::Local);
        assert_eq!(
            shown(known(&local, Some(&node()))),
            [
                "172.30.0.11:31000 default/web",
                "[::]:10256 proxy",
                "[fd00:30::11]:31000 default/web"
            ]
        );
        assert_eq!(shown(known(&local, None)), ["[::]:10256 proxy"]);
        for other in [
            service(None, TrafficPolicy::Local),
            service(Some(31000), TrafficPolicy::Cluster),
        ] {
            assert_eq!(shown(known(&other, Some(&node()))), ["[::]:10256 proxy"]);
        }
    }

    #[test]
    fn a_node_that_is_leaving_is_not_eligible() {
        let service = service(None, TrafficPolicy::Local);
        let eligible = |change: fn(&mut Node)| {
            let mut node = node();
            change(&mut node);
            known(&service, Some(&node)).eligible
        };
        assert!(eligible(|_| {}));
        assert!(eligible(|node| node.cordoned = true));
        assert!(!eligible(|node| node.deleting = true));
        assert!(!eligible(|node| node.autoscaler_taint = true));
        // Before it has been seen, and after it is gone.
        assert!(known(&service, None).eligible);
    }

    #[test]
    fn late_is_a_change_that_has_waited_for_a_minute() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let clock = |second| Timestamp::from_second(second).unwrap();
        let look = |facts: &Facts, endpoints, report, second: u64| {
            facts.updated(&Watched {
                node: None,
                service: &|_| None,
                endpoints,
                report: &report,
                now: (at(second), clock(second.cast_signed())),
            })
        };
        let start = Facts::starting(begin);
        assert!(
            start.healthy(at(59)) && !start.healthy(at(60)),
            "nothing in the kernel for a minute"
        );
        let none = LocalEndpoints::new();
        let still = look(&start, None, AgentReport::default(), 50);
        assert!(!still.planned && !still.healthy(at(60)));
        let applied = look(&still, Some(&none), report(1, None), 61);
        assert!(applied.planned && applied.healthy(at(1000)));
        assert_eq!(applied.last, (clock(61), 1));
        let stuck = look(&applied, Some(&none), report(1, Some(30_000)), 100);
        assert!(stuck.healthy(at(129)) && !stuck.healthy(at(130)));
        assert_eq!(stuck.last, (clock(61), 1));
        assert_eq!(
            look(&stuck, Some(&none), report(2, None), 140).last,
            (clock(140), 2)
        );
    }
}
