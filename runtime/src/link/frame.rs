//! One connection, from either side: a hello, then reports both ways.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{LinkError, REPEAT, SILENCE, VERSION};

/// Longest line: 100 000 addresses need some 6 MiB.
const LONGEST: usize = 32 << 20;
/// Changes that come within this time travel together.
const COALESCE: Duration = Duration::from_millis(2);

#[derive(Serialize, Deserialize)]
struct Hello {
    version: u32,
}

/// Exchanges reports until the connection ends, which is always with an error that says why.
pub(super) async fn exchange<Ours, Theirs>(
    stream: UnixStream,
    ours: watch::Receiver<Ours>,
    mut received: impl FnMut(Theirs),
) -> LinkError
where
    Ours: Clone + Serialize,
    Theirs: DeserializeOwned,
{
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    // Before anything is read, so that even a peer that is refused learns what is spoken here.
    if let Err(error) = send(&mut write, &Hello { version: VERSION }).await {
        return error;
    }
    let reading = async {
        let hello: Hello = receive(&mut read).await?;
        if hello.version < VERSION {
            return Err(LinkError::Version(hello.version));
        }
        loop {
            received(receive(&mut read).await?);
        }
    };
    let writing = send_all(&mut write, ours);
    let outcome: Result<(), LinkError> = tokio::select! {
        outcome = reading => outcome,
        outcome = writing => outcome,
    };
    outcome.err().unwrap_or(LinkError::Closed)
}

async fn send_all<Ours: Clone + Serialize>(
    write: &mut OwnedWriteHalf,
    mut ours: watch::Receiver<Ours>,
) -> Result<(), LinkError> {
    loop {
        let report = ours.borrow_and_update().clone();
        send(write, &report).await?;
        match timeout(REPEAT, ours.changed()).await {
            Ok(Ok(())) => tokio::time::sleep(COALESCE).await,
            Ok(Err(_)) => return Err(LinkError::Closed), // we are ending ourselves
            Err(_) => {}
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, message: &impl Serialize) -> Result<(), LinkError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    timeout(SILENCE, write.write_all(&line))
        .await
        .map_err(|_| LinkError::Silent)??;
    Ok(())
}

async fn receive<T: DeserializeOwned>(read: &mut BufReader<OwnedReadHalf>) -> Result<T, LinkError> {
    let mut line = Vec::new();
    let mut limited = read.take(LONGEST as u64);
    let length = timeout(SILENCE, limited.read_until(b'\n', &mut line))
        .await
        .map_err(|_| LinkError::Silent)??;
    match (length, line.last()) {
        (0, _) => Err(LinkError::Closed),
        (LONGEST, last) if last != Some(&b'\n') => Err(LinkError::TooLong(LONGEST)),
        (_, last) if last != Some(&b'\n') => Err(LinkError::Closed),
        _ => Ok(serde_json::from_slice(&line)?),
    }
}
