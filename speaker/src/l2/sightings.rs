//! Who else was seen using our addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::mac::Mac;

/// More of the same within this time is counted, but nobody is woken for it.
const QUIET: Duration = Duration::from_secs(1);
/// The same of other speakers: two of them that do not hear each other should come to one owner soon.
const FELLOW_QUIET: Duration = Duration::from_millis(150);
/// What was last seen this long ago is forgotten.
const KEEP: Duration = Duration::from_secs(600);

/// A machine that is no speaker uses an address that this node announces or asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Its MAC address.
    pub by: Mac,
    /// The interface that it was seen on.
    pub interface: String,
    /// In how many frames.
    pub count: u64,
    /// When last, to the second.
    pub last: Instant,
}

/// Who else was seen using which address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// Machines that are no speakers, with addresses that this node announces or asked about.
    pub conflicts: BTreeMap<IpAddr, Conflict>,
    /// Other speakers that announce an address which this node announces and is not yielding, and when last, to some
    /// tenths of a second.
    pub fellows: BTreeMap<IpAddr, (Mac, Instant)>,
}

/// Where all tasks write what they have seen.
#[derive(Clone)]
pub(super) struct Board(watch::Sender<Sightings>);

impl Board {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Sightings::default()))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Sightings> {
        self.0.subscribe()
    }

    pub(super) fn conflict(&self, address: IpAddr, by: Mac, interface: &str, now: Instant) {
        self.0.send_if_modified(|sightings| {
            let known = sightings.conflicts.get_mut(&address);
            let news = known.as_ref().is_none_or(|known| now >= known.last + QUIET);
            match known {
                Some(known) => {
                    known.by = by;
                    known.count += 1;
                    if known.interface != interface {
                        interface.clone_into(&mut known.interface);
                    }
                    if news {
                        known.last = now;
                    }
                }
                None => {
                    let new = Conflict {
                        by,
                        interface: interface.to_owned(),
                        count: 1,
                        last: now,
                    };
                    sightings.conflicts.insert(address, new);
                }
            }
            news
        });
    }

    pub(super) fn fellow(&self, address: IpAddr, by: Mac, now: Instant) {
        self.0.send_if_modified(|sightings| {
            let known = sightings.fellows.get(&address);
            let news = known.is_none_or(|(mac, last)| *mac != by || now >= *last + FELLOW_QUIET);
            if news {
                sightings.fellows.insert(address, (by, now));
            }
            news
        });
    }

    /// Forgets what is old; nobody is woken, since what was not seen for long is over for everybody.
    pub(super) fn forget(&self, now: Instant) {
        self.0.send_if_modified(|sightings| {
            sightings
                .conflicts
                .retain(|_, conflict| now < conflict.last + KEEP);
            sightings.fellows.retain(|_, (_, last)| now < *last + KEEP);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_flood_wakes_once_a_second() {
        let board = Board::new();
        let mut seen = board.subscribe();
        let ip = IpAddr::from([192, 0, 2, 1]);
        let start = Instant::now();
        let mut woken = 0;
        for step in 0..2500 {
            board.conflict(ip, A, "eth0", start + Duration::from_millis(step));
            woken += u32::from(seen.has_changed().unwrap());
            seen.borrow_and_update();
        }
        assert_eq!(woken, 3);
        let conflict = seen.borrow().conflicts[&ip].clone();
        assert_eq!((conflict.by, conflict.count), (A, 2500));
        assert_eq!(conflict.last, start + Duration::from_secs(2));
        board.forget(conflict.last + KEEP - QUIET);
        assert_eq!(seen.borrow().conflicts.len(), 1);
        board.forget(conflict.last + KEEP);
        assert_eq!(*seen.borrow(), Sightings::default());
    }

    #[test]
    fn another_fellow_is_news_at_once() {
        let board = Board::new();
        let mut seen = board.subscribe();
        let ip = IpAddr::from([192, 0, 2, 1]);
        let now = Instant::now();
        for (by, news) in [(A, true), (A, false), (B, true)] {
            board.fellow(ip, by, now);
            assert_eq!(seen.has_changed().unwrap(), news, "{by}");
            assert_eq!(seen.borrow_and_update().fellows[&ip], (by, now));
        }
    }
}
