//! The BGPAdvertisements as this node sees them.

use std::collections::BTreeSet;

use super::{View, refuse};
use crate::config::BgpAdvertisement;
use crate::ownership::Owner;
use crate::reason::{Reason, Refusal};
use crate::selector::any_matches;

/// All accepted BGPAdvertisements.
pub(super) struct Routes<'a>(Vec<Route<'a>>);

/// One of them.
pub(super) struct Route<'a> {
    advertisement: &'a BgpAdvertisement,
    /// It selects this node.
    selects_node: bool,
}

impl<'a> Routes<'a> {
    pub(super) fn new(view: &View<'a>) -> Self {
        let labels = view.node.map(|node| &node.labels);
        let route = |advertisement: &'a BgpAdvertisement| Route {
            advertisement,
            selects_node: labels.is_some_and(|labels| any_matches(&advertisement.nodes, labels)),
        };
        Self(view.config.bgp_advertisements.values().map(route).collect())
    }

    /// Those for an address: for its pool, and for any of its Services. `None` if there is none.
    pub(super) fn advertised(&self, owner: &Owner) -> Option<Vec<&Route<'a>>> {
        let wanted = |route: &&Route| {
            let BgpAdvertisement { pools, services, .. } = route.advertisement;
            let mut labels = owner.services.iter().map(|(service, _)| &service.labels);
            (pools.is_empty() || pools.iter().any(|pool| pool == owner.pool))
                && labels.any(|labels| any_matches(services, labels))
        };
        let advertised: Vec<&Route> = self.0.iter().filter(wanted).collect();
        (!advertised.is_empty()).then_some(advertised)
    }
}

/// Does any of them select this node?
pub(super) fn selecting(view: &View, owner: &Owner, advertised: &[&Route]) -> Result<(), Refusal> {
    if advertised.iter().any(|route| route.selects_node) {
        return Ok(());
    }
    let message = format!(
        "no BGPAdvertisement of AddressPool {} selects node {}",
        owner.pool, view.me
    );
    refuse(Reason::NodeNotSelected, message)
}

/// The names of those that select this node.
pub(super) fn names(advertised: &[&Route]) -> BTreeSet<String> {
    let selecting = advertised.iter().filter(|route| route.selects_node);
    selecting.map(|route| route.advertisement.name.clone()).collect()
}
