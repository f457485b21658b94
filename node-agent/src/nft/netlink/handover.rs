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
const FELLOWS: &str = "fellows";
const CHAIN: &str = "prerouting";
/// A MAC address.
pub type Mac = [u8; 6];

/// What one of the tables holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handover {
    /// For each VIP of the family the address of the node that its unknown flows go to.
    pub owners: BTreeMap<IpAddr, IpAddr>,
    /// MAC addresses of the fellow nodes: what they passed on is never passed on again.
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

fn sets(family: Family) -> [SetSpec; 2] {
    let address = Field::of(address_type(family));
    [
        SetSpec::map(OWNERS, [address], DataSpec::Fields(vec![address])),
        SetSpec::set(FELLOWS, [Field::of(Type::Ether)]),
    ]
}

fn rules(family: Family) -> [Vec<Expr>; 2] {
    const ETHERNET: u16 = 1;
    let register = Register::FIRST;
    let from_fellow = vec![
        Expr::Meta(Meta::InputType, register),
        Expr::equal(register, ETHERNET.to_ne_bytes()),
        Expr::Payload(Header::Link, 6, 6, register),
        Expr::InSet(register, FELLOWS.to_owned()),
        Expr::Verdict(Verdict::Accept),
    ];
    // Connection tracking calls a lone FIN or RST invalid where it calls an ACK new.
    let mut pass_on = ct_state(INVALID | NEW).to_vec();
    pass_on.extend(protocol(libc::IPPROTO_TCP as u8));
    pass_on.extend(tcp_flags_other_than_syn());
    pass_on.extend([
        destination(family, register),
        Expr::Map(register, OWNERS.to_owned(), register),
        Expr::Duplicate(register),
        Expr::Verdict(Verdict::Drop),
    ]);
    [from_fellow, pass_on]
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
    let gone = old
        .owners
        .iter()
        .filter(mine)
        .filter(|(vip, node)| new.owners.get(*vip) != Some(*node));
    batch.delete_elements(table, OWNERS, gone.map(owner));
    let come = new
        .owners
        .iter()
        .filter(mine)
        .filter(|(vip, node)| old.owners.get(*vip) != Some(*node));
    batch.add_elements(table, OWNERS, come.map(owner));
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
    declared.sort_by(|a, b| b.name.cmp(&a.name));
    let wanted: Vec<Option<String>> = rules(family).iter().map(|rule| Some(comment(rule))).collect();
    let found: Vec<Option<String>> = socket
        .rules(table)?
        .into_iter()
        .map(|rule| rule.comment)
        .collect();
    let chains = socket.chains(table)?;
    let same = socket.table_flags(table)? == Some(0)
        && declared == sets(family).map(|set| SetFound::expected(&set))
        && matches!(&chains[..], [chain] if chain.name == CHAIN && chain.is(Some(BASE)))
        && found == wanted;
    if !same {
        return Ok(None);
    }
    let owners = socket.elements(table, OWNERS)?.into_iter().map(|element| {
        let Some(Data::Bytes(node)) = element.data else {
            return None;
        };
        Some((
            whole_address(family, &element.key)?,
            whole_address(family, &node)?,
        ))
    });
    let fellows = socket.elements(table, FELLOWS)?.into_iter();
    let owners: Option<BTreeMap<IpAddr, IpAddr>> = owners.collect();
    let fellows: Option<BTreeSet<Mac>> = fellows.map(|fellow| fellow.key.try_into().ok()).collect();
    Ok(owners
        .zip(fellows)
        .map(|(owners, fellows)| Handover { owners, fellows }))
}

/// Removes the table, if there is one.
pub fn remove(batch: &mut Batch, family: Family) {
    let table = table(family);
    batch.add_table(table);
    batch.delete_table(table);
}
