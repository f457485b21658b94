//! The netlink socket to nf_tables: transactions and dumps. Everything here blocks, if only for as long as the kernel
//! works.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self as sys, MsgFlags, NetlinkAddr, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::batch::Batch;
use super::error::{Answer, KernelError, Refusal, task};
use super::message::{Message, Messages, flag, kind};

/// What the kernel may have to say at once: an error for every message of a transaction.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Longer than any datagram of the kernel.
const DATAGRAM: usize = 256 << 10;
/// A dump goes on within milliseconds, or not at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket on which the kernel, and nobody else, answers.
#[derive(Debug)]
pub struct NetlinkSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    /// Room for what is sent, as it was last set.
    room: usize,
}

impl NetlinkSocket {
    /// Opens one. Needs CAP_NET_ADMIN for all that follows.
    ///
    /// # Errors
    /// When the kernel has no nfnetlink, or does not let us.
    pub fn open() -> Result<Self, KernelError> {
        let socket = open()?;
        set_option(&socket, libc::NETLINK_EXT_ACK, 1)?;
        // An error does not repeat the message that it is about.
        set_option(&socket, libc::NETLINK_CAP_ACK, 1)?;
        // Connected, it takes nothing from other processes.
        let kernel = NetlinkAddr::new(0, 0);
        sys::connect(socket.as_raw_fd(), &kernel).map_err(failed("connect"))?;
        socket
            .set_read_timeout(Some(PATIENCE))
            .map_err(socket_error("set up"))?;
        Ok(Self {
            port: port(&socket)?,
            socket,
            sequence: 0,
            buffer: vec![0; DATAGRAM],
            room: 0,
        })
    }

    /// The number by which the kernel knows this socket.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Carries a transaction out: all of it, or nothing.
    ///
    /// # Errors
    /// When the kernel refuses it; see [`KernelError`].
    pub fn commit(&mut self, batch: &mut Batch) -> Result<(), KernelError> {
        self.drain()?;
        batch.finish();
        let bytes = batch.bytes();
        if self.room < bytes.len() {
            // The whole transaction is one datagram.
            let room = bytes.len() + 4096;
            sys::setsockopt(&self.socket, sockopt::SndBufForce, &room).map_err(failed("enlarge"))?;
            self.room = room;
        }
        self.send(bytes)?;
        // The kernel works while we send: all that it has to say is there now.
        let (mut acknowledged, mut lost) = (false, false);
        let mut refusals: Vec<Answer> = Vec::new();
        loop {
            let length = match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                Err(KernelError::Overrun) => {
                    lost = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for message in Messages::new(&self.buffer[..length]) {
                let message = message?;
                if message.kind != kind::ERROR {
                    continue;
                }
                let answer = Answer::read(message.payload, message.flags)?;
                if answer.errno == 0 {
                    acknowledged = true;
                } else {
                    refusals.push(answer);
                }
            }
        }
        if refusals.iter().any(|answer| answer.errno == ERESTART) {
            return Err(KernelError::Changed);
        }
        match refusals.first() {
            Some(first) => Err(KernelError::Refused(Box::new(Refusal {
                errno: first.errno,
                said: first.said.clone(),
                task: task(batch.sent(first.sequence).unwrap_or_default(), first.offset),
                others: refusals.len() - 1,
            }))),
            None if lost => Err(KernelError::Overrun),
            None if !acknowledged => Err(KernelError::Silent),
            None => Ok(()),
        }
    }

    /// Asks, and hands every message of the answer to `each`. Says whether the answer is of one piece: tables may have
    /// changed while it was written.
    ///
    /// # Errors
    /// What the kernel answers: ENOENT when there is no such thing.
    pub fn ask(
        &mut self,
        request: u16,
        dump: bool,
        family: u8,
        write: impl FnOnce(&mut Vec<u8>),
        mut each: impl FnMut(Message<'_>) -> Result<(), KernelError>,
    ) -> Result<bool, KernelError> {
        self.drain()?;
        self.sequence += 1;
        let flags = if dump { flag::DUMP } else { flag::ACK };
        let mut bytes = Vec::new();
        let begun = super::message::begin(&mut bytes, request, flags, self.sequence, family, 0);
        write(&mut bytes);
        super::message::end(&mut bytes, begun);
        self.send(&bytes)?;
        let mut whole = true;
        loop {
            let length = self.receive(MsgFlags::empty())?.ok_or(KernelError::Silent)?;
            for message in Messages::new(&self.buffer[..length]) {
                let message = message?;
                if message.sequence != self.sequence {
                    continue;
                }
                whole &= message.flags & flag::INTERRUPTED == 0;
                match message.kind {
                    kind::DONE => return Ok(whole),
                    kind::OVERRUN => return Err(KernelError::Overrun),
                    kind::ERROR => {
                        let answer = Answer::read(message.payload, message.flags)?;
                        return match answer.errno {
                            0 => Ok(whole),
                            errno => Err(KernelError::Refused(Box::new(Refusal {
                                errno,
                                said: answer.said,
                                task: task(&bytes, None),
                                others: 0,
                            }))),
                        };
                    }
                    _ => each(message)?,
                }
            }
        }
    }

    /// Throws away what is left of an answer that was given up.
    fn drain(&mut self) -> Result<(), KernelError> {
        loop {
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(None) => return Ok(()),
                Ok(Some(_)) | Err(KernelError::Overrun) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), KernelError> {
        match self.socket.send(bytes) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) => Err(KernelError::Silent),
            Err(source) => Err(socket_error("write to")(source)),
        }
    }

    /// Takes the next datagram; `None` if there is none.
    fn receive(&mut self, flags: MsgFlags) -> Result<Option<usize>, KernelError> {
        receive(&self.socket, &mut self.buffer, flags)
    }
}

/// Not in the libc crate for this: include/linux/errno.h has it as a number of the kernel's own.
const ERESTART: i32 = libc::ERESTART;

/// A bound socket with large buffers.
pub(super) fn open() -> Result<Socket, KernelError> {
    let protocol = Protocol::from(libc::NETLINK_NETFILTER);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))
        .map_err(socket_error("open"))?;
    sys::setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).map_err(failed("enlarge"))?;
    sys::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed("bind"))?;
    Ok(socket)
}

fn port(socket: &Socket) -> Result<u32, KernelError> {
    let address: NetlinkAddr =
        sys::getsockname(socket.as_raw_fd()).map_err(failed("ask for the number of"))?;
    Ok(address.pid())
}

/// Takes the next datagram; `None` if there is none, or none came in time.
pub(super) fn receive(
    socket: &Socket,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> Result<Option<usize>, KernelError> {
    loop {
        return match sys::recv(socket.as_raw_fd(), buffer, flags | MsgFlags::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => Err(super::attr::Malformed.into()),
            Ok(length) => Ok(Some(length)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EINTR) => continue,
            Err(Errno::ENOBUFS) => Err(KernelError::Overrun),
            Err(error) => Err(failed("read from")(error)),
        };
    }
}

#[allow(unsafe_code, reason = "neither socket2 nor nix has the options of netlink")]
pub(super) fn set_option(
    socket: &Socket,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<(), KernelError> {
    // SAFETY: the option's value is an int, which lives through the call; the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(socket_error("set up")(io::Error::last_os_error()))
    }
}

fn failed(doing: &'static str) -> impl Fn(Errno) -> KernelError {
    move |errno| KernelError::Socket {
        doing,
        source: errno.into(),
    }
}

pub(super) fn socket_error(doing: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::Socket { doing, source }
}
