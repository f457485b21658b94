//! Firewalls of others that drop what is forwarded.

use nix::errno::Errno;

use crate::conntrack::socket::Socket;
use crate::conntrack::wire::{Attributes, Message, Writer};
use crate::nft::TABLE;

/// nf_tables: list chains (`NFT_MSG_GETCHAIN`).
const GET_CHAINS: u16 = 10 << 8 | 4;
const LIST: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
/// The hook at which packets for others pass (`NF_INET_FORWARD`).
const FORWARD: u32 = 2;
/// The verdict for packets that no rule decides on (`NF_DROP`).
const DROP: u32 = 0;

/// A chain that the kernel itself sends packets to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// The family of its table: `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Packets for others pass it.
    pub forwards: bool,
    /// What no rule decides on is dropped.
    pub drops: bool,
}

/// Lists the base chains of all IP tables, those of iptables included where it is built on nf_tables. Blocks.
///
/// # Errors
/// What the kernel said.
pub fn list() -> Result<Vec<BaseChain>, Errno> {
    let mut socket = Socket::open()?;
    let mut writer = Writer::default();
    let request = socket.number();
    writer.message(GET_CHAINS, LIST, request, 0);
    writer.end();
    socket.send(writer.bytes())?;
    let mut chains = Vec::new();
    socket.list(request, |message| chains.extend(read(message)))?;
    Ok(chains)
}

fn read(message: &Message) -> Option<BaseChain> {
    let family = match i32::from(message.family()) {
        1 => "inet",
        libc::AF_INET => "ip",
        libc::AF_INET6 => "ip6",
        _ => return None,
    };
    let text = |kind| {
        let bytes = message.attributes().find(kind)?;
        Some(String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned())
    };
    let number = |bytes: Option<&[u8]>| Some(u32::from_be_bytes(*bytes?.first_chunk()?));
    let hook = number(Attributes(message.attributes().find(4)?).find(1))?;
    Some(BaseChain {
        family,
        table: text(1)?,
        name: text(3)?,
        forwards: hook == FORWARD,
        drops: number(message.attributes().find(5)) == Some(DROP),
    })
}

/// One sentence for each chain that drops what it does not know. Whether its rules let pods through cannot be seen from
/// outside.
pub fn judge(chains: &[BaseChain]) -> Vec<(String, String)> {
    let foreign = chains.iter().filter(|chain| chain.table != TABLE);
    foreign
        .filter(|chain| chain.forwards && chain.drops)
        .map(|chain| {
            let BaseChain {
                family, table, name, ..
            } = chain;
            let sentence = format!(
                "chain {name} of table {family} {table} drops forwarded packets unless one of its rules accepts \
                 them: it must accept those to and from pods"
            );
            (format!("{family} {table} {name}"), sentence)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_foreign_chains_that_drop_what_is_forwarded_are_told() {
        let chain = |table: &str, forwards, drops| BaseChain {
            family: "ip",
            table: table.to_owned(),
            name: "FORWARD".to_owned(),
            forwards,
            drops,
        };
        for (chain, told) in [
            (chain("filter", true, true), true),
            (chain("filter", true, false), false),
            (chain("filter", false, true), false),
            (chain(TABLE, true, true), false),
        ] {
            assert_eq!(!judge(std::slice::from_ref(&chain)).is_empty(), told, "{chain:?}");
        }
        let told = judge(&[chain("filter", true, true)]);
        assert!(
            told[0].1.starts_with("chain FORWARD of table ip filter drops"),
            "{told:?}"
        );
    }
}
