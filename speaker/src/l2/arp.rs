//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227): frames, and which of them to answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::mac::Mac;

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

/// How an address is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Epoch of the claim; a new one means a new burst of gratuitous ARP.
    pub claim: i64,
    /// Another node is taking the address over: answer still, but do not call attention to this node.
    pub yielding: bool,
}

/// What one interface answers for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The addresses.
    pub addresses: BTreeMap<Ipv4Addr, Entry>,
    /// The MAC addresses of all speakers: theirs are moves, not conflicts.
    pub speakers: BTreeSet<Mac>,
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Answer(Frame),
    /// A stranger says that it has an address which is announced here.
    Conflict {
        /// The address.
        address: Ipv4Addr,
        /// Who says so.
        by: Mac,
    },
    /// A request for something else.
    Ignore,
    /// Neither a request nor of interest.
    Nothing,
}

/// Judges one frame that arrived on the interface with this MAC address.
///
/// Answered are requests for an address of the table, broadcast or to this MAC, probes (sender 0.0.0.0) included; never
/// a gratuitous request, which asks nothing.
pub fn judge(bytes: &[u8], mac: Mac, table: &Table) -> Action {
    let Some(frame) = Frame::parse(bytes) else {
        return Action::Nothing;
    };
    // What we sent ourselves may come back over a loop; a group address as sender would make us answer to a group.
    if frame.sender_mac == mac || !frame.sender_mac.is_station() {
        return Action::Nothing;
    }
    if let Some(entry) = table.addresses.get(&frame.sender) {
        // A fellow that takes over announces before its claim gets here.
        let stranger = !table.speakers.contains(&frame.sender_mac) && !entry.yielding;
        return if stranger {
            Action::Conflict {
                address: frame.sender,
                by: frame.sender_mac,
            }
        } else {
            Action::Nothing
        };
    }
    if frame.operation != Operation::Request {
        return Action::Nothing;
    }
    let for_us = frame.destination == Mac::BROADCAST || frame.destination == mac;
    if !for_us || !table.addresses.contains_key(&frame.target) {
        return Action::Ignore;
    }
    Action::Answer(Frame {
        destination: frame.sender_mac,
        source: mac,
        operation: Operation::Reply,
        sender_mac: mac,
        sender: frame.target,
        target_mac: frame.sender_mac,
        target: frame.sender,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const FELLOW: Mac = Mac([2, 0, 0, 0, 0, 3]);
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    fn table(yielding: bool) -> Table {
        Table {
            addresses: BTreeMap::from([(VIP, Entry { claim: 1, yielding })]),
            speakers: BTreeSet::from([OURS, FELLOW]),
        }
    }

    fn request() -> Frame {
        Frame {
            destination: Mac::BROADCAST,
            source: PEER,
            operation: Operation::Request,
            sender_mac: PEER,
            sender: CLIENT,
            target_mac: Mac([0; 6]),
            target: VIP,
        }
    }

    fn judged(frame: &Frame) -> Action {
        judge(&frame.bytes(), OURS, &table(false))
    }

    #[test]
    fn the_bytes_of_a_request_are_those_of_rfc_826() {
        let expected =
            "ffffffffffff 020000000002 0806 0001 0800 06 04 0001 020000000002 c0000207 000000000000 c0000264";
        let hex: String = request()
            .bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, expected.replace(' ', ""));
    }

    #[test]
    fn requests_for_an_announced_address_are_answered_to_the_asker() {
        let answer = Frame {
            destination: PEER,
            source: OURS,
            operation: Operation::Reply,
            sender_mac: OURS,
            sender: VIP,
            target_mac: PEER,
            target: CLIENT,
        };
        assert_eq!(judged(&request()), Action::Answer(answer));
        let unicast = Frame {
            destination: OURS,
            ..request()
        };
        assert_eq!(judged(&unicast), Action::Answer(answer));
        // RFC 5227 §2.1.1: a probe has the sender address 0.0.0.0.
        let probe = Frame {
            sender: Ipv4Addr::UNSPECIFIED,
            ..request()
        };
        let to_prober = Frame {
            target: Ipv4Addr::UNSPECIFIED,
            ..answer
        };
        assert_eq!(judged(&probe), Action::Answer(to_prober));
        let mut padded = request().bytes().to_vec();
        padded.resize(60, 0);
        assert_eq!(
            judge(&padded, OURS, &table(true)),
            Action::Answer(answer),
            "yielding still answers"
        );
    }

    #[test]
    fn nothing_else_is_answered() {
        let other = Frame {
            target: Ipv4Addr::new(192, 0, 2, 101),
            ..request()
        };
        assert_eq!(judged(&other), Action::Ignore);
        let to_another = Frame {
            destination: FELLOW,
            ..request()
        };
        assert_eq!(judged(&to_another), Action::Ignore);
        assert_eq!(judge(&request().bytes(), OURS, &Table::default()), Action::Ignore);
        let reply = Frame {
            operation: Operation::Reply,
            ..request()
        };
        assert_eq!(judged(&reply), Action::Nothing);
        let from_group = Frame {
            sender_mac: Mac::BROADCAST,
            ..request()
        };
        assert_eq!(judged(&from_group), Action::Nothing);
        let own = Frame {
            sender_mac: OURS,
            ..request()
        };
        assert_eq!(judged(&own), Action::Nothing);
        assert_eq!(
            judge(&request().bytes()[..FRAME - 1], OURS, &table(false)),
            Action::Nothing
        );
    }

    #[test]
    fn a_stranger_with_our_address_is_a_conflict_a_fellow_is_not() {
        let conflict = Action::Conflict {
            address: VIP,
            by: PEER,
        };
        for frame in gratuitous(PEER, VIP) {
            assert_eq!(judged(&frame), conflict);
            // While it moves, who takes it over may not be known yet.
            assert_eq!(judge(&frame.bytes(), OURS, &table(true)), Action::Nothing);
        }
        let using = Frame {
            sender: VIP,
            target: CLIENT,
            ..request()
        };
        assert_eq!(judged(&using), conflict);
        for frame in gratuitous(FELLOW, VIP) {
            assert_eq!(judged(&frame), Action::Nothing);
        }
    }

    #[test]
    fn gratuitous_arp_comes_in_both_forms() {
        let [request, reply] = gratuitous(OURS, VIP);
        assert_eq!(
            (request.operation, reply.operation),
            (Operation::Request, Operation::Reply)
        );
        for frame in [request, reply] {
            assert_eq!((frame.sender, frame.target), (VIP, VIP));
            assert_eq!(
                (frame.destination, frame.source, frame.sender_mac),
                (Mac::BROADCAST, OURS, OURS)
            );
        }
        assert_eq!(reply.target_mac, OURS, "or Linux does not take it for gratuitous");
    }

    fn any_mac() -> impl Strategy<Value = Mac> {
        any::<[u8; 6]>().prop_map(Mac)
    }

    proptest! {
        #[test]
        fn frames_survive_the_round_trip(
            destination in any_mac(), source in any_mac(), is_reply in any::<bool>(),
            sender_mac in any_mac(), sender in any::<u32>(), target_mac in any_mac(), target in any::<u32>(),
        ) {
            let operation = if is_reply { Operation::Reply } else { Operation::Request };
            let frame = Frame { destination, source, operation, sender_mac, sender: sender.into(), target_mac, target: target.into() };
            prop_assert_eq!(Frame::parse(&frame.bytes()), Some(frame));
        }

        #[test]
        fn arbitrary_bytes_never_make_us_answer_for_something_else(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..80), fixed in any::<bool>(),
        ) {
            if fixed && bytes.len() >= 20 {
                bytes[12..14].copy_from_slice(&ETHERTYPE);
                bytes[14..20].copy_from_slice(&ETHERNET_IPV4);
            }
            match judge(&bytes, OURS, &table(false)) {
                Action::Answer(frame) => {
                    prop_assert_eq!((frame.sender, frame.sender_mac, frame.source), (VIP, OURS, OURS));
                    prop_assert!(frame.destination.is_station());
                }
                Action::Conflict { address, .. } => prop_assert_eq!(address, VIP),
                Action::Ignore | Action::Nothing => {}
            }
        }
    }
}
