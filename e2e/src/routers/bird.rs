//! BIRD 2, spoken to by `birdc`.

mod text;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use nix::sys::signal::Signal;

use super::daemons::Daemons;
use super::{Family, Neighbor, Nodes, Path, Router, kernel};
use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::machine::ServiceSpec;
use crate::net::run;
use crate::preflight::routing_packages;
use crate::progress::Progress;
use crate::topology::Place;

const SERVICE: &str = "bird";
/// Where BIRD listens inside its machine; `birdc` looks there by itself.
const SOCKET: &str = "/run/bird/bird.ctl";

/// BIRD at work in a place; it ends when this is dropped, and its routes go with it.
#[derive(Debug)]
pub struct Bird {
    daemons: Daemons,
    config: PathBuf,
}

impl Bird {
    /// Starts BIRD on `router2` with a neighbour range for the nodes.
    ///
    /// # Errors
    /// As [`Bird::start_at`].
    pub fn start(lab: &Lab, nodes: &Nodes) -> Result<Self> {
        Self::start_at(lab, Place::Router2, &nodes.bird(Place::Router2))
    }

    /// Starts BIRD in any place, with a configuration as `bird.conf` has it. What is left there of an earlier one,
    /// whose owner was killed, is ended first.
    ///
    /// # Errors
    /// When it cannot be installed or started, or refuses the configuration.
    pub fn start_at(lab: &Lab, place: Place, config: &str) -> Result<Self> {
        routing_packages(&Progress::stderr())?;
        let bird = Self::of(lab, place);
        bird.daemons.kill()?;
        let mkdir = bird.daemons.machine()?.command(["mkdir", "-p", "/run/bird"]);
        run(mkdir, "make /run/bird")?;
        bird.write(config)?;
        bird.restart()?;
        Ok(bird)
    }

    /// What this would be if it ran.
    pub(super) fn of(lab: &Lab, place: Place) -> Self {
        let config = lab.paths().machine(place).join("bird.conf");
        let name = config.display().to_string();
        let argv = ["/usr/sbin/bird", "-f", "-c", &name, "-s", SOCKET];
        Self {
            daemons: Daemons {
                lab: lab.clone(),
                place,
                specs: vec![ServiceSpec::new(SERVICE, argv)],
            },
            config,
        }
    }

    fn write(&self, config: &str) -> Result<()> {
        fs::write(&self.config, config).doing(format!("write {}", self.config.display()))
    }

    /// Gives it another configuration, in full. Sessions that it does not touch stay.
    ///
    /// # Errors
    /// When it is refused; then the old one goes on, until the next restart.
    pub fn configure(&self, config: &str) -> Result<()> {
        self.write(config)?;
        let said = self.command("configure")?;
        if said.contains("Reconfigured") || said.contains("Reconfiguration in progress") {
            return Ok(());
        }
        Err(LabError::Command {
            command: "birdc configure".into(),
            detail: said.trim().to_owned(),
        })
    }

    /// Runs one of BIRD's commands, such as `restart nodes4_1`, and answers with what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn command(&self, line: &str) -> Result<String> {
        let machine = self.daemons.machine()?;
        let argv = ["birdc", "-s", SOCKET, line];
        let what = format!("birdc {line} in {}", self.place().name());
        run(machine.command(argv), &what).map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    /// Ends it properly: neighbours are told, and routes leave the kernel.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn stop(&self) -> Result<()> {
        self.daemons.end(Signal::SIGTERM)
    }

    /// Kills it: neighbours are not told, and routes stay in the kernel.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn kill(&self) -> Result<()> {
        self.daemons.kill()
    }

    /// Starts it again, if it does not run.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&self) -> Result<()> {
        self.daemons.start(&[SERVICE])?;
        self.daemons
            .wait_ready(&[SERVICE], || self.command("show status").map(drop))
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.daemons.log(SERVICE)
    }
}

impl Router for Bird {
    fn lab(&self) -> &Lab {
        &self.daemons.lab
    }

    fn place(&self) -> Place {
        self.daemons.place
    }

    fn neighbor(&self, address: IpAddr) -> Result<Option<Neighbor>> {
        let Some(mut neighbor) = text::neighbor(&self.command("show protocols all")?, address) else {
            return Ok(None);
        };
        neighbor.bfd = text::bfd(&self.command("show bfd sessions")?, address);
        Ok(Some(neighbor))
    }

    fn paths(&self, prefix: IpNet) -> Result<Vec<Path>> {
        // A network that it does not know is an error to birdc.
        let said = match self.command(&format!("show route {prefix} all")) {
            Err(LabError::Command { detail, .. }) if detail.contains("not found") => return Ok(vec![]),
            said => said?,
        };
        let used = self.fib(prefix)?;
        let protocols = self.command("show protocols")?;
        Ok(text::paths(&said, &used, &text::established(&protocols)))
    }

    fn count(&self, family: Family) -> Result<u64> {
        Ok(text::count(&self.command("show route count")?, family))
    }

    fn protocol(&self) -> &'static str {
        "bird"
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.stop();
        if let Ok(machine) = self.daemons.machine() {
            kernel::flush(&machine, self.protocol());
        }
    }
}
