//! Ruleset → nft text, for people and for tests: what netlink is to have made, nft must print.
//!
//! Only constructs that `nft list` prints and reads again (nft 1.0.6 and later).

use std::fmt::{self, Write};

use fairlead_core::model::Family;

use super::TABLE;
use super::ruleset::{Action, ChainType, Key, Match, Rule, Ruleset, Set, Value};

/// How many clients are remembered at the most.
pub const AFFINITY_SIZE: u32 = 1 << 18;

/// Replaces the whole table, whatever it held, in one transaction.
pub fn replace(ruleset: &Ruleset) -> String {
    let mut text = format!("add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    // Writing to a String cannot fail.
    let _ = write_table(&mut text, ruleset);
    text.push_str("}\n");
    text
}

fn write_table(text: &mut String, ruleset: &Ruleset) -> fmt::Result {
    for set in Set::all() {
        writeln!(text, "\t{} {{\n\t\t{}", Text(&set), declaration(set))?;
        match set {
            Set::Pods(_) => writeln!(text, "\t\tflags interval")?,
            Set::Affinity(_) => writeln!(text, "\t\tsize {AFFINITY_SIZE}\n\t\tflags dynamic,timeout")?,
            _ => {}
        }
        let elements: Vec<String> = ruleset
            .elements
            .iter()
            .filter(|((of, _), _)| *of == set)
            .map(|((_, key), value)| element(key, value))
            .collect();
        if !elements.is_empty() {
            writeln!(text, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "))?;
        }
        writeln!(text, "\t}}\n")?;
    }
    for (chain, rules) in &ruleset.chains {
        writeln!(text, "\tchain {chain} {{")?;
        if let Some(base) = chain.base() {
            let kind = match base.kind {
                ChainType::Filter => "filter",
                ChainType::Nat => "nat",
            };
            let (hook, priority) = (base.hook, base.priority);
            writeln!(
                text,
                "\t\ttype {kind} hook {hook} priority {priority}; policy accept;"
            )?;
        }
        for rule in rules {
            writeln!(text, "\t\t{}", Text(rule))?;
        }
        writeln!(text, "\t}}\n")?;
    }
    Ok(())
}

impl fmt::Display for Text<&Set> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.0 {
            Set::Vips(_) | Set::Pods(_) | Set::Uplinks | Set::Hairpin(_) => "set",
            _ => "map",
        };
        write!(f, "{word} {}", self.0)
    }
}

/// The types of key and value. A plain integer has no type that could be named; the modulus stands for nothing.
fn declaration(set: Set) -> String {
    let (address, ip) = match set.family() {
        Some(Family::V6) => ("ipv6_addr", "ip6"),
        _ => ("ipv4_addr", "ip"),
    };
    match set {
        Set::Vips(_) | Set::Pods(_) => format!("type {address}"),
        Set::Uplinks => "type ifname".to_owned(),
        Set::Hairpin(_) => format!("type {address} . {address}"),
        Set::Filter(_) | Set::Nat(_) | Set::Inside(_) | Set::Sticky(_) => {
            format!("type {address} . inet_proto . inet_service : verdict")
        }
        Set::Endpoints(_) | Set::Locals(_) => {
            format!("typeof {ip} daddr . meta l4proto . th dport . numgen inc mod 2 : {ip} daddr . th dport")
        }
        Set::Echo(_) => format!("type {address} : {address}"),
        Set::Affinity(_) => {
            format!("type {address} . {address} . inet_proto . inet_service : {address} . inet_service")
        }
    }
}

/// An element as it is written in a list.
pub fn element(key: &Key, value: &Value) -> String {
    let key = match key {
        Key::Address(address) => address.to_string(),
        Key::Range(range) => range.to_string(),
        Key::Pair(source, destination) => format!("{source} . {destination}"),
        Key::Interface(name) => format!("\"{name}\""),
        Key::Destination(d) => format!("{} . {} . {}", d.address, d.protocol.as_str(), d.port),
        Key::Numbered(d, number) => {
            format!("{} . {} . {} . {number}", d.address, d.protocol.as_str(), d.port)
        }
    };
    match value {
        Value::Member => key,
        Value::Goto(chain) => format!("{key} : goto {chain}"),
        Value::Address(address) => format!("{key} : {address}"),
        Value::Endpoint(endpoint) => format!("{key} : {} . {}", endpoint.ip(), endpoint.port()),
    }
}

