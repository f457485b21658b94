//! Ruleset → nft text: the whole table, or the way from one ruleset to another.
//!
//! Only constructs that `nft list` prints and reads again (nft 1.0.6 and later). Each text is one transaction: the
//! kernel has the old table or the new one, and no packet sees anything between.

use std::fmt::{self, Write};
use std::net::SocketAddr;

use fairlead_core::delta::delta;
use fairlead_core::model::{Family, Protocol};

use super::TABLE;
use super::ruleset::{Action, Chain, ChainType, Choice, Key, Match, Rule, Ruleset, Set, Value};

/// Fixed, so that a client keeps its endpoint when the agent restarts and when another node takes the address over.
const AFFINITY_SEED: u32 = 0x6661_6972;

/// Replaces the whole table, whatever it held, in one transaction.
pub fn replace(ruleset: &Ruleset) -> String {
    let mut text = format!("add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    // Writing to a String cannot fail.
    let _ = write_table(&mut text, ruleset);
    text.push_str("}\n");
    text
}

/// Removes our tables; no error if there is none.
pub fn remove() -> String {
    let both =
        ["inet", "ip"].map(|family| format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n"));
    both.concat()
}

/// The difference from `old`, which the kernel holds, to `new`; empty when there is none. Chains are made before
/// anything refers to them and deleted after nothing does.
pub fn change(old: &Ruleset, new: &Ruleset) -> String {
    let mut text = String::new();
    let _ = write_change(&mut text, old, new);
    text
}

fn write_table(text: &mut String, ruleset: &Ruleset) -> fmt::Result {
    for set in Set::all() {
        writeln!(text, "\t{} {{\n\t\t{}", Text(&set), declaration(set))?;
        if matches!(set, Set::Pods(_)) {
            writeln!(text, "\t\tflags interval")?;
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
    for (chain, endpoints) in &ruleset.lists {
        writeln!(text, "\tmap {chain} {{\n\t\t{}", list_types(chain))?;
        let all = numbered(endpoints.iter().enumerate());
        writeln!(text, "\t\telements = {{ {all} }}\n\t}}\n")?;
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

fn write_change(text: &mut String, old: &Ruleset, new: &Ruleset) -> fmt::Result {
    let chains = delta(&old.chains, &new.chains);
    let lists = delta(&old.lists, &new.lists);
    let elements = delta(&old.elements, &new.elements);
    for (chain, _) in &chains.add {
        writeln!(text, "add chain inet {TABLE} {chain}")?;
    }
    for (chain, endpoints) in &lists.add {
        let (types, all) = (list_types(chain), numbered(endpoints.iter().enumerate()));
        writeln!(
            text,
            "add map inet {TABLE} {chain} {{ {types}; elements = {{ {all} }}; }}"
        )?;
    }
    let changed = chains.change.iter().map(|(chain, _, rules)| (*chain, *rules));
    for (chain, _) in changed.clone() {
        writeln!(text, "flush chain inet {TABLE} {chain}")?;
    }
    for (chain, rules) in chains.add.iter().copied().chain(changed) {
        for rule in rules {
            writeln!(text, "add rule inet {TABLE} {chain} {}", Text(rule))?;
        }
    }
    for (chain, old, new) in &lists.change {
        write_list(text, chain, old, new)?;
    }
    let gone = elements.remove.iter().map(|(key, value)| (*key, *value));
    let replaced = elements.change.iter().map(|(key, old, _)| (*key, *old));
    write_elements(text, "delete", gone.chain(replaced))?;
    let fresh = elements.add.iter().map(|(key, value)| (*key, *value));
    let replacing = elements.change.iter().map(|(key, _, new)| (*key, *new));
    write_elements(text, "add", fresh.chain(replacing))?;
    // Chains that go may refer to each other: first all their rules, then the chains.
    for (chain, _) in &chains.remove {
        writeln!(text, "flush chain inet {TABLE} {chain}")?;
    }
    for (chain, _) in &chains.remove {
        writeln!(text, "delete chain inet {TABLE} {chain}")?;
    }
    for (chain, _) in &lists.remove {
        writeln!(text, "delete map inet {TABLE} {chain}")?;
    }
    Ok(())
}

/// From one list of endpoints to another, number by number.
fn write_list(text: &mut String, chain: &Chain, old: &[SocketAddr], new: &[SocketAddr]) -> fmt::Result {
    let differing = |this: &[SocketAddr], that: &[SocketAddr]| {
        numbered(this.iter().enumerate().filter(|(n, e)| that.get(*n) != Some(e)))
    };
    for (verb, list) in [("delete", differing(old, new)), ("add", differing(new, old))] {
        if !list.is_empty() {
            writeln!(text, "{verb} element inet {TABLE} {chain} {{ {list} }}")?;
        }
    }
    Ok(())
}

/// Endpoints as elements of their map.
fn numbered<'a>(endpoints: impl Iterator<Item = (usize, &'a SocketAddr)>) -> String {
    let list: Vec<String> = endpoints
        .map(|(number, endpoint)| format!("{number} : {} . {}", endpoint.ip(), endpoint.port()))
        .collect();
    list.join(", ")
}

/// Types of the map of a chain. A plain integer has no type that could be named; the modulus here stands for nothing.
fn list_types(chain: &Chain) -> String {
    let (family, protocol) = chain
        .key()
        .map_or((Family::V4, Protocol::Tcp), |key| (key.family, key.protocol));
    let (ip, protocol) = (ip(family), protocol.as_str());
    format!("typeof numgen inc mod 2 : {ip} daddr . {protocol} dport")
}

/// One command a set: `nft` reads the set again for each.
fn write_elements<'a>(
    text: &mut String,
    verb: &str,
    elements: impl Iterator<Item = (&'a (Set, Key), &'a Value)>,
) -> fmt::Result {
    let mut elements: Vec<(&(Set, Key), &Value)> = elements.collect();
    elements.sort_by_key(|(key, _)| **key);
    for group in elements.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
        let [((set, _), _), ..] = group else { continue };
        let list: Vec<String> = group
            .iter()
            .map(|((_, key), value)| element(key, value))
            .collect();
        writeln!(
            text,
            "{verb} element inet {TABLE} {set} {{ {} }}",
            list.join(", ")
        )?;
    }
    Ok(())
}

impl fmt::Display for Text<&Set> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.0 {
            Set::Vips(_) | Set::Pods(_) | Set::Hairpin(_) => "set",
            Set::Filter(_) | Set::Nat(_) | Set::Echo(_) => "map",
        };
        write!(f, "{word} {}", self.0)
    }
}

