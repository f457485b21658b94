//! The two small tables that pass flows on which belong to the node that owned an address before: `ip fairlead` and
//! `ip6 fairlead`, since what sends a packet to another next hop does not exist in tables of family `inet`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairlead_core::model::Family;

use super::batch::Batch;
use super::expr::{Expr, Header, Meta, Register, Verdict};
use super::message::TableFamily;
use super::object::{BaseChain, ChainKind, Data, DataSpec, Element, Field, Hook, SetSpec, Table, Type};
use super::program::{address_bytes, ct_state, destination, protocol, tcp_flags_other_than_syn};
use crate::nft::TABLE;

const OWNERS: &str = "owners";
const FELLOWS: &str = "fellows";
const CHAIN: &str = "prerouting";
/// Before all that our other table does.
const PRIORITY: i32 = -115;

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
    let address = match family {
        Family::V4 => Type::Ipv4,
        Family::V6 => Type::Ipv6,
    };
    batch.add_table(table);
    batch.delete_table(table);
    batch.add_table(table);
    let base = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority: PRIORITY,
    };
    batch.add_chain(table, CHAIN, Some(base));
    let address = Field::of(address);
    batch.add_set(
        table,
        &SetSpec::map(OWNERS, [address], DataSpec::Fields(vec![address])),
    );
    batch.add_set(table, &SetSpec::set(FELLOWS, [Field::of(Type::Ether)]));
    change(batch, family, &Handover::default(), wanted);
    let register = Register::FIRST;
    const ETHERNET: u16 = 1;
    batch.add_rule(
        table,
        CHAIN,
        &[
            Expr::Meta(Meta::InputType, register),
            Expr::equal(register, ETHERNET.to_ne_bytes()),
            Expr::Payload(Header::Link, 6, 6, register),
            Expr::InSet(register, FELLOWS.to_owned()),
            Expr::Verdict(Verdict::Accept),
        ],
        None,
    );
    // Connection tracking calls a lone FIN or RST invalid where it calls an ACK new.
    let mut rule = ct_state(INVALID | NEW).to_vec();
    rule.extend(protocol(libc::IPPROTO_TCP as u8));
    rule.extend(tcp_flags_other_than_syn());
    rule.extend([
        destination(family, register),
        Expr::Map(register, OWNERS.to_owned(), register),
        Expr::Duplicate(register),
        Expr::Verdict(Verdict::Drop),
    ]);
    batch.add_rule(table, CHAIN, &rule, None);
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

/// Removes the table, if there is one.
pub fn remove(batch: &mut Batch, family: Family) {
    let table = table(family);
    batch.add_table(table);
    batch.delete_table(table);
}
