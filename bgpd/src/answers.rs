//! Does the daemon still answer? One that has seized up goes on sending what keeps its sessions alive, perhaps, and
//! nobody can take its routes back.

use std::path::Path;
use std::time::{Duration, Instant};

use fairlead_gobgp::Daemon;
use tokio::time::{sleep, timeout};

/// Completes when the daemon at `socket` has answered nothing for `patience`. Its first answer may take as long.
pub async fn none(socket: &Path, patience: Duration) {
    let mut last = Instant::now();
    while last.elapsed() < patience {
        sleep(patience / 6).await;
        // Whatever it answers, it does: connecting asks what it was started with, which its main loop has to tell.
        if let Ok(Ok(_)) = timeout(patience / 3, Daemon::connect(socket)).await {
            last = Instant::now();
        }
    }
}
