//! Membership in the solicited-node groups of announced addresses, so that switches which listen to MLD send
//! neighbour solicitations this way. A packet socket could make the interface take such frames, but tells no switch.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;

use socket2::{Domain, Socket, Type};
use tracing::warn;

/// The groups joined on one interface. Dropping it leaves them.
pub(super) struct Groups {
    interface: u32,
    /// The kernel bounds the memory of one socket's memberships (net.core.optmem_max), so there may be several.
    sockets: Vec<Socket>,
    /// The groups and which socket has joined.
    joined: BTreeMap<Ipv6Addr, usize>,
    complained: bool,
}

impl Groups {
    /// No group yet, on the interface with this number.
    pub(super) fn new(interface: u32) -> Self {
        Self {
            interface,
            sockets: Vec::new(),
            joined: BTreeMap::new(),
            complained: false,
        }
    }

    /// Is a member of exactly these from now on, as far as the kernel allows.
    pub(super) fn sync(&mut self, wanted: &BTreeSet<Ipv6Addr>) {
        let Self {
            interface,
            sockets,
            joined,
            ..
        } = self;
        joined.retain(|group, socket| {
            let stays = wanted.contains(group);
            if !stays {
                // It fails only if the interface has gone, and the membership with it.
                let _ = sockets[*socket].leave_multicast_v6(group, *interface);
            }
            stays
        });
        for group in wanted {
            if self.joined.contains_key(group) {
                continue;
            }
            match self.join(group) {
                Ok(socket) => {
                    self.joined.insert(*group, socket);
                }
                Err(error) if !self.complained => {
                    self.complained = true;
                    warn!(%group, %error, "cannot join a solicited-node group; a switch that snoops MLD may hide requests");
                }
                Err(_) => {}
            }
        }
    }

    fn join(&mut self, group: &Ipv6Addr) -> io::Result<usize> {
        if let Some(last) = self.sockets.last() {
            match last.join_multicast_v6(group, self.interface) {
                Ok(()) => return Ok(self.sockets.len() - 1),
                Err(error) if full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.join_multicast_v6(group, self.interface)?;
        self.sockets.push(socket);
        Ok(self.sockets.len() - 1)
    }
}

fn full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS))
}
