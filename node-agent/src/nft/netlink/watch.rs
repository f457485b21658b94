//! Who else changes our tables. A second socket hears of every change of any table in this network namespace; a filter
//! in the kernel throws away what comes from ourselves and what kube-proxy does with its own table, which can be much.

use nix::sys::socket::MsgFlags;
use socket2::{SockFilter, Socket};
use tokio::io::unix::AsyncFd;

use super::attr::Malformed;
use super::error::KernelError;
use super::message::{Message, Messages, TableFamily, kind};
use super::socket::{open, receive, set_option, socket_error};

/// Changes of nf_tables among the groups of nfnetlink.
const GROUP: libc::c_int = 7;
/// Longer than any datagram of the kernel.
const DATAGRAM: usize = 256 << 10;

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Somebody changed tables with our name.
    Changed {
        /// The families of the tables.
        families: Vec<TableFamily>,
        /// The name of the process.
        process: String,
        /// Its number.
        pid: u32,
    },
    /// More happened than could be told: anything may have changed.
    Unknown,
}

/// The socket that hears of changes.
#[derive(Debug)]
pub struct Watch {
    fd: AsyncFd<Socket>,
    table: &'static str,
    buffer: Vec<u8>,
    /// Families of tables that the transaction being told touched.
    touched: Vec<TableFamily>,
    /// What was read and not yet told.
    pending: Vec<Heard>,
}

impl Watch {
    /// Hears from now on of changes of tables with this name that come from other sockets than `own`, which have to be
    /// open already. Needs a tokio runtime.
    ///
    /// As long as anybody listens, the kernel writes a message for every element of every transaction, which makes one
    /// with 100 000 elements take twice as long or more; that is worth opening this after the first large one only.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or when there is no nfnetlink.
    pub fn open(table: &'static str, own: &[u32]) -> Result<Self, KernelError> {
        let socket = open()?;
        socket
            .attach_filter(&filter(own))
            .map_err(socket_error("filter"))?;
        set_option(&socket, libc::NETLINK_ADD_MEMBERSHIP, GROUP)?;
        socket.set_nonblocking(true).map_err(socket_error("set up"))?;
        Ok(Self {
            fd: register(socket).map_err(socket_error("wait for"))?,
            table,
            buffer: vec![0; DATAGRAM],
            touched: Vec::new(),
            pending: Vec::new(),
        })
    }

