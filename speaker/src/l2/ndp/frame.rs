//! Frames with a neighbour solicitation or advertisement: Ethernet, IPv6 and ICMPv6 in one.

use std::net::Ipv6Addr;

use crate::l2::mac::Mac;

/// The largest frame that is looked at, in bytes.
pub const LARGEST: usize = 1514;

const ETHERNET: usize = 14;
const HEADERS: usize = ETHERNET + 40;
/// Type, code, checksum, flags and target.
const FIXED: usize = 24;
const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
/// Whatever has passed a router has less (RFC 4861 §7.1).
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who has the target address? (RFC 4861 §4.3)
    Solicitation,
    /// Here is the target address (RFC 4861 §4.4).
    Advertisement {
        /// R: the target is a router.
        router: bool,
        /// S: in answer to a solicitation from a unicast address.
        solicited: bool,
        /// O: replaces what the receiver knows.
        overrides: bool,
    },
}

/// A valid solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Ethernet destination.
    pub destination: Mac,
    /// Ethernet source.
    pub source: Mac,
    /// IPv6 source; unspecified in a solicitation that probes for duplicates.
    pub from: Ipv6Addr,
    /// IPv6 destination.
    pub to: Ipv6Addr,
    /// What is said.
    pub message: Message,
    /// The address that it is about.
    pub target: Ipv6Addr,
    /// The source (solicitation) or target (advertisement) link-layer address option.
    pub link: Option<Mac>,
}

impl Frame {
    /// Reads a frame; `None` if it is not a solicitation or advertisement, or must be discarded as invalid (RFC 4861
    /// §7.1.1, §7.1.2). Padding after the packet is passed over.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, packet) = bytes.split_first_chunk::<HEADERS>()?;
        if head[12..14] != ETHERTYPE || head[14] >> 4 != 6 || head[20] != ICMPV6 || head[21] != HOP_LIMIT {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([head[18], head[19]]));
        let packet = packet.get(..length)?;
        let (fixed, options) = packet.split_first_chunk::<FIXED>()?;
        let (from, to, target) = (address(head, 22), address(head, 38), address(fixed, 8));
        let code = fixed[1];
        if checksum(from, to, packet) != 0 || code != 0 || target.is_multicast() || from.is_multicast() {
            return None;
        }
        let (message, wanted) = match fixed[0] {
            SOLICITATION => (Message::Solicitation, SOURCE_LINK_ADDRESS),
            ADVERTISEMENT => {
                let flag = |flag: u8| fixed[4] & flag != 0;
                let message = Message::Advertisement {
                    router: flag(ROUTER),
                    solicited: flag(SOLICITED),
                    overrides: flag(OVERRIDE),
                };
                (message, TARGET_LINK_ADDRESS)
            }
            _ => return None,
        };
        let frame = Self {
            destination: mac(head, 0),
            source: mac(head, 6),
            from,
            to,
            message,
            target,
            link: link_address(options, wanted)?,
        };
        frame.allowed().then_some(frame)
    }

    /// The rules that concern the addresses.
    fn allowed(&self) -> bool {
        match self.message {
            Message::Solicitation if self.from.is_unspecified() => {
                self.link.is_none() && is_solicited_node(self.to)
            }
            Message::Solicitation => true,
            Message::Advertisement { solicited, .. } => {
                !(self.from.is_unspecified() || solicited && self.to.is_multicast())
            }
        }
    }

    /// The frame as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let length = FIXED + if self.link.is_some() { 8 } else { 0 };
        let mut bytes = Vec::with_capacity(HEADERS + length);
        bytes.extend(self.destination.0);
        bytes.extend(self.source.0);
        bytes.extend(ETHERTYPE);
        bytes.extend([0x60, 0, 0, 0, 0, length as u8, ICMPV6, HOP_LIMIT]);
        bytes.extend(self.from.octets());
        bytes.extend(self.to.octets());
        let (kind, flags, option) = match self.message {
            Message::Solicitation => (SOLICITATION, 0, SOURCE_LINK_ADDRESS),
            Message::Advertisement {
                router,
                solicited,
                overrides,
            } => {
                let bit = |set: bool, flag: u8| if set { flag } else { 0 };
                let flags = bit(router, ROUTER) | bit(solicited, SOLICITED) | bit(overrides, OVERRIDE);
                (ADVERTISEMENT, flags, TARGET_LINK_ADDRESS)
            }
        };
        bytes.extend([kind, 0, 0, 0, flags, 0, 0, 0]);
        bytes.extend(self.target.octets());
        if let Some(mac) = self.link {
            bytes.extend([option, 1]);
            bytes.extend(mac.0);
        }
        let sum = checksum(self.from, self.to, &bytes[HEADERS..]);
        bytes[HEADERS + 2..HEADERS + 4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

fn is_solicited_node(address: Ipv6Addr) -> bool {
    address.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]
}

fn mac(bytes: &[u8], at: usize) -> Mac {
    Mac(std::array::from_fn(|n| bytes[at + n]))
}

fn address(bytes: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|n| bytes[at + n]))
}

/// The first link-layer address among the options; `None` if the options are invalid: one of no length or cut off, or a
/// link-layer address that is not Ethernet's.
fn link_address(mut options: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 {
            return None;
        }
        let (option, rest) = options.split_at_checked(length)?;
        if kind == wanted {
            if length != 8 {
                return None;
            }
            found = found.or(Some(mac(option, 2)));
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}

/// The checksum of ICMPv6 (RFC 4443 §2.3): zero over a packet that has the right one in it.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, packet: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        bytes.chunks(2).map(word).sum()
    };
    let mut sum =
        words(&from.octets()) + words(&to.octets()) + packet.len() as u32 + u32::from(ICMPV6) + words(packet);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
