//! What the node is by itself: its interfaces, their addresses and its default routes, followed by rtnetlink. With what
//! is asked for they decide which sources are pods of this node, and where node ports are served.
//!
//! Every notification leads to a new dump: the dump is the truth, the notification only says that there is a new one.
//! On a busy node the links of pods come and go by the hundred, so dumps are kept apart, and only a dump that makes a
//! difference to the plan is told.

mod read;

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use fairlead_core::forward::Local;
use fairlead_core::forward::node_ports::NodePortAddresses;
use fairlead_core::forward::pods::{Link, PodSources, Route, pods};
use fairlead_core::model::{Node, NodeName};
use fairlead_runtime::watch::Shared;
use futures::StreamExt;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, warn};

use self::read::dump;
use crate::index::Index;

/// Notifications come in flocks; they are taken together within this time.
const COALESCE: Duration = Duration::from_millis(10);
/// Dumps begin at least so far apart.
const APART: Duration = Duration::from_millis(250);
/// Between two attempts when netlink fails.
const RETRY: Duration = Duration::from_secs(1);
/// Where kube-proxy in IPVS mode keeps the addresses of Services.
const IPVS: &str = "kube-ipvs0";

/// What is asked for, the same on all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// What tells a pod of this node.
    pub pods: PodSources,
    /// Which addresses serve node ports.
    pub node_ports: NodePortAddresses,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The interfaces.
    pub links: Vec<Link>,
    /// The default routes of the main table.
    pub routes: Vec<Route>,
}

impl Surroundings {
    /// Reads what there is in the network namespace of this thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn read() -> Result<Self, SurroundingsError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let _connection = AbortOnDrop(tokio::spawn(connection));
        Ok(dump(&handle).await?)
    }

    /// What is particular to the node. With neither links nor routes no pod is told by its interface.
    pub fn local(&self, wishes: &Wishes, node: Option<&Node>) -> Local {
        let on_links = self.addresses();
        Local {
            pods: pods(&wishes.pods, node, &self.links, &self.routes),
            node_ports: node
                .map(|node| wishes.node_ports.of(node, &on_links))
                .unwrap_or_default(),
        }
    }

    /// The node's own addresses, without those of Services that only lie there for IPVS.
    fn addresses(&self) -> Vec<IpAddr> {
        let own = self.links.iter().filter(|link| link.name != IPVS);
        own.flat_map(|link| link.addresses.iter().map(|subnet| subnet.addr()))
            .collect()
    }
}

/// Why the surroundings cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SurroundingsError {
    /// The netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Socket(#[from] std::io::Error),
    /// A dump failed.
    #[error("cannot list the network interfaces")]
    Dump(#[from] rtnetlink::Error),
    /// The netlink connection ended.
    #[error("the netlink connection ended")]
    Ended,
}

/// Follows them for ever, for the index. While they cannot be read, what is known holds; if nothing is, the Node object
/// alone says what there is to say.
pub async fn follow(index: &Shared<Index>, me: &NodeName) {
    loop {
        let Err(error) = follow_once(index, me).await;
        if index.with(|index| index.surroundings.is_none()) {
            error!(%error, "cannot follow the network interfaces: pods are told by podCIDRs alone; trying on");
            tell(index, me, Surroundings::default());
        } else {
            warn!(%error, "cannot follow the network interfaces; trying on with what is known");
        }
        sleep(RETRY).await;
    }
}

async fn follow_once(index: &Shared<Index>, me: &NodeName) -> Result<Infallible, SurroundingsError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    // Subscribed before the first dump, so that nothing falls between.
    let (connection, handle, mut messages) = new_multicast_connection(&groups)?;
    let connection = AbortOnDrop(tokio::spawn(connection));
    loop {
        let begin = Instant::now();
        let now = dump(&handle).await?;
        tell(index, me, now);
        if messages.next().await.is_none() || connection.0.is_finished() {
            return Err(SurroundingsError::Ended);
        }
        sleep_until((Instant::now() + COALESCE).max(begin + APART)).await;
        while messages.try_recv().is_ok() {}
    }
}

fn tell(index: &Shared<Index>, me: &NodeName, now: Surroundings) {
    if index.with(|index| index.see(me, now)) {
        index.touch();
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_core::testing::node;

    fn link(index: u32, name: &str, kind: Option<&str>, addresses: &[&str]) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ..Link::default()
        }
    }

    #[test]
    fn addresses_of_services_in_ipvs_serve_no_node_ports() {
        let wishes = Wishes {
            node_ports: "0.0.0.0/0".parse().unwrap(),
            ..Wishes::default()
        };
        let seen = Surroundings {
            links: vec![
                link(2, "eth0", None, &["192.0.2.11/24", "10.9.8.7/8"]),
                link(
                    3,
                    "kube-ipvs0",
                    Some("dummy"),
                    &["10.96.0.1/32", "192.0.2.100/32"],
                ),
            ],
            routes: vec![],
        };
        let local = seen.local(&wishes, Some(&node("n1", "192.0.2.11")));
        let shown: Vec<String> = local.node_ports.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.9.8.7", "192.0.2.11"]);
    }

    #[test]
    fn without_anything_seen_the_node_object_says_it_all() {
        let mut node = node("n1", "192.0.2.11");
        node.pod_cidrs = vec!["10.0.1.0/24".parse().unwrap()];
        for node in [None, Some(&node)] {
            let seen = Surroundings::default().local(&Wishes::default(), node);
            assert_eq!(seen, Local::of(node));
        }
    }
}
