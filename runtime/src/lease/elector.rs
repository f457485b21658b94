//! Who may take the Lease, and when. Synchronous and without a clock: times come in, and what to do comes out.
//!
//! The caller does one thing at a time: asks [`Elector::next`], does it, and hands the answer to [`Elector::ended`]. So
//! what is seen here is never older than what was seen before.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::leadership::Term;
use super::record::Record;
use super::settings::Settings;

/// After a hint the Lease is read at most so often.
const HINTS: Duration = Duration::from_millis(100);

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing before this time.
    Wait(Instant),
    /// Read the Lease as it is now, not from a cache.
    Read,
    /// Create the Lease if it was absent, or replace the version last seen.
    Write(Record),
    /// Released; nothing more.
    Done,
}

/// How a read or a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Read; `None`: there is no Lease.
    Found(Option<Record>),
    /// Written; this is what stands there now.
    Written(Record),
    /// Not written: it changed, is gone, or is there already.
    Conflict,
    /// Refused, or no answer: a write may or may not have happened.
    Failed,
}

/// One contender.
#[derive(Clone, Debug)]
pub(super) struct Elector {
    identity: String,
    settings: Settings,
    random: Random,
    /// The record last seen, and when the Lease was seen to change last.
    seen: Option<(Record, Instant)>,
    /// There was no Lease at the last look, since when `seen` says. The record that was there before is remembered.
    absent: bool,
    /// Nothing has happened since the last look that could have changed it.
    fresh: bool,
    /// When the next action is due.
    due: Instant,
    /// When the request under way was begun.
    began: Instant,
    conflicts: u32,
    term: Option<Term>,
    terms: u64,
    releasing: bool,
}

impl Elector {
    /// A contender. No two processes, nor two lives of one, may have the same `identity`; `seed` is for jitter.
    pub(super) fn new(identity: String, settings: Settings, seed: u64, now: Instant) -> Self {
        Self {
            identity,
            settings,
            random: Random(seed),
            seen: None,
            absent: false,
            fresh: false,
            due: now,
            began: now,
            conflicts: 0,
            term: None,
            terms: 0,
            releasing: false,
        }
    }

    /// The term, if it leads.
    pub(super) fn term(&self) -> Option<Term> {
        self.term
    }

    /// Who holds the Lease, as far as is known; empty: nobody.
    pub(super) fn holder(&self) -> &str {
        match &self.seen {
            Some((record, _)) if !self.absent => &record.holder,
            _ => "",
        }
    }

