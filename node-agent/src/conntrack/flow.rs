//! Entries of connection tracking, read from the kernel's messages, and the requests for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fairlead_core::model::{Family, Protocol};

use super::wire::{Attributes, Message, Writer};

/// The subsystem of connection tracking, where message kinds have it.
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// Attributes of an entry (`enum ctattr_type`).
pub mod attribute {
    /// The addresses and ports of the first packet.
    pub const ORIGINAL: u16 = 1;
    /// Those of the answers.
    pub const REPLY: u16 = 2;
    /// What has happened to it.
    pub const STATUS: u16 = 3;
    /// Seconds until it goes.
    pub const TIMEOUT: u16 = 7;
    /// Its number.
    pub const ID: u16 = 12;
    /// The zone; absent for the usual one.
    pub const ZONE: u16 = 18;
    /// What of the tuples in a request entries are compared with.
    pub const FILTER: u16 = 25;
    /// What of the status in a request entries are compared with (Linux 5.17; older ones list more).
    pub const STATUS_MASK: u16 = 26;
    /// Inside a tuple: addresses.
    pub const ADDRESSES: u16 = 1;
    /// Inside a tuple: protocol and ports.
    pub const PORTS: u16 = 2;
}

/// Bit of the status: an answer has been seen.
pub const SEEN_REPLY: u32 = 2;

/// Bits of a filter: what of the tuple counts.
const BY_DESTINATION: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;

/// An entry, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Protocol.
    pub protocol: Protocol,
    /// Where the first packet was addressed to.
    pub destination: SocketAddr,
    /// Where the answers come from: the endpoint, or the destination itself if nothing was translated.
    pub answers: SocketAddr,
    /// An answer has been seen.
    pub answered: bool,
}

impl Flow {
    /// Reads a message; `None` if it is no entry of a protocol that Services have, or of a zone of somebody else's.
    pub fn read(message: &Message) -> Option<Self> {
        let (mut original, mut reply, mut status) = (None, None, None);
        for (kind, value) in message.attributes() {
            match kind {
                attribute::ORIGINAL => original = Some(value),
                attribute::REPLY => reply = Some(value),
                attribute::STATUS => status = value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)),
                attribute::ZONE => return None,
                _ => {}
            }
        }
        let (protocol, _, destination) = tuple(original?)?;
        let (_, answers, _) = tuple(reply?)?;
        Some(Self {
            protocol,
            destination,
            answers,
            answered: status? & SEEN_REPLY != 0,
        })
    }
}

/// Protocol, source and destination.
fn tuple(bytes: &[u8]) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    let (mut addresses, mut ports) = (None, None);
    for (kind, value) in Attributes(bytes) {
        match kind {
            attribute::ADDRESSES => addresses = Some(value),
            attribute::PORTS => ports = Some(value),
            _ => {}
        }
    }
    let (mut source, mut destination) = (None, None);
    for (kind, value) in Attributes(addresses?) {
        match kind {
            1 | 3 => source = address(value),
            2 | 4 => destination = address(value),
            _ => {}
        }
    }
    let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
    for (kind, value) in Attributes(ports?) {
        let port = || value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        match kind {
            1 => protocol = Protocol::of_number(*value.first()?),
            2 => source_port = port(),
            3 => destination_port = port(),
            _ => {}
        }
    }
    Some((
        protocol?,
        SocketAddr::new(source?, source_port?),
        SocketAddr::new(destination?, destination_port?),
    ))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

/// The number of an address family.
pub fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

/// Which entries are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Their family.
    pub family: Family,
    /// Their protocol.
    pub protocol: Protocol,
    /// Their original destination.
    pub address: Option<IpAddr>,
    /// Only those without an answer. The kernel may list others as well.
    pub unanswered: bool,
}

