//! What is in the kernel in the words of our ruleset. Whatever cannot be ours is `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use fairlead_core::forward::{BackendKey, Destination};
use fairlead_core::model::{Family, Protocol, ServiceKey};
use ipnet::IpNet;

use super::expr::Verdict;
use super::object::{Data, Element};
use super::program::address_bytes;
use crate::nft::ruleset::{Chain, Choice, FAMILIES, Key, Kind, Set, Value, digit};

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
    Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.as_str() == text)
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
            let name = text.trim_end_matches('\0');
            let named = !name.is_empty() && name.len() < text.len() && !name.contains('\0');
            Key::Interface(named.then(|| name.into())?)
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

/// The address that these bytes are.
pub(super) fn whole_address(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    let mut reader = Reader(bytes);
    let address = reader.address(family)?;
    reader.0.is_empty().then_some(address)
}

/// Reads fields, each padded to four bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn address(&mut self, family: Family) -> Option<IpAddr> {
        Some(match family {
            Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(self.take(4)?).ok()?).into(),
            Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(self.take(16)?).ok()?).into(),
        })
    }

    pub(super) fn port(&mut self) -> Option<u16> {
        let [high, low, 0, 0] = self.take(4)? else {
            return None;
        };
        Some(u16::from_be_bytes([*high, *low]))
    }

    pub(super) fn destination(&mut self, family: Family) -> Option<Destination> {
        let address = self.address(family)?;
        let [found, 0, 0, 0] = self.take(4)? else {
            return None;
        };
        let protocol = Protocol::of_number(*found)?;
        Some(Destination {
            address,
            protocol,
            port: self.port()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::nft::netlink::encode;

    fn any_address(family: Family) -> BoxedStrategy<IpAddr> {
        match family {
            Family::V4 => any::<Ipv4Addr>().prop_map(IpAddr::from).boxed(),
            Family::V6 => any::<Ipv6Addr>().prop_map(IpAddr::from).boxed(),
        }
    }

    fn any_destination(family: Family) -> impl Strategy<Value = Destination> {
        (
            any_address(family),
            prop::sample::select(&Protocol::ALL[..]),
            any::<u16>(),
        )
            .prop_map(|(address, protocol, port)| Destination {
                address,
                protocol,
                port,
            })
    }

    fn any_chain() -> impl Strategy<Value = Chain> {
        let family = || prop::sample::select(&FAMILIES[..]);
        let protocol = || prop::sample::select(&Protocol::ALL[..]);
        let kind = prop::sample::select(&[Kind::Cluster, Kind::Pick, Kind::Local][..]);
        let label = "[a-z]([a-z0-9-]{0,10}[a-z0-9])?";
        let ranges = (label, label, family(), protocol(), any::<u16>());
        prop_oneof![
            prop::sample::select(&Chain::FIXED[..]),
            (family(), any::<u32>()).prop_map(|(family, seconds)| Chain::Affine(family, seconds)),
            ranges.prop_map(|(namespace, name, family, protocol, port)| {
                let service = ServiceKey::new(&namespace, &name);
                Chain::Ranges(Arc::new(BackendKey {
                    service,
                    family,
                    protocol,
                    port,
                }))
            }),
            (kind, family(), any::<bool>(), any::<u32>()).prop_map(|(kind, family, sticky, count)| {
                Chain::Choose(Choice {
                    kind,
                    family,
                    sticky,
                    count,
                })
            }),
        ]
    }

    fn any_element() -> impl Strategy<Value = (Set, Key, Value)> {
        let interface = "[a-z][a-z0-9.@-]{0,14}".prop_map(|name| Key::Interface(name.as_str().into()));
        let of_family =
            |family: Family| {
                let address = move || any_address(family);
                let to = move || any_destination(family).prop_map(Key::Destination);
                let numbered =
                    (any_destination(family), any::<u32>()).prop_map(|(d, number)| Key::Numbered(d, number));
                let endpoint = (address(), any::<u16>())
                    .prop_map(|(ip, port)| Value::Endpoint(SocketAddr::new(ip, port)));
                let verdicts = [Set::Filter, Set::Nat, Set::Inside, Set::Sticky].map(|set| set(family));
                let lists = [Set::Endpoints, Set::Locals].map(|set| set(family));
                let single = address().prop_map(Key::Address);
                prop_oneof![
                    single.prop_map(move |key| (Set::Vips(family), key, Value::Member)),
                    (address(), address()).prop_map(move |(a, b)| (
                        Set::Hairpin(family),
                        Key::Pair(a, b),
                        Value::Member
                    )),
                    (address(), address()).prop_map(move |(a, b)| (
                        Set::Echo(family),
                        Key::Address(a),
                        Value::Address(b)
                    )),
                    (prop::sample::select(verdicts.to_vec()), to(), any_chain())
                        .prop_map(|(set, key, chain)| (set, key, Value::Goto(chain))),
                    (prop::sample::select(lists.to_vec()), numbered, endpoint),
                ]
            };
        prop_oneof![
            of_family(Family::V4),
            of_family(Family::V6),
            interface.prop_map(|key| (Set::Uplinks, key, Value::Member)),
        ]
    }

    proptest! {
        #[test]
        fn names_of_chains_are_read(wanted in any_chain()) {
            prop_assert_eq!(chain(&wanted.to_string()), Some(wanted));
        }

        #[test]
        fn other_names_are_of_no_chain(name in "[a-z0-9/.-]{0,20}") {
            if let Some(known) = chain(&name) {
                prop_assert_eq!(known.to_string(), name);
            }
        }

        #[test]
        fn elements_are_read((set, key, value) in any_element()) {
            let encoded: Vec<Element> = encode::elements(&key, &value).collect();
            prop_assert_eq!(elements(set, encoded), Some(vec![(key, value)]));
        }

        /// Ranges may touch, but not overlap.
        #[test]
        fn ranges_are_read(starts in prop::collection::btree_map(any::<u8>(), 8u8..=32, 0..20)) {
            let ranges: BTreeMap<IpNet, ()> = starts
                .into_iter()
                .map(|(first, length)| (IpNet::new(Ipv4Addr::new(first, 0, 0, 0).into(), length).unwrap(), ()))
                .collect();
            let encoded = ranges.keys().flat_map(|range| encode::elements(&Key::Range(*range), &Value::Member));
            let set = Set::Pods(Family::V4);
            let expected = ranges.keys().map(|range| (Key::Range(*range), Value::Member)).collect();
            prop_assert_eq!(elements(set, encoded.collect()), Some(expected));
        }

        #[test]
        fn garbage_is_nothing_and_no_panic(
            set in prop::sample::select(Set::all().collect::<Vec<_>>()),
            key in prop::collection::vec(any::<u8>(), 0..50),
            data in prop::option::of(prop::collection::vec(any::<u8>(), 0..30)),
            end: bool,
        ) {
            let data = data.map(Data::Bytes);
            let _ = elements(set, vec![Element { key, end, data }]);
        }
    }
}
