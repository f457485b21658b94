//! What the rest of a program knows of the election.

use std::time::{Duration, Instant};

use tokio::sync::watch;

/// A time of leading, from an acquisition to a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Counts the terms of this process.
    pub number: u64,
    /// When the acquisition was confirmed. What was read before may lack what the former leader wrote last.
    pub acquired: Instant,
    /// When the right to act ends, unless a renewal is confirmed before.
    pub until: Instant,
}

/// Tells whether this process leads.
#[derive(Clone, Debug)]
pub struct Leadership {
    term: watch::Receiver<Option<Term>>,
    slack: Duration,
}

/// The side that says so.
#[derive(Debug)]
pub(super) struct Crown {
    term: watch::Sender<Option<Term>>,
}

impl Crown {
    /// Nobody's as yet. `slack`: what was begun in time must have ended so long after the right to act.
    pub(super) fn new(slack: Duration) -> (Self, Leadership) {
        let (sender, term) = watch::channel(None);
        (Self { term: sender }, Leadership { term, slack })
    }

    /// Publishes the present state. Readers are woken when a term begins or ends, not by each renewal.
    pub(super) fn set(&self, term: Option<Term>) {
        self.term.send_if_modified(|known| {
            let number = |term: &Option<Term>| term.map(|term| term.number);
            let news = number(known) != number(&term);
            *known = term;
            news
        });
    }
}

impl Leadership {
    /// Leads for ever: for a program that runs once. `slack` as in [`Leadership::slack`].
    pub fn always(slack: Duration) -> Self {
        let now = Instant::now();
        let (crown, leadership) = Crown::new(slack);
        crown.set(Some(Term {
            number: 1,
            acquired: now,
            // Some thirty years.
            until: now + Duration::from_secs(1_000_000_000),
        }));
        leadership
    }

    /// The term, if this process leads at `now`. A process that was stopped for a while and goes on learns here that it
    /// leads no longer: the answer does not depend on any other task having run.
    pub fn term(&self, now: Instant) -> Option<Term> {
        (*self.term.borrow()).filter(|term| now < term.until)
    }

    /// Does this process lead at `now`?
    pub fn is_leading(&self, now: Instant) -> bool {
        self.term(now).is_some()
    }

    /// Is it still the term of this number at `now`?
    pub fn holds(&self, number: u64, now: Instant) -> bool {
        self.term(now).is_some_and(|term| term.number == number)
    }

    /// An action that is begun while leading must have ended after so long, for then another may lead.
    pub fn slack(&self) -> Duration {
        self.slack
    }

    /// Waits for the next term, or answers with the present one. Never completes when the election has ended.
    ///
    /// Cancel safety: cancel safe.
    pub async fn begun(&mut self) -> Term {
        loop {
            let now = Instant::now();
            if let Some(term) = *self.term.borrow_and_update()
                && now < term.until
            {
                return term;
            }
            if self.term.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Waits until the term of this number is over. The end of the election does not end a term before its time.
    ///
    /// Cancel safety: cancel safe.
    pub async fn lost(&mut self, number: u64) {
        loop {
            // A renewal moves the end without a word; so it is read anew when the old end is reached.
            let until = match *self.term.borrow_and_update() {
                Some(term) if term.number == number && Instant::now() < term.until => term.until,
                _ => return,
            };
            tokio::select! {
                changed = self.term.changed() => if changed.is_err() {
                    tokio::time::sleep_until(until.into()).await;
                    return;
                },
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(number: u64, until: Instant) -> Option<Term> {
        Some(Term {
            number,
            acquired: Instant::now(),
            until,
        })
    }

    #[tokio::test]
    async fn ends_by_the_clock_alone() {
        let (crown, mut leadership) = Crown::new(Duration::from_secs(5));
        let now = Instant::now();
        assert!(!leadership.is_leading(now));
        crown.set(term(1, now + Duration::from_millis(50)));
        assert_eq!(leadership.begun().await.number, 1);
        assert!(leadership.holds(1, now) && !leadership.holds(2, now));
        assert!(!leadership.is_leading(now + Duration::from_millis(50)));
        // A renewal moves the end; nobody is woken for it.
        crown.set(term(1, now + Duration::from_millis(80)));
        assert!(!leadership.term.has_changed().unwrap());
        leadership.lost(1).await;
        assert!(now.elapsed() >= Duration::from_millis(80));
        crown.set(None);
        crown.set(term(2, now + Duration::from_secs(60)));
        leadership.lost(1).await;
        assert_eq!(leadership.begun().await.number, 2);
    }

    #[tokio::test]
    async fn without_election_it_leads_and_no_term_ends() {
        let mut leadership = Leadership::always(Duration::from_secs(10));
        assert_eq!(leadership.begun().await.number, 1);
        let lost = leadership.lost(1);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), lost)
                .await
                .is_err()
        );
    }
}
