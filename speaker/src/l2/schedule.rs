//! When to send unasked: a burst at the start of a claim, then slowly and for ever; and a question once.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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
/// Repeats wait for the next multiple of this time, so that many addresses do not wake the task one by one.
const TICK: Duration = Duration::from_millis(100);
/// At most so many at a time, with a pause in between for the answers; queues of interfaces hold some 1000 frames.
const BATCH: usize = 100;
const PAUSE: Duration = Duration::from_millis(1);
/// What could not be sent is tried again after this time.
const RETRY: Duration = Duration::from_millis(10);

/// Something to send unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// Ask whether anybody has the address.
    Ask(IpAddr),
    /// Say that it is here.
    Announce(IpAddr),
}

/// What is sent unasked, and when next. Times are those since some beginning.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    entries: BTreeMap<Job, Entry>,
    /// The entries that have a next time, in its order.
    queue: BTreeSet<(Duration, Job)>,
    /// Nothing before this time.
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    claim: i64,
    started: Duration,
    /// How many of the burst are sent.
    sent: usize,
    next: Option<Duration>,
}

impl Schedule {
    /// Does exactly these jobs from `now` on. A new one, or one under a new claim, starts with a burst; a question is
    /// asked once.
    pub fn sync(&mut self, jobs: impl IntoIterator<Item = (Job, i64)>, now: Duration) {
        let mut wanted = BTreeSet::new();
        for (job, claim) in jobs {
            wanted.insert(job);
            let fresh = Entry {
                claim,
                started: now,
                sent: 0,
                next: Some(now + BURST[0]),
            };
            match self.entries.entry(job) {
                Slot::Occupied(known) if known.get().claim == claim => continue,
                Slot::Occupied(mut known) => {
                    let before = known.insert(fresh);
                    self.queue.extend(fresh.next.map(|next| (next, job)));
                    if before.next != fresh.next {
                        take(&mut self.queue, job, &before);
                    }
                }
                Slot::Vacant(slot) => {
                    slot.insert(fresh);
                    self.queue.extend(fresh.next.map(|next| (next, job)));
                }
            }
        }
        let Self { entries, queue, .. } = self;
        entries.retain(|job, entry| {
            let stays = wanted.contains(job);
            if !stays {
                take(queue, *job, entry);
            }
            stays
        });
    }

    /// What to send now, and not more than fits into a batch. Each is rescheduled.
    pub fn due(&mut self, now: Duration) -> Vec<Job> {
        let mut due = Vec::new();
        if now < self.pause {
            return due;
        }
        while due.len() < BATCH
            && let Some((time, job)) = self.queue.first().copied()
            && time <= now
        {
            self.queue.pop_first();
            let Some(entry) = self.entries.get_mut(&job) else {
                continue;
            };
            due.push(job);
            entry.sent = (entry.sent + 1).min(BURST.len());
            entry.next = match (job, BURST.get(entry.sent)) {
                (Job::Ask(_), _) => None,
                // After a stall, what was missed of the burst is not made up for.
                (Job::Announce(_), Some(offset)) => Some((entry.started + *offset).max(now + PAUSE)),
                (Job::Announce(address), None) => Some(tick(now + REPEAT - spread(address))),
            };
            self.queue.extend(entry.next.map(|next| (next, job)));
        }
        if due.len() == BATCH {
            self.pause = now + PAUSE;
        }
        due
    }

    /// What was due could not be sent: it is due again soon.
    pub fn failed(&mut self, job: Job, now: Duration) {
        let Some(entry) = self.entries.get_mut(&job) else {
            return;
        };
        take(&mut self.queue, job, entry);
        entry.sent = entry.sent.saturating_sub(1);
        let next = now + RETRY;
        entry.next = Some(next);
        self.queue.insert((next, job));
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(time, _)| (*time).max(self.pause))
    }
}

fn take(queue: &mut BTreeSet<(Duration, Job)>, job: Job, entry: &Entry) {
    if let Some(next) = entry.next {
        queue.remove(&(next, job));
    }
}

fn tick(time: Duration) -> Duration {
    TICK * u32::try_from(time.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX)
}

