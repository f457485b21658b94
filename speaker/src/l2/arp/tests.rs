use std::collections::BTreeMap;

use super::*;
use crate::l2::ConflictPolicy;
use crate::l2::table::Entry;
use proptest::prelude::*;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 3]);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const ASKED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 102);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

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

fn judged(frame: &Frame) -> Judged<Frame> {
    judge(&frame.bytes(), &scope())
}

fn asks(request: Request<Frame>) -> Judged<Frame> {
    Judged { request, claim: None }
}

fn hex(frame: &Frame) -> String {
    frame.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_of_a_request_are_those_of_rfc_826_and_of_a_probe_those_of_rfc_5227() {
    let expected =
        "ffffffffffff 020000000002 0806 0001 0800 06 04 0001 020000000002 c0000207 000000000000 c0000264";
    assert_eq!(hex(&request()), expected.replace(' ', ""));
    let expected =
        "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 00000000 000000000000 c0000264";
    assert_eq!(hex(&probe(OURS, VIP)), expected.replace(' ', ""));
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
    let answered = asks(Request::Answer(answer));
    assert_eq!(judged(&request()), answered);
    let unicast = Frame {
        destination: OURS,
        ..request()
    };
    assert_eq!(judged(&unicast), answered);
    // RFC 5227 §2.1.1: a probe has the sender address 0.0.0.0.
    let to_prober = Frame {
        target: Ipv4Addr::UNSPECIFIED,
        ..answer
    };
    assert_eq!(judged(&probe(PEER, VIP)), asks(Request::Answer(to_prober)));
    let mut padded = request().bytes().to_vec();
    padded.resize(60, 0);
    let mut yielding = scope();
    yielding
        .table
        .addresses
        .values_mut()
        .for_each(|e| e.yielding = true);
    assert_eq!(judge(&padded, &yielding), answered, "yielding still answers");
}

#[test]
fn nothing_else_is_answered() {
    for target in [Ipv4Addr::new(192, 0, 2, 101), ASKED] {
        let other = Frame { target, ..request() };
        assert_eq!(judged(&other), asks(Request::Ignored));
    }
    let to_another = Frame {
        destination: OTHER,
        ..request()
    };
    assert_eq!(judged(&to_another), asks(Request::Ignored));
    assert_eq!(
        judge(&request().bytes(), &Scope::new(OURS)),
        asks(Request::Ignored)
    );
    let reply = Frame {
        operation: Operation::Reply,
        ..request()
    };
    assert_eq!(judged(&reply), Judged::NOTHING);
    let from_group = Frame {
        sender_mac: Mac::BROADCAST,
        ..request()
    };
    assert_eq!(judged(&from_group), Judged::NOTHING);
    let own = Frame {
        sender_mac: OURS,
        ..request()
    };
    assert_eq!(judged(&own), Judged::NOTHING);
    assert_eq!(judge(&request().bytes()[..FRAME - 1], &scope()), Judged::NOTHING);
}

#[test]
fn whoever_sends_from_an_address_of_interest_claims_it() {
    for address in [VIP, ASKED] {
        let claim = Some((address.into(), PEER));
        for frame in gratuitous(PEER, address) {
            let request = Request::None;
            assert_eq!(judged(&frame), Judged { request, claim });
        }
        let using = Frame {
            sender: address,
            target: CLIENT,
            ..request()
        };
        let ignored = Request::Ignored;
        assert_eq!(
            judged(&using),
            Judged {
                request: ignored,
                claim
            }
        );
        assert_eq!(
            judged(&probe(PEER, address)).claim,
            None,
            "a probe claims nothing"
        );
    }
    // A machine with an address that is in dispute has a right to reach the others.
    let asking = Frame {
        sender: ASKED,
        ..request()
    };
    let both = judged(&asking);
    assert!(
        matches!(both.request, Request::Answer(_)) && both.claim.is_some(),
        "{both:?}"
    );
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
        mut bytes in proptest::collection::vec(any::<u8>(), 0..80), fixed in any::<bool>(), about_us in any::<bool>(),
    ) {
        if fixed && bytes.len() >= FRAME {
            bytes[12..14].copy_from_slice(&ETHERTYPE);
            bytes[14..20].copy_from_slice(&ETHERNET_IPV4);
            if about_us {
                bytes[..6].fill(0xff);
                bytes[38..42].copy_from_slice(&VIP.octets());
            }
        }
        let judged = judge(&bytes, &scope());
        if let Request::Answer(frame) = judged.request {
            prop_assert_eq!((frame.sender, frame.sender_mac, frame.source), (VIP, OURS, OURS));
            prop_assert!(frame.destination.is_station());
        }
        if let Some((address, by)) = judged.claim {
            prop_assert!(address == VIP || address == ASKED);
            prop_assert!(by != OURS);
        }
    }
}
