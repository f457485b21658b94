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

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(hears: &mut mpsc::Receiver<Heard>) -> Heard {
        let heard = tokio::time::timeout(Duration::from_secs(10), hears.recv());
        heard.await.expect("something within 10 s").expect("a sender")
    }

    /// In pieces, in order, with the number of the connection; what is no word ends its connection and no other.
    #[tokio::test]
    async fn words_are_passed_on_and_nonsense_ends_its_connection() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("parent.sock");
        // One that a former process has left is no hindrance.
        drop(bind(&path).unwrap());
        let listener = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (heard, mut hears) = mpsc::channel(16);
        tokio::spawn(serve(listener, heard));

        let mut first = UnixStream::connect(&path).await.unwrap();
        first.write_all(b"alive\nali").await.unwrap();
        assert!(matches!(next(&mut hears).await, Heard::Alive(1)));
        first.write_all(b"ve\nend keep\n").await.unwrap();
        assert!(matches!(next(&mut hears).await, Heard::Alive(1)));
        assert!(matches!(next(&mut hears).await, Heard::End(1, End::Keep)));

        for (number, nonsense) in [(2, "hello\n".to_owned()), (3, "a".repeat(1000))] {
            let mut other = UnixStream::connect(&path).await.unwrap();
            other.write_all(nonsense.as_bytes()).await.unwrap();
            let heard = next(&mut hears).await;
            assert!(
                matches!(heard, Heard::Closed(closed) if closed == number),
                "{heard:?}"
            );
        }

        first.write_all(b"status\n").await.unwrap();
        match next(&mut hears).await {
            Heard::Status(answer) => answer.send("ok: fine".to_owned()).unwrap(),
            heard => panic!("{heard:?}"),
        }
        let mut answer = [0; 9];
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ok: fine\n");
        drop(first);
        assert!(matches!(next(&mut hears).await, Heard::Closed(1)));
    }
}
