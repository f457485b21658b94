//! The two small tables that pass flows on which belong to the node that owned an address before: `ip fairlead` and
//! `ip6 fairlead`, since what sends a packet to another next hop does not exist in tables of family `inet`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairlead_core::model::Family;

use super::batch::Batch;
use super::decode::whole_address;
use super::dump::SetFound;
use super::encode::comment;
use super::error::KernelError;
use super::expr::{Expr, Header, Meta, Register, Verdict};
use super::message::TableFamily;
use super::object::{BaseChain, ChainKind, Data, DataSpec, Element, Field, Hook, SetSpec, Table, Type};
use super::program::{
    address_bytes, address_type, ct_state, destination, protocol, tcp_flags_other_than_syn,
};
use super::socket::NetlinkSocket;
use crate::nft::TABLE;

const OWNERS: &str = "owners";
const EARLIER: &str = "earlier";
const FELLOWS: &str = "fellows";
const CHAIN: &str = "prerouting";
/// A MAC address.
pub type Mac = [u8; 6];

/// What one of the tables holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handover {
    /// For each VIP of the family the address of the node that its unknown flows go to.
    pub owners: BTreeMap<IpAddr, IpAddr>,
    /// For each VIP that this node owned as well, the address of the node that owned it before this one: flows that a
    /// fellow node passed on here and that are unknown here, too, go there.
    pub earlier: BTreeMap<IpAddr, IpAddr>,
    /// MAC addresses of the fellow nodes.
    pub fellows: BTreeSet<Mac>,
}

/// The table for a family of addresses.
pub const fn table(family: Family) -> Table {
    let family = match family {
        Family::V4 => TableFamily::Ip,
        Family::V6 => TableFamily::Ip6,
    };
    Table { family, name: TABLE }
}

/// Replaces the table, whatever it held.
pub fn replace(batch: &mut Batch, family: Family, wanted: &Handover) {
    let table = table(family);
    batch.add_table(table);
    batch.delete_table(table);
    batch.add_table(table);
    batch.add_chain(table, CHAIN, Some(BASE));
    for set in sets(family) {
        batch.add_set(table, &set);
    }
    change(batch, family, &Handover::default(), wanted);
    for rule in rules(family) {
        batch.add_rule(table, CHAIN, &rule, Some(&comment(&rule)));
    }
}

const BASE: BaseChain = BaseChain {
    kind: ChainKind::Filter,
    hook: Hook::Prerouting,
    // Before all that our other table does.
    priority: -115,
};

fn sets(family: Family) -> [SetSpec; 3] {
    let address = Field::of(address_type(family));
    [
        SetSpec::map(OWNERS, [address], DataSpec::Fields(vec![address])),
        SetSpec::map(EARLIER, [address], DataSpec::Fields(vec![address])),
        SetSpec::set(FELLOWS, [Field::of(Type::Ether)]),
    ]
}

fn rules(family: Family) -> [Vec<Expr>; 3] {
    const ETHERNET: u16 = 1;
    let register = Register::FIRST;
    let from_fellow = vec![
        Expr::Meta(Meta::InputType, register),
        Expr::equal(register, ETHERNET.to_ne_bytes()),
        Expr::Payload(Header::Link, 6, 6, register),
        Expr::InSet(register, FELLOWS.to_owned()),
    ];
    // Connection tracking calls a lone FIN or RST invalid where it calls an ACK new.
    let mut pass_on = ct_state(INVALID | NEW).to_vec();
    pass_on.extend(protocol(libc::IPPROTO_TCP as u8));
    pass_on.extend(tcp_flags_other_than_syn());
    // Each time it is passed on a packet loses one hop. The kernel lets it go on below zero, so it ends here.
    pass_on.extend([hop_limit(family, register), Expr::differs(register, [1])]);
    let to_next = |map: &str| {
        [
            destination(family, register),
            Expr::Map(register, map.to_owned(), register),
            Expr::Duplicate(register),
            Expr::Verdict(Verdict::Drop),
        ]
    };
    let again = [from_fellow.clone(), pass_on.clone(), to_next(EARLIER).to_vec()].concat();
    let enough = [from_fellow, vec![Expr::Verdict(Verdict::Accept)]].concat();
    let first = [pass_on, to_next(OWNERS).to_vec()].concat();
    [again, enough, first]
}

