//! The request to end.

use tokio::signal::unix::{SignalKind, signal};

/// Completes when the process is asked to end by SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn shutdown() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "asked to end");
    Ok(())
}
