//! When the daemon is started and ended: a function of what was heard, and of the time.
//!
//! The daemon runs while a speaker is there to tell it what to announce. One that is silent for [`Times::silence`] is not there
//! any more, and what it announced last may be wrong: the daemon withdraws and ends. It is started anew for the next speaker
//! that is heard.
//!
//! The speaker and the parent are asked to end at the same moment, as containers of one pod, in either order. The parent
//! waits for the speaker, which may still be withdrawing routes in good order, and then does as it was told.

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, Instant};

use crate::word::End;

/// A connection, by number; later ones have larger numbers.
pub type Connection = u64;

/// How long what is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// A speaker that has said nothing for so long is gone. Longer than its restart takes.
    pub silence: Duration,
    /// How long the speaker may take to end, when both are asked to.
    pub end: Duration,
}

/// A speaker that has said how it ends closes its connection within this time, or is not waited for.
const CLOSES: Duration = Duration::from_secs(2);
/// A daemon that has run for so long was all right: if it dies, the next one starts at once.
const SOUND: Duration = Duration::from_secs(10);
/// Before the third daemon in a row, and twice that before the next.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// It does not get longer than this.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A speaker said that it is alive.
    Alive(Connection),
    /// A speaker said how it ends.
    End(Connection, End),
    /// A connection was closed.
    Closed(Connection),
    /// This process is asked to end.
    Terminate,
    /// The daemon's process is gone, or could not be started.
    Exited,
    /// Only time has passed.
    Time,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the daemon.
    Start,
    /// End the daemon.
    Stop(Ending),
    /// End this process.
    Finish,
}

/// How a daemon is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Delete all routes, take leave of the peers with the reason, and end.
    Withdraw(Why),
    /// End without a word to peers with graceful restart, so that they keep the routes.
    Keep,
}

/// Why routes are withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The speaker asked for it.
    Asked,
    /// The speaker was silent for too long.
    Silent,
    /// This process is asked to end, and no speaker said how.
    Unknown,
}

impl fmt::Display for Why {
    /// In words for the people who run the router (RFC 8203): at most 128 bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Asked => "Fairlead: the speaker of this node ends, and has withdrawn its routes",
            Why::Silent => "Fairlead: the speaker of this node is gone, and its routes with it",
            Why::Unknown => "Fairlead: BGP ends on this node",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    Down { start: Instant },
    Up { since: Instant },
    Stopping,
}

/// The state.
#[derive(Clone, Debug)]
pub struct Machine {
    times: Times,
    daemon: Daemon,
    /// Daemons in a row that did not live long.
    failures: u32,
    /// The speaker's connection: the latest that said it is alive.
    speaker: Option<Connection>,
    /// Connections before this one are of former speakers.
    latest: Connection,
    /// When a speaker was heard last; at first, when this process started.
    heard: Instant,
    /// How the speaker ends, and when it said so.
    word: Option<(End, Instant)>,
    /// When this process was asked to end.
    asked: Option<Instant>,
}

impl Machine {
    /// With no daemon yet. One is started with the first [`Machine::step`], so that a speaker that comes finds it.
    pub fn new(times: Times, now: Instant) -> Self {
        Self {
            times,
            daemon: Daemon::Down { start: now },
            failures: 0,
            speaker: None,
            latest: 0,
            heard: now,
            word: None,
            asked: None,
        }
    }

    /// Takes in what happened, and says what is to be done: one thing at the most.
    pub fn step(&mut self, input: Input, now: Instant) -> Option<Action> {
        match input {
            Input::Alive(connection) if connection >= self.latest => {
                (self.latest, self.speaker) = (connection, Some(connection));
                (self.heard, self.word) = (now, None);
            }
            Input::End(connection, end) if connection >= self.latest => {
                (self.latest, self.speaker) = (connection, Some(connection));
                (self.heard, self.word) = (now, Some((end, now)));
            }
            Input::Closed(connection) if self.speaker == Some(connection) => self.speaker = None,
            Input::Terminate => {
                self.asked.get_or_insert(now);
            }
            Input::Exited => self.exited(now),
            Input::Alive(_) | Input::End(..) | Input::Closed(_) | Input::Time => {}
        }
        self.settle(now)
    }

