//! The faults that are tried, and what is wanted of each.

use serde_json::{Value, json};

use super::manifests::bfd;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// A node loses its power; its session has BFD.
    PowerOff,
    /// A node loses its power; only the hold time tells.
    PowerOffHold,
    /// A node is cordoned.
    Cordon,
    /// A node is drained: cordoned, and its pods evicted, which end gracefully.
    Drain,
    /// All speakers' pods are replaced, one after the other.
    SpeakerUpgrade,
    /// The same where the routers keep routes by graceful restart: what an upgrade of the BGP daemon's image does.
    DaemonUpgrade,
    /// A node's BGP daemon is killed, where the router keeps routes by graceful restart.
    DaemonKilled,
    /// A node's service proxy dies while the API server is silent.
    ProbeFails,
    /// The last endpoint on a node is deleted, and ends gracefully.
    EndpointDeleted,
}

/// What a session is guarded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peering {
    /// BFD, 100 ms × 3.
    Bfd,
    /// A hold time of 3 s.
    Hold,
    /// Graceful restart, without BFD.
    Graceful,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Connections fail for no longer, in milliseconds; 99 of 100 times.
    Outage(u64),
    /// No connection fails.
    NoneFails,
    /// The router has no route to the node any more after so many milliseconds.
    Withdrawn(u64),
}

/// How often a node is probed in trials, in milliseconds.
pub const PROBE_INTERVAL_MS: u64 = 500;
/// So many failures in a row withdraw.
pub const PROBE_THRESHOLD: u64 = 2;

impl Row {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::PowerOff,
        Self::PowerOffHold,
        Self::Cordon,
        Self::Drain,
        Self::SpeakerUpgrade,
        Self::DaemonUpgrade,
        Self::DaemonKilled,
        Self::ProbeFails,
        Self::EndpointDeleted,
    ];

    /// Its name on the command line and in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::PowerOffHold => "power-off-hold",
            Self::Cordon => "cordon",
            Self::Drain => "drain",
            Self::SpeakerUpgrade => "speaker-upgrade",
            Self::DaemonUpgrade => "daemon-upgrade",
            Self::DaemonKilled => "daemon-killed",
            Self::ProbeFails => "probe-fails",
            Self::EndpointDeleted => "endpoint-deleted",
        }
    }

    /// What happens, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::PowerOff => "node powered off, BFD 100 ms × 3",
            Self::PowerOffHold => "node powered off, no BFD, hold time 3 s",
            Self::Cordon => "node cordoned",
            Self::Drain => "node drained",
            Self::SpeakerUpgrade => "speakers replaced",
            Self::DaemonUpgrade => "BGP daemons replaced, graceful restart",
            Self::DaemonKilled => "BGP daemon killed, graceful restart",
            Self::ProbeFails => "service proxy dies, API silent",
            Self::EndpointDeleted => "last local endpoint deleted",
        }
    }

    /// What the sessions are guarded by.
    pub fn peering(self) -> Peering {
        match self {
            Self::PowerOffHold => Peering::Hold,
            Self::DaemonUpgrade | Self::DaemonKilled => Peering::Graceful,
            _ => Peering::Bfd,
        }
    }

    /// What is wanted.
    pub fn goal(self) -> Goal {
        match self {
            Self::PowerOff => Goal::Outage(500),
            Self::PowerOffHold => Goal::Outage(3500),
            Self::ProbeFails => Goal::Withdrawn(PROBE_INTERVAL_MS * PROBE_THRESHOLD + 100),
            _ => Goal::NoneFails,
        }
    }
}

impl Peering {
    /// What it adds to a `BGPPeer`.
    pub fn spec(self) -> Value {
        match self {
            Self::Bfd => json!({"bfd": bfd()}),
            Self::Hold => json!({"holdTime": "3s", "keepaliveTime": "1s"}),
            Self::Graceful => json!({"gracefulRestart": {"restartTime": "60s"}}),
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Outage(ms) => write!(f, "outage, p99 ≤ {ms} ms"),
            Self::NoneFails => write!(f, "0 failed"),
            Self::Withdrawn(ms) => write!(f, "withdrawn within {ms} ms"),
        }
    }
}

impl std::str::FromStr for Row {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|row| row.name() == name)
            .ok_or_else(|| format!("no such row: {name:?}; there are {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for row in Row::ALL {
            assert_eq!(row.name().parse::<Row>(), Ok(row));
        }
        assert!("reboot".parse::<Row>().unwrap_err().contains("drain"));
    }
}
