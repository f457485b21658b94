//! Frames from the wire: whatever arrives, only an announced address is answered for, by a frame that is itself valid and
//! goes to a single machine, or to all nodes where RFC 4861 says so.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_speaker::l2::{ConflictPolicy, Entry, Mac, Request, Scope, arp, ndp};
use libfuzzer_sys::fuzz_target;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);

fuzz_target!(|bytes: &[u8]| {
    let scope = scope();
    let judged = arp::judge(bytes, &scope);
    assert_claim(judged.claim);
    if let Request::Answer(answer) = judged.request {
        assert_eq!(
            (answer.sender, answer.sender_mac, answer.source),
            (V4, OURS, OURS)
        );
        assert!(answer.destination.is_station());
        assert_eq!(arp::Frame::parse(&answer.bytes()), Some(answer));
    }
    // As it is, and with the right checksum, which chance does not find.
    let mut corrected = bytes.to_vec();
    correct(&mut corrected);
    for bytes in [bytes, &corrected] {
        let judged = ndp::judge(bytes, &scope);
        assert_claim(judged.claim);
        if let Request::Answer(answer) = judged.request {
            assert_eq!(
                (answer.target, answer.link, answer.source),
                (V6, Some(OURS), OURS)
            );
            assert!(
                answer.destination.is_station() || answer.to == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
            );
            assert_eq!(ndp::Frame::parse(&answer.bytes()), Some(answer));
        }
        if let Some(frame) = ndp::Frame::parse(bytes) {
            assert_eq!(ndp::Frame::parse(&frame.bytes()), Some(frame));
        }
    }
});

fn scope() -> Scope {
    let entry = Entry {
        claim: 1,
        yielding: false,
        policy: ConflictPolicy::Defend,
    };
    let mut scope = Scope::new(OURS);
    scope.table.addresses = [(V4.into(), entry), (V6.into(), entry)].into();
    scope
}

fn assert_claim(claim: Option<(IpAddr, Mac)>) {
    if let Some((address, by)) = claim {
        assert!(address == V4 || address == V6);
        assert!(by != OURS);
    }
}

/// Puts the right checksum into an ICMPv6 packet.
fn correct(bytes: &mut [u8]) {
    let Some((head, packet)) = bytes.split_first_chunk_mut::<54>() else {
        return;
    };
    let length = usize::from(u16::from_be_bytes([head[18], head[19]]));
    let Some(packet) = packet.get_mut(..length).filter(|packet| packet.len() >= 4) else {
        return;
    };
    packet[2..4].fill(0);
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    let sum: u64 = head[22..].chunks(2).chain(packet.chunks(2)).map(word).sum();
    let mut sum = sum + length as u64 + 58;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
