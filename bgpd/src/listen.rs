//! The parent's socket: reads lines from whoever connects, and passes them on in order.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::machine::Connection;
use crate::word::{End, Word};

/// A line is not longer than this.
const LONGEST: u64 = 64;

/// What came in.
#[derive(Debug)]
pub enum Heard {
    /// The speaker goes on.
    Alive(Connection),
    /// The speaker ends.
    End(Connection, End),
    /// The connection is gone.
    Closed(Connection),
    /// Somebody wants to know how it is, and gets this line.
    Status(oneshot::Sender<String>),
}

/// Makes the socket, in place of one that a former process has left there.
///
/// # Errors
/// What the system said.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Reads from all who connect, for ever; or until nobody listens to `heard`.
pub async fn serve(listener: UnixListener, heard: mpsc::Sender<Heard>) {
    for connection in 1.. {
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    // Too many open files, say: it passes.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        };
        if heard.is_closed() {
            return;
        }
        if let Err(error) = permitted(&stream) {
            tracing::warn!(%error, "refused a connection");
            continue;
        }
        let heard = heard.clone();
        tokio::spawn(async move {
            if let Err(error) = listen(stream, connection, &heard).await {
                tracing::warn!(%error, connection, "cannot go on listening");
            }
            // The receiver is gone only when the process ends.
            let _ = heard.send(Heard::Closed(connection)).await;
        });
    }
}

/// Only processes of our own user may speak: the file's mode says so too, but a directory may be opened up by accident.
fn permitted(stream: &UnixStream) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    let message = format!("the process at the other end runs as user {peer}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

async fn listen(
    mut stream: UnixStream,
    connection: Connection,
    heard: &mpsc::Sender<Heard>,
) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut read).take(LONGEST).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let word = line.trim_end_matches('\n').parse();
        let word = word.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let next = match word {
            Word::Alive => Heard::Alive(connection),
            Word::End(end) => Heard::End(connection, end),
            Word::Status => {
                let (answer, answered) = oneshot::channel();
                if heard.send(Heard::Status(answer)).await.is_err() {
                    return Ok(());
                }
                let status = answered.await.unwrap_or_default();
                write.write_all(format!("{status}\n").as_bytes()).await?;
                continue;
            }
        };
        if heard.send(next).await.is_err() {
            return Ok(());
        }
    }
}
