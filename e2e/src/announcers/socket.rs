//! A raw socket on one interface, packet(7).

use std::ffi::CString;
use std::io::{self, Read};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// No frame of interest is longer.
const LONGEST: usize = 256;

/// The socket. It stays in the network namespace in which it was opened.
pub(super) struct Wire {
    socket: Socket,
}

impl Wire {
    /// Opens one on the interface of this name, which sees every frame there.
    pub fn open(interface: &str) -> io::Result<Self> {
        let name = CString::new(interface).map_err(io::Error::other)?;
        let index = nix::net::if_::if_nametoindex(name.as_c_str())?;
        // With protocol 0 nothing arrives before the interface is chosen.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.bind(&address(index)?)?;
        Ok(Self { socket })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        match self.socket.send(frame) {
            // No room in the interface's queue: lost, as on the wire. The next round asks again.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Waits for a frame, at the longest for `limit`.
    pub fn receive(&self, limit: Duration) -> io::Result<Option<Vec<u8>>> {
        // A time-out of zero would be none.
        let limit = limit.max(Duration::from_micros(100));
        self.socket.set_read_timeout(Some(limit))?;
        let mut frame = vec![0; LONGEST];
        match (&self.socket).read(&mut frame) {
            Ok(length) => {
                frame.truncate(length);
                Ok(Some(frame))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

#[allow(unsafe_code, reason = "socket2 does not build link-layer addresses")]
fn address(interface: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(interface).map_err(io::Error::other)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a socket address for which all zeroes is a valid value, and it fits in the storage.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    link.sll_ifindex = index;
    // SAFETY: the storage holds a sockaddr_ll, and the length is that of one.
    Ok(unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
}