/// Asks for a list.
pub fn list(writer: &mut Writer, sequence: u32, filter: &Filter) {
    let address = filter
        .address
        .filter(|address| Family::of(*address) == filter.family);
    writer.message(GET, REQUEST | DUMP, sequence, family_number(filter.family));
    writer.nested(attribute::ORIGINAL, |writer| {
        if let Some(address) = address {
            writer.nested(attribute::ADDRESSES, |writer| match address {
                IpAddr::V4(v4) => writer.attribute(2, &v4.octets()),
                IpAddr::V6(v6) => writer.attribute(4, &v6.octets()),
            });
        }
        writer.nested(attribute::PORTS, |writer| {
            writer.attribute(1, &[filter.protocol.number()]);
        });
    });
    let by = BY_PROTOCOL | if address.is_some() { BY_DESTINATION } else { 0 };
    // In the order of the machine, unlike everything else.
    writer.nested(attribute::FILTER, |writer| writer.attribute(1, &by.to_ne_bytes()));
    if filter.unanswered {
        writer.attribute(attribute::STATUS, &0u32.to_be_bytes());
        writer.attribute(attribute::STATUS_MASK, &SEEN_REPLY.to_be_bytes());
    }
    writer.end();
}

/// Asks for the deletion of a listed entry, of this very one: another with the same addresses and ports stays.
pub fn delete(writer: &mut Writer, sequence: u32, listed: &Message) {
    writer.message(DELETE, REQUEST, sequence, listed.family());
    for (kind, value) in listed.attributes() {
        match kind {
            attribute::ORIGINAL => writer.nested(kind, |writer| writer.raw(value)),
            attribute::ID => writer.attribute(kind, value),
            _ => {}
        }
    }
    writer.end();
}

#[cfg(test)]
mod tests {
    use super::super::wire::Messages;
    use super::*;

    /// An entry as the kernel lists it.
    fn entry(protocol: u8, ports: bool, zone: bool) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.message(SUBSYSTEM, 0, 1, 2);
        for (kind, (source, destination), (from, to)) in [
            (
                attribute::ORIGINAL,
                ([198, 51, 100, 7], [192, 0, 2, 1]),
                (40000u16, 53u16),
            ),
            (
                attribute::REPLY,
                ([10, 0, 1, 2], [198, 51, 100, 7]),
                (5353, 40000),
            ),
        ] {
            writer.nested(kind, |writer| {
                writer.nested(attribute::ADDRESSES, |writer| {
                    writer.attribute(1, &source);
                    writer.attribute(2, &destination);
                });
                writer.nested(attribute::PORTS, |writer| {
                    writer.attribute(1, &[protocol]);
                    if ports {
                        writer.attribute(2, &from.to_be_bytes());
                        writer.attribute(3, &to.to_be_bytes());
                    }
                });
            });
        }
        writer.attribute(attribute::STATUS, &0x188u32.to_be_bytes());
        if zone {
            writer.attribute(attribute::ZONE, &[0, 1]);
        }
        writer.end();
        writer.bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Option<Flow> {
        Flow::read(&Messages(bytes).next().unwrap())
    }

    #[test]
    fn entries_are_read() {
        let expected = Flow {
            protocol: Protocol::Udp,
            destination: "192.0.2.1:53".parse().unwrap(),
            answers: "10.0.1.2:5353".parse().unwrap(),
            answered: false,
        };
        assert_eq!(read(&entry(17, true, false)), Some(expected));
        assert_eq!(read(&entry(1, false, false)), None, "ICMP");
        assert_eq!(read(&entry(17, true, true)), None, "another zone");
    }

    #[test]
    fn a_deletion_names_the_entry_by_its_first_tuple_and_number() {
        let mut listed = Writer::default();
        listed.message(SUBSYSTEM, 0, 1, 2);
        listed.nested(attribute::ORIGINAL, |writer| writer.attribute(9, &[1, 2, 3, 4]));
        listed.nested(attribute::REPLY, |writer| writer.attribute(9, &[5, 6, 7, 8]));
        listed.attribute(attribute::ID, &[0, 0, 0, 77]);
        listed.end();
        let listed = Messages(listed.bytes()).next().unwrap();
        let mut writer = Writer::default();
        delete(&mut writer, 5, &listed);
        let message = Messages(writer.bytes()).next().unwrap();
        assert_eq!((message.kind, message.sequence), (DELETE, 5));
        let kinds: Vec<u16> = message.attributes().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [attribute::ORIGINAL, attribute::ID]);
        assert_eq!(
            message.attributes().find(attribute::ORIGINAL),
            listed.attributes().find(1)
        );
    }
}
