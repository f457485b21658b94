//! The test client at work in a place of the lab.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    capture::unique_name,
    client::{ClientOptions, Report},
    error::{Doing, LabError, Result},
    lab::Lab,
    machine::{Machine, ServiceSpec},
    topology::Place,
};

/// A test client that runs until it is stopped, or its own duration is over.
#[derive(Debug)]
pub struct RunningClient {
    machine: Machine,
    service: String,
    report: PathBuf,
    log: PathBuf,
    patience: Duration,
}

impl Lab {
    /// Starts the test client in a place.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn start_client(&self, place: Place, options: &ClientOptions) -> Result<RunningClient> {
        let machine = self.machine(place)?;
        let service = unique_name("client");
        let report = self.paths().machine(place).join(format!("{service}.json"));
        let program = self.paths().program().display().to_string();
        let argv = [program, "client".into(), "--json".into()]
            .into_iter()
            .chain(options.to_args());
        let mut spec = ServiceSpec::new(&service, argv);
        spec.stdout = Some(report.clone());
        machine.start_service(spec)?;
        Ok(RunningClient {
            log: self.paths().log(place, &service),
            machine,
            service,
            report,
            // It waits for the requests under way before it reports.
            patience: options.timeout.max(options.hold_timeout) + Duration::from_secs(10),
        })
    }
}

impl RunningClient {
    /// Whether it is still measuring.
    ///
    /// # Errors
    /// When its place was powered off.
    pub fn is_running(&self) -> Result<bool> {
        Ok(self
            .machine
            .services()?
            .iter()
            .any(|s| s.name == self.service && s.is_running()))
    }

    /// Ends it and returns what it saw.
    ///
    /// # Errors
    /// When it cannot be ended, or died without a report.
    pub fn stop(self) -> Result<Report> {
        if self.is_running()? {
            self.machine
                .end_service(&self.service, Signal::SIGINT, self.patience)?;
        }
        self.read()
    }

    /// Waits until its own duration is over and returns what it saw.
    ///
    /// # Errors
    /// When it is still running after `limit`, or died without a report.
    pub fn wait(self, limit: Duration) -> Result<Report> {
        let begun = Instant::now();
        while self.is_running()? {
            if begun.elapsed() > limit {
                let what = format!("{} to end", self.service);
                return Err(LabError::Timeout {
                    what,
                    after: limit,
                    seen: "it runs".into(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.read()
    }

    fn read(&self) -> Result<Report> {
        let text = fs::read_to_string(&self.report).doing(format!("read {}", self.report.display()))?;
        if text.trim().is_empty() {
            let detail = fs::read_to_string(&self.log).unwrap_or_default();
            return Err(LabError::Command {
                command: "lab client".into(),
                detail: detail.trim().to_owned(),
            });
        }
        serde_json::from_str(&text).doing("report of the test client")
    }
}

impl Drop for RunningClient {
    fn drop(&mut self) {
        // Best effort: it has ended already, unless nobody asked for its report.
        let _ = self
            .machine
            .end_service(&self.service, Signal::SIGKILL, Duration::from_secs(2));
        let _ = self.machine.forget_service(&self.service);
        let _ = fs::remove_file(&self.report);
        let _ = fs::remove_file(&self.log);
    }
}
