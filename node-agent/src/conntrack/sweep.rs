//! One pass through the kernel's table: list, decide, delete.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use thiserror::Error;

use super::flow::{self, Filter, Flow};
use super::served::Served;
use super::socket::Socket;
use super::wire::{Message, Writer};

/// Deletions that are sent together.
const TOGETHER: usize = 64;

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries that the kernel listed.
    pub listed: usize,
    /// Entries that were deleted.
    pub deleted: usize,
    /// Entries that went by themselves before they could be deleted.
    pub gone: usize,
    /// How long it took.
    pub took: Duration,
}

/// Why a pass failed.
#[derive(Debug, Error)]
pub enum SweepError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(Errno),
    /// The list was not complete.
    #[error("cannot list the entries of connection tracking: {0}")]
    List(Errno),
    /// An entry could not be deleted.
    #[error("cannot delete entries of connection tracking: {0}")]
    Delete(Errno),
}

/// Deletes the entries that stand in the way of what is served. Blocks, and takes as long as the table is large (some
/// tenths of a second for 100 000 entries), so it is for a thread of its own. The table is read piece by piece and
/// deleted from piece by piece; nothing is held up meanwhile, and no more than a piece is in memory.
///
/// # Errors
/// What the kernel said. Some entries may have been deleted.
pub fn sweep(wanted: &Served) -> Result<Stats, SweepError> {
    let begin = Instant::now();
    let mut stats = Stats::default();
    let filters = wanted.filters();
    if filters.is_empty() {
        return Ok(stats);
    }
    let mut lists = Socket::open().map_err(SweepError::Open)?;
    // A second one, for a list must be read to its end before its socket is good for anything else.
    let mut bin = Bin::open()?;
    for filter in &filters {
        list(&mut lists, filter, wanted, &mut bin, &mut stats)?;
    }
    bin.empty()?;
    stats.deleted = bin.deleted;
    stats.gone = bin.gone;
    stats.took = begin.elapsed();
    Ok(stats)
}

fn list(
    socket: &mut Socket,
    filter: &Filter,
    wanted: &Served,
    bin: &mut Bin,
    stats: &mut Stats,
) -> Result<(), SweepError> {
    let mut writer = Writer::default();
    let request = socket.number();
    flow::list(&mut writer, request, filter);
    socket.send(writer.bytes()).map_err(SweepError::List)?;
    let mut outcome = Ok(());
    let mut take = |message: &Message| {
        stats.listed += 1;
        let stale = Flow::read(message).is_some_and(|flow| wanted.is_stale(&flow));
        if stale && outcome.is_ok() {
            outcome = bin.throw(message);
        }
    };
    socket.list(request, &mut take).map_err(SweepError::List)?;
    outcome
}

/// Collects entries and deletes them in batches.
struct Bin {
    socket: Socket,
    writer: Writer,
    waiting: usize,
    deleted: usize,
    gone: usize,
}

impl Bin {
    fn open() -> Result<Self, SweepError> {
        Ok(Self {
            socket: Socket::open().map_err(SweepError::Open)?,
            writer: Writer::default(),
            waiting: 0,
            deleted: 0,
            gone: 0,
        })
    }

    fn throw(&mut self, entry: &Message) -> Result<(), SweepError> {
        flow::delete(&mut self.writer, self.socket.number(), entry);
        self.waiting += 1;
        if self.waiting == TOGETHER {
            self.empty()
        } else {
            Ok(())
        }
    }

    /// Deletes what is waiting.
    fn empty(&mut self) -> Result<(), SweepError> {
        if self.waiting == 0 {
            return Ok(());
        }
        // Failures are answered in any case; that the last one is answered too tells that all have been dealt with.
        let last = self.writer.ask_for_acknowledgement();
        self.socket
            .send(self.writer.bytes())
            .map_err(SweepError::Delete)?;
        self.writer.clear();
        let failures = self.socket.acknowledged(last).map_err(SweepError::Delete)?;
        if let Some(failure) = failures.iter().find(|failure| **failure != Errno::ENOENT) {
            return Err(SweepError::Delete(*failure));
        }
        self.gone += failures.len();
        self.deleted += self.waiting - failures.len();
        self.waiting = 0;
        Ok(())
    }
}
