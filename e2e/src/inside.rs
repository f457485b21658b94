//! Sockets of this process in the network of a place, or of a pod: they stay where they were opened, whoever uses them.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;

use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::net;
use crate::topology::Place;

impl Lab {
    /// Runs `job` on a thread that is in the network of a place, and otherwise on the host.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn inside<T: Send>(&self, place: Place, job: impl FnOnce() -> T + Send) -> Result<T> {
        net::inside(&self.machine(place)?, job)
    }

    /// The same in the network of a pod, by one of its addresses and the node it is on.
    ///
    /// # Errors
    /// When no pod there has the address.
    pub fn inside_pod<T: Send>(
        &self,
        node: Place,
        address: IpAddr,
        job: impl FnOnce() -> T + Send,
    ) -> Result<T> {
        net::inside_of(&self.pod_network(node, address)?, job)
    }

    /// The network namespace of a pod, as a path on the host.
    fn pod_network(&self, node: Place, address: IpAddr) -> Result<PathBuf> {
        // Where containerd puts them.
        let process = PathBuf::from(format!("/proc/{}", self.machine(node)?.id().pid));
        let all = process.join("root").join("run/netns");
        for entry in fs::read_dir(&all).doing(format!("read {}", all.display()))? {
            let path = entry.doing(format!("read {}", all.display()))?.path();
            // One may be on its way out. An address can be bound only where it is.
            let bound = net::inside_of(&path, || UdpSocket::bind((address, 0)).is_ok());
            if bound.unwrap_or(false) {
                return Ok(path);
            }
        }
        Err(LabError::Refused(format!(
            "no pod on {} has the address {address}",
            node.name()
        )))
    }
}
