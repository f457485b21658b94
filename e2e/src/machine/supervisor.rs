//! The services of a machine, as its init (pid 1) keeps them.
//!
//! Nothing is restarted by itself: a test that kills a program wants it dead.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::protocol::{Reply, Request, ServiceSpec, ServiceState};

struct Service {
    spec: ServiceSpec,
    pid: i32,
    ended: Option<String>,
}

/// All services of this machine.
pub(super) struct Supervisor {
    logs: PathBuf,
    services: Mutex<BTreeMap<String, Service>>,
}

impl Supervisor {
    pub(super) fn new(logs: PathBuf) -> Self {
        Self {
            logs,
            services: Mutex::default(),
        }
    }

    fn services(&self) -> MutexGuard<'_, BTreeMap<String, Service>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Start(spec) => self.start(spec),
            Request::Restart { name } => {
                let spec = self.services().get(&name).map(|s| s.spec.clone());
                spec.map_or_else(
                    || Reply::Failed(format!("no service {name:?} here")),
                    |spec| self.start(spec),
                )
            }
            Request::Signal { name, signal } => self.signal(&name, signal),
            Request::Forget { name } => {
                let mut services = self.services();
                if services.get(&name).is_some_and(|s| s.ended.is_some()) {
                    services.remove(&name);
                }
                Reply::Done
            }
            Request::List => Reply::Services(
                self.services()
                    .values()
                    .map(|s| ServiceState {
                        name: s.spec.name.clone(),
                        pid: s.pid,
                        ended: s.ended.clone(),
                    })
                    .collect(),
            ),
        }
    }

    fn start(&self, spec: ServiceSpec) -> Reply {
        // Held while spawning, so that a child that ends at once is reaped after it was entered.
        let mut services = self.services();
        if services.get(&spec.name).is_some_and(|s| s.ended.is_none()) {
            return Reply::Done;
        }
        match self.spawn(&spec) {
            Ok(pid) => {
                services.insert(
                    spec.name.clone(),
                    Service {
                        spec,
                        pid,
                        ended: None,
                    },
                );
                Reply::Done
            }
            Err(error) => Reply::Failed(format!("{}: {error}", spec.argv.join(" "))),
        }
    }

    fn spawn(&self, spec: &ServiceSpec) -> io::Result<i32> {
        let [program, arguments @ ..] = spec.argv.as_slice() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program given"));
        };
        let log = append(self.logs.join(format!("{}.log", spec.name)))?;
        let stdout = match &spec.stdout {
            Some(path) => File::create(path)?,
            None => log.try_clone()?,
        };
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs([
                (
                    "PATH",
                    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                ),
                ("HOME", "/root"),
                ("LANG", "C.UTF-8"),
            ])
            .envs(&spec.env)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            .spawn()?;
        // Dropped without waiting: `reap` collects every child of pid 1, ours and orphans alike.
        i32::try_from(child.id()).map_err(io::Error::other)
    }

    fn signal(&self, name: &str, signal: i32) -> Reply {
        // Held while signalling, so that the pid cannot be reaped and given away in between.
        let services = self.services();
        let result = match (services.get(name), Signal::try_from(signal)) {
            (Some(service), Ok(signal)) if service.ended.is_none() => {
                kill(Pid::from_raw(service.pid), signal)
            }
            (Some(_), Ok(_)) => return Reply::Failed(format!("{name} does not run")),
            (None, _) => return Reply::Failed(format!("no service {name:?} here")),
            (_, Err(error)) => Err(error),
        };
        result.map_or_else(
            |errno| Reply::Failed(format!("signal {signal} to {name}: {errno}")),
            |()| Reply::Done,
        )
    }

    /// Collects ended children for ever. SIGCHLD must be blocked in every thread.
    pub(super) fn reap(&self) -> ! {
        let mut chld = SigSet::empty();
        chld.add(Signal::SIGCHLD);
        loop {
            loop {
                let mut services = self.services();
                match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                    Ok(WaitStatus::Exited(pid, code)) => note_end(&mut services, pid, format!("exit {code}")),
                    Ok(WaitStatus::Signaled(pid, signal, _)) => {
                        note_end(&mut services, pid, format!("signal {signal}"));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            // A failure (EINTR) only means one more look.
            let _ = chld.wait();
        }
    }
}

fn note_end(services: &mut BTreeMap<String, Service>, pid: Pid, how: String) {
    if let Some(service) = services
        .values_mut()
        .find(|s| s.pid == pid.as_raw() && s.ended.is_none())
    {
        service.ended = Some(how);
    }
}

fn append(path: PathBuf) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}
