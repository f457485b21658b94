//! What is in the kernel in the words of our ruleset. Whatever cannot be ours is `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use fairlead_core::forward::{BackendKey, Destination};
use fairlead_core::model::{Family, Protocol, ServiceKey};
use ipnet::IpNet;

use super::encode::number;
use super::expr::Verdict;
use super::object::{Data, Element};
use super::program::address_bytes;
use crate::nft::ruleset::{Chain, Choice, FAMILIES, Key, Kind, Set, Value, digit};

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The chain with this name.
pub fn chain(name: &str) -> Option<Chain> {
    let fixed = Chain::FIXED.into_iter().find(|chain| chain.to_string() == name);
    let chain = fixed.or_else(|| match name.split_once('/') {
        Some((kind, rest)) => ranges(kind, rest),
        None => choose(name),
    })?;
    // There is one way only to write a name.
    (chain.to_string() == name).then_some(chain)
}

fn ranges(kind: &str, rest: &str) -> Option<Chain> {
    let family = of_digit(kind.strip_prefix("ranges")?)?;
    let mut parts = rest.split('/');
    let (namespace, name) = (parts.next()?, parts.next()?);
    let (protocol, port) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some(Chain::Ranges(Arc::new(BackendKey {
        service: ServiceKey::new(namespace, name),
        family,
        protocol: named(protocol)?,
        port: port.parse().ok()?,
    })))
}

fn choose(name: &str) -> Option<Chain> {
    let mut parts = name.split('-');
    let first = parts.next()?;
    if let Some(family) = first.strip_prefix("affine") {
        return Some(Chain::Affine(of_digit(family)?, parts.next()?.parse().ok()?));
    }
    let kinds = [
        ("cluster", Kind::Cluster),
        ("pick", Kind::Pick),
        ("local", Kind::Local),
    ];
    let (family, kind) = kinds
        .into_iter()
        .find_map(|(word, kind)| Some((first.strip_prefix(word)?, kind)))?;
    Some(Chain::Choose(Choice {
        kind,
        family: of_digit(family)?,
        protocol: named(parts.next()?)?,
        count: parts.next()?.parse().ok()?,
        sticky: parts.next().is_some(),
    }))
}

fn of_digit(text: &str) -> Option<Family> {
    FAMILIES
        .into_iter()
        .find(|family| digit(*family).to_string() == text)
}

fn named(text: &str) -> Option<Protocol> {
    PROTOCOLS.into_iter().find(|protocol| protocol.as_str() == text)
}

/// The elements of a set of ours.
pub fn elements(set: Set, found: Vec<Element>) -> Option<Vec<(Key, Value)>> {
    if let Set::Pods(family) = set {
        return ranges_of(family, found);
    }
    found
        .into_iter()
        .map(|element| element_of(set, element))
        .collect()
}

/// The element of a set of single elements.
pub fn element_of(set: Set, element: Element) -> Option<(Key, Value)> {
    if element.end {
        return None;
    }
    Some((key(set, &element.key)?, value(set, element.data)?))
}

/// The key of an element of a set.
pub fn key(set: Set, bytes: &[u8]) -> Option<Key> {
    let mut reader = Reader(bytes);
    let family = set.family();
    let key = match set {
        Set::Vips(family) | Set::Echo(family) | Set::Pods(family) => Key::Address(reader.address(family)?),
        Set::Uplinks => {
            let text = std::str::from_utf8(reader.take(super::encode::NAME_LENGTH)?).ok()?;
            Key::Interface(text.trim_end_matches('\0').into())
        }
        Set::Hairpin(family) => Key::Pair(reader.address(family)?, reader.address(family)?),
        Set::Filter(_) | Set::Nat(_) | Set::Inside(_) | Set::Sticky(_) => {
            Key::Destination(reader.destination(family?)?)
        }
        Set::Endpoints(_) | Set::Locals(_) => {
            let destination = reader.destination(family?)?;
            let index = u32::from_ne_bytes(reader.take(4)?.try_into().ok()?);
            Key::Numbered(destination, index)
        }
        Set::Affinity(_) => return None, // the kernel's own
    };
    reader.0.is_empty().then_some(key)
}

