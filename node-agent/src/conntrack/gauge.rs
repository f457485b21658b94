//! How full the kernel's table is.

/// How many entries there are, and may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Entries of this network namespace.
    pub count: u64,
    /// The most that the kernel takes.
    pub max: u64,
}

/// Percent of the table from which on it counts as nearly full.
const NEARLY: u64 = 90;

impl Fill {
    /// Reads it; `None` while the kernel tracks no connections.
    pub fn read() -> Option<Self> {
        let number = |name: &str| -> Option<u64> {
            let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).ok()?;
            text.trim().parse().ok()
        };
        Some(Self {
            count: number("nf_conntrack_count")?,
            max: number("nf_conntrack_max")?,
        })
    }

    /// Will new connections soon be dropped? A maximum of 0 is none at all.
    pub fn nearly_full(self) -> bool {
        self.max > 0 && self.count.saturating_mul(100) >= self.max.saturating_mul(NEARLY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_tenths_are_nearly_full() {
        for (count, max, expected) in [(0, 100, false), (89, 100, false), (90, 100, true), (7, 0, false)] {
            assert_eq!(Fill { count, max }.nearly_full(), expected, "{count} of {max}");
        }
    }
}
