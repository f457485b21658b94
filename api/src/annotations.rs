//! Annotations of Services: what users ask for, and the controller's record of external IPs.

use std::collections::BTreeMap;

use fairlead_core::model::{ExternalAddress, ExternalRecord, Wishes};
use jiff::Timestamp;

/// Asks for these addresses and no others: comma-separated, of both families if the Service has both.
pub const LOAD_BALANCER_IPS: &str = "fairlead.dev/load-balancer-ips";
/// Asks for addresses of these pools: comma-separated, the first one that has some is used.
pub const ADDRESS_POOL: &str = "fairlead.dev/address-pool";
/// Services with the same text may share an address.
pub const ALLOW_SHARED_IP: &str = "fairlead.dev/allow-shared-ip";
/// Asks for external IPs, on a Service of any type: names of pools or addresses, comma-separated.
pub const EXTERNAL_IPS: &str = "fairlead.dev/external-ips";
/// The controller's record of external IPs. Nobody else may set it.
pub const EXTERNAL_RECORD: &str = "fairlead.dev/external-ips-assigned";

/// Prefixes under which MetalLB reads its annotations, the newer one first.
const METALLB: [&str; 2] = ["metallb.io", "metallb.universe.tf"];

type Annotations = BTreeMap<String, String>;

/// What our annotations ask for.
pub fn wishes(annotations: &Annotations) -> Wishes {
    let text = |name: &str| annotations.get(name).cloned();
    Wishes {
        addresses: text(LOAD_BALANCER_IPS),
        pools: text(ADDRESS_POOL),
        sharing_key: text(ALLOW_SHARED_IP),
    }
}

/// What MetalLB's annotations ask for.
pub fn metallb_wishes(annotations: &Annotations) -> Wishes {
    let text = |name: &str| {
        METALLB
            .iter()
            .find_map(|prefix| annotations.get(&format!("{prefix}/{name}")).cloned())
    };
    Wishes {
        addresses: text("loadBalancerIPs"),
        pools: text("address-pool"),
        sharing_key: text("allow-shared-ip"),
    }
}

/// Parts the addresses of a record from its time.
const SINCE: &str = "; since ";
/// Marks an address that the user wrote.
const ADOPTED: &str = " (adopted)";

/// The text of a record: `192.0.2.9 from pool blue, 192.0.2.10 from pool blue (adopted); since 2026-01-01T00:00:00Z`.
pub fn render_external(record: &ExternalRecord) -> String {
    let one = |external: &ExternalAddress| {
        let mark = if external.adopted { ADOPTED } else { "" };
        format!("{} from pool {}{mark}", external.address, external.pool)
    };
    let addresses: Vec<String> = record.addresses.iter().map(one).collect();
    let since = Timestamp::from_second(record.since).unwrap_or_default();
    format!("{}{SINCE}{since}", addresses.join(", "))
}

/// Reads a record; `None` if it is not of the fixed form.
pub fn parse_external(text: &str) -> Option<ExternalRecord> {
    let (addresses, since) = text.split_once(SINCE)?;
    let one = |part: &str| {
        let (address, pool) = part.split_once(" from pool ")?;
        let (pool, adopted) = pool
            .strip_suffix(ADOPTED)
            .map_or((pool, false), |pool| (pool, true));
        Some(ExternalAddress {
            address: address.parse().ok()?,
            pool: pool.to_owned(),
            adopted,
        })
    };
    Some(ExternalRecord {
        addresses: addresses.split(", ").map(one).collect::<Option<_>>()?,
        since: since.parse::<Timestamp>().ok()?.as_second(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn the_newer_prefix_of_metallb_wins() {
        let wishes = metallb_wishes(&annotations(&[
            ("metallb.universe.tf/address-pool", "old"),
            ("metallb.io/address-pool", "new"),
            ("metallb.universe.tf/allow-shared-ip", "key"),
        ]));
        assert_eq!(wishes.pools.as_deref(), Some("new"));
        assert_eq!(wishes.sharing_key.as_deref(), Some("key"));
        assert_eq!(wishes.addresses, None);
    }

    #[test]
    fn a_record_reads_back_and_nothing_else_does() {
        let address = |text: &str, adopted| ExternalAddress {
            address: text.parse().unwrap(),
            pool: "blue".into(),
            adopted,
        };
        let record = ExternalRecord {
            addresses: vec![address("192.0.2.9", false), address("2001:db8::9", true)],
            since: 1_767_225_600,
        };
        let text = render_external(&record);
        assert_eq!(
            text,
            "192.0.2.9 from pool blue, 2001:db8::9 from pool blue (adopted); since 2026-01-01T00:00:00Z"
        );
        assert_eq!(parse_external(&text), Some(record));
        for bad in [
            "",
            "192.0.2.9",
            "192.0.2.9 from pool blue",
            "; since 2026-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_external(bad), None, "{bad}");
        }
    }
}
