//! Packet captures inside the lab, by tcpdump.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    error::{Doing, LabError, Result},
    lab::Lab,
    machine::{Machine, ServiceSpec},
    topology::{BRIDGE, Place},
};

const LIMIT: Duration = Duration::from_secs(10);

/// A name for a service of this process that no other process has.
pub(crate) fn unique_name(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{what}-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A capture that runs until it is stopped (or its place is powered off).
#[derive(Debug)]
pub struct Capture {
    machine: Machine,
    service: String,
    output: PathBuf,
    log: PathBuf,
}

/// The command for a capture: one line for each packet, with link-level addresses and the time since the epoch.
///
/// `interface` is by default the place's uplink, and the whole bridge at the switch.
pub fn command(place: Place, interface: Option<&str>, filter: &str) -> Vec<String> {
    let uplink = place.uplink().map_or(BRIDGE, |i| i.name);
    let mut argv: Vec<String> = ["tcpdump", "-l", "-n", "-e", "-tt", "--immediate-mode", "-i"]
        .map(Into::into)
        .into();
    argv.push(interface.unwrap_or(uplink).to_owned());
    argv.push(filter.to_owned());
    argv
}

impl Lab {
    /// Captures what passes the uplink of a place (at the switch: the bridge), and returns once packets are being
    /// recorded.
    ///
    /// # Errors
    /// When the place does not run, or tcpdump does not take the filter.
    pub fn capture(&self, place: Place, filter: &str) -> Result<Capture> {
        self.capture_on(place, None, filter)
    }

    /// As [`Lab::capture`], on a certain interface.
    ///
    /// # Errors
    /// As [`Lab::capture`].
    pub fn capture_on(&self, place: Place, interface: Option<&str>, filter: &str) -> Result<Capture> {
        let machine = self.machine(place)?;
        let service = unique_name("capture");
        let output = self.paths().machine(place).join(format!("{service}.txt"));
        let mut spec = ServiceSpec::new(&service, command(place, interface, filter));
        spec.stdout = Some(output.clone());
        machine.start_service(spec)?;
        let capture = Capture {
            machine,
            log: self.paths().log(place, &service),
            service,
            output,
        };
        capture.wait_listening(filter)?;
        Ok(capture)
    }
}

impl Capture {
    fn wait_listening(&self, filter: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            if said.contains("listening on") {
                return Ok(());
            }
            let running = self
                .machine
                .services()?
                .iter()
                .any(|s| s.name == self.service && s.is_running());
            if !running {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                let command = format!("tcpdump {filter:?}");
                return Err(LabError::Command {
                    command,
                    detail: said.trim().to_owned(),
                });
            }
            if begun.elapsed() > LIMIT {
                let what = format!("tcpdump {filter:?} to listen");
                return Err(LabError::Timeout {
                    what,
                    after: LIMIT,
                    seen: said,
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The packets so far, one line each; a line that is being written is left out.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn lines(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.output).doing(format!("read {}", self.output.display()))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(whole.lines().map(str::to_owned).collect())
    }

    /// Ends the capture and returns its packets, one line each.
    ///
    /// # Errors
    /// When tcpdump cannot be ended or its output not be read.
    pub fn stop(self) -> Result<Vec<String>> {
        self.machine.end_service(&self.service, Signal::SIGINT, LIMIT)?;
        self.lines()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Best effort: it has ended already when `stop` was called, or its place was powered off.
        let _ = self.machine.end_service(&self.service, Signal::SIGKILL, LIMIT);
        let _ = self.machine.forget_service(&self.service);
        let _ = fs::remove_file(&self.output);
        let _ = fs::remove_file(&self.log);
    }
}
