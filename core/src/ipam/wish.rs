//! What a Service asks for, read from the user's texts.

use std::net::IpAddr;

use crate::model::Service;
use crate::reason::{Reason, Refusal};

/// More addresses than this are nobody's honest wish.
const MOST: usize = 32;

/// What a Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// These addresses, in this order; of a family that is not among them, any.
    pub addresses: Vec<IpAddr>,
    /// Pools by name, in order of preference; empty means any that is for everybody.
    pub pools: Vec<String>,
}

/// What a Service asks of `fairlead.dev/external-ips`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalWish {
    /// These addresses.
    Addresses(Vec<IpAddr>),
    /// An address of each family from the first of these pools that has one.
    Pools(Vec<String>),
}

/// Reads the wish for load balancer addresses: `spec.loadBalancerIP` and the annotations, ours before MetalLB's.
///
/// # Errors
/// `InvalidRequest` with a sentence that quotes what cannot be read.
pub fn wish(service: &Service, metallb: bool) -> Result<Wish, Refusal> {
    let (ours, theirs) = (&service.wishes, &service.metallb);
    let pick =
        |ours: &Option<String>, theirs: &Option<String>, name: &'static str, their_name: &'static str| {
            let theirs = theirs
                .as_ref()
                .filter(|_| metallb)
                .map(|text| (their_name, text.clone()));
            ours.as_ref().map(|text| (name, text.clone())).or(theirs)
        };
    let listed = pick(
        &ours.addresses,
        &theirs.addresses,
        "fairlead.dev/load-balancer-ips",
        "metallb.io/loadBalancerIPs",
    );
    let pools = pick(
        &ours.pools,
        &theirs.pools,
        "fairlead.dev/address-pool",
        "metallb.io/address-pool",
    );
    let mut wish = Wish::default();
    if let Some((name, text)) = &listed {
        wish.addresses = addresses(text).map_err(|why| invalid(name, text, &why))?;
    }
    if let Some(text) = &service.requested {
        let field = "spec.loadBalancerIP";
        let address = address(text.trim()).map_err(|why| invalid(field, text, &why))?;
        match &listed {
            None => wish.addresses = vec![address],
            Some(_) if wish.addresses.contains(&address) => {}
            Some((name, other)) => {
                return Err(invalid(
                    field,
                    text,
                    &format!("{name} asks for {other}; use one of them"),
                ));
            }
        }
    }
    if let Some((name, text)) = &pools {
        wish.pools = names(text).map_err(|why| invalid(name, text, &why))?;
    }
    Ok(wish)
}

/// Reads the wish for external IPs.
///
/// # Errors
/// `InvalidRequest` with a sentence that quotes what cannot be read.
pub fn external_wish(text: &str) -> Result<ExternalWish, Refusal> {
    let invalid = |why: &str| invalid("fairlead.dev/external-ips", text, why);
    let addresses_in = items(text).filter(|item| item.parse::<IpAddr>().is_ok()).count();
    if addresses_in == 0 {
        names(text).map(ExternalWish::Pools).map_err(|why| invalid(&why))
    } else if addresses_in == items(text).count() {
        addresses(text)
            .map(ExternalWish::Addresses)
            .map_err(|why| invalid(&why))
    } else {
        Err(invalid("it mixes addresses and names of pools"))
    }
}

fn invalid(field: &str, text: &str, why: &str) -> Refusal {
    // A text as long as an annotation may be would drown the message.
    let shown: String = text.chars().take(100).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    Refusal::new(Reason::InvalidRequest, format!("{field} {shown:?}{more}: {why}"))
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut list = Vec::new();
    for item in items(text) {
        let address = address(item)?;
        if list.contains(&address) {
            return Err(format!("{address} is named twice"));
        }
        list.push(address);
        if list.len() > MOST {
            return Err(format!("more than {MOST} addresses"));
        }
    }
    Ok(list)
}

fn address(text: &str) -> Result<IpAddr, String> {
    let shown: String = text.chars().take(50).collect();
    match text.parse::<IpAddr>() {
        Err(_) => Err(format!("{shown:?} is not an IP address")),
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => Err(format!(
            "{shown} is an IPv4-mapped IPv6 address; write it as IPv4"
        )),
        Ok(address) => Ok(address),
    }
}

fn names(text: &str) -> Result<Vec<String>, String> {
    let mut list: Vec<String> = Vec::new();
    for item in items(text) {
        if item.is_empty() {
            return Err("a name is empty".to_owned());
        }
        if list.iter().all(|name| name != item) {
            list.push(item.to_owned());
        }
        if list.len() > MOST {
            return Err(format!("more than {MOST} pools"));
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Wishes;
    use crate::testing::service;
    use proptest::prelude::*;

    fn of(requested: Option<&str>, ours: Option<&str>, theirs: Option<&str>) -> Result<Vec<String>, String> {
        let wishes = |addresses: Option<&str>| Wishes {
            addresses: addresses.map(Into::into),
            ..Wishes::default()
        };
        let service = Service {
            requested: requested.map(Into::into),
            wishes: wishes(ours),
            metallb: wishes(theirs),
            ..service("a")
        };
        wish(&service, true)
            .map(|wish| wish.addresses.iter().map(ToString::to_string).collect())
            .map_err(|refusal| refusal.message)
    }

    #[test]
    fn texts_and_what_they_ask_for() {
        let list = |items: &[&str]| Ok(items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(None, None, None), list(&[]));
        assert_eq!(of(Some(" 192.0.2.1 "), None, None), list(&["192.0.2.1"]));
        assert_eq!(
            of(None, Some("2001:db8::1, 192.0.2.1"), Some("192.0.2.9")),
            list(&["2001:db8::1", "192.0.2.1"])
        );
        assert_eq!(of(None, None, Some("192.0.2.9")), list(&["192.0.2.9"]));
        assert_eq!(
            of(Some("192.0.2.1"), Some("192.0.2.1,192.0.2.2"), None),
            list(&["192.0.2.1", "192.0.2.2"])
        );
        for (requested, ours, piece) in [
            (Some("192.0.2.1"), Some("192.0.2.2"), "use one of them"),
            (Some("x"), None, "\"x\" is not an IP address"),
            (None, Some("192.0.2.1,"), "\"\" is not an IP address"),
            (None, Some("192.0.2.1,192.0.2.1"), "named twice"),
            (None, Some("::ffff:192.0.2.1"), "IPv4-mapped"),
        ] {
            let message = of(requested, ours, None).unwrap_err();
            assert!(message.contains(piece), "{message}");
        }
    }

    #[test]
    fn external_wishes() {
        assert_eq!(
            external_wish("192.0.2.1, 2001:db8::1"),
            Ok(ExternalWish::Addresses(vec![
                "192.0.2.1".parse().unwrap(),
                "2001:db8::1".parse().unwrap()
            ]))
        );
        assert_eq!(
            external_wish("blue,green,blue"),
            Ok(ExternalWish::Pools(vec!["blue".into(), "green".into()]))
        );
        assert!(
            external_wish("blue,192.0.2.1")
                .unwrap_err()
                .message
                .contains("mixes")
        );
        assert!(external_wish("").is_err() && external_wish(",").is_err());
    }

    proptest! {
        /// No text makes the reading fail otherwise than with a short message.
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            for result in [of(Some(&text), None, None), of(None, Some(&text), None)] {
                if let Err(message) = result {
                    prop_assert!(message.len() < 1000, "{}", message);
                }
            }
            if let Err(refusal) = external_wish(&text) {
                prop_assert!(refusal.message.len() < 1000);
            }
        }
    }
}
