//! What the node must have before anything can be programmed, and what it should have, each in one sentence.

mod chains;
mod uplinks;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use fairlead_core::model::NodeName;
use fairlead_runtime::watch::Shared;
use tracing::{info, warn};

pub use self::chains::{BaseChain, list as list_chains};
pub use self::uplinks::Uplink;
use crate::conntrack::Fill;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::nft::driver::Tables;

/// The oldest kernel that has everything the table uses.
const KERNEL: (u32, u32) = (5, 15);

/// How often is looked for what should be otherwise.
const LOOK: Duration = Duration::from_secs(10);
/// With each how manieth look chains are listed.
const CHAINS: u32 = 30;

/// Checks what nothing works without.
///
/// # Errors
/// One sentence.
pub async fn require(tables: &Tables) -> anyhow::Result<()> {
    let release =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    if !new_enough(&release) {
        bail!(
            "kernel {} is too old: Fairlead needs Linux {}.{} or later",
            release.trim(),
            KERNEL.0,
            KERNEL.1
        );
    }
    match tables.probe().await {
        Ok(()) => Ok(()),
        Err(error) if error.is_permission() => {
            bail!("not allowed to change nftables: the node agent needs CAP_NET_ADMIN")
        }
        Err(error) => bail!("the kernel offers no usable nf_tables ({error}): load the module nf_tables"),
    }
}

/// What is looked at.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The node has an address of IPv6.
    pub ipv6: bool,
    /// How full the connection tracking table is.
    pub fill: Option<Fill>,
    /// Interfaces towards other machines.
    pub uplinks: Vec<Uplink>,
    /// Base chains, as they were last listed.
    pub chains: Vec<BaseChain>,
}

/// Looks again and again for what keeps traffic from flowing as it should; tells what comes, and what goes.
pub async fn follow(index: &Shared<Index>, me: &NodeName, metrics: &Metrics) {
    let mut known = BTreeMap::new();
    let mut facts = Facts::default();
    let mut rounds = 0u32;
    loop {
        facts.ipv6 = index.with(|index| {
            let node = index.nodes.get(me.as_str());
            node.is_some_and(|node| node.internal_ips.iter().any(IpAddr::is_ipv6))
        });
        let whole = rounds.is_multiple_of(CHAINS);
        rounds = rounds.wrapping_add(1);
        let before = facts.clone();
        facts = tokio::task::spawn_blocking(move || look(before, whole))
            .await
            .unwrap_or(facts);
        let now = judge(&facts, setting);
        for (about, sentence) in now.iter().filter(|(about, _)| !known.contains_key(*about)) {
            warn!(about, "{sentence}");
        }
        for about in known.keys().filter(|about| !now.contains_key(*about)) {
            info!(about, "is no longer a problem");
        }
        metrics.warnings(now.len());
        if let Some(Fill { count, max }) = facts.fill {
            metrics.conntrack(count, max);
        }
        known = now;
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks once; the chains only with `whole`, since there may be very many.
fn look(before: Facts, whole: bool) -> Facts {
    let chains = if whole { chains::list().ok() } else { None };
    Facts {
        fill: Fill::read(),
        uplinks: uplinks::read(),
        chains: chains.unwrap_or(before.chains),
        ..before
    }
}

fn setting(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    Some(text.trim().to_owned())
}

/// What is wrong, each in one sentence, by what it is about.
fn judge(facts: &Facts, setting: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let is = |name: &str, value: &str| setting(name).as_deref() == Some(value);
    let mut warnings = BTreeMap::new();
    let mut warn = |about: &str, sentence: String| warnings.insert(about.to_owned(), sentence);
    if is("ipv4/ip_forward", "0") {
        let sentence = "net.ipv4.ip_forward is 0, so no packet reaches a pod: set it to 1";
        warn("ip_forward", sentence.to_owned());
    }
    if facts.ipv6 && is("ipv6/conf/all/forwarding", "0") {
        let sentence = "net.ipv6.conf.all.forwarding is 0, so no IPv6 packet reaches a pod: set it to 1";
        warn("ipv6 forwarding", sentence.to_owned());
    }
    if is("netfilter/nf_conntrack_tcp_loose", "0") {
        let sentence = "net.netfilter.nf_conntrack_tcp_loose is 0, so clients of a node that died wait for their \
                        time-outs instead of being reset: set it to 1";
        warn("tcp_loose", sentence.to_owned());
    }
    if let Some(fill) = facts.fill.filter(|fill| fill.nearly_full()) {
        let Fill { count, max } = fill;
        let sentence = format!(
            "the connection tracking table is nearly full ({count} of {max}), and a full one takes no new connection: \
             raise net.netfilter.nf_conntrack_max"
        );
        warn("conntrack", sentence);
    }
    warnings.extend(uplinks::judge(&facts.uplinks));
    warnings.extend(chains::judge(&facts.chains));
    warnings
}

fn new_enough(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return true; // a version that cannot be read is no reason to refuse
    };
    (major, minor) >= KERNEL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        for (release, expected) in [
            ("5.15.0-100-generic\n", true),
            ("6.1.0", true),
            ("5.10.0-30-amd64", false),
            ("4.18.0-513.el8", false),
            ("10.0", true),
            ("custom", true),
        ] {
            assert_eq!(new_enough(release), expected, "{release}");
        }
    }

    #[test]
    fn each_wrong_setting_has_its_sentence_and_an_absent_one_has_none() {
        let about = |facts: &Facts, value: &str| -> Vec<String> {
            judge(facts, |_| Some(value.to_owned())).into_keys().collect()
        };
        let none = Facts::default();
        assert!(judge(&none, |_| None).is_empty());
        assert!(about(&none, "1").is_empty());
        assert_eq!(about(&none, "0"), ["ip_forward", "tcp_loose"]);
        let full = Fill { count: 95, max: 100 };
        let bad = Facts {
            ipv6: true,
            fill: Some(full),
            uplinks: [("eth0", true), ("eth1", false)]
                .map(|(name, default)| Uplink {
                    name: name.to_owned(),
                    default,
                    strict: true,
                })
                .to_vec(),
            chains: vec![BaseChain {
                family: "ip",
                table: "filter".to_owned(),
                name: "FORWARD".to_owned(),
                forwards: true,
                drops: true,
            }],
        };
        assert_eq!(
            about(&bad, "0"),
            [
                "conntrack",
                "ip filter FORWARD",
                "ip_forward",
                "ipv6 forwarding",
                "rp_filter eth1",
                "tcp_loose"
            ]
        );
        let sentences = judge(&bad, |_| Some("0".to_owned()));
        assert!(sentences["conntrack"].contains("95 of 100"), "{sentences:?}");
    }
}
