//! What holds the table: the kernel, or in tests something else.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use fairlead_core::model::Family;
use thiserror::Error;

use super::change::Changes;
use super::netlink::affinity::Lost;
use super::netlink::driver::{Kernel, Reading};
use super::netlink::error::KernelError;
use super::netlink::handover::{Handover, table};
use super::ruleset::Ruleset;

/// What holds the table. Each change is one transaction or none.
pub trait Driver: Send {
    /// The table as it is; `None` if there is none, or one that cannot be changed into ours. Chains with the rules of
    /// `known` are recognised; others have a rule that nobody wants.
    fn read(&mut self, known: &Ruleset) -> impl Future<Output = Result<Option<Ruleset>, DriverError>> + Send;
    /// Replaces the whole table, whatever it held.
    fn replace(&mut self, desired: Arc<Ruleset>) -> impl Future<Output = Result<(), DriverError>> + Send;
    /// Changes the table.
    fn update(&mut self, changes: Arc<Changes>) -> impl Future<Output = Result<(), DriverError>> + Send;
    /// Has clients forgotten that were given endpoints which are gone.
    fn forget(&mut self, lost: Lost) -> impl Future<Output = Result<(), DriverError>> + Send;
    /// Removes the table.
    fn remove(&mut self) -> impl Future<Output = Result<(), DriverError>> + Send;
}

/// Why the kernel could not be changed or asked.
#[derive(Debug, Error)]
pub enum DriverError {
    /// It said so.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The thread that asked it has ended.
    #[error("the thread that talks to the kernel has ended")]
    Ended,
}

impl DriverError {
    /// Did the kernel refuse for want of a capability?
    pub fn is_permission(&self) -> bool {
        let code = match self {
            Self::Kernel(KernelError::Refused(refusal)) => Some(refusal.errno),
            Self::Kernel(KernelError::Socket { source, .. }) => source.raw_os_error(),
            _ => None,
        };
        code == Some(libc::EPERM) || code == Some(libc::EACCES)
    }
}

/// The tables in the kernel, by netlink. What takes time there runs on a thread that may block. Clones share one
/// socket.
#[derive(Clone, Debug)]
pub struct Tables {
    kernel: Arc<Mutex<Kernel>>,
    port: u32,
}

impl Tables {
    /// Opens the socket.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or when there is no nfnetlink.
    pub fn open() -> Result<Self, DriverError> {
        let kernel = Kernel::open()?;
        Ok(Self {
            port: kernel.port(),
            kernel: Arc::new(Mutex::new(kernel)),
        })
    }

    /// The number of the socket, by which our own changes are told from those of others.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Asks for something small, to see whether there is nf_tables and it lets us use it.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn probe(&self) -> Result<(), DriverError> {
        self.ask(Kernel::probe).await
    }

    /// Changes the table that passes flows on, or replaces it if it is not known what it holds.
    ///
    /// # Errors
    /// What the kernel says; the table is as before.
    pub async fn hand_over(
        &self,
        family: Family,
        held: Option<Handover>,
        wanted: Handover,
    ) -> Result<(), DriverError> {
        self.ask(move |kernel| match held {
            Some(held) => kernel.change_handover(family, &held, &wanted),
            None => kernel.replace_handover(family, &wanted),
        })
        .await
    }

    /// Is there a table that passes flows on?
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn hands_over(&self, family: Family) -> Result<bool, DriverError> {
        self.ask(move |kernel| kernel.has_table(table(family))).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Kernel) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let kernel = Arc::clone(&self.kernel);
        // A panic while the lock was held leaves a socket with answers that nobody waits for, which are passed over.
        let asked = move || question(&mut kernel.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = tokio::task::spawn_blocking(asked).await;
        answer.map_err(|_| DriverError::Ended)?.map_err(DriverError::from)
    }
}

impl Driver for Tables {
    async fn read(&mut self, known: &Ruleset) -> Result<Option<Ruleset>, DriverError> {
        match self.ask(Kernel::read).await? {
            Reading::Absent => Ok(None),
            Reading::Table(found) => Ok(Some(found.ruleset(known))),
            Reading::Garbage(why) => {
                tracing::warn!(why, "the table that is there is not as ours");
                Ok(None)
            }
        }
    }

    async fn replace(&mut self, desired: Arc<Ruleset>) -> Result<(), DriverError> {
        self.ask(move |kernel| kernel.replace(&desired)).await.map(drop)
    }

    async fn update(&mut self, changes: Arc<Changes>) -> Result<(), DriverError> {
        self.ask(move |kernel| kernel.apply(&changes)).await.map(drop)
    }

    async fn forget(&mut self, lost: Lost) -> Result<(), DriverError> {
        self.ask(move |kernel| kernel.forget(&lost)).await.map(drop)
    }

    async fn remove(&mut self) -> Result<(), DriverError> {
        self.ask(Kernel::remove).await
    }
}
