//! When to send gratuitous ARP: a burst at the start of a claim, then slowly and for ever.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Times of the burst, counted from the start of a claim. The first may be lost in a switch that is just learning; the
/// last comes when a port that was slow to forward should be open.
const BURST: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
];
/// From then on. It repairs neighbour tables that somebody else's mistake has spoilt.
const REPEAT: Duration = Duration::from_secs(30);
/// Repeats of many addresses are spread over this time.
const SPREAD: Duration = Duration::from_secs(5);

/// What is announced unasked, and when next.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    entries: BTreeMap<Ipv4Addr, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    claim: i64,
    started: Duration,
    /// How many of the burst are sent.
    sent: usize,
    next: Duration,
}

impl Schedule {
    /// Announces exactly these addresses from `now` on. A new address, or a new claim, starts with a burst.
    pub fn sync(&mut self, claims: impl IntoIterator<Item = (Ipv4Addr, i64)>, now: Duration) {
        let before = std::mem::take(&mut self.entries);
        for (address, claim) in claims {
            let fresh = Entry {
                claim,
                started: now,
                sent: 0,
                next: now + BURST[0],
            };
            let known = before.get(&address).filter(|entry| entry.claim == claim);
            self.entries.insert(address, known.copied().unwrap_or(fresh));
        }
    }

    /// The addresses to announce now. Each is rescheduled.
    pub fn due(&mut self, now: Duration) -> Vec<Ipv4Addr> {
        let mut due = Vec::new();
        for (address, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.next <= now) {
            due.push(*address);
            entry.sent = (entry.sent + 1).min(BURST.len());
            entry.next = match BURST.get(entry.sent) {
                // After a stall, what was missed of the burst is not made up for.
                Some(offset) => (entry.started + *offset).max(now),
                None => now + REPEAT - spread(*address),
            };
        }
        due
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Duration> {
        self.entries.values().map(|entry| entry.next).min()
    }
}

fn spread(address: Ipv4Addr) -> Duration {
    SPREAD / 256 * u32::from(address.octets()[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 0);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Runs the schedule to its own times up to `end`, and answers when it fired.
    fn fired(schedule: &mut Schedule, end: Duration) -> Vec<u128> {
        let mut times = vec![];
        while let Some(next) = schedule.next().filter(|next| *next <= end) {
            assert_eq!(schedule.due(next), [VIP]);
            times.push(next.as_millis());
        }
        times
    }

    #[test]
    fn a_burst_then_slowly_for_ever() {
        let mut schedule = Schedule::default();
        schedule.sync([(VIP, 1)], ms(1000));
        assert_eq!(
            fired(&mut schedule, ms(70_000)),
            [1000, 1100, 1300, 2000, 3000, 33_000, 63_000]
        );
    }

    #[test]
    fn a_new_claim_starts_again_and_an_old_one_does_not() {
        let mut schedule = Schedule::default();
        schedule.sync([(VIP, 1)], ms(0));
        assert_eq!(fired(&mut schedule, ms(5000)).len(), 5);
        schedule.sync([(VIP, 1)], ms(5000));
        assert_eq!(schedule.next(), Some(ms(32_000)));
        schedule.sync([(VIP, 2)], ms(6000));
        assert_eq!(fired(&mut schedule, ms(6400)), [6000, 6100, 6300]);
        schedule.sync([], ms(6500));
        assert_eq!((schedule.next(), schedule.due(ms(99_000))), (None, vec![]));
    }

    #[test]
    fn a_late_call_sends_once_and_goes_on() {
        let mut schedule = Schedule::default();
        schedule.sync([(VIP, 1)], ms(0));
        assert_eq!(schedule.due(ms(10_000)), [VIP]);
        assert_eq!(schedule.due(ms(9_999)), [] as [Ipv4Addr; 0]);
        assert_eq!(schedule.next(), Some(ms(10_000)));
    }

    #[test]
    fn repeats_of_neighbouring_addresses_do_not_coincide() {
        let mut schedule = Schedule::default();
        let all = (0..=255).map(|last| (Ipv4Addr::new(192, 0, 2, last), 1));
        schedule.sync(all, ms(0));
        for _ in 0..BURST.len() {
            let next = schedule.next().unwrap();
            assert_eq!(schedule.due(next).len(), 256);
        }
        let next = schedule.next().unwrap();
        assert_eq!(schedule.due(next).len(), 1);
    }
}