/// The types of key and value.
fn declaration(set: Set) -> String {
    let address = match family_of(set) {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    match set {
        Set::Vips(_) | Set::Pods(_) => format!("type {address}"),
        Set::Hairpin(_) => format!("type {address} . {address}"),
        Set::Filter(_) | Set::Nat(_) => format!("type {address} . inet_proto . inet_service : verdict"),
        Set::Echo(_) => format!("type {address} : {address}"),
    }
}

fn element(key: &Key, value: &Value) -> String {
    let key = match key {
        Key::Address(address) => address.to_string(),
        Key::Range(range) => range.to_string(),
        Key::Pair(source, destination) => format!("{source} . {destination}"),
        Key::Destination(d) => format!("{} . {} . {}", d.address, d.protocol.as_str(), d.port),
    };
    match value {
        Value::Member => key,
        Value::Goto(chain) => format!("{key} : goto {chain}"),
        Value::Address(address) => format!("{key} : {address}"),
    }
}

/// `ip` or `ip6`.
fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn family_of(set: Set) -> Family {
    match set {
        Set::Vips(family)
        | Set::Pods(family)
        | Set::Hairpin(family)
        | Set::Filter(family)
        | Set::Nat(family)
        | Set::Echo(family) => family,
    }
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
            Match::SourceIn(set) => write!(f, "{} saddr @{set}", ip(family_of(*set))),
            Match::SourceOutside(ranges) => {
                let family = ranges
                    .first()
                    .map_or(Family::V4, |range| Family::of(range.addr()));
                let list: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                write!(f, "{} saddr != {{ {} }}", ip(family), list.join(", "))
            }
            Match::SourceLocal => f.write_str("fib saddr type local"),
            Match::DestinationIn(set) => write!(f, "{} daddr @{set}", ip(family_of(*set))),
            Match::Hairpin(set) => {
                let ip = ip(family_of(*set));
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
                let ip = ip(family_of(*set));
                write!(f, "{ip} daddr . meta l4proto . th dport vmap @{set}")
            }
            Action::DnatBy(set) => {
                let ip = ip(family_of(*set));
                write!(f, "dnat {ip} to {ip} daddr map @{set}")
            }
            Action::Dnat(choice) => Text(choice).fmt(f),
            Action::Mark(mark) => write!(f, "ct mark set ct mark | {mark:#010x}"),
            Action::Masquerade => f.write_str("masquerade fully-random"),
        }
    }
}

impl fmt::Display for Text<&Choice> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Choice { chain, count, .. } = self.0;
        let ip = ip(self.0.family);
        write!(f, "dnat {ip} to ")?;
        // Older kernels take no hash modulo 1.
        if self.0.by_client && *count > 1 {
            write!(f, "jhash {ip} saddr mod {count} seed {AFFINITY_SEED:#x}")?;
        } else {
            write!(f, "numgen random mod {count}")?;
        }
        write!(f, " map @{chain}")
    }
}
