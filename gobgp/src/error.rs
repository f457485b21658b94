//! Why the daemon did not do what it was asked.

use std::path::PathBuf;

use tonic::{Code, Status};

/// What can go wrong between us and the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens at the socket.
    #[error("the BGP daemon cannot be reached at {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the connection said.
        source: tonic::transport::Error,
    },
    /// Somebody answers, and knows nothing of the version of the API that is spoken here.
    #[error("the BGP daemon is older than GoBGP 4: it does not know the API of version 4, and is not used")]
    TooOld,
    /// A call came back with an error.
    #[error("the BGP daemon refused {call}: {}", status.message())]
    Refused {
        /// Name of the call.
        call: &'static str,
        /// What it said.
        status: Box<Status>,
    },
    /// The daemon went away while it was asked.
    #[error("the BGP daemon went away during {call}: {}", status.message())]
    Gone {
        /// Name of the call.
        call: &'static str,
        /// What the connection said.
        status: Box<Status>,
    },
}

impl Error {
    pub(crate) fn of(call: &'static str, status: Status) -> Self {
        let status = Box::new(status);
        match status.code() {
            Code::Unimplemented => Self::TooOld,
            // What the transport says when the other end closes; the daemon's own refusals are all UNKNOWN or a
            // code of their own.
            Code::Unavailable | Code::Cancelled => Self::Gone { call, status },
            Code::Unknown if std::error::Error::source(&*status).is_some() => Self::Gone { call, status },
            _ => Self::Refused { call, status },
        }
    }

    /// The daemon has to be asked anew from the beginning: what it knew may be lost.
    #[must_use]
    pub fn lost(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}
