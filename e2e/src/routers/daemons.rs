//! Programs that run in a place for as long as a value lives.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::error::{LabError, Result};
use crate::lab::Lab;
use crate::machine::{Machine, ServiceSpec};
use crate::topology::Place;

/// How long a daemon may take to end, or to answer.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Daemons {
    pub(super) lab: Lab,
    pub(super) place: Place,
    /// In the order in which they start.
    pub(super) specs: Vec<ServiceSpec>,
}

impl Daemons {
    pub(super) fn machine(&self) -> Result<Machine> {
        self.lab.machine(self.place)
    }

    /// Starts those of `names` that do not run.
    pub(super) fn start(&self, names: &[&str]) -> Result<()> {
        let machine = self.machine()?;
        self.specs
            .iter()
            .filter(|spec| names.contains(&spec.name.as_str()))
            .try_for_each(|spec| machine.start_service(spec.clone()))
    }

    /// Ends all that run, in the reverse order; a daemon that does not heed the signal is killed.
    pub(super) fn end(&self, signal: Signal) -> Result<()> {
        let names = self.specs.iter().rev().map(|spec| &spec.name);
        names.into_iter().try_for_each(|name| self.end_one(name, signal))
    }

    /// Kills all that run, the first one first: it must not see the others die, and tidy up after them.
    pub(super) fn kill(&self) -> Result<()> {
        self.specs
            .iter()
            .try_for_each(|spec| self.end_one(&spec.name, Signal::SIGKILL))
    }

    /// Ends one of them, if it runs.
    pub(super) fn end_one(&self, name: &str, signal: Signal) -> Result<()> {
        let machine = self.machine()?;
        if !self.runs(name)? {
            return Ok(());
        }
        let ended = machine.end_service(name, signal, PATIENCE);
        if self.runs(name)? {
            return machine.end_service(name, Signal::SIGKILL, PATIENCE);
        }
        // One that ended by itself a moment before the signal is as good.
        ended.or(Ok(()))
    }

    pub(super) fn runs(&self, name: &str) -> Result<bool> {
        let services = self.machine()?.services()?;
        Ok(services.iter().any(|s| s.name == name && s.is_running()))
    }

    /// Fails with the last words of a daemon that has ended.
    fn check(&self, names: &[&str]) -> Result<()> {
        let services = self.machine()?.services()?;
        match services
            .iter()
            .find(|s| names.contains(&s.name.as_str()) && !s.is_running())
        {
            None => Ok(()),
            Some(dead) => {
                let log = self.log(&dead.name);
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                let detail = last.into_iter().rev().collect::<Vec<_>>().join("; ");
                Err(LabError::Command {
                    command: format!("{}/{}", self.place.name(), dead.name),
                    detail: format!("{}: {detail}", dead.ended.as_deref().unwrap_or_default()),
                })
            }
        }
    }

    /// Waits until `answers` succeeds; fails at once when one of `names` has ended.
    pub(super) fn wait_ready(&self, names: &[&str], mut answers: impl FnMut() -> Result<()>) -> Result<()> {
        let begun = Instant::now();
        loop {
            let Err(error) = answers() else { return Ok(()) };
            self.check(names)?;
            if begun.elapsed() > PATIENCE {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn log(&self, name: &str) -> String {
        self.lab.paths().read_log(self.place, name)
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        // Best effort: the place may have been powered off, and they are gone with it.
        let _ = self.end(Signal::SIGTERM);
        if let Ok(machine) = self.machine() {
            for spec in &self.specs {
                let _ = machine.forget_service(&spec.name);
            }
        }
    }
}
