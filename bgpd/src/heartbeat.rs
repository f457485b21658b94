//! The speaker's side: it says once a second that it is alive, and at its end what becomes of its routes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use crate::word::{End, Word};

/// Between two words.
const PERIOD: Duration = Duration::from_secs(1);
/// Before another attempt to connect.
const RETRY: Duration = Duration::from_millis(200);
/// The last word is said within this time, or not at all: nobody may be there to hear it.
const LAST: Duration = Duration::from_secs(1);

/// Says to the parent at `path` that the speaker is alive, for as long as `end` is `None` and its sender exists. Then it says
/// how the speaker ends and returns. If the sender is gone without a word, the connection is closed without one, as it is when
/// the speaker dies.
///
/// The parent may come and go; it is connected to again.
pub async fn follow(path: PathBuf, mut end: watch::Receiver<Option<End>>) {
    let mut said = String::new();
    loop {
        match session(&path, &mut end).await {
            Ok(()) => return,
            Err(error) => {
                let error = error.to_string();
                if error != said {
                    tracing::warn!(socket = %path.display(), error, "the parent of the BGP daemon cannot be reached");
                    said = error;
                }
            }
        }
        let known = end.borrow_and_update().is_some();
        tokio::select! {
            () = sleep(RETRY) => {}
            changed = end.changed(), if !known => match changed {
                Ok(()) => {}
                Err(_) => return,
            },
        }
        let last = *end.borrow_and_update();
        if let Some(last) = last {
            if let Err(error) = last_word(&path, last).await {
                tracing::warn!(%error, "the parent of the BGP daemon was not told how the speaker ends");
            }
            return;
        }
    }
}

/// From connecting to the last word; an error if the parent goes before.
async fn session(path: &Path, end: &mut watch::Receiver<Option<End>>) -> io::Result<()> {
    let mut stream = UnixStream::connect(path).await?;
    let (mut read, mut write) = stream.split();
    let mut beat = interval(PERIOD);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut nothing = [0; 1];
    loop {
        let last = *end.borrow_and_update();
        if let Some(last) = last {
            return say(&mut write, Word::End(last)).await;
        }
        tokio::select! {
            _ = beat.tick() => say(&mut write, Word::Alive).await?,
            changed = end.changed() => if changed.is_err() { return Ok(()) },
            // It never says anything by itself, so this is its end.
            _ = read.read(&mut nothing) => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

async fn say(stream: &mut (impl AsyncWriteExt + Unpin), word: Word) -> io::Result<()> {
    stream.write_all(format!("{word}\n").as_bytes()).await
}

/// Says one thing over a connection of its own.
async fn last_word(path: &Path, end: End) -> io::Result<()> {
    let limit = Instant::now() + LAST;
    let told = async { say(&mut UnixStream::connect(path).await?, Word::End(end)).await };
    timeout_at(limit, told).await?
}

/// Asks the parent at `path` how it is. The line begins with `ok` if the daemon runs.
///
/// # Errors
/// When nobody answers there within a second.
pub async fn status(path: &Path) -> io::Result<String> {
    let limit = Instant::now() + LAST;
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        say(&mut stream, Word::Status).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        Ok(line.trim_end().to_owned())
    };
    timeout_at(limit, asked).await?
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    async fn next(lines: &mut tokio::io::Lines<BufReader<UnixStream>>) -> Option<String> {
        let read = tokio::time::timeout(Duration::from_secs(10), lines.next_line());
        read.await.expect("a line within 10 s").unwrap()
    }

    async fn accept(listener: &UnixListener) -> tokio::io::Lines<BufReader<UnixStream>> {
        let accepted = tokio::time::timeout(Duration::from_secs(10), listener.accept());
        let (stream, _) = accepted.await.expect("a connection within 10 s").unwrap();
        BufReader::new(stream).lines()
    }

    /// A parent that comes late, goes, comes back, and hears the last word.
    #[tokio::test]
    async fn it_beats_through_restarts_of_the_parent_and_says_how_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("parent.sock");
        let (end, ends) = watch::channel(None);
        let task = tokio::spawn(follow(path.clone(), ends));

        let listener = UnixListener::bind(&path).unwrap();
        let mut lines = accept(&listener).await;
        assert_eq!(next(&mut lines).await.as_deref(), Some("alive"));
        assert_eq!(next(&mut lines).await.as_deref(), Some("alive"));
        drop((lines, listener));
        std::fs::remove_file(&path).unwrap();

        let listener = UnixListener::bind(&path).unwrap();
        let mut lines = accept(&listener).await;
        assert_eq!(next(&mut lines).await.as_deref(), Some("alive"));
        end.send(Some(End::Keep)).unwrap();
        assert_eq!(next(&mut lines).await.as_deref(), Some("end keep"));
        assert_eq!(next(&mut lines).await, None);
        task.await.unwrap();
    }

    /// A speaker whose main task has died is silent.
    #[tokio::test]
    async fn without_its_sender_it_goes_without_a_word() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("parent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (end, ends) = watch::channel(None);
        let task = tokio::spawn(follow(path, ends));
        let mut lines = accept(&listener).await;
        assert_eq!(next(&mut lines).await.as_deref(), Some("alive"));
        drop(end);
        assert_eq!(next(&mut lines).await, None);
        task.await.unwrap();
    }

    /// An end while there is no parent does not hold the speaker up.
    #[tokio::test]
    async fn it_ends_without_a_parent() {
        let directory = tempfile::tempdir().unwrap();
        let (end, ends) = watch::channel(None);
        let task = tokio::spawn(follow(directory.path().join("nobody.sock"), ends));
        end.send(Some(End::Withdraw)).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), task);
        ended.await.expect("the end within 5 s").unwrap();
    }
}