    /// How long to wait for an answer. A leader asks a second time before its term ends, and never waits beyond.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        let usual = self.settings.renew_deadline() / 2;
        self.term
            .map_or(usual, |term| usual.min(term.until.saturating_duration_since(now)))
    }

    /// What to do at `now`; `wall` is written for people.
    pub(super) fn next(&mut self, now: Instant, wall: Timestamp) -> Action {
        if self.term.is_some_and(|term| term.until <= now) {
            self.depose();
        }
        if self.releasing && self.fresh && self.holder() != self.identity {
            return Action::Done;
        }
        if now < self.due {
            let end = self.term.map_or(self.due, |term| term.until);
            return Action::Wait(self.due.min(end));
        }
        let claim = if self.fresh { self.claim(now, wall) } else { None };
        if let Some(record) = claim {
            self.fresh = false;
            self.began = now;
            return Action::Write(record);
        }
        if self.fresh {
            // Another's: look again after a while, and when it expires.
            self.fresh = false;
            self.conflicts = 0;
            self.due = now + self.pause();
            if let Some(expiry) = self.expiry()
                && expiry > now
            {
                self.due = self.due.min(expiry);
            }
            return Action::Wait(self.due);
        }
        self.began = now;
        Action::Read
    }

    /// Books the end of the last action; `now` is when the answer came.
    pub(super) fn ended(&mut self, answer: Answer, now: Instant) {
        let began = self.began;
        match answer {
            Answer::Found(record) => {
                self.observe(record, now);
                self.fresh = true;
                self.due = now;
            }
            Answer::Written(record) => {
                let ours = record.holder == self.identity;
                self.observe(Some(record), now);
                self.fresh = true;
                self.conflicts = 0;
                self.due = began + self.settings.retry_period();
                if ours && !self.releasing {
                    self.confirm(began + self.settings.renew_deadline(), now);
                }
            }
            Answer::Conflict => {
                self.fresh = false;
                // The first one is read up at once; where they come in a row, somebody else is at it.
                let pause = if self.conflicts == 0 {
                    Duration::ZERO
                } else {
                    self.pause()
                };
                self.conflicts = self.conflicts.saturating_add(1);
                self.due = now + pause;
            }
            Answer::Failed => {
                self.fresh = false;
                self.due = (began + self.pause()).max(now);
            }
        }
    }

    /// A watch shows this holder (empty: nobody, or no Lease). A watch may lag: it is a reason to look, nothing more.
    pub(super) fn hint(&mut self, holder: &str, now: Instant) {
        if holder != self.holder() {
            self.fresh = false;
            let last = self.seen.as_ref().map_or(now, |(_, since)| *since);
            self.due = self.due.min(now.max(last + HINTS));
        }
    }

    /// Gives the Lease back, if it is ours: from now on it does not lead. Everything that was begun while leading must
    /// have ended.
    pub(super) fn release(&mut self, now: Instant) {
        self.releasing = true;
        self.term = None;
        self.due = now;
    }

    fn depose(&mut self) {
        self.term = None;
        self.fresh = false;
    }

    fn observe(&mut self, record: Option<Record>, now: Instant) {
        match record {
            Some(record) => {
                if self.term.is_some() && record.holder != self.identity {
                    self.depose();
                }
                let same = matches!(&self.seen, Some((known, _)) if *known == record && !self.absent);
                if !same {
                    self.seen = Some((record, now));
                }
                self.absent = false;
            }
            None => {
                // Deleting a Lease does not release it: who held it last, known to us or not, may still lead.
                if !self.absent
                    && let Some((_, since)) = &mut self.seen
                {
                    *since = now;
                }
                self.absent = true;
            }
        }
    }

    fn confirm(&mut self, until: Instant, now: Instant) {
        if until <= now {
            // The answer came too late to act on. The Lease is ours all the same: renew it.
            self.depose();
            self.due = now;
            return;
        }
        match &mut self.term {
            Some(term) => term.until = until,
            None => {
                self.terms += 1;
                self.term = Some(Term {
                    number: self.terms,
                    acquired: now,
                    until,
                });
            }
        }
    }

    /// What to write, if the Lease as it was last seen may be written by us.
    fn claim(&self, now: Instant, wall: Timestamp) -> Option<Record> {
        let seconds = i32::try_from(self.settings.lease_duration().as_secs()).unwrap_or(i32::MAX);
        let claimed = Record {
            holder: self.identity.clone(),
            seconds,
            acquired: Some(wall),
            renewed: Some(wall),
            transitions: 0,
        };
        let Some((record, _)) = &self.seen else {
            return Some(claimed).filter(|_| !self.releasing);
        };
        if self.releasing {
            return (record.holder == self.identity).then(|| Record {
                holder: String::new(),
                seconds: 1,
                ..Record {
                    transitions: record.transitions,
                    ..claimed
                }
            });
        }
        // If it is gone and we do not lead, another one may have held it before it was deleted.
        if record.holder == self.identity && (!self.absent || self.term.is_some()) {
            return Some(Record {
                acquired: record.acquired.or(Some(wall)),
                transitions: record.transitions,
                ..claimed
            });
        }
        if self.expiry().is_some_and(|expiry| now < expiry) {
            return None;
        }
        Some(Record {
            transitions: record.transitions.saturating_add(1).max(1),
            ..claimed
        })
    }

    /// When a Lease that another holds, or may have held when it was deleted, may be taken.
    fn expiry(&self) -> Option<Instant> {
        let (record, since) = self.seen.as_ref()?;
        let anothers = !record.is_free() && record.holder != self.identity;
        (anothers || self.absent).then(|| *since + record.duration(self.settings.lease_duration()))
    }

    /// The retry period and up to a fifth more, so that contenders do not march in step.
    fn pause(&mut self) -> Duration {
        self.settings
            .retry_period()
            .mul_f64(1.0 + 0.2 * self.random.fraction())
    }
}

/// SplitMix64: good enough to spread retries.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        // 53 bits are what an f64 holds.
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
