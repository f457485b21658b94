//! A netlink socket to netfilter. It blocks, for a few seconds at the most.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::wire::{Message, Messages};

/// The kernel answers at once; silence for so long means that an answer was lost.
const PATIENCE: TimeVal = TimeVal::new(5, 0);
/// The kernel fills messages up to this size when it lists.
const BUFFER: usize = 32 * 1024;
/// Room for what the kernel says until it is read.
const ROOM: usize = 1024 * 1024;

/// A netlink socket to netfilter, with the number of its last request.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    /// Opens one in the network namespace of this thread.
    ///
    /// # Errors
    /// What the system said.
    pub fn open() -> Result<Self, Errno> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &PATIENCE)?;
        // More than the system's limit takes a privilege; without it the limit has to do.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &ROOM);
        Ok(Self {
            fd,
            buffer: vec![0; BUFFER],
            sequence: 0,
        })
    }

    /// A number for the next message.
    pub fn number(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends messages.
    ///
    /// # Errors
    /// What the system said.
    pub fn send(&self, messages: &[u8]) -> Result<(), Errno> {
        send(self.fd.as_raw_fd(), messages, MsgFlags::empty()).map(drop)
    }

    /// Gives each answer to `take` until the end of the list that message number `request` asked for.
    ///
    /// # Errors
    /// What the kernel said of the request, or the system of reading.
    pub fn list(&mut self, request: u32, mut take: impl FnMut(&Message)) -> Result<(), Errno> {
        loop {
            for message in Messages(self.receive()?).filter(|message| message.sequence == request) {
                match message.kind {
                    Message::DONE | Message::ERROR => return check(message.errno()),
                    _ => take(&message),
                }
            }
        }
    }

    /// Waits for the acknowledgement of message number `last`, and answers how the requests before it and itself that
    /// failed did so.
    ///
    /// # Errors
    /// What the system said of reading.
    pub fn acknowledged(&mut self, last: u32) -> Result<Vec<Errno>, Errno> {
        let mut failures = Vec::new();
        loop {
            for message in Messages(self.receive()?).filter(|message| message.kind == Message::ERROR) {
                failures.extend(check(message.errno()).err());
                if message.sequence == last {
                    return Ok(failures);
                }
            }
        }
    }

    fn receive(&mut self) -> Result<&[u8], Errno> {
        let length = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
        Ok(&self.buffer[..length])
    }
}

fn check(errno: i32) -> Result<(), Errno> {
    match errno {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}
