//! Classic BPF programs: which frames the sockets get at all.

use fairlead_core::model::Family;
use socket2::SockFilter;

use super::{arp, ndp};

/// linux/filter.h: offset of ancillary data, and the packet type in it.
const SKF_AD_PKTTYPE: u32 = (-0x1000_i32).cast_unsigned() + 4;

/// A field of a frame and the values that it may have.
struct Check {
    size: u32,
    at: u32,
    one_of: &'static [u32],
}

const ARP: &[Check] = &[
    check(libc::BPF_H, 12, &[libc::ETH_P_ARP as u32]),
    check(libc::BPF_W, 14, &[0x0001_0800]), // hardware type, protocol type
    check(libc::BPF_H, 18, &[0x0604]),      // address lengths
];

/// Whatever comes from beyond a router has a hop limit below 255, and is left to the kernel.
const NDP: &[Check] = &[
    check(libc::BPF_H, 12, &[libc::ETH_P_IPV6 as u32]),
    check(libc::BPF_B, 20, &[libc::IPPROTO_ICMPV6 as u32]),
    check(libc::BPF_B, 21, &[255]),
    check(libc::BPF_B, 54, &[135, 136]), // neighbour solicitation, neighbour advertisement
];

const fn check(size: u32, at: u32, one_of: &'static [u32]) -> Check {
    Check { size, at, one_of }
}

/// One instruction: code, jump if true, jump if false, operand.
type Step = (u32, usize, usize, u32);

/// Frames that say or ask who has an address of this family, sent to this machine or to many (not frames for others,
/// which a bridge or a capture makes the interface see).
pub(super) fn neighbours(family: Family) -> Vec<SockFilter> {
    let steps = match family {
        Family::V4 => program(ARP, arp::FRAME as u32),
        Family::V6 => program(NDP, ndp::LARGEST as u32),
    };
    let instruction = |(code, then, otherwise, operand): Step| {
        SockFilter::new(code as u16, then as u8, otherwise as u8, operand)
    };
    steps.into_iter().map(instruction).collect()
}

/// Accepts `length` bytes of a frame that passes all checks.
fn program(checks: &[Check], length: u32) -> Vec<Step> {
    let load = |size: u32, at: u32| (libc::BPF_LD | size | libc::BPF_ABS, 0, 0, at);
    let equal = |value: u32, then: usize, otherwise: usize| {
        (
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            then,
            otherwise,
            value,
        )
    };
    let accept = |length: u32| (libc::BPF_RET | libc::BPF_K, 0, 0, length);
    let end: usize = 2 + checks.iter().map(|check| 1 + check.one_of.len()).sum::<usize>();
    // Jumps count from the instruction after; the last one of all refuses.
    let refuse = |program: &[Step]| end - program.len();
    let mut program = vec![load(libc::BPF_W, SKF_AD_PKTTYPE)];
    program.push(equal(u32::from(libc::PACKET_OTHERHOST), refuse(&program), 0));
    for check in checks {
        program.push(load(check.size, check.at));
        let mut left = check.one_of.len();
        for value in check.one_of {
            left -= 1;
            let otherwise = if left == 0 { refuse(&program) } else { 0 };
            program.push(equal(*value, left, otherwise));
        }
    }
    program.push(accept(length));
    program.push(accept(0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_where_they_should() {
        let (load_word, load_half, load_byte, equal, ret) = (0x20, 0x28, 0x30, 0x15, 0x06);
        let expected = [
            (load_word, 0, 0, 0xffff_f004),
            (equal, 10, 0, 3),
            (load_half, 0, 0, 12),
            (equal, 0, 8, 0x86dd),
            (load_byte, 0, 0, 20),
            (equal, 0, 6, 58),
            (load_byte, 0, 0, 21),
            (equal, 0, 4, 255),
            (load_byte, 0, 0, 54),
            (equal, 1, 0, 135),
            (equal, 0, 1, 136),
            (ret, 0, 0, 1514),
            (ret, 0, 0, 0),
        ];
        assert_eq!(program(NDP, 1514), expected);
    }
}
