//! Real BGP routers in the lab, started when a test wants them: FRR on `router`, BIRD on `router2`, or either in any
//! other place. What they know is asked of themselves, what they do of the kernel they run on.
//!
//! Nothing of it runs in a lab that does not ask for it, and what was started ends with its [`Frr`] or [`Bird`].

mod bird;
mod config;
mod daemons;
mod frr;
mod kernel;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

pub use bird::Bird;
pub use config::{BIRD_ASN, FRR_ASN, NODE_ASN, Nodes};
pub use frr::{DAEMONS, Frr};
use ipnet::IpNet;

use crate::error::Result;
use crate::lab::Lab;
use crate::product::wait_for;
use crate::topology::Place;

/// Starts both routers, to go on until [`stop_both`] or the end of the lab: for people, who have no value to keep.
///
/// # Errors
/// When one does not come up.
pub fn start_both(lab: &Lab, nodes: &Nodes) -> Result<()> {
    // What ends them is never run.
    std::mem::forget((Frr::start(lab, nodes)?, Bird::start(lab, nodes)?));
    Ok(())
}

/// Ends both routers, whoever started them.
pub fn stop_both(lab: &Lab) {
    drop((Frr::of(lab, Place::Router, ""), Bird::of(lab, Place::Router2)));
}

/// What a router says of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbor {
    /// Its state as the router names it: `Established`, `Active`, `Idle`, …
    pub state: String,
    /// The other side's AS number.
    pub asn: u32,
    /// Routes taken from it, by address family; a family without a route may be absent.
    pub received: BTreeMap<Family, u64>,
    /// Why the session ended the last time, in the router's words.
    pub last_error: Option<String>,
    /// The state of its BFD session as the router names it, if there is one.
    pub bfd: Option<String>,
}

impl Neighbor {
    /// Whether routes are exchanged.
    pub fn is_established(&self) -> bool {
        self.state == "Established"
    }
}

/// One path that a router knows to a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path {
    /// Next hops as the update said them: a global address, a link-local one, or both.
    pub next_hops: Vec<IpAddr>,
    /// AS numbers, nearest first.
    pub as_path: Vec<u32>,
    /// Communities as `ASN:NUMBER`, also the well-known ones.
    pub communities: Vec<String>,
    /// Large communities as `ASN:NUMBER:NUMBER`.
    pub large_communities: Vec<String>,
    /// Local preference, if the router tells one.
    pub local_pref: Option<u32>,
    /// Multi-exit discriminator, if the router tells one.
    pub med: Option<u32>,
    /// Whether it is the best.
    pub best: bool,
    /// Whether it is used, alone or with others: the best and its equals.
    pub used: bool,
    /// Whether it is kept only because its peer may restart gracefully.
    pub stale: bool,
}

impl Path {
    /// The place it leads to.
    pub fn leads_to(&self) -> Option<Place> {
        self.next_hops.iter().find_map(|hop| Place::by_address(*hop))
    }
}

/// An address family of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 unicast.
    V4,
    /// IPv6 unicast.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The option by which `ip` is told of it.
    fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    /// The family of a prefix.
    pub fn of(prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// What can be asked of a router, whoever made it.
pub trait Router {
    /// The lab it is in.
    fn lab(&self) -> &Lab;

    /// Where it runs.
    fn place(&self) -> Place;

    /// What it says of the session with an address. `None` when it knows none: neighbours that it learns of by their
    /// own connecting are forgotten again, sooner or later, when they are gone.
    ///
    /// # Errors
    /// When it does not answer.
    fn neighbor(&self, address: IpAddr) -> Result<Option<Neighbor>>;

    /// The paths it knows to exactly this prefix.
    ///
    /// # Errors
    /// When it does not answer.
    fn paths(&self, prefix: IpNet) -> Result<Vec<Path>>;

    /// To how many prefixes of a family it knows a path.
    ///
    /// # Errors
    /// When it does not answer.
    fn count(&self, family: Family) -> Result<u64>;

    /// The name under which the kernel keeps the routes that come from it.
    fn protocol(&self) -> &'static str;

    /// How many prefixes of a family it has brought into the routing table of the kernel.
    ///
    /// # Errors
    /// When the place does not run.
    fn installed(&self, family: Family) -> Result<u64> {
        kernel::count(&self.lab().machine(self.place())?, family, self.protocol())
    }

    /// The next hops of exactly this prefix in the routing table of the kernel, by which packets go.
    ///
    /// # Errors
    /// When the place does not run.
    fn fib(&self, prefix: IpNet) -> Result<Vec<IpAddr>> {
        kernel::next_hops(&self.lab().machine(self.place())?, prefix)
    }

    /// The places to which packets for exactly this prefix go, in order.
    ///
    /// # Errors
    /// When the place does not run, or a next hop is nobody's.
    fn leads_to(&self, prefix: IpNet) -> Result<Vec<Place>> {
        kernel::places(self.fib(prefix)?)
    }

    /// Waits until the session with an address is established.
    ///
    /// # Errors
    /// When it is not in time, with what was there instead.
    fn wait_established(&self, address: IpAddr, limit: Duration) -> Result<Neighbor> {
        let up = |neighbor: &Option<Neighbor>| neighbor.as_ref().is_some_and(Neighbor::is_established);
        self.wait_neighbor(address, limit, up)
            .map(Option::unwrap_or_default)
    }

    /// Waits until the session with an address is not established.
    ///
    /// # Errors
    /// When it still is after the time.
    fn wait_down(&self, address: IpAddr, limit: Duration) -> Result<Option<Neighbor>> {
        let down = |neighbor: &Option<Neighbor>| !neighbor.as_ref().is_some_and(Neighbor::is_established);
        self.wait_neighbor(address, limit, down)
    }

    /// Waits until what is said of the session with an address is right.
    ///
    /// # Errors
    /// When it is not in time, with what was there instead.
    fn wait_neighbor(
        &self,
        address: IpAddr,
        limit: Duration,
        right: impl Fn(&Option<Neighbor>) -> bool,
    ) -> Result<Option<Neighbor>> {
        let what = format!("the session of {} with {address}", self.place().name());
        wait(&what, limit, || self.neighbor(address), right)
    }

    /// Waits until the paths to a prefix are right.
    ///
    /// # Errors
    /// When they are not in time, with those that were there.
    fn wait_paths(
        &self,
        prefix: IpNet,
        limit: Duration,
        right: impl Fn(&Vec<Path>) -> bool,
    ) -> Result<Vec<Path>> {
        let what = format!("the paths of {} to {prefix}", self.place().name());
        wait(&what, limit, || self.paths(prefix), right)
    }

    /// Waits until packets for a prefix go to exactly these places; none: until there is no such route.
    ///
    /// # Errors
    /// When it is not so in time, with where they went.
    fn wait_leads_to(&self, prefix: IpNet, places: &[Place], limit: Duration) -> Result<()> {
        let mut wanted = places.to_vec();
        wanted.sort_unstable();
        let what = format!("the route of {} to {prefix}", self.place().name());
        wait(&what, limit, || self.leads_to(prefix), |seen| *seen == wanted).map(drop)
    }
}

/// Asks until the answer is right. A router that does not answer (yet) is asked again.
fn wait<T: Debug>(
    what: &str,
    limit: Duration,
    ask: impl Fn() -> Result<T>,
    right: impl Fn(&T) -> bool,
) -> Result<T> {
    wait_for(what, limit, || match ask() {
        Ok(answer) if right(&answer) => Ok(answer),
        Ok(answer) => Err(format!("{answer:?}")),
        Err(error) => Err(error.to_string()),
    })
}
