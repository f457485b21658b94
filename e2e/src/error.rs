//! The one error type of the lab's library.

use std::{fmt::Display, io, time::Duration};

/// Why a lab operation failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A system call or file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A program was run and did not end well.
    #[error("{command}: {detail}")]
    Command {
        /// The command line, shortened.
        command: String,
        /// Exit status and the end of its standard error.
        detail: String,
    },
    /// A condition did not come true in time.
    #[error("waited {:.0} s for {what}; last seen: {seen}", after.as_secs_f64())]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
        /// What was there instead.
        seen: String,
    },
    /// The request makes no sense in the lab's present state; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The Kubernetes API answered with an error.
    #[error("Kubernetes API: {0}")]
    Kube(#[from] Box<kube::Error>),
    /// Keys or certificates could not be made.
    #[error("certificates: {0}")]
    Certificates(#[from] rcgen::Error),
    /// A state file holds something unexpected.
    #[error("{what}: {source}")]
    Json {
        /// Which file or message.
        what: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The machine cannot run a lab.
    #[error(transparent)]
    Preflight(#[from] crate::preflight::PreflightError),
    /// The Kubernetes programs could not be built.
    #[error(transparent)]
    Components(#[from] crate::components::ComponentError),
    /// The image for test pods could not be made.
    #[error(transparent)]
    Image(#[from] crate::images::ImageError),
}

impl From<kube::Error> for LabError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

/// Result of a lab operation.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// Adds what was being done to an operating system's error.
pub(crate) trait Doing<T> {
    /// Turns the error into [`LabError::Io`] with `what`.
    fn doing(self, what: impl Display) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl Display) -> Result<T> {
        self.map_err(|source| LabError::Io {
            what: what.to_string(),
            source,
        })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, what: impl Display) -> Result<T> {
        self.map_err(|errno| LabError::Io {
            what: what.to_string(),
            source: errno.into(),
        })
    }
}

impl<T> Doing<T> for serde_json::Result<T> {
    fn doing(self, what: impl Display) -> Result<T> {
        self.map_err(|source| LabError::Json {
            what: what.to_string(),
            source,
        })
    }
}
