//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227): frames, and which of them to answer.

use std::net::{IpAddr, Ipv4Addr};

use super::mac::Mac;
use super::table::{Judged, Request, Scope};

/// Length of an ARP frame without padding: Ethernet header and ARP packet.
pub const FRAME: usize = 14 + 28;

const ETHERTYPE: [u8; 2] = [0x08, 0x06];
/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];

/// `ar$op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// An ARP frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Ethernet destination.
    pub destination: Mac,
    /// Ethernet source.
    pub source: Mac,
    /// Request or reply.
    pub operation: Operation,
    /// `ar$sha`.
    pub sender_mac: Mac,
    /// `ar$spa`; unspecified in a probe (RFC 5227 §1.1).
    pub sender: Ipv4Addr,
    /// `ar$tha`.
    pub target_mac: Mac,
    /// `ar$tpa`.
    pub target: Ipv4Addr,
}

impl Frame {
    /// Reads a frame; `None` if it is not ARP for IPv4 over Ethernet, or its operation is neither request nor reply.
    /// Padding after the packet is passed over.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; FRAME] = bytes.first_chunk()?;
        if bytes[12..14] != ETHERTYPE || bytes[14..20] != ETHERNET_IPV4 {
            return None;
        }
        let operation = match bytes[20..22] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return None,
        };
        let mac = |at: usize| Mac(std::array::from_fn(|n| bytes[at + n]));
        let ip = |at: usize| Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|n| bytes[at + n]));
        Some(Self {
            destination: mac(0),
            source: mac(6),
            operation,
            sender_mac: mac(22),
            sender: ip(28),
            target_mac: mac(32),
            target: ip(38),
        })
    }

    /// The frame as bytes. Shorter than Ethernet's minimum: the interface pads.
    pub fn bytes(&self) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        bytes[0..6].copy_from_slice(&self.destination.0);
        bytes[6..12].copy_from_slice(&self.source.0);
        bytes[12..14].copy_from_slice(&ETHERTYPE);
        bytes[14..20].copy_from_slice(&ETHERNET_IPV4);
        bytes[21] = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        bytes[22..28].copy_from_slice(&self.sender_mac.0);
        bytes[28..32].copy_from_slice(&self.sender.octets());
        bytes[32..38].copy_from_slice(&self.target_mac.0);
        bytes[38..42].copy_from_slice(&self.target.octets());
        bytes
    }
}

/// Both forms of gratuitous ARP. Some stacks update their tables from the request (RFC 5227 §3 recommends it), others
/// only from a reply; Linux takes the reply only if its target MAC equals its sender MAC.
pub fn gratuitous(mac: Mac, address: Ipv4Addr) -> [Frame; 2] {
    let request = Frame {
        destination: Mac::BROADCAST,
        source: mac,
        operation: Operation::Request,
        sender_mac: mac,
        sender: address,
        target_mac: Mac([0; 6]),
        target: address,
    };
    let reply = Frame {
        operation: Operation::Reply,
        target_mac: mac,
        ..request
    };
    [request, reply]
}

/// Asks whether anybody has an address, without saying that it is here (a probe, RFC 5227 §1.1).
pub fn probe(mac: Mac, address: Ipv4Addr) -> Frame {
    Frame {
        destination: Mac::BROADCAST,
        source: mac,
        operation: Operation::Request,
        sender_mac: mac,
        sender: Ipv4Addr::UNSPECIFIED,
        target_mac: Mac([0; 6]),
        target: address,
    }
}

/// Judges one frame that arrived on the interface of this scope.
///
/// Answered are requests for an announced address, broadcast or to this MAC, probes (sender 0.0.0.0) included; never a
/// gratuitous request, which asks nothing. A probe claims nothing: whoever sends it is told that the address is in use.
pub fn judge(bytes: &[u8], scope: &Scope) -> Judged<Frame> {
    let Some(frame) = Frame::parse(bytes) else {
        return Judged::NOTHING;
    };
    // What we sent ourselves may come back over a loop; a group address as sender would make us answer to a group.
    if frame.sender_mac == scope.mac || !frame.sender_mac.is_station() {
        return Judged::NOTHING;
    }
    let sender = IpAddr::V4(frame.sender);
    Judged {
        request: request(&frame, scope),
        claim: scope.watches(sender).then_some((sender, frame.sender_mac)),
    }
}

fn request(frame: &Frame, scope: &Scope) -> Request<Frame> {
    if frame.operation != Operation::Request || frame.sender == frame.target {
        return Request::None;
    }
    let for_us = frame.destination == Mac::BROADCAST || frame.destination == scope.mac;
    if !for_us || !scope.table.addresses.contains_key(&IpAddr::V4(frame.target)) {
        return Request::Ignored;
    }
    Request::Answer(Frame {
        destination: frame.sender_mac,
        source: scope.mac,
        operation: Operation::Reply,
        sender_mac: scope.mac,
        sender: frame.target,
        target_mac: frame.sender_mac,
        target: frame.sender,
    })
}

#[cfg(test)]
mod tests;
