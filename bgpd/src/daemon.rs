//! The daemon's process.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::farewell;
use crate::machine::Ending;

/// A daemon that is asked to end may take so long before it is killed.
const PATIENCE: Duration = Duration::from_secs(3);

/// How the daemon is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// `gobgpd`.
    pub path: PathBuf,
    /// Its socket for gRPC.
    pub socket: PathBuf,
    /// Whether it logs more.
    pub debug: bool,
    /// Whether it logs JSON.
    pub json: bool,
}

/// A running daemon. It dies with this process, and when this value is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Program {
    /// What it says of its version.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn version(&self) -> io::Result<String> {
        let output = Command::new(&self.path).arg("--version").output().await?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts it, after removing the socket that a former one may have left.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(&self) -> io::Result<Daemon> {
        match std::fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut command = Command::new(&self.path);
        command
            .arg(format!("--api-hosts=unix://{}", self.socket.display()))
            // Nothing listens but the socket: the pod has the node's network.
            .args(["--pprof-disable", "--metrics-path="])
            .arg(format!(
                "--log-level={}",
                if self.debug { "debug" } else { "info" }
            ))
            .stdin(Stdio::null())
            // What a terminal sends to us is not for it.
            .process_group(0)
            .kill_on_drop(true);
        if !self.json {
            command.arg("--log-plain");
        }
        die_with_parent(&mut command);
        Ok(Daemon {
            child: command.spawn()?,
            socket: self.socket.clone(),
        })
    }
}

/// Without its parent, nobody would end it. In a container the kernel sees to it; this is for outside of one.
#[allow(unsafe_code, reason = "the standard library does not know the request")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec there is one system call, with constants, which is safe there.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

impl Daemon {
    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it is gone. May be dropped and called again.
    ///
    /// # Errors
    /// What the system said.
    pub async fn gone(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends it by force: it does not answer.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Ends it in the given way, in [`farewell::LIMIT`] and 6 s at the most.
    pub async fn end(mut self, ending: Ending) {
        let parting = tokio::select! {
            outcome = farewell::say(&self.socket, ending) => outcome,
            _ = self.child.wait() => return,
        };
        if let Err(error) = &parting {
            tracing::warn!(%error, "the BGP daemon could not be told how to end");
        }
        match (ending, parting) {
            // It would send to all peers that it ends.
            (Ending::Keep, Err(_)) => self.signal(Signal::SIGKILL),
            // It takes leave of the peers that it still has.
            _ => self.signal(Signal::SIGTERM),
        }
        if timeout(PATIENCE, self.child.wait()).await.is_ok() {
            return;
        }
        tracing::warn!("the BGP daemon does not end, and is killed");
        self.signal(Signal::SIGKILL);
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            tracing::error!("the BGP daemon was killed and is still there");
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid
            && let Err(error) = kill(Pid::from_raw(pid), signal)
        {
            tracing::warn!(%error, %signal, "cannot send a signal to the BGP daemon");
        }
    }
}

/// Whether a program can be started at all, in one sentence.
///
/// # Errors
/// As [`Program::version`].
pub async fn check(program: &Program) -> anyhow::Result<()> {
    let path: &Path = &program.path;
    match program.version().await {
        Ok(version) => tracing::info!(version, "the BGP daemon is there"),
        Err(error) => anyhow::bail!("the BGP daemon {} cannot be started: {error}", path.display()),
    }
    Ok(())
}