/// A rule as it is written in a chain.
pub fn rule(rule: &Rule) -> String {
    Text(rule).to_string()
}

/// `ip` or `ip6`.
fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The same of the addresses in a set.
fn ip_of(set: Set) -> &'static str {
    ip(set.family().unwrap_or(Family::V4))
}

struct Text<T>(T);

impl fmt::Display for Text<&Rule> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut space = |f: &mut fmt::Formatter<'_>| {
            if std::mem::take(&mut first) {
                Ok(())
            } else {
                f.write_char(' ')
            }
        };
        for condition in &self.0.matches {
            space(f)?;
            Text(condition).fmt(f)?;
        }
        for action in &self.0.actions {
            space(f)?;
            Text(action).fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Text<&Match> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Match::KnownFlow => f.write_str("ct state established,related"),
            Match::Untracked => f.write_str("ct state untracked"),
            Match::Invalid => f.write_str("ct state invalid"),
            Match::MidFlow => f.write_str("ct state new tcp flags & (fin | syn | rst | ack) != syn"),
            Match::Protocol(protocol) => write!(f, "meta l4proto {}", protocol.as_str()),
            Match::Echo(Family::V4) => f.write_str("icmp type echo-request"),
            Match::Echo(Family::V6) => f.write_str("icmpv6 type echo-request"),
            Match::NeighbourDiscovery => {
                f.write_str("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }")
            }
            Match::SourceIn(set) => write!(f, "{} saddr @{set}", ip_of(*set)),
            Match::SourceWithin(range) => write!(f, "{} saddr {range}", ip(Family::of(range.addr()))),
            Match::FromOther(set) => write!(f, "iifname != @{set}"),
            Match::SourceLocal => f.write_str("fib saddr type local"),
            Match::FromInterface(prefix) => write!(f, "iifname \"{prefix}*\""),
            Match::DestinationIn(set) => write!(f, "{} daddr @{set}", ip_of(*set)),
            Match::Hairpin(set) => {
                let ip = ip_of(*set);
                write!(f, "ct status dnat {ip} saddr . {ip} daddr @{set}")
            }
            Match::Marked(mark) => write!(f, "ct mark & {mark:#010x} == {mark:#010x}"),
        }
    }
}

impl fmt::Display for Text<&Action> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Action::Accept => f.write_str("accept"),
            Action::Drop => f.write_str("drop"),
            Action::Reset => f.write_str("reject with tcp reset"),
            Action::Unreachable => f.write_str("reject with icmpx type port-unreachable"),
            Action::Goto(chain) => write!(f, "goto {chain}"),
            Action::Lookup(set) => {
                let ip = ip_of(*set);
                write!(f, "{ip} daddr . meta l4proto . th dport vmap @{set}")
            }
            Action::DnatBy(set) => {
                let ip = ip_of(*set);
                write!(f, "dnat {ip} to {ip} daddr map @{set}")
            }
            Action::LookupOriginal(set) => {
                let ip = ip_of(*set);
                write!(
                    f,
                    "ct original {ip} daddr . meta l4proto . ct original proto-dst vmap @{set}"
                )
            }
            Action::DnatRemembered(set) => {
                let ip = ip_of(*set);
                write!(
                    f,
                    "dnat {ip} to {ip} saddr . {ip} daddr . meta l4proto . th dport map @{set}"
                )
            }
            Action::Dnat(set, count) => {
                let ip = ip_of(*set);
                write!(
                    f,
                    "dnat {ip} to {ip} daddr . meta l4proto . th dport . numgen random mod {count} map @{set}"
                )
            }
            // What follows the flow in the answer's direction is the endpoint.
            Action::Remember(set, seconds) => {
                let ip = ip_of(*set);
                write!(
                    f,
                    "update @{set} {{ {ip} saddr . ct original {ip} daddr . meta l4proto . ct original proto-dst \
                     timeout {seconds}s : ct reply {ip} saddr . ct reply proto-src }}"
                )
            }
            Action::Mark(mark) => write!(f, "ct mark set ct mark | {mark:#010x}"),
            Action::Masquerade => f.write_str("masquerade fully-random"),
        }
    }
}