    /// Waits for the next change. Cancel safe.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub async fn next(&mut self) -> Result<Heard, KernelError> {
        loop {
            if !self.pending.is_empty() {
                return Ok(self.pending.remove(0));
            }
            let mut guard = self.fd.readable().await.map_err(socket_error("wait for"))?;
            match receive(guard.get_inner(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(None) => guard.clear_ready(),
                Ok(Some(length)) => {
                    let heard = listen(&self.buffer[..length], self.table, &mut self.touched);
                    self.pending.extend(heard);
                }
                Err(KernelError::Overrun | KernelError::Malformed(_)) => {
                    self.touched.clear();
                    return Ok(Heard::Unknown);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a datagram tells. The objects of a transaction come first, then the new generation with the process.
fn listen(datagram: &[u8], table: &str, touched: &mut Vec<TableFamily>) -> Vec<Heard> {
    let mut heard = Vec::new();
    for message in Messages::new(datagram) {
        match message.and_then(|message| note(&message, table, touched)) {
            Ok(told) => heard.extend(told),
            Err(Malformed) => heard.push(Heard::Unknown),
        }
    }
    heard
}

fn note(
    message: &Message<'_>,
    table: &str,
    touched: &mut Vec<TableFamily>,
) -> Result<Option<Heard>, Malformed> {
    if message.kind == kind::NEW_GENERATION {
        let families = std::mem::take(touched);
        if families.is_empty() {
            return Ok(None);
        }
        let attributes = message.attributes()?;
        let process = attributes.find(3)?.map(|name| name.text()).transpose()?;
        let pid = attributes.find(2)?.map(|pid| pid.number()).transpose()?;
        return Ok(Some(Heard::Changed {
            families,
            process: process.unwrap_or("unknown").to_owned(),
            pid: pid.unwrap_or_default(),
        }));
    }
    let of_objects =
        (kind::NEW_TABLE..=kind::DEL_ELEMENTS).contains(&message.kind) || message.kind > kind::GET_GENERATION;
    if !of_objects {
        return Ok(None);
    }
    let family = [TableFamily::Inet, TableFamily::Ip, TableFamily::Ip6]
        .into_iter()
        .find(|family| Ok(family.number()) == message.family());
    let named = message
        .attributes()?
        .find(1)?
        .map(|name| name.value)
        .unwrap_or_default();
    if let Some(family) = family
        && named.strip_suffix(&[0]).unwrap_or(named) == table.as_bytes()
        && !touched.contains(&family)
    {
        touched.push(family);
    }
    Ok(None)
}

/// A classic BPF program: everything but what comes from our own sockets, and what begins with kube-proxy's table. The
/// kernel may tell several changes of one transaction in one datagram, of which the first is looked at; kube-proxy
/// never changes two tables at once, and who deletes all tables has more to tell of ours than fits behind kube-proxy's.
fn filter(own: &[u32]) -> Vec<SockFilter> {
    /// Where the socket that caused it stands in the header, and the value of the first attribute behind the headers.
    const PORT: u32 = 12;
    const NAME: u32 = 24;
    let load = |size: u32, at: u32| SockFilter::new((libc::BPF_LD | size | libc::BPF_ABS) as u16, 0, 0, at);
    let equal = |value: u32, then: usize, otherwise: usize| {
        SockFilter::new(
            (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            then as u8,
            otherwise as u8,
            value,
        )
    };
    let give = |length: u32| SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, length);
    let word = |four: &[u8; 4]| u32::from_be_bytes(*four);
    // Instructions behind those that compare numbers of sockets: three loads and comparisons, then the two ends.
    const BEHIND: usize = 6;
    let mut program = vec![load(libc::BPF_W, PORT)];
    for (index, port) in own.iter().enumerate() {
        // The header is in the order of the host, and is loaded as if it were big-endian.
        program.push(equal(port.to_be(), own.len() - index - 1 + BEHIND + 1, 0));
    }
    program.extend([
        load(libc::BPF_W, NAME),
        equal(word(b"kube"), 0, 4),
        load(libc::BPF_W, NAME + 4),
        equal(word(b"-pro"), 0, 2),
        load(libc::BPF_W, NAME + 8 - 1),
        equal(word(b"oxy\0"), 1, 0),
        give(u32::MAX),
        give(0),
    ]);
    program
}

#[allow(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
fn register(socket: Socket) -> std::io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, and nothing replaces or closes it while it is inside.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nft::netlink::attr::Write;
    use crate::nft::netlink::message;

    fn put(datagram: &mut Vec<u8>, kind: u16, family: u8, inside: impl FnOnce(&mut Vec<u8>)) {
        let begun = message::begin(datagram, kind, 0, 0, family, 0);
        inside(datagram);
        message::end(datagram, begun);
    }

    fn generation(w: &mut Vec<u8>) {
        w.number(1, 9);
        w.number(2, 4711);
        w.text(3, "nft");
    }

    #[test]
    fn a_change_is_told_with_its_process() {
        let mut touched = Vec::new();
        let mut datagram = Vec::new();
        put(&mut datagram, kind::NEW_RULE, 1, |w| w.text(1, "other"));
        put(&mut datagram, kind::NEW_GENERATION, 0, generation);
        put(&mut datagram, kind::DEL_ELEMENTS, 1, |w| w.text(1, "fairlead"));
        put(&mut datagram, kind::DEL_TABLE, 10, |w| w.text(1, "fairlead"));
        assert_eq!(listen(&datagram, "fairlead", &mut touched), []);
        let mut later = Vec::new();
        put(&mut later, kind::NEW_GENERATION, 0, generation);
        let expected = Heard::Changed {
            families: vec![TableFamily::Inet, TableFamily::Ip6],
            process: "nft".to_owned(),
            pid: 4711,
        };
        assert_eq!(listen(&later, "fairlead", &mut touched), [expected]);
        assert_eq!(listen(&later, "fairlead", &mut touched), []);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            listen(&bytes, "fairlead", &mut Vec::new());
        }
    }
}
