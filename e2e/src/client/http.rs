//! As much of an HTTP/1.1 client as it takes to ask agnhost two things.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::report::FailureKind;

/// No answer of interest is longer.
const LONGEST_BODY: u64 = 64 * 1024;

/// A connection on which one request follows another.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Uses a connection that is established.
    pub fn new(stream: TcpStream) -> Self {
        // Each request is one write; waiting for more to send with it would only blur the figures.
        let _ = stream.set_nodelay(true);
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// The body of the answer to `GET path`, which must have status 200.
    pub async fn get(&mut self, path: &str) -> Result<String, FailureKind> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: lab\r\nUser-Agent: lab-client\r\n\r\n");
        self.stream
            .get_mut()
            .write_all(request.as_bytes())
            .await
            .map_err(kind)?;
        let status = self.line().await?;
        let mut words = status.split(' ');
        if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) || words.next() != Some("200")
        {
            return Err(FailureKind::Http);
        }
        let mut length = None;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or(FailureKind::Http)?;
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<u64>().ok();
            }
        }
        // The test server states the length of each of its short answers.
        let length = length
            .filter(|&length| length <= LONGEST_BODY)
            .ok_or(FailureKind::Http)?;
        let mut body = vec![0; length as usize];
        self.stream.read_exact(&mut body).await.map_err(kind)?;
        String::from_utf8(body).map_err(|_| FailureKind::Http)
    }

    async fn line(&mut self) -> Result<String, FailureKind> {
        let mut line = String::new();
        let limited = &mut (&mut self.stream).take(LONGEST_BODY);
        limited.read_line(&mut line).await.map_err(kind)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.trim_end_matches('\r').to_owned()),
            None => Err(FailureKind::Closed),
        }
    }
}

/// What kind of failure an operating system's error is.
pub(super) fn kind(error: io::Error) -> FailureKind {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => FailureKind::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => FailureKind::Reset,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => FailureKind::Unreachable,
        io::ErrorKind::TimedOut => FailureKind::Timeout,
        io::ErrorKind::UnexpectedEof => FailureKind::Closed,
        io::ErrorKind::InvalidData => FailureKind::Http,
        _ => FailureKind::Other,
    }
}
