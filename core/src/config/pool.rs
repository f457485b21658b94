//! One address pool: what was written, what of it is obeyed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::health::{self, Health, RawHealth};
use crate::range::{IpRange, RangeMap};
use crate::reason::{Reason, Refusal};
use crate::selector::Selector;

/// An `AddressPool` as written by the user, and what its status retains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPool {
    /// Name of the object.
    pub name: String,
    /// Creation time in seconds of Unix time.
    pub created: i64,
    /// Being deleted (`deletionTimestamp` is set).
    pub deleting: bool,
    /// `spec.addresses`.
    pub addresses: Vec<String>,
    /// `spec.autoAssign`.
    pub auto_assign: bool,
    /// `spec.avoidBuggyIPs`.
    pub avoid_buggy: bool,
    /// `spec.reserved`.
    pub reserved: Vec<String>,
    /// `spec.allocation`, or what is wrong with it.
    pub allocation: Result<Allocation, String>,
    /// `spec.externalIPs`, or what is wrong with it; `None` denies them to all.
    pub external_ips: Result<Option<Access>, String>,
    /// `spec.onRemove`.
    pub on_remove: OnRemove,
    /// `spec.health`.
    pub health: RawHealth,
    /// `status.cidrs`: the addresses of the spec as the controller saw it last.
    pub published: Vec<String>,
    /// `status.retained`: addresses that left the spec while Services had them.
    pub retained: Vec<String>,
}

impl Default for RawPool {
    /// What a pool without any field is.
    fn default() -> Self {
        Self {
            name: String::new(),
            created: 0,
            deleting: false,
            addresses: Vec::new(),
            auto_assign: true,
            avoid_buggy: false,
            reserved: Vec::new(),
            allocation: Ok(Allocation::default()),
            external_ips: Ok(None),
            on_remove: OnRemove::Keep,
            health: RawHealth::default(),
            published: Vec::new(),
            retained: Vec::new(),
        }
    }
}

/// Which namespaces may: those listed and those that the selector matches; all when neither is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Names of namespaces.
    pub namespaces: Vec<String>,
    /// By labels of the namespace.
    pub selector: Option<Selector>,
}

impl Access {
    /// May Services of this namespace? Unknown labels (`None`) match no selector.
    pub fn allows(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        if self.namespaces.is_empty() && self.selector.is_none() {
            return true;
        }
        self.namespaces.iter().any(|name| name == namespace)
            || self
                .selector
                .as_ref()
                .zip(labels)
                .is_some_and(|(selector, labels)| selector.matches(labels))
    }
}

/// `spec.allocation`: for whom a pool is, and its place among the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Pools with a lower number are tried first.
    pub priority: u32,
    /// For which namespaces.
    pub access: Access,
    /// For which Services, by their labels; `None` is all.
    pub services: Option<Selector>,
}

/// What becomes of addresses in use that leave a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRemove {
    /// Services keep them.
    #[default]
    Keep,
    /// Services get others, if there are any.
    Reassign,
}

/// A checked pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Name of the object.
    pub name: String,
    /// Its ranges, in the order written; empty when the pool was set aside or is being deleted.
    pub ranges: Vec<IpRange>,
    /// Further addresses that belong to it as long as Services have them, and that no Service newly gets.
    pub retained: Vec<IpRange>,
    /// Services that ask for nothing may get an address of it.
    pub auto_assign: bool,
    /// IPv4 addresses that end in .0 or .255 are not given away.
    pub avoid_buggy: bool,
    /// Ranges that are never given away.
    pub reserved: Vec<IpRange>,
    /// For whom it is.
    pub allocation: Allocation,
    /// Who may have external IPs of it; `None` is nobody.
    pub external_ips: Option<Access>,
    /// What becomes of addresses that leave it.
    pub on_remove: OnRemove,
    /// How its addresses are probed.
    pub health: Health,
}

impl Pool {
    /// Is the address in one of the ranges of the spec?
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Is the address one of those that confuse old network equipment, and avoided for that?
    pub fn avoids(&self, address: IpAddr) -> bool {
        self.avoid_buggy && is_buggy(address)
    }
}

/// Does an IPv4 address end in .0 or .255, which some old equipment takes for network and broadcast addresses?
pub fn is_buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
}

/// Checks a pool against the older ones, whose addresses are `taken`. A pool that is refused or being deleted still
/// retains what Services have of it.
pub(super) fn check(raw: &RawPool, taken: &RangeMap<String>) -> (Pool, Refusal) {
    let mut pool = Pool {
        name: raw.name.clone(),
        ranges: Vec::new(),
        retained: readable(&raw.published).chain(readable(&raw.retained)).collect(),
        auto_assign: raw.auto_assign,
        avoid_buggy: raw.avoid_buggy,
        reserved: Vec::new(),
        allocation: Allocation::default(),
        external_ips: None,
        on_remove: raw.on_remove,
        health: Health::default(),
    };
    if raw.deleting {
        // Whether Services have addresses of it, and so hold the deletion up, is not seen from here.
        return (pool, Refusal::new(Reason::InUse, "being deleted"));
    }
    match accept(raw, taken, &mut pool) {
        Ok(ranges) => {
            let message = format!("{} range(s) in use", ranges.len());
            pool.ranges = ranges;
            (pool, Refusal::new(Reason::Accepted, message))
        }
        Err(refusal) => (pool, refusal),
    }
}

fn accept(raw: &RawPool, taken: &RangeMap<String>, pool: &mut Pool) -> Result<Vec<IpRange>, Refusal> {
    let selector =
        |field: &str, error: &String| Refusal::new(Reason::InvalidSelector, format!("{field}: {error}"));
    if raw.addresses.is_empty() {
        return Err(Refusal::new(Reason::InvalidAddress, "spec.addresses is empty"));
    }
    let ranges = parse("spec.addresses", &raw.addresses)?;
    pool.reserved = parse("spec.reserved", &raw.reserved)?;
    pool.allocation = raw
        .allocation
        .clone()
        .map_err(|error| selector("spec.allocation", &error))?;
    pool.external_ips = raw
        .external_ips
        .clone()
        .map_err(|error| selector("spec.externalIPs", &error))?;
    pool.health = health::check(&raw.health).map_err(|error| Refusal::new(Reason::InvalidField, error))?;
    let mut own = RangeMap::default();
    for (index, range) in ranges.iter().enumerate() {
        if let Some((other, _)) = own.overlapping(*range).next() {
            let message = format!("spec.addresses[{index}] ({range}) overlaps {other} of the same pool");
            return Err(Refusal::new(Reason::InvalidAddress, message));
        }
        own.insert(*range, &());
        if let Some((other, name)) = taken.overlapping(*range).next() {
            let message = format!("{range} overlaps {other} of AddressPool {name}, which is older");
            return Err(Refusal::new(Reason::OverlappingPool, message));
        }
    }
    Ok(ranges)
}

fn parse(field: &str, texts: &[String]) -> Result<Vec<IpRange>, Refusal> {
    let one = |(index, text): (usize, &String)| {
        IpRange::parse(text)
            .map_err(|error| Refusal::new(Reason::InvalidAddress, format!("{field}[{index}]: {error}")))
    };
    texts.iter().enumerate().map(one).collect()
}

/// What the status says was written by the controller; a text that cannot be read is nobody's mistake to report.
fn readable(texts: &[String]) -> impl Iterator<Item = IpRange> {
    texts.iter().filter_map(|text| IpRange::parse(text).ok())
}
