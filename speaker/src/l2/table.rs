//! What an interface answers for, and what is to be made of others who say that an address is theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairlead_core::config::ConflictPolicy;

use super::mac::Mac;

/// How an address is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Epoch of the claim; a new one means a new burst of announcements.
    pub claim: i64,
    /// Another node is taking the address over: answer still, but do not call attention to this node.
    pub yielding: bool,
    /// What to do about strangers.
    pub policy: ConflictPolicy,
}

/// What one interface answers for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The addresses, of both families.
    pub addresses: BTreeMap<IpAddr, Entry>,
    /// The MAC addresses of all speakers: theirs are moves, not conflicts.
    pub speakers: BTreeSet<Mac>,
}

/// Everything that the tasks of one interface go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The interface's MAC address.
    pub mac: Mac,
    /// What it answers for.
    pub table: Table,
    /// Addresses about to be announced: is anybody else using them?
    pub asked: BTreeSet<IpAddr>,
    /// The MAC addresses that this node announces from, this interface's included.
    pub own: BTreeSet<Mac>,
}

/// Who says that an address is his.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimant {
    /// Nobody of interest.
    Nobody,
    /// Another speaker.
    Fellow,
    /// A machine that is no speaker.
    Stranger,
}

impl Scope {
    /// Nothing is announced or asked on an interface with this MAC address.
    pub fn new(mac: Mac) -> Self {
        Self {
            mac,
            table: Table::default(),
            asked: BTreeSet::new(),
            own: BTreeSet::from([mac]),
        }
    }

    /// Is it of interest who else uses this address?
    pub fn watches(&self, address: IpAddr) -> bool {
        self.table.addresses.contains_key(&address) || self.asked.contains(&address)
    }

    /// What it means that the machine with this MAC address says it has an address.
    pub fn claimant(&self, address: IpAddr, by: Mac) -> Claimant {
        if self.own.contains(&by) {
            return Claimant::Nobody;
        }
        let fellow = self.table.speakers.contains(&by);
        match self.table.addresses.get(&address) {
            // A fellow that takes over announces before its claim, or even its MAC, gets here.
            Some(entry) if entry.yielding => Claimant::Nobody,
            Some(_) if fellow => Claimant::Fellow,
            None if fellow || !self.asked.contains(&address) => Claimant::Nobody,
            Some(_) | None => Claimant::Stranger,
        }
    }
}

/// What a frame asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<F> {
    /// Nothing.
    None,
    /// An address that is not announced here.
    Ignored,
    /// An announced address: send this.
    Answer(F),
}

/// What is to be made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged<F> {
    /// What it asks for.
    pub request: Request<F>,
    /// An address of interest that its sender says is his, and the MAC address he says it has.
    pub claim: Option<(IpAddr, Mac)>,
}

impl<F> Judged<F> {
    /// Of no interest.
    pub const NOTHING: Self = Self {
        request: Request::None,
        claim: None,
    };

    /// With another form of answer.
    pub fn map<G>(self, form: impl FnOnce(F) -> G) -> Judged<G> {
        Judged {
            request: match self.request {
                Request::None => Request::None,
                Request::Ignored => Request::Ignored,
                Request::Answer(answer) => Request::Answer(form(answer)),
            },
            claim: self.claim,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_and_fellows() {
        let mac = |last: u8| Mac([2, 0, 0, 0, 0, last]);
        let ip = |last: u8| IpAddr::from([192, 0, 2, last]);
        let entry = |yielding| Entry {
            claim: 1,
            yielding,
            policy: ConflictPolicy::Defend,
        };
        let (eth0, eth1, fellow, stranger) = (mac(1), mac(2), mac(3), mac(4));
        let (announced, yielding, asked, other) = (ip(1), ip(2), ip(3), ip(4));
        let scope = Scope {
            table: Table {
                addresses: BTreeMap::from([(announced, entry(false)), (yielding, entry(true))]),
                speakers: BTreeSet::from([eth0, fellow]),
            },
            asked: BTreeSet::from([asked]),
            own: BTreeSet::from([eth0, eth1]),
            ..Scope::new(eth0)
        };
        use Claimant::{Fellow, Nobody, Stranger};
        for (address, by, expected) in [
            (announced, stranger, Stranger),
            (announced, fellow, Fellow),
            // Both interfaces may be on the same wire.
            (announced, eth1, Nobody),
            (yielding, stranger, Nobody),
            (yielding, fellow, Nobody),
            (asked, stranger, Stranger),
            (asked, fellow, Nobody),
            (other, stranger, Nobody),
        ] {
            assert_eq!(scope.claimant(address, by), expected, "{address} by {by}");
        }
    }
}
