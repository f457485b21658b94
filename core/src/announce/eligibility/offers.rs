//! The advertisements as this node sees them: what does not depend on the address is found out once.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{Interface, View, refuse};
use crate::config::{Advertisement, ConflictPolicy};
use crate::ownership::Owner;
use crate::reason::{Reason, Refusal};
use crate::selector::any_matches;

/// All accepted advertisements.
pub(super) struct Offers<'a>(Vec<Offer<'a>>);

/// One of them.
pub(super) struct Offer<'a> {
    advertisement: &'a Advertisement,
    /// It selects this node.
    pub(super) selects_node: bool,
    /// How much it prefers this node.
    weight: i32,
    /// The interfaces that are up and that it wants, or at least does not exclude.
    interfaces: Vec<(&'a String, &'a Interface)>,
}

impl<'a> Offers<'a> {
    pub(super) fn new(view: &View<'a>) -> Self {
        let labels = view.node.map(|node| &node.labels);
        let offer = |advertisement: &'a Advertisement| {
            let selects_node = labels.is_some_and(|labels| any_matches(&advertisement.nodes, labels));
            let allowed = |(name, interface): &(&String, &Interface)| {
                selects_node && interface.up && advertisement.interfaces.allows(name)
            };
            Offer {
                advertisement,
                selects_node,
                weight: labels.map_or(0, |labels| advertisement.weight(labels)),
                interfaces: view.interfaces.iter().filter(allowed).collect(),
            }
        };
        Self(view.config.advertisements.values().map(offer).collect())
    }

    /// Those for an address: for its pool, and for any of its Services.
    pub(super) fn advertised(&self, owner: &Owner) -> Result<Vec<&Offer<'a>>, Refusal> {
        let pool = owner.pool;
        let of_pool = || {
            self.0
                .iter()
                .filter(|offer| offer.advertisement.selects_pool(pool))
        };
        let wanted = |offer: &&Offer| {
            let selectors = &offer.advertisement.services;
            let mut services = owner.services.iter();
            services.any(|(service, _)| any_matches(selectors, &service.labels))
        };
        let advertised: Vec<&Offer> = of_pool().filter(wanted).collect();
        if !advertised.is_empty() {
            return Ok(advertised);
        }
        let message = if of_pool().next().is_none() {
            format!("no L2Advertisement or BGPAdvertisement selects AddressPool {pool}")
        } else {
            let service = &owner.first().key;
            format!(
                "no L2Advertisement or BGPAdvertisement of AddressPool {pool} selects the labels of {service}"
            )
        };
        refuse(Reason::NoAdvertisement, message)
    }
}

/// The usable interfaces of all these advertisements.
pub(super) fn interfaces(address: IpAddr, offers: &[&Offer]) -> Result<BTreeSet<String>, Refusal> {
    let mut usable = BTreeSet::new();
    for offer in offers {
        let explicit = offer.advertisement.interfaces.is_explicit();
        let on_link = |interface: &Interface| interface.subnets.iter().any(|net| net.contains(&address));
        let fits = offer
            .interfaces
            .iter()
            .filter(|(_, interface)| explicit || on_link(interface));
        usable.extend(fits.map(|(name, _)| (*name).clone()));
    }
    if !usable.is_empty() {
        return Ok(usable);
    }
    let lists = || offers.iter().map(|offer| &offer.advertisement.interfaces);
    let named: Vec<String> = lists()
        .filter(|list| list.is_explicit())
        .map(ToString::to_string)
        .collect();
    let excluded: Vec<String> = lists()
        .filter(|list| !list.is_explicit())
        .map(ToString::to_string)
        .filter(|text| !text.is_empty())
        .collect();
    let by_subnet = lists().any(|list| !list.is_explicit());
    let less = match excluded.as_slice() {
        [] => String::new(),
        texts => format!(" ({})", texts.join("; ")),
    };
    if named.is_empty() {
        let message = format!("no interface that is up has a subnet with {address}{less}");
        return refuse(Reason::AddressNotOnLink, message);
    }
    let mut message = format!("no interface named {} is up", named.join(" or "));
    if by_subnet {
        message += &format!(", and none that is up has a subnet with {address}{less}");
    }
    refuse(Reason::NoInterface, message)
}

/// Weight of this node, and after what time it may take over: what the advertisement says that prefers it most.
pub(super) fn preference(offers: &[&Offer]) -> (i32, Option<Duration>) {
    let of = |offer: &&Offer| (offer.weight, offer.advertisement.preempt_after);
    // Of those that say the same weight, the shortest time; never is the longest.
    let order =
        |(weight, after): &(i32, Option<Duration>)| (*weight, Reverse(after.unwrap_or(Duration::MAX)));
    offers.iter().map(of).max_by_key(order).unwrap_or_default()
}

/// What to do when another machine uses the address.
pub(super) fn conflict(offers: &[&Offer]) -> ConflictPolicy {
    let policies = offers.iter().map(|offer| offer.advertisement.conflict);
    policies.max().unwrap_or_default()
}
