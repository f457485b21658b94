//! Who is at the other end of an interface, for sessions that name no address: the router shows itself by its router
//! advertisements (RFC 4861 §4.2), which are asked for, and we show ourselves by ours, because routers take unnumbered
//! sessions only from whom they have heard so. Ours have a lifetime of 0: nobody is to send anything through this node.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, info};

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Between two questions while nobody is known.
const ASK: Duration = Duration::from_secs(1);
/// Between two of our advertisements when somebody is.
const SHOW: Duration = Duration::from_secs(10);

/// Looks at interfaces for the router at their other end.
pub(super) struct Finder {
    found: watch::Sender<BTreeMap<String, Ipv6Addr>>,
    tasks: BTreeMap<String, JoinHandle<()>>,
}

impl Finder {
    pub fn new() -> Self {
        Self {
            found: watch::Sender::default(),
            tasks: BTreeMap::new(),
        }
    }

    /// Looks at these interfaces, and no others.
    pub fn look_at(&mut self, interfaces: BTreeSet<String>) {
        let gone: Vec<String> = self
            .tasks
            .keys()
            .filter(|name| !interfaces.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            self.stop(&name);
        }
        for name in interfaces {
            if !self.tasks.contains_key(&name) {
                let task = tokio::spawn(follow(name.clone(), self.found.clone()));
                self.tasks.insert(name, task);
            }
        }
    }

    /// Nobody answers at the address that was found: whoever shows himself next is taken.
    pub fn forget(&mut self, interface: &str) {
        if self.tasks.contains_key(interface) {
            self.stop(interface);
            let task = tokio::spawn(follow(interface.to_owned(), self.found.clone()));
            self.tasks.insert(interface.to_owned(), task);
        }
    }

    fn stop(&mut self, interface: &str) {
        if let Some(task) = self.tasks.remove(interface) {
            task.abort();
        }
        self.found
            .send_if_modified(|found| found.remove(interface).is_some());
    }

    /// The routers that were found, by interface.
    pub fn found(&self) -> watch::Receiver<BTreeMap<String, Ipv6Addr>> {
        self.found.subscribe()
    }
}

impl Drop for Finder {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

async fn follow(interface: String, found: watch::Sender<BTreeMap<String, Ipv6Addr>>) {
    loop {
        if let Err(error) = listen(&interface, &found).await {
            debug!(interface, %error, "no router can be looked for");
        }
        tokio::time::sleep(ASK).await;
    }
}

async fn listen(interface: &str, found: &watch::Sender<BTreeMap<String, Ipv6Addr>>) -> io::Result<()> {
    let index = if_nametoindex(interface)?;
    let socket = open(interface, index)?;
    let mut buffer = [0; 1500];
    loop {
        let known = found.borrow().contains_key(interface);
        send(&socket, index, ALL_NODES, &advertisement()).await?;
        if !known {
            send(&socket, index, ALL_ROUTERS, &[SOLICITATION, 0, 0, 0, 0, 0, 0, 0]).await?;
        }
        let deadline = tokio::time::Instant::now() + if known { SHOW } else { ASK };
        while let Ok(received) = tokio::time::timeout_at(deadline, socket.recv_from(&mut buffer)).await {
            let (length, SocketAddr::V6(from)) = received? else {
                continue;
            };
            let from = *from.ip();
            if buffer.get(..length).and_then(|message| message.first()) != Some(&ADVERTISEMENT)
                || !from.is_unicast_link_local()
            {
                continue;
            }
            found.send_if_modified(|found| {
                let new = !found.contains_key(interface);
                if new {
                    info!(interface, router = %from, "the router at the other end has shown itself");
                    found.insert(interface.to_owned(), from);
                }
                new
            });
        }
    }
}

/// No hop limit, no flags, no times, no prefixes: only that somebody is here. The kernel fills in the checksum.
fn advertisement() -> [u8; 16] {
    let mut message = [0; 16];
    message[0] = ADVERTISEMENT;
    message
}

/// A raw socket; of that, too, tokio reads and writes messages with addresses.
fn open(interface: &str, index: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    // Receivers drop neighbour discovery that may have come through a router (RFC 4861 §6.1).
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_loop_v6(false)?;
    socket.join_multicast_v6(&ALL_NODES, index)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

async fn send(socket: &UdpSocket, index: u32, to: Ipv6Addr, message: &[u8]) -> io::Result<()> {
    let address = SocketAddrV6::new(to, 0, 0, index);
    socket.send_to(message, SocketAddr::V6(address)).await.map(|_| ())
}
