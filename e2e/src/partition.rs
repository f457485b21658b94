//! A switch that falls into two: some cables end on a second bridge, which knows nothing of the first.

use crate::error::{LabError, Result};
use crate::lab::Lab;
use crate::net::{cable_of, in_network, ip_batch};
use crate::topology::{BRIDGE, Place};

/// The second bridge.
const OTHER: &str = "br1";

impl Lab {
    /// Moves the cables of some places to a second switch. They reach one another, and none of the rest.
    ///
    /// # Errors
    /// When the switch is split already, a place has no cable there, or is powered off.
    pub fn split(&self, places: &[Place]) -> Result<()> {
        let switch = self.machine(Place::Switch)?;
        let mut batch = format!(
            "link add {OTHER} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set {OTHER} up\n"
        );
        for place in places {
            let cable = cable_of(*place)
                .filter(|cable| cable.hub == Place::Switch)
                .ok_or_else(|| LabError::Refused(format!("{} is not at the switch", place.name())))?;
            batch += &format!("link set {} master {OTHER}\n", cable.port);
        }
        ip_batch(&switch, &batch)
    }

    /// Makes the switch whole again. One that is whole is no error.
    ///
    /// # Errors
    /// When the switch does not run.
    pub fn join(&self) -> Result<()> {
        let switch = self.machine(Place::Switch)?;
        let whole = in_network(&switch, ["ip", "link", "show", OTHER])
            .output()
            .is_ok_and(|output| !output.status.success());
        if whole {
            return Ok(());
        }
        let ports = in_network(&switch, ["ip", "-br", "link", "show", "master", OTHER])
            .output()
            .map_err(|source| LabError::Io {
                what: "list the ports of the second switch".to_owned(),
                source,
            })?;
        let text = String::from_utf8_lossy(&ports.stdout).into_owned();
        // `node1@if2  UP  …`
        let names = text
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.split('@').next());
        let mut batch: String = names
            .map(|name| format!("link set {name} master {BRIDGE}\n"))
            .collect();
        batch += &format!("link del {OTHER}\n");
        ip_batch(&switch, &batch)
    }
}
