//! Neighbour discovery for IPv6 over Ethernet (RFC 4861, RFC 4862): which frames to answer, and what to say unasked.

mod frame;

use std::net::{IpAddr, Ipv6Addr};

pub use frame::{Frame, LARGEST, Message};

use super::mac::Mac;
use super::table::{Judged, Request, Scope};

/// All nodes of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The solicited-node multicast address of an address (RFC 4291 §2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let [high, low] = [u16::from_be_bytes([0xff, a]), u16::from_be_bytes([b, c])];
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low)
}

/// The Ethernet address of a multicast group (RFC 2464 §7).
fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// An unsolicited advertisement to all nodes, which makes those that know the address learn this MAC (RFC 4861 §7.2.6).
pub fn unsolicited(mac: Mac, address: Ipv6Addr) -> Frame {
    advertisement(mac, address, None)
}

/// Asks whether anybody has an address, without saying that it is here (duplicate address detection, RFC 4862 §5.4.2).
pub fn probe(mac: Mac, address: Ipv6Addr) -> Frame {
    let group = solicited_node(address);
    Frame {
        destination: group_mac(group),
        source: mac,
        from: Ipv6Addr::UNSPECIFIED,
        to: group,
        message: Message::Solicitation,
        target: address,
        link: None,
    }
}

/// To the asker, or to all. It comes from the target, as from any node that has the address: the source must be an
/// address of the sending interface (RFC 4861 §4.4), which this is to everybody on the link, and some receivers do not
/// expect a link-local address in an answer about another. The override flag is set, since the address is neither anycast nor a proxy's (RFC 4861
/// §7.2.4). The router flag is not, whatever the node does: it speaks of the target, and an announced address is
/// nobody's router.
fn advertisement(mac: Mac, target: Ipv6Addr, asker: Option<(Mac, Ipv6Addr)>) -> Frame {
    let (destination, to) = asker.unwrap_or((group_mac(ALL_NODES), ALL_NODES));
    Frame {
        destination,
        source: mac,
        from: target,
        to,
        message: Message::Advertisement {
            router: false,
            solicited: asker.is_some(),
            overrides: true,
        },
        target,
        link: Some(mac),
    }
}

/// Judges one frame that arrived on the interface of this scope.
///
/// Answered are solicitations for an announced address, multicast or to this MAC. An asker without address probes for
/// duplicates, claims nothing, and is answered by an advertisement to all nodes.
pub fn judge(bytes: &[u8], scope: &Scope) -> Judged<Frame> {
    let Some(frame) = Frame::parse(bytes) else {
        return Judged::NOTHING;
    };
    // The option tells where answers go and who the claimant is; without it, the frame's own source does.
    let sender = frame.link.unwrap_or(frame.source);
    // What we sent ourselves may come back over a loop; a group address as sender would make us answer to a group.
    if frame.source == scope.mac || sender == scope.mac || !sender.is_station() {
        return Judged::NOTHING;
    }
    let (claimed, request) = match frame.message {
        Message::Solicitation => (frame.from, request(&frame, sender, scope)),
        Message::Advertisement { .. } => (frame.target, Request::None),
    };
    let claimed = IpAddr::V6(claimed);
    Judged {
        request,
        claim: scope.watches(claimed).then_some((claimed, sender)),
    }
}

fn request(frame: &Frame, asker: Mac, scope: &Scope) -> Request<Frame> {
    if frame.from == frame.target {
        return Request::None;
    }
    let for_us = frame.destination == scope.mac || !frame.destination.is_station();
    if !for_us || !scope.table.addresses.contains_key(&IpAddr::V6(frame.target)) {
        return Request::Ignored;
    }
    let asker = (!frame.from.is_unspecified()).then_some((asker, frame.from));
    Request::Answer(advertisement(scope.mac, frame.target, asker))
}

#[cfg(test)]
mod tests;
