//! Conditions and steps of rules as expressions, the way nft would write them.

use std::net::IpAddr;

use fairlead_core::model::Family;
use ipnet::IpNet;

use super::expr::{Compare, Ct, Direction, Expr, Header, Meta, Register};
use super::object::Type;

const R: Register = Register::FIRST;

/// The bytes of an address.
pub(crate) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    }
}

/// Type of the addresses of a family.
pub(crate) const fn address_type(family: Family) -> Type {
    match family {
        Family::V4 => Type::Ipv4,
        Family::V6 => Type::Ipv6,
    }
}

/// The packet has this family; needed before its addresses in tables that see both.
pub(crate) fn family(family: Family) -> [Expr; 2] {
    const IPV4: u8 = 2;
    const IPV6: u8 = 10;
    let number = match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    };
    [Expr::Meta(Meta::Family, R), Expr::equal(R, [number])]
}

/// The packet has this transport protocol.
pub(crate) fn protocol(number: u8) -> [Expr; 2] {
    [Expr::Meta(Meta::Protocol, R), Expr::equal(R, [number])]
}

/// Loads the source address.
pub(crate) fn source(family: Family, to: Register) -> Expr {
    match family {
        Family::V4 => Expr::Payload(Header::Network, 12, 4, to),
        Family::V6 => Expr::Payload(Header::Network, 8, 16, to),
    }
}

/// Loads the destination address.
pub(crate) fn destination(family: Family, to: Register) -> Expr {
    match family {
        Family::V4 => Expr::Payload(Header::Network, 16, 4, to),
        Family::V6 => Expr::Payload(Header::Network, 24, 16, to),
    }
}

/// Loads the destination port.
pub(crate) const fn port(to: Register) -> Expr {
    Expr::Payload(Header::Transport, 2, 2, to)
}

/// The destination address that the flow began with.
pub(crate) const fn original_destination(family: Family, to: Register) -> Expr {
    match family {
        Family::V4 => Expr::Ct(Ct::Destination4(Direction::Original), to),
        Family::V6 => Expr::Ct(Ct::Destination6(Direction::Original), to),
    }
}

/// The address that answers.
pub(crate) const fn answering_address(family: Family, to: Register) -> Expr {
    match family {
        Family::V4 => Expr::Ct(Ct::Source4(Direction::Reply), to),
        Family::V6 => Expr::Ct(Ct::Source6(Direction::Reply), to),
    }
}

/// The flow is in one of the states.
pub(crate) fn ct_state(states: u32) -> [Expr; 3] {
    any_bit(Expr::Ct(Ct::State, R), states)
}

/// The flow has one of the properties.
pub(crate) fn ct_status(bits: u32) -> [Expr; 3] {
    any_bit(Expr::Ct(Ct::Status, R), bits)
}

fn any_bit(load: Expr, bits: u32) -> [Expr; 3] {
    [
        load,
        Expr::masked(R, bits.to_ne_bytes()),
        Expr::differs(R, [0; 4]),
    ]
}

/// TCP, and anything but the first packet of a flow. Behind a match of the protocol.
pub(crate) fn tcp_flags_other_than_syn() -> [Expr; 3] {
    const FIN_SYN_RST_ACK: u8 = 0x17;
    const SYN: u8 = 0x02;
    [
        Expr::Payload(Header::Transport, 13, 1, R),
        Expr::masked(R, [FIN_SYN_RST_ACK]),
        Expr::differs(R, [SYN]),
    ]
}

/// The source address is in the range.
pub(crate) fn source_range(range: &IpNet) -> Vec<Expr> {
    range_of(source(Family::of(range.addr()), R), range)
}

/// Loads no more of the address than the range is long, and needs no mask if that is whole bytes; as nft does.
fn range_of(load: Expr, range: &IpNet) -> Vec<Expr> {
    let bits = usize::from(range.prefix_len());
    let network = address_bytes(range.network());
    let Expr::Payload(header, offset, _, to) = load else {
        return Vec::new();
    };
    let whole = bits.is_multiple_of(8) && bits > 0;
    let length = if whole { bits / 8 } else { network.len() };
    let mut expressions = vec![Expr::Payload(header, offset, length as u32, to)];
    if !whole {
        let mask: Vec<u8> = (0..length)
            .map(|byte| {
                let left = bits.saturating_sub(byte * 8).min(8);
                !(0xff_u16 >> left) as u8
            })
            .collect();
        expressions.push(Expr::masked(to, mask));
    }
    expressions.push(Expr::Cmp(Compare::Equal, to, network[..length].to_vec()));
    expressions
}
