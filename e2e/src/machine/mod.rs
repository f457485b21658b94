//! Machines: each place of the lab is one small init process in namespaces of its own, and what it starts.
//!
//! Killing the init ends every process of the machine at once, as cutting the power would; its mounts and its network
//! go with it.

mod init;
mod mounts;
mod protocol;
mod supervisor;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

pub use init::{AS_INIT, SUBCOMMAND, launch, run};
use nix::sys::signal::Signal;
use protocol::{Reply, Request};
pub use protocol::{ServiceSpec, ServiceState};

use crate::{
    error::{Doing, LabError, Result},
    process::{ProcessId, find_marked},
    state::Paths,
    topology::{MAX_NODES, Place},
};

const START_LIMIT: Duration = Duration::from_secs(10);

/// A running machine, seen from the host.
#[derive(Debug, Clone)]
pub struct Machine {
    paths: Paths,
    place: Place,
    id: ProcessId,
}

impl Machine {
    /// The machine of `place`, if it runs.
    pub fn find(paths: &Paths, place: Place) -> Option<Self> {
        let recorded = fs::read(paths.pid_file(place)).ok()?;
        let id: ProcessId = serde_json::from_slice(&recorded).ok()?;
        let machine = Self {
            paths: paths.clone(),
            place,
            id,
        };
        (machine.id.is_alive() && machine.ask(&Request::List).is_ok()).then_some(machine)
    }

    /// Starts the machine of `place`; a half-started one is ended first.
    ///
    /// # Errors
    /// When it does not come up; its own words are in the error.
    pub fn start(paths: &Paths, place: Place) -> Result<Self> {
        end(paths, place)?;
        let own = paths.machine(place);
        fs::create_dir_all(own.join("logs")).doing(format!("create {}", own.display()))?;
        let _ = fs::remove_file(paths.socket(place));
        let name = place.name();
        let output = Command::new(paths.program())
            .args([SUBCOMMAND, paths.name(), &name])
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .doing(format!("run {}", paths.program().display()))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let id = said.parse().ok().and_then(ProcessId::of);
        let (true, Some(id)) = (output.status.success(), id) else {
            let mut detail = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            detail += &paths.read_log(place, "init");
            return Err(LabError::Command {
                command: format!("start of machine {name}"),
                detail,
            });
        };
        let text = serde_json::to_vec(&id).doing("write a process id")?;
        fs::write(paths.pid_file(place), text).doing(format!("record the pid of {name}"))?;
        let machine = Self {
            paths: paths.clone(),
            place,
            id,
        };
        machine.wait_ready()?;
        Ok(machine)
    }

