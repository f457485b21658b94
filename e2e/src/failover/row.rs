//! The faults.

use crate::bench::Contender;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// The owner loses its power.
    PowerOff,
    /// The owner's cable is cut at the switch.
    CableCut,
    /// The owner is cordoned.
    Cordon,
    /// The owner is drained: cordoned, and its pods evicted.
    Drain,
    /// The last endpoint on the owner goes unready, and goes on answering.
    EndpointUnready,
    /// The last endpoint on the owner is deleted, and ends gracefully.
    EndpointDeleted,
    /// The owner's service proxy dies while the API server is silent.
    ProbeFails,
    /// The API server is silent for a while, then the owner loses its power.
    ApiDownPowerOff,
    /// The switch falls into two, with an owner on each side, and is made whole.
    SplitHealed,
    /// The speakers' gossip does not reach the owner for a while.
    GossipBlocked,
    /// The owner's speaker is killed, and kubelet starts it again.
    SpeakerKilled,
    /// All speakers are replaced, one after the other.
    SpeakerUpgrade,
    /// All node agents are replaced, one after the other.
    AgentUpgrade,
    /// Eight busy threads on each core.
    Busy,
}

impl Row {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 14] = [
        Self::PowerOff,
        Self::CableCut,
        Self::Cordon,
        Self::Drain,
        Self::EndpointUnready,
        Self::EndpointDeleted,
        Self::ProbeFails,
        Self::ApiDownPowerOff,
        Self::SplitHealed,
        Self::GossipBlocked,
        Self::SpeakerKilled,
        Self::SpeakerUpgrade,
        Self::AgentUpgrade,
        Self::Busy,
    ];

    /// Its name on the command line and in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::CableCut => "cable-cut",
            Self::Cordon => "cordon",
            Self::Drain => "drain",
            Self::EndpointUnready => "endpoint-unready",
            Self::EndpointDeleted => "endpoint-deleted",
            Self::ProbeFails => "probe-fails",
            Self::ApiDownPowerOff => "api-down",
            Self::SplitHealed => "split-healed",
            Self::GossipBlocked => "gossip-blocked",
            Self::SpeakerKilled => "speaker-killed",
            Self::SpeakerUpgrade => "speaker-upgrade",
            Self::AgentUpgrade => "agent-upgrade",
            Self::Busy => "busy",
        }
    }

    /// What happens, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::PowerOff => "owner powered off",
            Self::CableCut => "owner's cable cut",
            Self::Cordon => "owner cordoned",
            Self::Drain => "owner drained",
            Self::EndpointUnready => "last local endpoint unready",
            Self::EndpointDeleted => "last local endpoint deleted",
            Self::ProbeFails => "service proxy dies, API silent",
            Self::ApiDownPowerOff => "API silent, then owner powered off",
            Self::SplitHealed => "switch split, then whole",
            Self::GossipBlocked => "gossip of the owner blocked",
            Self::SpeakerKilled => "owner's speaker killed",
            Self::SpeakerUpgrade => "speakers replaced",
            Self::AgentUpgrade => "node agents replaced",
            Self::Busy => "8 busy threads a core",
        }
    }

    /// Whether it can be done to this one. MetalLB probes nothing, has no node agents and another gossip.
    pub fn is_for(self, who: Contender) -> bool {
        match who {
            Contender::Fairlead => true,
            Contender::MetalLb => !matches!(
                self,
                Self::ProbeFails | Self::GossipBlocked | Self::AgentUpgrade | Self::Busy
            ),
        }
    }

    /// Whether the trials are of no use to more than one: a long one tells as much as many.
    pub fn once(self) -> bool {
        self == Self::Busy
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
        assert!("reboot".parse::<Row>().unwrap_err().contains("power-off"));
    }
}
