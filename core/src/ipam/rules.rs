//! What decisions are made by: the pools, who they are for, and which addresses are never given away.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::{Access, Config, Pool};
use crate::model::Service;
use crate::ownership::ClassPolicy;
use crate::range::{IpRange, RangeMap};
use crate::reason::{Reason, Refusal};

/// Addresses that no host can have, with what they are.
const SPECIAL: [(&str, &str); 9] = [
    ("0.0.0.0/8", "no address of a host"),
    ("127.0.0.0/8", "a loopback address"),
    ("169.254.0.0/16", "a link-local address"),
    ("224.0.0.0/4", "a multicast address"),
    ("255.255.255.255/32", "the broadcast address"),
    ("::/127", "no address of a host"),
    ("::ffff:0:0/96", "an IPv4-mapped address"),
    ("fe80::/10", "a link-local address"),
    ("ff00::/8", "a multicast address"),
];

/// Everything that decisions depend on besides the Services.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The checked configuration.
    pub config: Config,
    /// Which Services are ours.
    pub class: ClassPolicy,
    /// Labels of all namespaces.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Addresses that are never given to a Service, with what they are, for people.
    never: RangeMap<String>,
    /// Names of all pools in the order in which they are tried.
    order: Vec<String>,
}

impl Rules {
    /// Rules without any address that is never given away but the special ones and those that pools reserve.
    pub fn new(config: Config, class: ClassPolicy) -> Self {
        let mut never = RangeMap::default();
        for (range, what) in SPECIAL {
            if let Ok(net) = range.parse::<ipnet::IpNet>() {
                never.insert(net.into(), &what.to_owned());
            }
        }
        // A pool that was set aside must not stand in the way of the others.
        for pool in config.pools.values().filter(|pool| !pool.ranges.is_empty()) {
            for range in &pool.reserved {
                never.insert(*range, &format!("reserved by AddressPool {}", pool.name));
            }
        }
        let mut order: Vec<String> = config.pools.keys().cloned().collect();
        order.sort_by_cached_key(|name| {
            let allocation = &config.pools[name].allocation;
            // A pool that is for some comes before one that is for all.
            let for_all = allocation.access == Access::default() && allocation.services.is_none();
            (allocation.priority, for_all, name.clone())
        });
        Self {
            config,
            class,
            namespaces: BTreeMap::new(),
            never,
            order,
        }
    }

    /// Labels of namespaces, for pools that select by them.
    pub fn with_namespaces(mut self, namespaces: BTreeMap<String, BTreeMap<String, String>>) -> Self {
        self.namespaces = namespaces;
        self
    }

    /// Addresses that are never given to a Service, with what they are: `an address of node a`.
    pub fn with_never(mut self, ranges: impl IntoIterator<Item = (IpRange, String)>) -> Self {
        for (range, what) in ranges {
            self.never.insert(range, &what);
        }
        self
    }

    /// Addresses that are never given away.
    pub(super) fn never(&self) -> &RangeMap<String> {
        &self.never
    }

    /// The pools whose spec is in use, in the order in which they are tried.
    pub(super) fn pools(&self) -> impl Iterator<Item = &Pool> {
        let pools = self.order.iter().filter_map(|name| self.config.pools.get(name));
        pools.filter(|pool| !pool.ranges.is_empty())
    }

    /// Is the pool for this Service?
    pub(super) fn allows(&self, pool: &Pool, service: &Service) -> bool {
        let namespace = &service.key.namespace;
        pool.allocation
            .access
            .allows(namespace, self.namespaces.get(namespace))
            && pool
                .allocation
                .services
                .as_ref()
                .is_none_or(|selector| selector.matches(&service.labels))
    }

    /// May Services of this namespace have external IPs of the pool?
    pub(super) fn allows_external(&self, pool: &Pool, namespace: &str) -> bool {
        pool.external_ips
            .as_ref()
            .is_some_and(|access| access.allows(namespace, self.namespaces.get(namespace)))
    }

    /// May the address be given away at all?
    pub(super) fn assignable(&self, address: IpAddr, pool: &Pool) -> Result<(), Refusal> {
        if let Some((_, what)) = self.never.get(address) {
            return Err(Refusal::new(
                Reason::AddressReserved,
                format!("{address} is {what}"),
            ));
        }
        if pool.avoids(address) {
            let message = format!(
                "{address} ends in .0 or .255, which AddressPool {} avoids",
                pool.name
            );
            return Err(Refusal::new(Reason::AddressReserved, message));
        }
        Ok(())
    }
}
