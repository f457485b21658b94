//! Who may use a load balancer.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use fairlead_core::model::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Annotation with the source ranges, comma-separated, for Services whose field is empty.
pub const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// The source ranges of a Service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// Those that can be read, and what stands for those that cannot.
    pub readable: Vec<IpNet>,
    /// The texts that cannot.
    pub unread: Vec<String>,
}

/// Reads the field, or the annotation if the field is empty. White space around a range is allowed; an annotation may
/// have empty parts, as behind a last comma.
///
/// No range of a family means that the family is open, and a text that cannot be read was surely not meant to say so.
/// It therefore closes the family that it looks like, both if it looks like neither, unless that has ranges beside it.
pub(super) fn source_ranges(field: &[String], annotations: &BTreeMap<String, String>) -> Ranges {
    let annotation = annotations.get(SOURCE_RANGES).map_or("", |text| text.trim());
    let listed = |part: &&str| !part.is_empty();
    let mut texts: Vec<&str> = field.iter().map(|text| text.trim()).collect();
    if field.is_empty() {
        texts = annotation.split(',').map(str::trim).filter(listed).collect();
        if texts.is_empty() && !annotation.is_empty() {
            texts.push(annotation);
        }
    }
    let mut ranges = Ranges::default();
    for text in texts {
        match text.parse() {
            Ok(range) => ranges.readable.push(range),
            Err(_) => ranges.unread.push(text.to_owned()),
        }
    }
    for family in [Family::V4, Family::V6] {
        let of_family = |range: &IpNet| Family::of(range.addr()) == family;
        if ranges.unread.iter().any(|text| may_be_of(text, family)) && !ranges.readable.iter().any(of_family)
        {
            ranges.readable.push(nobody(family));
        }
    }
    ranges
}

fn may_be_of(text: &str, family: Family) -> bool {
    match (text.contains(':'), text.contains('.')) {
        (true, _) => family == Family::V6,
        (false, true) => family == Family::V4,
        (false, false) => true,
    }
}

/// The unspecified address: no packet that is forwarded has it as its source.
fn nobody(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::from(Ipv4Addr::UNSPECIFIED).into(),
        Family::V6 => Ipv6Net::from(Ipv6Addr::UNSPECIFIED).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_comes_first_and_what_cannot_be_read_opens_nothing() {
        const NOBODY4: &str = "0.0.0.0/32";
        const NOBODY6: &str = "::/128";
        const BOTH: &[&str] = &[NOBODY4, NOBODY6];
        /// The field, the annotation, what is read, what is not.
        type Case<'a> = (&'a [&'a str], Option<&'a str>, &'a [&'a str], &'a [&'a str]);
        let cases: &[Case] = &[
            (&[], None, &[], &[]),
            (&[], Some(""), &[], &[]),
            (&[], Some("  "), &[], &[]),
            (&["10.0.0.0/8"], Some("192.0.2.0/24"), &["10.0.0.0/8"], &[]),
            (&[], Some("192.0.2.0/24"), &["192.0.2.0/24"], &[]),
            (
                &[],
                Some(" 192.0.2.0/24 ,\t2001:db8::/32, "),
                &["192.0.2.0/24", "2001:db8::/32"],
                &[],
            ),
            (&[" 10.0.0.0/8\n"], None, &["10.0.0.0/8"], &[]),
            (&["0.0.0.0/0"], None, &["0.0.0.0/0"], &[]),
            (&["10.1.2.3/8"], None, &["10.1.2.3/8"], &[]),
            // An address is no range, as for Kubernetes.
            (&["10.0.0.1"], None, &[NOBODY4], &["10.0.0.1"]),
            (&["10.0.0.0/33"], None, &[NOBODY4], &["10.0.0.0/33"]),
            (&["2001:db8::/129"], None, &[NOBODY6], &["2001:db8::/129"]),
            (&["office"], None, BOTH, &["office"]),
            (&[""], None, BOTH, &[""]),
            (&[" "], Some("192.0.2.0/24"), BOTH, &[""]),
            (&[], Some(" , "), BOTH, &[","]),
            (
                &["10.0.0.0/8", "10.0.0.0/99"],
                None,
                &["10.0.0.0/8"],
                &["10.0.0.0/99"],
            ),
            (
                &["10.0.0.0/8", "office"],
                None,
                &["10.0.0.0/8", NOBODY6],
                &["office"],
            ),
            (
                &["2001:db8::/32", "10.0.0.0/99"],
                None,
                &["2001:db8::/32", NOBODY4],
                &["10.0.0.0/99"],
            ),
        ];
        for (field, annotation, readable, unread) in cases {
            let field: Vec<String> = field.iter().map(|text| (*text).to_owned()).collect();
            let annotations = annotation.map(|text| (SOURCE_RANGES.to_owned(), text.to_owned()));
            let ranges = source_ranges(&field, &annotations.into_iter().collect());
            let shown: Vec<String> = ranges.readable.iter().map(ToString::to_string).collect();
            assert_eq!(shown, *readable, "{field:?} {annotation:?}");
            assert_eq!(ranges.unread, *unread, "{field:?} {annotation:?}");
        }
    }
}
