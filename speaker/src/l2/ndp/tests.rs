use std::collections::BTreeMap;

use super::*;
use crate::l2::ConflictPolicy;
use crate::l2::table::Entry;
use etherparse::{Icmpv6Slice, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 3]);
const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
const ASKED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
const GROUP_MAC: Mac = Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);

fn scope() -> Scope {
    let mut scope = Scope::new(OURS);
    let entry = Entry {
        claim: 1,
        yielding: false,
        policy: ConflictPolicy::Defend,
    };
    scope.table.addresses = BTreeMap::from([(VIP.into(), entry)]);
    scope.asked = [ASKED.into()].into();
    scope
}

fn solicitation() -> Frame {
    Frame {
        destination: GROUP_MAC,
        source: PEER,
        from: CLIENT,
        to: solicited_node(VIP),
        message: Message::Solicitation,
        target: VIP,
        link: Some(PEER),
    }
}

/// The peer says that it has the address.
fn foreign(target: Ipv6Addr) -> Frame {
    unsolicited(PEER, target)
}

fn judged(frame: &Frame) -> Judged<Frame> {
    judge(&frame.bytes(), &scope())
}

fn asks(request: Request<Frame>) -> Judged<Frame> {
    Judged { request, claim: None }
}

fn hex(frame: &Frame) -> String {
    frame.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Valid but for what `change` does to its bytes; the checksum is made right again.
fn parsed_after(frame: &Frame, change: impl FnOnce(&mut Vec<u8>)) -> Option<Frame> {
    let mut bytes = frame.bytes();
    change(&mut bytes);
    let length = (bytes.len() - 54) as u16;
    bytes[18..20].copy_from_slice(&length.to_be_bytes());
    with_checksum(&mut bytes);
    Frame::parse(&bytes)
}

/// Sets the checksum as another implementation calculates it.
fn with_checksum(bytes: &mut [u8]) {
    let ip = |at: usize| -> [u8; 16] { std::array::from_fn(|n| bytes[at + n]) };
    let kind = etherparse::Icmpv6Type::Unknown {
        type_u8: bytes[54],
        code_u8: bytes[55],
        bytes5to8: std::array::from_fn(|n| bytes[58 + n]),
    };
    let sum = kind.calc_checksum(ip(22), ip(38), &bytes[62..]).unwrap();
    bytes[56..58].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn the_bytes_are_those_of_rfc_4861() {
    let same = |frame: &Frame, expected: &str| assert_eq!(hex(frame), expected.replace([' ', '\n'], ""));
    // Ethernet, IPv6 (RFC 8200 §3), type, code, checksum, reserved, target, source link-layer address option.
    same(
        &solicitation(),
        "3333ff123456 020000000002 86dd 60000000 0020 3a ff 20010db8000000000000000000000007 \
         ff0200000000000000000001ff123456 87 00 b353 00000000 20010db8000000000000000000123456 01 01 020000000002",
    );
    // The router flag is 0x80, solicited 0x40, override 0x20; the option is the target's.
    same(
        &unsolicited(OURS, VIP),
        "333300000001 020000000001 86dd 60000000 0020 3a ff 20010db8000000000000000000123456 \
         ff020000000000000000000000000001 88 00 905c 20000000 20010db8000000000000000000123456 02 01 020000000001",
    );
    // RFC 4862 §5.4.2: from nowhere, to the solicited-node address, without the option.
    same(
        &probe(OURS, VIP),
        "3333ff123456 020000000001 86dd 60000000 0018 3a ff 00000000000000000000000000000000 \
         ff0200000000000000000001ff123456 87 00 e41e 00000000 20010db8000000000000000000123456",
    );
}

#[test]
fn another_implementation_finds_our_frames_right() {
    for frame in [
        solicitation(),
        unsolicited(OURS, VIP),
        probe(OURS, VIP),
        foreign(VIP),
    ] {
        let bytes = frame.bytes();
        let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &packet.net else {
            panic!("{packet:?}")
        };
        assert_eq!(ip.header().hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else {
            panic!("{packet:?}")
        };
        let valid = |icmp: &Icmpv6Slice| icmp.is_checksum_valid(frame.from.octets(), frame.to.octets());
        assert!(valid(icmp), "{frame:?}");
    }
}

#[test]
fn groups() {
    // The example of RFC 4291 §2.7.1.
    let address = "4037::01:800:200e:8c6c".parse().unwrap();
    assert_eq!(
        solicited_node(address),
        "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap()
    );
    assert_eq!(group_mac(solicited_node(VIP)), GROUP_MAC);
}

#[test]
fn solicitations_for_an_announced_address_are_answered_to_the_asker() {
    let answer = Frame {
        destination: PEER,
        source: OURS,
        from: VIP,
        to: CLIENT,
        message: Message::Advertisement {
            router: false,
            solicited: true,
            overrides: true,
        },
        target: VIP,
        link: Some(OURS),
    };
    let answered = asks(Request::Answer(answer));
    assert_eq!(judged(&solicitation()), answered);
    // Unreachability detection asks the known MAC, and need not say the own one (RFC 4861 §4.3).
    let unicast = Frame {
        destination: OURS,
        to: VIP,
        link: None,
        ..solicitation()
    };
    assert_eq!(judged(&unicast), answered);
    // The option tells where to answer, not the frame.
    let through = Frame {
        source: OTHER,
        ..solicitation()
    };
    assert_eq!(judged(&through), answered);
    let mut padded = solicitation().bytes();
    padded.resize(120, 0);
    let mut yielding = scope();
    yielding
        .table
        .addresses
        .values_mut()
        .for_each(|e| e.yielding = true);
    assert_eq!(judge(&padded, &yielding), answered, "yielding still answers");
}

#[test]
fn whoever_probes_for_duplicates_is_told_before_all() {
    let answer = Frame {
        destination: Mac([0x33, 0x33, 0, 0, 0, 1]),
        source: OURS,
        from: VIP,
        to: "ff02::1".parse().unwrap(),
        message: Message::Advertisement {
            router: false,
            solicited: false,
            overrides: true,
        },
        target: VIP,
        link: Some(OURS),
    };
    assert_eq!(judged(&probe(PEER, VIP)), asks(Request::Answer(answer)));
    assert_eq!(judged(&probe(PEER, ASKED)), asks(Request::Ignored));
}

#[test]
fn nothing_else_is_answered() {
    for target in ["2001:db8::12:3457".parse().unwrap(), ASKED] {
        let other = Frame {
            target,
            ..solicitation()
        };
        assert_eq!(judged(&other), asks(Request::Ignored));
    }
    let to_another = Frame {
        destination: OTHER,
        ..solicitation()
    };
    assert_eq!(judged(&to_another), asks(Request::Ignored));
    let groups = [
        Frame {
            link: Some(GROUP_MAC),
            ..solicitation()
        },
        Frame {
            link: Some(OURS),
            ..solicitation()
        },
        Frame {
            source: OURS,
            ..solicitation()
        },
        Frame {
            source: Mac([0; 6]),
            link: None,
            ..solicitation()
        },
    ];
    for frame in groups {
        assert_eq!(judged(&frame), Judged::NOTHING, "{frame:?}");
    }
}

#[test]
fn whoever_advertises_or_asks_from_an_address_of_interest_claims_it() {
    for address in [VIP, ASKED] {
        let claim = Some((IpAddr::V6(address), PEER));
        let claimed = |frame: &Frame| judged(frame).claim;
        assert_eq!(claimed(&foreign(address)), claim);
        let without_option = Frame {
            link: None,
            ..foreign(address)
        };
        assert_eq!(claimed(&without_option), claim);
        let using = Frame {
            from: address,
            target: CLIENT,
            ..solicitation()
        };
        assert_eq!(claimed(&using), claim);
        assert_eq!(claimed(&probe(PEER, address)), None, "a probe claims nothing");
        let ours_through_another = Frame {
            link: Some(OURS),
            ..foreign(address)
        };
        assert_eq!(claimed(&ours_through_another), None);
    }
    assert_eq!(judged(&foreign(CLIENT)), Judged::NOTHING);
    // A machine with an address that is in dispute has a right to reach the others.
    let asking = judged(&Frame {
        from: ASKED,
        ..solicitation()
    });
    assert!(
        matches!(asking.request, Request::Answer(_)) && asking.claim.is_some(),
        "{asking:?}"
    );
}

#[test]
fn what_rfc_4861_calls_invalid_is_discarded() {
    let (asks, says, probes) = (solicitation(), unsolicited(OURS, VIP), probe(PEER, VIP));
    for frame in [&asks, &says, &probes] {
        assert_eq!(parsed_after(frame, |_| {}).as_ref(), Some(frame));
        let mut broken = frame.bytes();
        broken[57] ^= 1;
        assert_eq!(Frame::parse(&broken), None, "checksum");
        assert_eq!(parsed_after(frame, |bytes| bytes[21] = 254), None, "hop limit");
        assert_eq!(parsed_after(frame, |bytes| bytes[55] = 1), None, "code");
        assert_eq!(parsed_after(frame, |bytes| bytes[54] = 134), None, "type");
        assert_eq!(parsed_after(frame, |bytes| bytes[20] = 17), None, "next header");
        assert_eq!(parsed_after(frame, |bytes| bytes[14] = 0x40), None, "version");
        assert_eq!(
            parsed_after(frame, |bytes| bytes[12] = 0x08),
            None,
            "not Ethernet's number for IPv6"
        );
        assert_eq!(
            parsed_after(frame, |bytes| bytes[62] = 0xff),
            None,
            "target a group"
        );
        assert_eq!(
            parsed_after(frame, |bytes| bytes[22] = 0xff),
            None,
            "source a group"
        );
        assert_eq!(parsed_after(frame, |bytes| bytes.truncate(77)), None, "too short");
        assert_eq!(
            parsed_after(frame, |bytes| bytes.extend([14, 0, 0, 0, 0, 0, 0, 0])),
            None,
            "option of no length"
        );
        assert_eq!(
            parsed_after(frame, |bytes| bytes.extend([14, 2, 0, 0, 0, 0, 0, 0])),
            None,
            "option cut off"
        );
        assert_eq!(
            parsed_after(frame, |bytes| bytes.push(14)),
            None,
            "less than an option"
        );
        let unknown = parsed_after(frame, |bytes| bytes.extend([14, 1, 1, 2, 3, 4, 5, 6]));
        assert_eq!(
            unknown.as_ref(),
            Some(frame),
            "an unknown option such as a nonce is passed over"
        );
        let mut cut = frame.bytes();
        cut.pop();
        assert_eq!(Frame::parse(&cut), None, "less than the header says");
    }
    let long = parsed_after(&asks, |bytes| bytes.extend([1, 2].iter().chain(&[0; 14])));
    assert_eq!(long, None, "a link-layer address that is not Ethernet's");
    let from_nowhere = |frame: &Frame| {
        parsed_after(
            &Frame {
                from: Ipv6Addr::UNSPECIFIED,
                ..*frame
            },
            |_| {},
        )
    };
    assert_eq!(
        from_nowhere(&asks),
        None,
        "from nowhere, with a link-layer address"
    );
    assert_eq!(from_nowhere(&says), None);
    let to_all = Frame {
        to: ALL_NODES,
        ..probes
    };
    assert_eq!(
        parsed_after(&to_all, |_| {}),
        None,
        "from nowhere, not to a solicited-node group"
    );
    let to_group = Frame {
        message: Message::Advertisement {
            router: false,
            solicited: true,
            overrides: true,
        },
        ..says
    };
    assert_eq!(
        parsed_after(&to_group, |_| {}),
        None,
        "called solicited, to a group"
    );
}

fn any_mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(Mac)
}

fn unicast() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>()
        .prop_map(Ipv6Addr::from)
        .prop_filter("unicast", |address| {
            !address.is_multicast() && !address.is_unspecified()
        })
}

proptest! {
    #[test]
    fn frames_survive_the_round_trip(
        destination in any_mac(), source in any_mac(), from in unicast(), to in unicast(), target in unicast(),
        link in proptest::option::of(any_mac()), flags in any::<[bool; 4]>(),
    ) {
        let [solicits, router, solicited, overrides] = flags;
        let message = if solicits { Message::Solicitation } else { Message::Advertisement { router, solicited, overrides } };
        let frame = Frame { destination, source, from, to, message, target, link };
        prop_assert_eq!(Frame::parse(&frame.bytes()), Some(frame));
    }

    #[test]
    fn arbitrary_bytes_never_make_us_answer_for_something_else(
        mut bytes in proptest::collection::vec(any::<u8>(), 78..140), changes in proptest::collection::vec((0..86_usize, any::<u8>()), 0..4),
        arbitrary in any::<bool>(), good_sum in any::<bool>(),
    ) {
        if !arbitrary {
            bytes = solicitation().bytes();
        }
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if good_sum {
            with_checksum(&mut bytes);
        }
        let judged = judge(&bytes, &scope());
        if let Request::Answer(frame) = judged.request {
            prop_assert_eq!((frame.target, frame.link, frame.source), (VIP, Some(OURS), OURS));
            prop_assert!(frame.destination.is_station() || frame.to == ALL_NODES);
            prop_assert_eq!(Frame::parse(&frame.bytes()), Some(frame));
        }
        if let Some((address, by)) = judged.claim {
            prop_assert!(address == VIP || address == ASKED);
            prop_assert!(by != OURS);
        }
    }
}
