//! Interfaces by which clients come, and whether the kernel believes that they come by these (`rp_filter`, RFC 3704).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How many interfaces may lie on one another: a VLAN on a bridge on a bond on a network card.
const DEPTH: usize = 4;

/// An interface towards other machines that has IPv4 routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// A default route is over it.
    pub default: bool,
    /// Packets are dropped unless the way back to their source is over the same interface.
    pub strict: bool,
}

/// Reads those of this node. Interfaces of pods are none, nor is a bridge that has only these.
pub fn read() -> Vec<Uplink> {
    let table = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let filter = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    let all = filter("all").unwrap_or(0);
    routed(&table)
        .into_iter()
        .filter(|(name, _)| leads_out(name, 0))
        .map(|(name, default)| Uplink {
            // The larger of both values counts: 0 is off, 1 strict, 2 loose.
            strict: filter(&name).unwrap_or(0).max(all) == 1,
            name,
            default,
        })
        .collect()
}

/// The interfaces of the main table's routes; and is a default route over them?
fn routed(table: &str) -> BTreeMap<String, bool> {
    let mut interfaces = BTreeMap::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [name, destination, _, _, _, _, _, mask, ..] = fields.as_slice() {
            let default = [destination, mask].iter().all(|field| **field == "00000000");
            *interfaces.entry((*name).to_owned()).or_insert(false) |= default;
        }
    }
    interfaces
}

/// Is it a device, or does it lie on one?
fn leads_out(name: &str, depth: usize) -> bool {
    let place = Path::new("/sys/class/net").join(name);
    if place.join("device").exists() {
        return true;
    }
    let Ok(entries) = std::fs::read_dir(&place) else {
        return false;
    };
    let lower: BTreeSet<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|entry| entry.strip_prefix("lower_").map(str::to_owned))
        .collect();
    depth < DEPTH && lower.iter().any(|name| leads_out(name, depth + 1))
}

/// One sentence for each uplink that drops clients from elsewhere: it is strict, and the way back to them is over another
/// one. A node with one uplink is never concerned.
pub fn judge(uplinks: &[Uplink]) -> Vec<(String, String)> {
    let Some(way) = uplinks.iter().find(|uplink| uplink.default) else {
        return Vec::new();
    };
    uplinks
        .iter()
        .filter(|uplink| uplink.strict && !uplink.default)
        .map(|Uplink { name, .. }| {
            let sentence = format!(
                "net.ipv4.conf.{name}.rp_filter is 1 (strict), and the default route is over {}: clients from other \
                 networks that come by {name} are dropped; set it to 2 (loose)",
                way.name
            );
            (format!("rp_filter {name}"), sentence)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_table_is_read() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     eth1\t006433C6\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     broken\n";
        let expected = BTreeMap::from([("eth0".to_owned(), true), ("eth1".to_owned(), false)]);
        assert_eq!(routed(table), expected);
        assert_eq!(routed(""), BTreeMap::new());
    }

    #[test]
    fn strict_matters_only_beside_another_way_back() {
        let uplink = |name: &str, default, strict| Uplink {
            name: name.to_owned(),
            default,
            strict,
        };
        for (uplinks, told) in [
            (vec![uplink("eth0", true, true)], vec![]),
            (
                vec![uplink("eth0", true, true), uplink("eth1", false, false)],
                vec![],
            ),
            (
                vec![uplink("eth0", true, false), uplink("eth1", false, true)],
                vec!["rp_filter eth1"],
            ),
            (
                vec![uplink("eth0", true, true), uplink("eth1", true, true)],
                vec![],
            ),
            (
                vec![uplink("eth0", false, true), uplink("eth1", false, true)],
                vec![],
            ),
        ] {
            let about: Vec<String> = judge(&uplinks).into_iter().map(|(about, _)| about).collect();
            assert_eq!(about, told, "{uplinks:?}");
        }
    }
}
