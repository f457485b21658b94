//! All of it together: one task that owns the machine and the daemon.

use std::fs::{File, TryLockError};
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc;

use crate::daemon::{Daemon, Program};
use crate::listen::{self, Heard};
use crate::machine::{Action, Input, Machine, Times};
use crate::{API_SOCKET, PARENT_SOCKET, answers};

type Pending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is set by arguments.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the sockets are made; shared with the speaker.
    pub directory: PathBuf,
    /// `gobgpd`.
    pub program: PathBuf,
    /// Whether the daemon logs more.
    pub debug: bool,
    /// Whether the daemon logs JSON.
    pub json: bool,
    /// How long is waited for what.
    pub times: Times,
    /// A daemon that answers nothing for so long is killed, and started again.
    pub answer: Duration,
}

impl Settings {
    /// The daemon as it is started.
    pub fn program(&self) -> Program {
        Program {
            path: self.program.clone(),
            socket: self.directory.join(API_SOCKET),
            debug: self.debug,
            json: self.json,
        }
    }
}

/// Runs until `asked` completes and the daemon has ended.
///
/// # Errors
/// When the directory, its lock or the socket cannot be had.
pub async fn run(settings: Settings, asked: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut asked = Box::pin(asked);
    let directory = &settings.directory;
    let prepared = prepare(directory).with_context(|| format!("preparing {}", directory.display()))?;
    let _lock = tokio::select! {
        locked = lock(prepared) => locked.context("locking the directory")?,
        () = &mut asked => return Ok(()),
    };
    let path = directory.join(PARENT_SOCKET);
    let listener = listen::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
    let (heard, hears) = mpsc::channel(16);
    let serving = tokio::spawn(listen::serve(listener, heard));
    Parent::new(settings).run(hears, asked).await;
    serving.abort();
    Ok(())
}

/// The directory, for our user alone, and the file in it that is locked.
fn prepare(directory: &Path) -> io::Result<File> {
    std::fs::create_dir_all(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    File::create(directory.join("lock"))
}

/// Waits until no other parent is there: that of a pod that was deleted by force may still be ending, and its daemon has
/// sessions with the same peers.
async fn lock(file: File) -> io::Result<File> {
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {}
        }
        if !said {
            tracing::warn!("another BGP daemon still runs on this node; waiting for its end");
            said = true;
        }
        // The system can wait by itself, but only in a thread that could not be ended.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

struct Parent {
    settings: Settings,
    machine: Machine,
    /// The daemon while it is to run.
    daemon: Option<Daemon>,
    /// Completes when that does not answer any more.
    silence: Option<Pending>,
    /// The daemon while it ends.
    ending: Option<Pending>,
}

impl Parent {
    fn new(settings: Settings) -> Self {
        let machine = Machine::new(settings.times, Instant::now());
        Self {
            settings,
            machine,
            daemon: None,
            silence: None,
            ending: None,
        }
    }

    async fn run(mut self, mut hears: mpsc::Receiver<Heard>, mut asked: Pin<Box<impl Future<Output = ()>>>) {
        let mut terminating = false;
        let mut input = Input::Time;
        loop {
            let mut next = self.machine.step(input, Instant::now());
            while let Some(action) = next {
                next = match action {
                    Action::Start => self.start(),
                    Action::Stop(ending) => {
                        tracing::info!(?ending, "the BGP daemon is ended");
                        self.silence = None;
                        let daemon = self.daemon.take();
                        self.ending = daemon.map(|daemon| Box::pin(daemon.end(ending)) as _);
                        None
                    }
                    Action::Finish => return,
                };
            }
            let now = Instant::now();
            let deadline = self.machine.deadline(now);
            input = tokio::select! {
                // Words before the time: one that was said just before its end counts.
                biased;
                Some(heard) = hears.recv() => match heard {
                    Heard::Alive(from) => Input::Alive(from),
                    Heard::End(from, end) => {
                        tracing::info!(?end, "the speaker ends");
                        Input::End(from, end)
                    }
                    Heard::Closed(from) => Input::Closed(from),
                    Heard::Status(answer) => {
                        let (sound, line) = self.machine.status(now);
                        let word = if sound { "ok" } else { "not ok" };
                        // Whoever asked may be gone.
                        let _ = answer.send(format!("{word}: {line}"));
                        Input::Time
                    }
                },
                () = &mut asked, if !terminating => {
                    terminating = true;
                    Input::Terminate
                }
                status = gone(&mut self.daemon) => {
                    match status {
                        Ok(status) => tracing::error!(%status, "the BGP daemon has ended by itself, and is started again"),
                        Err(error) => tracing::error!(%error, "the BGP daemon cannot be waited for"),
                    }
                    (self.daemon, self.silence) = (None, None);
                    Input::Exited
                }
                () = completed(&mut self.silence) => {
                    tracing::error!(answer = ?self.settings.answer, "the BGP daemon answers no more, and is killed");
                    self.silence = None;
                    if let Some(daemon) = &self.daemon {
                        daemon.kill();
                    }
                    Input::Time
                }
                () = completed(&mut self.ending) => {
                    tracing::info!("the BGP daemon has ended");
                    self.ending = None;
                    Input::Exited
                }
                () = until(deadline) => Input::Time,
            };
        }
    }

    /// Starts the daemon, and says what the machine wants next if that failed.
    fn start(&mut self) -> Option<Action> {
        match self.settings.program().start() {
            Ok(daemon) => {
                tracing::info!(pid = daemon.pid(), "the BGP daemon starts");
                self.daemon = Some(daemon);
                let (socket, answer) = (self.settings.program().socket, self.settings.answer);
                self.silence = Some(Box::pin(async move { answers::none(&socket, answer).await }));
                None
            }
            Err(error) => {
                tracing::error!(%error, "the BGP daemon cannot be started");
                self.machine.step(Input::Exited, Instant::now())
            }
        }
    }
}

async fn gone(daemon: &mut Option<Daemon>) -> io::Result<std::process::ExitStatus> {
    match daemon {
        Some(daemon) => daemon.gone().await,
        None => std::future::pending().await,
    }
}

async fn completed(pending: &mut Option<Pending>) {
    match pending {
        Some(pending) => pending.await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
