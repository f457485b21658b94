//! Can this machine run a lab? Asked before anything is started, so that a missing thing is one clear line and not a puzzle.

mod kernel;
mod packages;

use crate::components::{ComponentError, Components};
use crate::progress::Progress;

/// Why this machine cannot run a lab, as it is.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Namespaces, mounts and raw sockets need root.
    #[error("the lab must be run as root")]
    NotRoot,
    /// Kubernetes has to be built, and cannot be.
    #[error(transparent)]
    Toolchain(#[from] ComponentError),
    /// Programs are missing on a machine without Debian's package manager.
    #[error("these programs are missing, and this is not a Debian system on which the lab could install them: {}", .0.join(", "))]
    MissingPrograms(Vec<String>),
    /// Debian's package manager failed.
    #[error("installing {packages} failed: {output}")]
    Install {
        /// What was to be installed.
        packages: String,
        /// The end of what apt-get said.
        output: String,
    },
    /// The kernel, or the container this runs in, lacks something.
    #[error("{}", .0.iter().map(|lack| format!("the kernel lacks {lack}")).collect::<Vec<_>>().join("\n"))]
    Kernel(Vec<String>),
    /// A check could not be made at all.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

/// Checks that this is root, that missing Kubernetes programs can be built, that the Debian packages are there (and installs
/// those that are not), and that the kernel can do what nodes need. Changes nothing else.
///
/// # Errors
/// What is missing, one line for each thing.
pub fn preflight(progress: &Progress) -> Result<(), PreflightError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(PreflightError::NotRoot);
    }
    Components::check_toolchain()?;
    packages::ensure(progress)?;
    kernel::check()
}

/// Checks that FRR and BIRD are there, and installs what is missing; neither is started on the machine itself. Few labs need
/// them, so [`preflight`] leaves them out.
///
/// # Errors
/// When they cannot be installed.
pub fn routing_packages(progress: &Progress) -> Result<(), PreflightError> {
    packages::ensure_routing(progress)
}