/// A key as nft writes it.
pub fn words(key: &Key) -> String {
    let of = |d: &Destination| format!("{} . {} . {}", d.address, d.protocol.as_str(), d.port);
    match key {
        Key::Address(address) => address.to_string(),
        Key::Range(range) => range.to_string(),
        Key::Interface(name) => format!("\"{name}\""),
        Key::Pair(source, destination) => format!("{source} . {destination}"),
        Key::Destination(destination) => of(destination),
        Key::Numbered(destination, number) => format!("{} . {number}", of(destination)),
    }
}

fn value(set: Set, data: Option<Data>) -> Option<Value> {
    let family = set.family();
    match (set, data) {
        (Set::Vips(_) | Set::Uplinks | Set::Hairpin(_), None) => Some(Value::Member),
        (
            Set::Filter(_) | Set::Nat(_) | Set::Inside(_) | Set::Sticky(_),
            Some(Data::Verdict(Verdict::Goto(name))),
        ) => Some(Value::Goto(chain(&name)?)),
        (Set::Echo(_), Some(Data::Bytes(bytes))) => {
            let mut reader = Reader(&bytes);
            let address = reader.address(family?)?;
            reader.0.is_empty().then_some(Value::Address(address))
        }
        (Set::Endpoints(_) | Set::Locals(_), Some(Data::Bytes(bytes))) => {
            let mut reader = Reader(&bytes);
            let address = reader.address(family?)?;
            let endpoint = SocketAddr::new(address, reader.port()?);
            reader.0.is_empty().then_some(Value::Endpoint(endpoint))
        }
        _ => None,
    }
}

/// Puts ranges together from where they begin and where they end.
fn ranges_of(family: Family, mut found: Vec<Element>) -> Option<Vec<(Key, Value)>> {
    // An end comes before the beginning at the same address.
    found.sort_by(|a, b| (&a.key, !a.end).cmp(&(&b.key, !b.end)));
    let mut ranges = Vec::new();
    let mut begun: Option<Vec<u8>> = None;
    for element in found {
        if element.data.is_some() {
            return None;
        }
        match (begun.take(), element.end) {
            (Some(begin), true) => ranges.push(range(family, &begin, Some(&element.key))?),
            (None, false) => begun = Some(element.key),
            // nft says that nothing begins with the first address.
            (None, true) if element.key.iter().all(|byte| *byte == 0) => {}
            _ => return None,
        }
    }
    if let Some(begin) = begun {
        ranges.push(range(family, &begin, None)?);
    }
    let member = |range| (Key::Range(range), Value::Member);
    Some(ranges.into_iter().map(member).collect())
}

/// The range from one address to before another, or to the last there is.
fn range(family: Family, begin: &[u8], end: Option<&Vec<u8>>) -> Option<IpNet> {
    let first = whole_address(family, begin)?;
    let bits = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let fits = |length| {
        let range = IpNet::new(first, length).ok()?;
        let follows = super::encode::after(address_bytes(range.broadcast()));
        (range.network() == first && follows.as_ref() == end).then_some(range)
    };
    (0..=bits).find_map(fits)
}

fn whole_address(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    let mut reader = Reader(bytes);
    let address = reader.address(family)?;
    reader.0.is_empty().then_some(address)
}

/// Reads fields, each padded to four bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn address(&mut self, family: Family) -> Option<IpAddr> {
        Some(match family {
            Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(self.take(4)?).ok()?).into(),
            Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(self.take(16)?).ok()?).into(),
        })
    }

    fn port(&mut self) -> Option<u16> {
        let [high, low, 0, 0] = self.take(4)? else {
            return None;
        };
        Some(u16::from_be_bytes([*high, *low]))
    }

    fn destination(&mut self, family: Family) -> Option<Destination> {
        let address = self.address(family)?;
        let [found, 0, 0, 0] = self.take(4)? else {
            return None;
        };
        let protocol = PROTOCOLS
            .into_iter()
            .find(|protocol| number(*protocol) == *found)?;
        Some(Destination {
            address,
            protocol,
            port: self.port()?,
        })
    }
}
