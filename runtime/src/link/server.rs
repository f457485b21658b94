//! The node agent's end.

use std::path::Path;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tracing::{info, warn};

use super::frame::exchange;
use super::{AgentReport, LinkError, SpeakerReport};

/// Serves the socket for ever. One speaker is talked to at a time: a new connection ends the one before, since after a
/// restart of the speaker the old one is a corpse. `speaker` holds its last report, `None` when none is connected.
///
/// # Errors
/// Only when the socket cannot be made.
pub async fn serve(
    path: &Path,
    report: watch::Receiver<AgentReport>,
    speaker: watch::Sender<Option<SpeakerReport>>,
) -> Result<(), LinkError> {
    let listener = bind(path).map_err(|source| LinkError::Bind {
        path: path.display().to_string(),
        source,
    })?;
    let mut next = accept(&listener).await;
    loop {
        info!("speaker connected");
        let talking = exchange(next, report.clone(), |report: SpeakerReport| {
            speaker.send_if_modified(|known| {
                let changed = known.as_ref() != Some(&report);
                *known = Some(report);
                changed
            });
        });
        let ended = tokio::select! {
            error = talking => Err(error),
            stream = accept(&listener) => Ok(stream),
        };
        next = match ended {
            Ok(stream) => stream,
            Err(error) => {
                info!(%error, "speaker disconnected");
                speaker.send_replace(None);
                accept(&listener).await
            }
        };
    }
}

/// Binds the socket, replacing the file that a former process left behind.
pub(super) fn bind(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The next connection of a process that may talk to us.
pub(super) async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match check_peer(&stream) {
                Ok(()) => return stream,
                Err(error) => warn!(%error, "refused a connection"),
            },
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(super::REPEAT).await;
            }
        }
    }
}

fn check_peer(stream: &UnixStream) -> Result<(), LinkError> {
    let peer = stream.peer_cred()?.uid();
    if peer == 0 || peer == own_uid() {
        Ok(())
    } else {
        Err(LinkError::Peer(peer))
    }
}

#[allow(unsafe_code, reason = "the standard library has no geteuid")]
fn own_uid() -> u32 {
    // SAFETY: geteuid takes no arguments and cannot fail.
    unsafe { libc::geteuid() }
}
