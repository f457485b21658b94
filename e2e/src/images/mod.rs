//! Container images, written without a container engine.

mod agnhost;
mod archive;
mod files;

use std::io;

pub use agnhost::{AGNHOST, PAUSE, agnhost_image};
pub use archive::ImageBuilder;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A program to be copied needs a shared library that is not there.
    #[error("{program} needs {library}, which is not installed")]
    MissingLibrary {
        /// The program.
        program: String,
        /// The library, as the program names it.
        library: String,
    },
}

/// Adds what was being done to an operating system's error.
fn doing(what: &str, path: &std::path::Path) -> impl FnOnce(io::Error) -> ImageError {
    let what = format!("{what} {}", path.display());
    move |source| ImageError::Io { what, source }
}
