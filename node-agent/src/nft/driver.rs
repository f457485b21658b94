//! The kernel, by way of the `nft` program.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::change::Changes;
use super::ruleset::Ruleset;
use super::{TABLE, render};

/// `nft` takes seconds for the largest tables, more on a busy machine; anything beyond this is stuck.
const PATIENCE: Duration = Duration::from_secs(180);
/// Where Debian has it.
const USUAL: &str = "/usr/sbin/nft";

/// What holds the table. Each method is one transaction or none.
pub trait Driver: Send {
    /// The table as it is; `None` if there is none, or one that cannot be changed into ours.
    fn read(&mut self) -> impl Future<Output = Result<Option<Ruleset>, DriverError>> + Send;
    /// Replaces the whole table, whatever it held.
    fn replace(&mut self, desired: Arc<Ruleset>) -> impl Future<Output = Result<(), DriverError>> + Send;
    /// Changes the table.
    fn update(&mut self, changes: Arc<Changes>) -> impl Future<Output = Result<(), DriverError>> + Send;
    /// Removes the table.
    fn remove(&mut self) -> impl Future<Output = Result<(), DriverError>> + Send;
}

/// Why the kernel could not be changed or asked.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The program is not there.
    #[error("nft was found neither at {USUAL} nor in PATH; install nftables or name it with --nft")]
    Missing,
    /// The program could not be run.
    #[error("cannot run {program}")]
    Run {
        /// Its path.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It did not end in time.
    #[error("nft did not finish within {PATIENCE:?}")]
    Stuck,
    /// It refused.
    #[error("nft refused: {0}")]
    Refused(String),
}

/// The `nft` program.
#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
}

impl Nft {
    /// The program at `path`, or by default the usual one or the first in PATH.
    ///
    /// # Errors
    /// [`DriverError::Missing`].
    pub fn find(path: Option<&Path>) -> Result<Self, DriverError> {
        let in_path = || {
            let list = std::env::var_os("PATH")?;
            std::env::split_paths(&list)
                .map(|directory| directory.join("nft"))
                .find(|candidate| candidate.is_file())
        };
        let program = match path {
            Some(path) => Some(path.to_owned()),
            None if Path::new(USUAL).is_file() => Some(USUAL.into()),
            None => in_path(),
        };
        program
            .filter(|program| program.is_file())
            .map(|program| Self { program })
            .ok_or(DriverError::Missing)
    }

    /// Version as the program tells it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn version(&self) -> Result<String, DriverError> {
        let answer = self.run(&["--version"], None).await?;
        Ok(String::from_utf8_lossy(&answer).trim().to_owned())
    }

    /// Asks the kernel for something small, to see whether it has nf_tables and lets us use it.
    ///
    /// # Errors
    /// What nft says.
    pub async fn probe(&self) -> Result<(), DriverError> {
        // A check goes to the kernel as a batch that is not committed, so it needs what a real change needs.
        self.run(&["-c", "-f", "-"], Some(&render::remove()))
            .await
            .map(drop)
    }

    /// Is there a table of ours in a family? If nft cannot tell, it counts as there: a change will fail and say why.
    pub async fn has_table(&self, family: &str) -> bool {
        let wanted = format!("table {family} {TABLE}");
        match self.run(&["list", "tables"], None).await {
            Ok(answer) => String::from_utf8_lossy(&answer)
                .lines()
                .any(|line| line == wanted),
            Err(_) => true,
        }
    }

    /// Applies a text as one transaction.
    ///
    /// # Errors
    /// What nft says.
    pub async fn apply(&self, text: &str) -> Result<(), DriverError> {
        self.run(&["-f", "-"], Some(text)).await.map(drop)
    }

    async fn run(&self, arguments: &[&str], input: Option<&str>) -> Result<Vec<u8>, DriverError> {
        let failed = |source| DriverError::Run {
            program: self.program.display().to_string(),
            source,
        };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // A program that ends early says why on its standard error.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(PATIENCE, both)
            .await
            .map_err(|_| DriverError::Stuck)?
            .map_err(failed)?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().next().unwrap_or("it did not say why");
            Err(DriverError::Refused(line.trim().to_owned()))
        }
    }
}

impl Driver for Nft {
    async fn read(&mut self) -> Result<Option<Ruleset>, DriverError> {
        Ok(None)
    }

    async fn replace(&mut self, desired: Arc<Ruleset>) -> Result<(), DriverError> {
        self.apply(&render::replace(&desired)).await
    }

    async fn update(&mut self, changes: Arc<Changes>) -> Result<(), DriverError> {
        let text = render::change(&changes);
        if text.is_empty() {
            return Ok(());
        }
        self.apply(&text).await
    }

    async fn remove(&mut self) -> Result<(), DriverError> {
        self.apply(&render::remove()).await
    }
}