/// Loads how many hops a packet has left.
const fn hop_limit(family: Family, to: Register) -> Expr {
    match family {
        Family::V4 => Expr::Payload(Header::Network, 8, 1, to),
        Family::V6 => Expr::Payload(Header::Network, 7, 1, to),
    }
}

/// Bits of states of connection tracking.
const INVALID: u32 = 1;
const NEW: u32 = 8;

/// Changes only the elements that differ.
pub fn change(batch: &mut Batch, family: Family, old: &Handover, new: &Handover) {
    let table = table(family);
    let owner = |(vip, node): (&IpAddr, &IpAddr)| Element {
        key: address_bytes(*vip),
        data: Some(Data::Bytes(address_bytes(*node))),
        ..Element::default()
    };
    let fellow = |mac: &Mac| Element {
        key: mac.to_vec(),
        ..Element::default()
    };
    let mine = |(vip, node): &(&IpAddr, &IpAddr)| Family::of(**vip) == family && Family::of(**node) == family;
    for (map, old, new) in [
        (OWNERS, &old.owners, &new.owners),
        (EARLIER, &old.earlier, &new.earlier),
    ] {
        let gone = old
            .iter()
            .filter(mine)
            .filter(|(vip, node)| new.get(*vip) != Some(*node));
        batch.delete_elements(table, map, gone.map(owner));
        let come = new
            .iter()
            .filter(mine)
            .filter(|(vip, node)| old.get(*vip) != Some(*node));
        batch.add_elements(table, map, come.map(owner));
    }
    batch.delete_elements(table, FELLOWS, old.fellows.difference(&new.fellows).map(fellow));
    batch.add_elements(table, FELLOWS, new.fellows.difference(&old.fellows).map(fellow));
}

/// Reads the table; `None` if there is none, or it is not as we would make it.
///
/// # Errors
/// When the kernel does not tell.
pub fn read(socket: &mut NetlinkSocket, family: Family) -> Result<Option<Handover>, KernelError> {
    let table = table(family);
    let mut declared = socket.sets(table)?;
    declared.sort_by(|a, b| a.name.cmp(&b.name));
    let mut expected = sets(family).map(|set| SetFound::expected(&set));
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    let wanted: Vec<Option<String>> = rules(family).iter().map(|rule| Some(comment(rule))).collect();
    let found: Vec<Option<String>> = socket
        .rules(table)?
        .into_iter()
        .map(|rule| rule.comment)
        .collect();
    let chains = socket.chains(table)?;
    let same = socket.table_flags(table)? == Some(0)
        && declared == expected
        && matches!(&chains[..], [chain] if chain.name == CHAIN && chain.is(Some(BASE)))
        && found == wanted;
    if !same {
        return Ok(None);
    }
    let owners = nodes(socket, family, OWNERS)?;
    let earlier = nodes(socket, family, EARLIER)?;
    let fellows = socket.elements(table, FELLOWS)?.into_iter();
    let fellows: Option<BTreeSet<Mac>> = fellows.map(|fellow| fellow.key.try_into().ok()).collect();
    let all = owners.zip(earlier).zip(fellows);
    Ok(all.map(|((owners, earlier), fellows)| Handover {
        owners,
        earlier,
        fellows,
    }))
}

/// Reads a map from VIPs to nodes; `None` if it holds anything else.
fn nodes(
    socket: &mut NetlinkSocket,
    family: Family,
    map: &str,
) -> Result<Option<BTreeMap<IpAddr, IpAddr>>, KernelError> {
    let nodes = socket.elements(table(family), map)?.into_iter().map(|element| {
        let Some(Data::Bytes(node)) = element.data else {
            return None;
        };
        Some((
            whole_address(family, &element.key)?,
            whole_address(family, &node)?,
        ))
    });
    Ok(nodes.collect())
}

/// Removes the table, if there is one.
pub fn remove(batch: &mut Batch, family: Family) {
    let table = table(family);
    batch.add_table(table);
    batch.delete_table(table);
}