    fn wait_ready(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.ask(&Request::List) {
                Ok(_) => return Ok(()),
                Err(error) if !self.id.is_alive() || begun.elapsed() > START_LIMIT => {
                    let detail = format!("{error}; {}", self.paths.read_log(self.place, "init").trim());
                    return Err(LabError::Command {
                        command: format!("machine {}", self.place.name()),
                        detail,
                    });
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Which place it is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Its init, as the host sees it. Changes with every start.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Its boot ID, which is new at every start.
    ///
    /// # Errors
    /// When it does not run any more.
    pub fn boot_id(&self) -> Result<String> {
        let path = format!("/proc/{}/root{}", self.id.pid, mounts::BOOT_ID);
        Ok(fs::read_to_string(&path)
            .doing(format!("read {path}"))?
            .trim()
            .to_owned())
    }

    /// A command that runs `argv` inside, in all of the machine's namespaces.
    ///
    /// It ends with its caller: the program is asked to terminate when the `nsenter` before it dies.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.id.pid.to_string(), "-m", "-u", "-i", "-n", "-p", "--"])
            .args(["setpriv", "--pdeathsig", "TERM", "--"])
            .args(argv);
        command
    }

    /// Starts a service, unless it runs already.
    ///
    /// # Errors
    /// When it cannot be started, or the machine does not answer.
    pub fn start_service(&self, spec: ServiceSpec) -> Result<()> {
        self.done(&Request::Start(spec))
    }

    /// Starts a service again that ended, as it was started before.
    ///
    /// # Errors
    /// When it was never started, or the machine does not answer.
    pub fn restart_service(&self, name: &str) -> Result<()> {
        self.done(&Request::Restart {
            name: name.to_owned(),
        })
    }

    /// Sends a signal to a running service.
    ///
    /// # Errors
    /// When it does not run, or the machine does not answer.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        self.done(&Request::Signal {
            name: name.to_owned(),
            signal: signal as i32,
        })
    }

    /// Sends a signal and waits until the service has ended.
    ///
    /// # Errors
    /// As [`Machine::signal`], and [`LabError::Timeout`] when it is still there after `limit`.
    pub fn end_service(&self, name: &str, signal: Signal, limit: Duration) -> Result<()> {
        self.signal(name, signal)?;
        let begun = Instant::now();
        while self.services()?.iter().any(|s| s.name == name && s.is_running()) {
            if begun.elapsed() > limit {
                let what = format!("{name} on {} to end", self.place.name());
                return Err(LabError::Timeout {
                    what,
                    after: limit,
                    seen: "it runs".into(),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Drops an ended service from the list.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn forget_service(&self, name: &str) -> Result<()> {
        self.done(&Request::Forget {
            name: name.to_owned(),
        })
    }

    /// All services, running or ended.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn services(&self) -> Result<Vec<ServiceState>> {
        match self.ask(&Request::List)? {
            Reply::Services(services) => Ok(services),
            other => Err(LabError::Refused(format!(
                "{} answered {other:?}",
                self.place.name()
            ))),
        }
    }

    fn done(&self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Reply::Failed(why) => Err(LabError::Refused(format!("{}: {why}", self.place.name()))),
            Reply::Done | Reply::Services(_) => Ok(()),
        }
    }

    fn ask(&self, request: &Request) -> Result<Reply> {
        let what = || format!("ask {}", self.place.name());
        let mut stream = UnixStream::connect(self.paths.socket(self.place)).doing(what())?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .doing(what())?;
        let mut line = serde_json::to_vec(request).doing(what())?;
        line.push(b'\n');
        stream.write_all(&line).doing(what())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).doing(what())?;
        serde_json::from_str(&answer).doing(format!("answer of {}", self.place.name()))
    }
}

/// Ends the machine of `place` in whatever state it is, every process of it.
///
/// # Errors
/// [`LabError::Timeout`] when a process survives SIGKILL for ten seconds.
pub fn end(paths: &Paths, place: Place) -> Result<()> {
    end_marked(paths, &[paths.name(), &place.name()])?;
    // One that is dying already has lost its command line, and is not gone before all its processes are.
    recorded(paths, place).map_or(Ok(()), wait_gone)?;
    let _ = fs::remove_file(paths.pid_file(place));
    let _ = fs::remove_file(paths.socket(place));
    Ok(())
}

/// Ends all machines of a lab, also those that no record tells of.
///
/// # Errors
/// As [`end`].
pub fn end_all(paths: &Paths) -> Result<()> {
    end_marked(paths, &[paths.name()])?;
    Place::all(MAX_NODES)
        .into_iter()
        .filter_map(|place| recorded(paths, place))
        .try_for_each(wait_gone)
}

fn recorded(paths: &Paths, place: Place) -> Option<ProcessId> {
    serde_json::from_slice(&fs::read(paths.pid_file(place)).ok()?).ok()
}

fn wait_gone(process: ProcessId) -> Result<()> {
    let limit = Duration::from_secs(10);
    if process.wait_gone(limit) {
        return Ok(());
    }
    let what = format!("process {} to end", process.pid);
    Err(LabError::Timeout {
        what,
        after: limit,
        seen: "it is still there".into(),
    })
}

fn end_marked(paths: &Paths, marker: &[&str]) -> Result<()> {
    // Again until none is found: one that was just being started may have escaped the first look.
    loop {
        let found = find_marked(&paths.program(), SUBCOMMAND, marker);
        if found.is_empty() {
            return Ok(());
        }
        for process in &found {
            process.kill();
        }
        found.into_iter().try_for_each(wait_gone)?;
    }
}
