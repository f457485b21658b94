//! A raw socket that sees the ARP or the neighbour discovery of one interface (packet(7)). Needs CAP_NET_RAW.

use std::io::{self, Read};
use std::os::fd::AsRawFd;

use fairlead_core::model::Family;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::filter;

/// Not in the libc crate: linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// The socket.
pub struct WireSocket {
    fd: AsyncFd<Socket>,
}

impl WireSocket {
    /// Opens a socket for a family on the interface with this number: ARP for IPv4, neighbour solicitations and
    /// advertisements for IPv6.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when there is no such interface.
    pub fn open(interface: u32, family: Family) -> io::Result<Self> {
        // With protocol 0 nothing arrives before the filter is in place and the interface is chosen.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.attach_filter(&filter::neighbours(family))?;
        ignore_outgoing(&socket)?;
        socket.set_nonblocking(true)?;
        let protocol = match family {
            Family::V4 => libc::ETH_P_ARP,
            Family::V6 => libc::ETH_P_IPV6,
        };
        socket.bind(&address(interface, protocol as u16)?)?;
        register(socket).map(|fd| Self { fd })
    }

    /// May this process open such sockets?
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub fn permitted() -> io::Result<()> {
        Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).map(|_| ())
    }

    /// Waits for a frame and returns its length. Cancel safe: a frame is taken only when this returns.
    ///
    /// # Errors
    /// When the interface has gone down or away.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.fd.readable().await?;
            if let Ok(result) = guard.try_io(|fd| fd.get_ref().read(buffer)) {
                return result;
            }
        }
    }

    /// Sends a frame. It never waits: a frame that the interface has no room for is lost, as on the wire.
    ///
    /// # Errors
    /// When the frame could not be sent.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.fd.get_ref().send(frame).map(|_| ())
    }
}

#[allow(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, and nothing replaces or closes it while it is inside.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

#[allow(unsafe_code, reason = "socket2 has no call for this option")]
fn ignore_outgoing(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, which lives through the call; the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[allow(unsafe_code, reason = "socket2 does not build link-layer addresses")]
fn address(interface: u32, protocol: u16) -> io::Result<SockAddr> {
    let index = i32::try_from(interface).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a socket address for which all zeroes is a valid value, and it fits in the storage.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = index;
    // SAFETY: the storage holds a sockaddr_ll, and the length is that of one.
    Ok(unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
}
