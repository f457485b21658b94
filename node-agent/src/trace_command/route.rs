//! By which interface an address is reached, by rtnetlink.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::net::if_::if_indextoname;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::nft::netlink::attr::{Attributes, Write};

const HEADER: usize = 16;
/// The fixed part of a message about a route.
const ROUTE: usize = 12;

/// The name of the interface that a packet to the address leaves by; `None` without a route.
///
/// # Errors
/// What the system says.
pub fn interface_towards(address: IpAddr) -> io::Result<Option<String>> {
    const DESTINATION: u16 = 1;
    let (family, bits, bytes) = match address {
        IpAddr::V4(address) => (libc::AF_INET, 32, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, 128, address.octets().to_vec()),
    };
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let mut request = vec![0; HEADER + ROUTE];
    request[4..6].copy_from_slice(&libc::RTM_GETROUTE.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request[HEADER] = family as u8;
    request[HEADER + 1] = bits;
    request.bytes(DESTINATION, &bytes);
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = vec![0; 8192];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    Ok(outgoing(&answer[..length]).and_then(|index| {
        let name = if_indextoname(index).ok()?;
        name.into_string().ok()
    }))
}

/// The index of the interface in the answer.
fn outgoing(answer: &[u8]) -> Option<u32> {
    const INTERFACE: u16 = 4;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != libc::RTM_NEWROUTE {
        return None;
    }
    let attributes = Attributes::new(answer.get(HEADER + ROUTE..)?);
    let interface = attributes.find(INTERFACE).ok()??;
    Some(u32::from_ne_bytes(interface.value.try_into().ok()?))
}
