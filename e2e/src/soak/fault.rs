//! The faults of a soak, and which of them may be at work together.

use std::fmt;

use crate::random::Random;

/// Something that is wrong, until it is mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node is cordoned.
    Cordon(u8),
    /// A node's cable is cut.
    Cut(u8),
    /// A node has no power.
    PowerOff(u8),
    /// A speaker was killed; it is mended when one runs again.
    KillSpeaker(u8),
    /// The same of a node agent.
    KillAgent(u8),
    /// A web server is not ready: its label, and its node.
    Unready(String, u8),
    /// The API server is silent.
    ApiSilent,
    /// The Service that comes and goes is gone.
    ServiceGone,
    /// The speakers' gossip does not pass between two nodes.
    GossipBlocked(u8, u8),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordon(n) => write!(f, "node{n} cordoned"),
            Self::Cut(n) => write!(f, "cable of node{n} cut"),
            Self::PowerOff(n) => write!(f, "node{n} powered off"),
            Self::KillSpeaker(n) => write!(f, "speaker of node{n} killed"),
            Self::KillAgent(n) => write!(f, "node agent of node{n} killed"),
            Self::Unready(app, n) => write!(f, "{app} on node{n} unready"),
            Self::ApiSilent => write!(f, "API server silent"),
            Self::ServiceGone => write!(f, "Service deleted"),
            Self::GossipBlocked(a, b) => write!(f, "gossip blocked between node{a} and node{b}"),
        }
    }
}

impl Fault {
    /// One of them, each kind as likely as another.
    pub fn any(random: &mut Random, nodes: u8, local: &[&str]) -> Self {
        let node = |random: &mut Random| 1 + random.below(nodes.into()) as u8;
        let n = node(random);
        match random.below(9) {
            0 => Self::Cordon(n),
            1 => Self::Cut(n),
            2 => Self::PowerOff(n),
            3 => Self::KillSpeaker(n),
            4 => Self::KillAgent(n),
            5 => Self::Unready(local[random.below(local.len())].to_owned(), n),
            6 => Self::ApiSilent,
            7 => Self::ServiceGone,
            _ => {
                let other = 1 + (n + random.below(usize::from(nodes) - 1) as u8) % nodes;
                Self::GossipBlocked(n, other)
            }
        }
    }

    /// The node that cannot announce anything while this lasts. A cordoned one can, and one without gossip as well.
    pub fn hinders(&self) -> Option<u8> {
        match self {
            Self::Cut(n) | Self::PowerOff(n) | Self::KillSpeaker(n) => Some(*n),
            _ => None,
        }
    }

    /// The nodes at which something is changed.
    fn nodes(&self) -> Vec<u8> {
        match self {
            Self::Cordon(n)
            | Self::Cut(n)
            | Self::PowerOff(n)
            | Self::KillSpeaker(n)
            | Self::KillAgent(n)
            | Self::Unready(_, n) => vec![*n],
            Self::GossipBlocked(a, b) => vec![*a, *b],
            Self::ApiSilent | Self::ServiceGone => vec![],
        }
    }

    /// Whether what runs on its node cannot reach the API server.
    fn cuts_off(&self) -> bool {
        matches!(self, Self::Cut(_) | Self::PowerOff(_))
    }

    /// Whether making it takes an API server that answers.
    fn made_by_api(&self) -> bool {
        matches!(self, Self::Cordon(_) | Self::Unready(..) | Self::ServiceGone)
    }

    /// Whether mending it does.
    pub fn mended_by_api(&self) -> bool {
        self.made_by_api()
            || matches!(
                self,
                Self::PowerOff(_) | Self::KillSpeaker(_) | Self::KillAgent(_)
            )
    }

    /// Whether it can be made beside those that are at work: one at a node, and one node that is left alone.
    pub fn fits(&self, active: &[Self], nodes: u8) -> bool {
        if self == &Self::ApiSilent && active.contains(self)
            || self == &Self::ServiceGone && active.contains(self)
        {
            return false;
        }
        if self.made_by_api() && active.contains(&Self::ApiSilent) {
            return false;
        }
        // A Service that comes back needs a controller, and the two may be on any two nodes.
        let lost = active
            .iter()
            .chain([self])
            .filter(|fault| fault.cuts_off())
            .count();
        if lost >= 2
            && active
                .iter()
                .chain([self])
                .any(|fault| fault == &Self::ServiceGone)
        {
            return false;
        }
        let mut touched: Vec<u8> = active.iter().flat_map(Self::nodes).collect();
        let own = self.nodes();
        if own.iter().any(|n| touched.contains(n)) {
            return false;
        }
        touched.extend(own);
        touched.len() < usize::from(nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_fault_at_a_node_and_one_node_left_alone() {
        let active = [Fault::Cut(1)];
        assert!(!Fault::PowerOff(1).fits(&active, 3));
        assert!(Fault::PowerOff(2).fits(&active, 3));
        assert!(
            !Fault::GossipBlocked(2, 3).fits(&active, 3),
            "no node is left alone"
        );
        assert!(Fault::GossipBlocked(2, 3).fits(&[], 3));
        assert!(Fault::ApiSilent.fits(&active, 3));
        assert!(!Fault::Cordon(2).fits(&[Fault::ApiSilent], 3));
        assert!(!Fault::ServiceGone.fits(&[Fault::ServiceGone], 3));
        assert!(Fault::ServiceGone.fits(&active, 3));
        assert!(
            !Fault::PowerOff(2).fits(&[Fault::Cut(1), Fault::ServiceGone], 3),
            "both controllers may be gone"
        );
        assert!(!Fault::ServiceGone.fits(&[Fault::Cut(1), Fault::PowerOff(2)], 3));
    }

    #[test]
    fn nodes_are_those_of_the_lab_and_gossip_is_between_two() {
        let mut random = Random::from_seed(7);
        for _ in 0..1000 {
            let fault = Fault::any(&mut random, 3, &["a", "b"]);
            assert!(fault.nodes().iter().all(|n| (1..=3).contains(n)), "{fault}");
            if let Fault::GossipBlocked(a, b) = fault {
                assert_ne!(a, b);
            }
        }
    }
}
