//! kube-proxy in IPVS mode, which binds every address of a Service to the interface `kube-ipvs0` on every node.
//!
//! The kernel then answers ARP requests for these addresses on all interfaces of all nodes, unless strict ARP is set. A
//! speaker that announced such an address would add one answer to many; it does not. IPv6 is not concerned: the kernel
//! answers a solicitation only on the interface that has the address.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use fairlead_core::reason::{Reason, Refusal};
use fairlead_runtime::watch::replace;
use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// The interface that kube-proxy makes.
pub const INTERFACE: &str = "kube-ipvs0";
/// Kernel settings are not told of when they change; they are read so often.
const LOOK: Duration = Duration::from_secs(5);
/// Notifications come in flocks; they are taken together within this time.
const COALESCE: Duration = Duration::from_millis(10);
/// Between two attempts when netlink fails.
const RETRY: Duration = Duration::from_secs(1);

/// Why an address that every node answers for is not announced.
pub fn refusal(address: IpAddr) -> Refusal {
    let message = format!(
        "kube-proxy in IPVS mode has {address} on {INTERFACE}, so every such node answers ARP for it: set \
         ipvs.strictARP to true in kube-proxy's configuration, and restart kube-proxy"
    );
    Refusal::new(Reason::StrictARPNeeded, message)
}

/// Follows for ever which addresses this node's kernel answers ARP for although they are only on `kube-ipvs0`.
pub async fn follow(answered: watch::Sender<BTreeSet<IpAddr>>) {
    loop {
        let error = match follow_once(&answered).await {
            Ok(()) => "the netlink connection ended".to_owned(),
            Err(error) => error.to_string(),
        };
        warn!(error, "cannot look for {INTERFACE}; trying again");
        sleep(RETRY).await;
    }
}

async fn follow_once(answered: &watch::Sender<BTreeSet<IpAddr>>) -> io::Result<()> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
    let (connection, handle, mut messages) = new_multicast_connection(&groups)?;
    let mut connection = tokio::task::JoinSet::from_iter([connection]);
    loop {
        let now = look(&handle).await.map_err(io::Error::other)?;
        if answered.borrow().is_empty() != now.is_empty() {
            match now.is_empty() {
                false => warn!(
                    addresses = now.len(),
                    "{INTERFACE} has addresses and strict ARP is not set: those of ours among them are held back"
                ),
                true => info!("this node answers ARP for no address on {INTERFACE} any more"),
            }
        }
        replace(answered, now);
        if let Ok(None) = timeout(LOOK, messages.next()).await {
            connection.abort_all();
            return Ok(());
        }
        sleep(COALESCE).await;
        while messages.try_recv().is_ok() {}
    }
}

/// The IPv4 addresses on the interface; none if there is no such interface, or strict ARP is set.
async fn look(handle: &Handle) -> Result<BTreeSet<IpAddr>, rtnetlink::Error> {
    let Some(index) = index(handle).await? else {
        return Ok(BTreeSet::new());
    };
    let setting = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/all/{name}")).ok();
    if strict(setting) {
        return Ok(BTreeSet::new());
    }
    let mut request = handle.address().get().set_link_index_filter(index);
    request.message_mut().header.family = AddressFamily::Inet;
    let addresses: Vec<AddressMessage> = request.execute().try_collect().await?;
    let on_it = addresses.iter().filter(|message| message.header.index == index);
    Ok(on_it.filter_map(own).collect())
}

async fn index(handle: &Handle) -> Result<Option<u32>, rtnetlink::Error> {
    let mut links = handle.link().get().match_name(INTERFACE).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

/// Does the kernel answer ARP only on the interface that has the address, and ask with an address of the interface it
/// asks on? So kube-proxy's `strictARP` has it. What cannot be read is not set.
fn strict(setting: impl Fn(&str) -> Option<String>) -> bool {
    let at_least = |name, least: u32| {
        setting(name).is_some_and(|text| text.trim().parse::<u32>().is_ok_and(|value| value >= least))
    };
    at_least("arp_ignore", 1) && at_least("arp_announce", 2)
}

fn own(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) if address.is_ipv4() => Some(*address),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_arp_is_two_settings() {
        for (ignore, announce, expected) in [
            ("0\n", "0\n", false),
            ("1\n", "0\n", false),
            ("0\n", "2\n", false),
            ("1\n", "1\n", false),
            ("1\n", "2\n", true),
            ("2\n", "2\n", true),
            ("x", "2", false),
        ] {
            let settings = |name: &str| Some(if name == "arp_ignore" { ignore } else { announce }.to_owned());
            assert_eq!(strict(settings), expected, "{ignore}{announce}");
        }
        assert!(!strict(|_| None));
    }
}
