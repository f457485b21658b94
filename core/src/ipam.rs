//! Which Service gets which address.
//!
//! A [`Ledger`] holds what all Services claim (addresses in their statuses, specs and records) and decides for each
//! what it should have. What a Service has is read back from the world, and kept as long as it is validly owned; so a
//! ledger made anew from the same objects decides the same. It may also be fed change by change: then only Services
//! that a change can concern are decided again, and what was decided for a Service and is not written yet stays.
//!
//! An address counts as free only when nothing observed names it any more, so that what one Service gives up is given
//! to another only after the first one's status says so. Services are served in order of their creation.

mod claims;
mod decide;
mod external;
mod free;
mod hold;
mod ledger;
mod rules;
mod space;
#[cfg(test)]
mod tests;
pub mod wish;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use ledger::Ledger;
pub use rules::Rules;

use crate::model::{ExternalAddress, ServiceKey};
use crate::reason::Refusal;

/// What one Service should have. The default is nothing, and nothing of ours may stand in its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Its load balancer addresses; `None` if the Service is not ours, or is being deleted without having any.
    pub ingress: Option<Outcome>,
    /// Its external IPs; `None` if none of them concerns us.
    pub external: Option<External>,
}

/// The outcome for the load balancer addresses of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has these addresses.
    Assigned {
        /// Each address with the pool that it is from, in the order of the Service's families.
        addresses: Vec<(IpAddr, String)>,
        /// Something is wrong all the same: its wish for another address cannot be met, or its pool is gone.
        note: Option<Refusal>,
        /// Why it loses an address that it is still seen to have, if it does.
        lost: Option<Refusal>,
    },
    /// It has no address.
    Refused(Refusal),
    /// It carries an ingress of another implementation, which must not be touched.
    LeftAlone(Refusal),
}

/// The outcome for the external IPs of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// What the record should name. Those that are not adopted must stand in `spec.externalIPs`; what the present
    /// record names beyond these, and was not adopted, is to be taken out of it.
    pub addresses: Vec<ExternalAddress>,
    /// What is wrong: a wish that cannot be met, a hand-written address that is not allowed.
    pub note: Option<Refusal>,
}

/// How full a pool is in one family. All counts saturate at 2^63−1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Addresses of the pool without those that are never given away.
    pub total: u64,
    /// Addresses that Services have, those that left the spec included.
    pub assigned: u64,
    /// Addresses that can still be given away.
    pub available: u64,
}

/// The state of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolState {
    /// How full it is in IPv4; `None` if it has no such addresses.
    pub v4: Option<Usage>,
    /// How full it is in IPv6; `None` if it has no such addresses.
    pub v6: Option<Usage>,
    /// Addresses that belong to it and are no longer in its spec, as long as any Service is seen to have them. An address
    /// that belongs to no pool is not among them, whatever a record says.
    pub retained: BTreeSet<IpAddr>,
    /// Some of the Services that have those, in order of their names.
    pub holders: Vec<ServiceKey>,
}