/// By the last two bytes, the last one first: addresses of one range differ there.
fn spread(address: IpAddr) -> Duration {
    let [.., before, last] = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    SPREAD / 65536 * u32::from(u16::from_be_bytes([last, before]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VIP: Job = Job::Announce(ip(0));

    const fn ip(last: u8) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 0, last))
    }

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
        assert_eq!(schedule.due(ms(10_000)), []);
        assert_eq!(schedule.next(), Some(ms(10_001)));
    }

    #[test]
    fn a_question_is_asked_once() {
        let mut schedule = Schedule::default();
        let ask = Job::Ask(ip(1));
        schedule.sync([(VIP, 1), (ask, 0)], ms(0));
        assert_eq!(schedule.due(ms(0)), [ask, VIP]);
        schedule.sync([(ask, 0)], ms(1));
        assert_eq!(schedule.next(), None);
        schedule.sync([], ms(2));
        schedule.sync([(ask, 0)], ms(3));
        assert_eq!(schedule.due(ms(3)), [ask]);
        schedule.failed(ask, ms(3));
        assert_eq!((schedule.next(), schedule.due(ms(13))), (Some(ms(13)), vec![ask]));
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn what_could_not_be_sent_is_made_up_for() {
        let mut schedule = Schedule::default();
        schedule.sync([(VIP, 1)], ms(0));
        assert_eq!(schedule.due(ms(0)), [VIP]);
        schedule.failed(VIP, ms(0));
        assert_eq!(
            fired(&mut schedule, ms(40_000)),
            [10, 100, 300, 1000, 2000, 32_000]
        );
        schedule.failed(VIP, ms(32_000));
        assert_eq!(fired(&mut schedule, ms(70_000)), [32_010, 62_100]);
    }

    #[test]
    fn many_come_in_batches() {
        let mut schedule = Schedule::default();
        let all = (0..1000_u32).map(|n| (Job::Announce(std::net::Ipv4Addr::from(0x0a00_0000 + n).into()), 1));
        schedule.sync(all, ms(0));
        let mut seen = BTreeSet::new();
        let mut now = ms(0);
        while seen.len() < 1000 {
            let due = schedule.due(now);
            assert_eq!(due.len(), BATCH, "at {now:?}");
            assert_eq!(schedule.due(now), [], "the answers have their turn");
            seen.extend(due);
            now = schedule.next().unwrap();
        }
        assert_eq!(now, ms(100), "all within 10 ms, then the second of the burst");
    }

    #[test]
    fn repeats_are_spread_and_wake_few_times() {
        let mut schedule = Schedule::default();
        schedule.sync((0..=255).map(|last| (Job::Announce(ip(last)), 1)), ms(0));
        while schedule.next().unwrap() < ms(3000) {
            schedule.due(schedule.next().unwrap());
        }
        let mut wakes = 0;
        let mut seen = BTreeSet::new();
        while let Some(next) = schedule.next().filter(|next| *next < ms(33_000)) {
            assert!(next >= ms(27_000) && next.as_millis() % 100 == 0, "{next:?}");
            let due = schedule.due(next);
            assert!((5..=6).contains(&due.len()), "{} at {next:?}", due.len());
            seen.extend(due);
            wakes += 1;
        }
        assert_eq!((seen.len(), wakes), (256, 50));
    }

    proptest! {
        #[test]
        fn every_job_has_one_place_in_the_queue(
            steps in proptest::collection::vec((proptest::collection::btree_map(0..6_u8, 0..3_i64, 0..6), 0..400_u64, any::<bool>()), 1..30),
        ) {
            let mut schedule = Schedule::default();
            let mut now = ms(0);
            for (claims, wait, fails) in steps {
                schedule.sync(claims.iter().map(|(last, claim)| (Job::Announce(ip(*last)), *claim)), now);
                prop_assert!(schedule.entries.keys().eq(claims.keys().map(|last| Job::Announce(ip(*last))).collect::<Vec<_>>().iter()));
                now += ms(wait);
                let due = schedule.due(now);
                for job in due.iter().filter(|_| fails) {
                    schedule.failed(*job, now);
                }
                let queued: BTreeSet<_> = schedule.entries.iter().map(|(job, entry)| (entry.next.unwrap(), *job)).collect();
                prop_assert_eq!(&queued, &schedule.queue);
                prop_assert!(schedule.next().is_none_or(|next| next > now));
            }
        }
    }
}
