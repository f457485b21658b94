//! What the host asks a machine's init: one JSON line each way, one exchange per connection.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A program to run inside a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Name to ask for it by, unique in the machine.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment beside `PATH`, `HOME` and `LANG`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where standard output goes; with standard error to the service's log if absent.
    #[serde(default)]
    pub stdout: Option<PathBuf>,
}

impl ServiceSpec {
    /// A service that writes everything to its log.
    pub fn new<S: Into<String>>(name: &str, argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            name: name.to_owned(),
            argv: argv.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            stdout: None,
        }
    }
}

/// What became of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// Its name.
    pub name: String,
    /// Its pid inside the machine.
    pub pid: i32,
    /// How it ended, such as `exit 1` or `signal SIGKILL`; absent while it runs.
    pub ended: Option<String>,
}

impl ServiceState {
    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.ended.is_none()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub(crate) enum Request {
    /// Start it, unless it runs.
    Start(ServiceSpec),
    /// Start again what was started once under this name, unless it runs.
    Restart { name: String },
    /// Send a signal.
    Signal { name: String, signal: i32 },
    /// Drop an ended service from the list.
    Forget { name: String },
    /// Tell all services.
    List,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    Done,
    Services(Vec<ServiceState>),
    Failed(String),
}
