//! The frames of the witness: questions by ARP (RFC 826) and NDP (RFC 4861 §4.3), and who claims an address by what it
//! says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A MAC address.
pub(super) type Mac = [u8; 6];

const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Reads `02:fa:17:ea:30:0b`.
pub(super) fn mac(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

/// Writes it as the lab does.
pub(super) fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Who has this address? Asked of everybody, by a machine with these addresses.
pub(super) fn question(mac: Mac, v4: Ipv4Addr, v6: Ipv6Addr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_request(mac, v4, address),
        IpAddr::V6(address) => solicitation(mac, v6, address),
    }
}

fn arp_request(mac: Mac, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let parts: [&[u8]; 9] = [
        &[0xff; 6],
        &mac,
        &ARP,
        &ETHERNET_IPV4,
        &[0, 1],
        &mac,
        &from.octets(),
        &[0; 6],
        &target.octets(),
    ];
    parts.concat()
}

fn solicitation(mac: Mac, from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let last = target.octets();
    // The solicited-node group, RFC 4291 §2.7.1, and its Ethernet address, RFC 2464 §7.
    let group = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(last[13]),
        u16::from_be_bytes([last[14], last[15]]),
    );
    let ether = [0x33, 0x33, 0xff, last[13], last[14], last[15]];
    // With the source link-layer address option.
    let mut message: Vec<u8> = [
        &[SOLICITATION, 0, 0, 0, 0, 0, 0, 0][..],
        &target.octets(),
        &[1, 1],
        &mac,
    ]
    .concat();
    let sum = checksum(from, group, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = (message.len() as u16).to_be_bytes();
    let parts: [&[u8]; 8] = [
        &ether,
        &mac,
        &IPV6,
        &[0x60, 0, 0, 0],
        &[length[0], length[1], ICMPV6, 255],
        &from.octets(),
        &group.octets(),
        &message,
    ];
    parts.concat()
}

/// RFC 4443 §2.3, over the pseudo-header of RFC 8200 §8.1.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let all = [
        &from.octets()[..],
        &to.octets(),
        &length,
        &[0, 0, 0, ICMPV6],
        message,
    ]
    .concat();
    let mut sum: u32 = all
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Which address a frame claims, and for which MAC address: an ARP reply, a gratuitous ARP request, a neighbour
/// advertisement.
pub(super) fn claim(frame: &[u8]) -> Option<(IpAddr, Mac)> {
    match frame.get(12..14)?.try_into().ok()? {
        ARP => arp_claim(frame.get(14..42)?),
        IPV6 => advertisement(frame.get(6..12)?.try_into().ok()?, frame.get(14..)?),
        _ => None,
    }
}

fn arp_claim(packet: &[u8]) -> Option<(IpAddr, Mac)> {
    if packet[..6] != ETHERNET_IPV4 {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let (sender, target) = (address(14)?, address(24)?);
    let claims = match packet[6..8] {
        [0, 1] => sender == target,
        [0, 2] => true,
        _ => false,
    };
    let mac = packet[8..14].try_into().ok()?;
    claims.then_some((sender.into(), mac))
}

/// The target link-layer address option tells the MAC address; without it, the frame's own does.
fn advertisement(source: Mac, packet: &[u8]) -> Option<(IpAddr, Mac)> {
    // No extension headers: RFC 6980 and hop limit 255 leave no room for what would hide them.
    if packet.get(6..8)? != [ICMPV6, 255] || *packet.get(40)? != ADVERTISEMENT {
        return None;
    }
    let target = Ipv6Addr::from(*packet.get(48..)?.first_chunk::<16>()?);
    let mac = match packet.get(64..72) {
        Some([2, 1, mac @ ..]) => mac.try_into().ok()?,
        _ => source,
    };
    Some((target.into(), mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const NODE: Mac = [2, 0xfa, 0x17, 0xea, 0x30, 0x0b];
    const V4: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 200);

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn questions_claim_nothing() {
        for address in ["172.30.0.100", "fd00:30::100"] {
            let question = question(OWN, V4, v6("fd00:30::200"), address.parse().unwrap());
            assert_eq!(claim(&question), None, "{address}");
        }
    }

    #[test]
    fn replies_and_gratuitous_requests_claim_and_probes_do_not() {
        let frame = |operation: u8, sender: [u8; 4], target: [u8; 4]| {
            let mut frame = arp_request(NODE, sender.into(), target.into());
            frame[21] = operation;
            frame
        };
        let vip = [172, 30, 0, 100];
        assert_eq!(
            claim(&frame(2, vip, V4.octets())),
            Some((Ipv4Addr::from(vip).into(), NODE))
        );
        assert_eq!(
            claim(&frame(1, vip, vip)),
            Some((Ipv4Addr::from(vip).into(), NODE))
        );
        assert_eq!(claim(&frame(1, [0; 4], vip)), None);
        assert_eq!(claim(&frame(1, V4.octets(), vip)), None);
        assert_eq!(claim(&frame(2, vip, vip)[..30]), None);
    }

    #[test]
    fn an_advertisement_names_its_target() {
        let vip = v6("fd00:30::1:100");
        let mut frame = solicitation(NODE, v6("fe80::1"), vip);
        frame[14 + 40] = ADVERTISEMENT;
        frame[14 + 64] = 2;
        assert_eq!(claim(&frame), Some((vip.into(), NODE)));
        let bare = &frame[..14 + 64];
        assert_eq!(claim(bare), Some((vip.into(), NODE)));
        frame[14 + 7] = 64;
        assert_eq!(claim(&frame), None, "it has passed a router");
    }

    #[test]
    fn a_solicitation_is_as_the_kernel_wants_it() {
        let (from, vip) = (v6("fd00:30::200"), v6("fd00:30::1:2345"));
        let frame = solicitation(OWN, from, vip);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x01, 0x23, 0x45]);
        let group = v6("ff02::1:ff01:2345");
        assert_eq!(frame[14 + 24..14 + 40], group.octets());
        // Over a message with the right checksum in it, the sum is zero.
        assert_eq!(checksum(from, group, &frame[54..]), 0);
    }

    #[test]
    fn macs_are_read_and_written() {
        assert_eq!(mac("02:fa:17:ea:30:0b"), Some(NODE));
        assert_eq!(text(NODE), "02:fa:17:ea:30:0b");
        assert_eq!(mac("02:fa"), None);
    }
}
