//! FRR: zebra, bgpd and bfdd, spoken to by `vtysh`.

mod text;

use std::fs;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::daemons::Daemons;
use super::{Family, Neighbor, Nodes, Path, Router, kernel};
use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::machine::ServiceSpec;
use crate::net::run;
use crate::preflight::routing_packages;
use crate::progress::Progress;
use crate::topology::Place;

/// The daemons, in the order in which they start.
pub const DAEMONS: [&str; 3] = ["zebra", "bgpd", "bfdd"];

/// Where zebra listens for the others.
const ZEBRA_SOCKET: &str = "/run/frr/zserv.api";

/// Zebra's number among routing protocols (`RTPROT_ZEBRA`), by which the kernel keeps the next hops that it has made.
const ZEBRA_PROTOCOL: &str = "11";

/// FRR at work in a place; it ends when this is dropped, and its routes go with it.
#[derive(Debug)]
pub struct Frr {
    daemons: Daemons,
    /// All that it was told, to be told again to one that was started anew.
    config: Mutex<String>,
}

impl Frr {
    /// Starts FRR on `router` with a neighbour group for the nodes.
    ///
    /// # Errors
    /// As [`Frr::start_at`].
    pub fn start(lab: &Lab, nodes: &Nodes) -> Result<Self> {
        Self::start_at(lab, Place::Router, &nodes.frr(Place::Router))
    }

    /// Starts FRR in any place, with a configuration as `frr.conf` has it. What is left there of an earlier one, whose
    /// owner was killed, is ended first.
    ///
    /// # Errors
    /// When it cannot be installed or started, or refuses the configuration.
    pub fn start_at(lab: &Lab, place: Place, config: &str) -> Result<Self> {
        routing_packages(&Progress::stderr())?;
        let frr = Self::of(lab, place, config);
        frr.daemons.kill()?;
        // FRR's daemons drop their rights to this user before they write here.
        let mkdir = ["install", "-d", "-o", "frr", "-g", "frr", "/run/frr"];
        run(frr.daemons.machine()?.command(mkdir), "make /run/frr")?;
        frr.restart()?;
        Ok(frr)
    }

    /// What this would be if it ran.
    pub(super) fn of(lab: &Lab, place: Place, config: &str) -> Self {
        let spec = |daemon: &str| {
            let program = format!("/usr/lib/frr/{daemon}");
            ServiceSpec::new(&service(daemon), [&program, "-A", "127.0.0.1", "--log", "stdout"])
        };
        Self {
            daemons: Daemons {
                lab: lab.clone(),
                place,
                specs: DAEMONS.into_iter().map(spec).collect(),
            },
            config: Mutex::new(config.to_owned()),
        }
    }

    /// Changes the configuration by lines as `frr.conf` has them.
    ///
    /// # Errors
    /// When a line is refused.
    pub fn configure(&self, lines: &str) -> Result<()> {
        self.apply(lines)?;
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        *config += lines;
        if !config.ends_with('\n') {
            config.push('\n');
        }
        Ok(())
    }

    fn apply(&self, lines: &str) -> Result<()> {
        let path = self.lab().paths().machine(self.place()).join("frr-to-configure");
        fs::write(&path, format!("{}\n", lines.trim_end())).doing(format!("write {}", path.display()))?;
        self.vtysh(&["-f", &path.display().to_string()]).map(drop)
    }

    /// Runs one of FRR's commands, such as `clear bgp *`, and answers with what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn command(&self, line: &str) -> Result<String> {
        self.vtysh(&["-c", line])
            .map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs one of FRR's `show … json` commands.
    ///
    /// # Errors
    /// When it fails, or does not answer in JSON.
    pub fn show(&self, line: &str) -> Result<Value> {
        let text = self.vtysh(&["-c", &format!("show {line} json")])?;
        serde_json::from_slice(&text).doing(format!("answer of FRR to: show {line} json"))
    }

    fn vtysh(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let machine = self.daemons.machine()?;
        let argv = ["vtysh"].into_iter().chain(arguments.iter().copied());
        run(
            machine.command(argv),
            &format!("vtysh {} in {}", arguments.join(" "), self.place().name()),
        )
    }

    /// Ends all daemons properly: neighbours are told, and routes leave the kernel.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn stop(&self) -> Result<()> {
        self.daemons.end(Signal::SIGTERM)
    }

    /// Kills all daemons: neighbours are not told, and routes stay in the kernel.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn kill(&self) -> Result<()> {
        self.daemons.kill()
    }

    /// Ends one of [`DAEMONS`] by a signal.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn end_daemon(&self, daemon: &str, signal: Signal) -> Result<()> {
        self.daemons.end_one(&service(daemon), signal)
    }

    /// Starts the daemons that do not run, and configures all as they were.
    ///
    /// # Errors
    /// When one does not come up, or refuses its configuration.
    pub fn restart(&self) -> Result<()> {
        let [zebra, bgpd, bfdd] = DAEMONS.map(service);
        let machine = self.daemons.machine()?;
        if !self.daemons.runs(&zebra)? {
            // Left by one that was killed; the others would try it, and come back after ten seconds.
            run(
                machine.command(["rm", "-f", ZEBRA_SOCKET]),
                "remove zebra's socket",
            )?;
        }
        self.daemons.start(&[&zebra])?;
        self.daemons.wait_ready(&[&zebra], || {
            let there = machine.command(["test", "-S", ZEBRA_SOCKET]);
            run(there, "zebra's socket").map(drop)
        })?;
        self.daemons.start(&[&bgpd, &bfdd])?;
        // Before bgpd knows the interfaces from zebra it refuses good routes and announces bad next hops.
        self.daemons.wait_ready(&[&zebra, &bgpd, &bfdd], || {
            let answering = self.command("show daemons")?;
            let clients = self.command("show zebra client summary")?;
            let connected = |name: &str| clients.lines().any(|line| line.starts_with(name));
            if DAEMONS.iter().all(|name| answering.contains(name)) && connected("bgp") && connected("bfd") {
                return Ok(());
            }
            let seen = format!("FRR's daemons: {}; zebra's clients: {clients}", answering.trim());
            Err(LabError::Refused(seen))
        })?;
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        self.apply(&config)
    }

    /// The log of one of [`DAEMONS`] so far.
    pub fn log(&self, daemon: &str) -> String {
        self.daemons.log(&service(daemon))
    }
}

impl Router for Frr {
    fn lab(&self) -> &Lab {
        &self.daemons.lab
    }

    fn place(&self) -> Place {
        self.daemons.place
    }

    fn neighbor(&self, address: IpAddr) -> Result<Option<Neighbor>> {
        text::neighbor(self.show(&format!("bgp neighbors {address}"))?)
    }

    fn paths(&self, prefix: IpNet) -> Result<Vec<Path>> {
        text::paths(self.show(&format!("bgp {} unicast {prefix}", name(Family::of(prefix))))?)
    }

    fn count(&self, family: Family) -> Result<u64> {
        let answer = self.show(&format!("bgp {} unicast statistics", name(family)))?;
        Ok(text::total_prefixes(&answer))
    }

    fn protocol(&self) -> &'static str {
        "bgp"
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        let _ = self.stop();
        if let Ok(machine) = self.daemons.machine() {
            kernel::flush(&machine, self.protocol());
            kernel::flush_next_hops(&machine, ZEBRA_PROTOCOL);
        }
    }
}

fn service(daemon: &str) -> String {
    format!("frr-{daemon}")
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}