    fn exited(&mut self, now: Instant) {
        let delay = match self.daemon {
            Daemon::Up { since } => {
                let sound = now.saturating_duration_since(since) >= SOUND;
                self.failures = if sound { 1 } else { self.failures.saturating_add(1) };
                match self.failures.checked_sub(2) {
                    None => Duration::ZERO,
                    Some(doublings) => LONGEST_DELAY.min(FIRST_DELAY * 2u32.pow(doublings.min(8))),
                }
            }
            Daemon::Down { .. } | Daemon::Stopping => Duration::ZERO,
        };
        self.daemon = Daemon::Down { start: now + delay };
    }

    fn settle(&mut self, now: Instant) -> Option<Action> {
        match self.daemon {
            Daemon::Stopping => None,
            Daemon::Down { .. } if self.asked.is_some() => Some(Action::Finish),
            Daemon::Down { start } => (start <= now && self.ending(now).is_none()).then(|| {
                self.daemon = Daemon::Up { since: now };
                Action::Start
            }),
            Daemon::Up { .. } => self.ending(now).map(|ending| {
                self.daemon = Daemon::Stopping;
                self.failures = 0;
                Action::Stop(ending)
            }),
        }
    }

    /// Is the daemon not to run, and how does it end?
    fn ending(&self, now: Instant) -> Option<Ending> {
        let over = self.asked.is_some_and(|asked| asked + self.times.end <= now);
        let gone = |since: Instant| over || self.speaker.is_none() || since + CLOSES <= now;
        match (self.word, self.asked) {
            (Some((End::Withdraw, since)), _) if gone(since) => Some(Ending::Withdraw(Why::Asked)),
            (Some((End::Keep, since)), Some(_)) if gone(since) && !self.silent(now) => Some(Ending::Keep),
            _ if self.silent(now) => Some(Ending::Withdraw(Why::Silent)),
            (None, Some(_)) if over || self.speaker.is_none() => Some(Ending::Withdraw(Why::Unknown)),
            _ => None,
        }
    }

    fn silent(&self, now: Instant) -> bool {
        self.heard + self.times.silence <= now
    }

    /// When [`Machine::step`] is to be called at the latest, if nothing happens before. May lie in the past, when nothing
    /// but an event can change anything.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let start = match self.daemon {
            Daemon::Stopping => return None,
            Daemon::Down { start } => Some(start),
            Daemon::Up { .. } => None,
        };
        let word = self.word.map(|(_, since)| since + CLOSES);
        let asked = self.asked.map(|asked| asked + self.times.end);
        [start, word, asked, Some(self.heard + self.times.silence)]
            .into_iter()
            .flatten()
            .filter(|&at| at > now)
            .min()
    }

    /// In one line: is there a daemon, is there a speaker? The first is whether all is as it should be.
    pub fn status(&self, now: Instant) -> (bool, String) {
        let daemon = match self.daemon {
            Daemon::Up { .. } => "runs",
            Daemon::Down { .. } if self.ending(now).is_some() => "is down until a speaker is heard",
            Daemon::Down { .. } => "starts",
            Daemon::Stopping => "ends",
        };
        let heard = now.saturating_duration_since(self.heard).as_secs_f32();
        let speaker = match (self.speaker, self.word) {
            (_, Some((End::Keep, _))) => "has ended, its routes stay",
            (_, Some((End::Withdraw, _))) => "has ended, its routes with it",
            (Some(_), None) => "is there",
            (None, None) => "is not there",
        };
        let line = format!("daemon {daemon}; speaker {speaker}, silent for {heard:.1} s");
        (matches!(self.daemon, Daemon::Up { .. }), line)
    }
}
