//! Who answered for which address, round by round: pure arithmetic.
//!
//! A round begins with the questions and ends with those of the next; an answer belongs to the round in which it came.
//! So times are exact to the length of a round, and a single round without an answer, or with a late one in it, says
//! little: spans that are told apart by less than [`JOIN`] count as one, and callers ask for longer ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Spans with less between them are one.
pub const JOIN: Duration = Duration::from_millis(300);

/// Rounds that follow one another and in which the same ones answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    from: Duration,
    /// When its last round ended, or began if it is still going on.
    to: Duration,
    /// Who answered, with the time of the first answer.
    who: BTreeMap<String, Duration>,
}

/// A time in which something was so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its beginning.
    pub from: Duration,
    /// Its end.
    pub to: Duration,
    /// Who answered in it.
    pub who: BTreeSet<String>,
}

impl Span {
    /// Its length.
    pub fn length(&self) -> Duration {
        self.to - self.from
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who: Vec<&str> = self.who.iter().map(String::as_str).collect();
        let who = if who.is_empty() {
            "nobody".to_owned()
        } else {
            who.join(" and ")
        };
        let (from, to) = (self.from.as_secs_f64(), self.to.as_secs_f64());
        write!(f, "{from:.2} s to {to:.2} s: {who}")
    }
}

/// An address that went from one to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The first answer of the new one.
    pub at: Duration,
    /// Who had it.
    pub from: String,
    /// Who has it.
    pub to: String,
}

/// Everything that was answered.
#[derive(Clone, Debug, Default)]
pub struct History {
    lines: BTreeMap<IpAddr, Vec<Run>>,
    /// Of the round that is going on.
    now: BTreeMap<IpAddr, BTreeMap<String, Duration>>,
    began: Option<Duration>,
}

impl History {
    /// Of these addresses; answers for others are passed over.
    pub fn of(addresses: &[IpAddr]) -> Self {
        Self {
            lines: addresses.iter().map(|address| (*address, vec![])).collect(),
            ..Self::default()
        }
    }

    /// Ends the round, if there is one, and begins the next.
    pub fn round(&mut self, at: Duration) {
        if let Some(began) = self.began {
            for (address, line) in &mut self.lines {
                let who = self.now.remove(address).unwrap_or_default();
                match line.last_mut() {
                    Some(run) if run.who.keys().eq(who.keys()) => run.to = at,
                    _ => line.push(Run {
                        from: began,
                        to: at,
                        who,
                    }),
                }
            }
        }
        self.began = Some(at);
    }

    /// Somebody claims an address.
    pub fn answer(&mut self, address: IpAddr, who: &str, at: Duration) {
        if self.lines.contains_key(&address) {
            let round = self.now.entry(address).or_default();
            round.entry(who.to_owned()).or_insert(at);
        }
    }

    /// The runs that ended by then, and the others.
    fn split(&self, address: IpAddr, at: Duration) -> (&[Run], &[Run]) {
        let line = self.lines.get(&address).map_or(&[][..], Vec::as_slice);
        // From the newest on, so that a long past costs nothing.
        let ended = line.iter().rev().position(|run| run.to <= at);
        line.split_at(ended.map_or(0, |n| line.len() - n))
    }

    fn runs(&self, address: IpAddr, from: Duration) -> impl Iterator<Item = &Run> {
        self.split(address, from).1.iter()
    }

    /// Everybody who has ever answered for an address.
    pub fn ever(&self, address: IpAddr) -> BTreeSet<String> {
        let runs = self.runs(address, Duration::ZERO);
        runs.flat_map(|run| run.who.keys().cloned()).collect()
    }

    /// Who answered in the last round that has ended.
    pub fn answering(&self, address: IpAddr) -> BTreeSet<String> {
        let last = self.lines.get(&address).and_then(|line| line.last());
        last.map(|run| run.who.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// The one who alone has answered since `from`, until now, with rounds missing here and there: at the most a fifth
    /// of the time, as an answer may be late on a busy machine.
    pub fn only(&self, address: IpAddr, from: Duration) -> Option<String> {
        let (mut all, mut missing) = (Duration::ZERO, Duration::ZERO);
        let mut who: BTreeSet<&String> = BTreeSet::new();
        for run in self.runs(address, from) {
            let length = run.to - run.from.max(from);
            all += length;
            if run.who.is_empty() {
                missing += length;
            }
            who.extend(run.who.keys());
        }
        let mut who = who.into_iter();
        match (who.next(), who.next()) {
            (Some(one), None) if missing * 5 <= all => Some(one.clone()),
            _ => None,
        }
    }

    /// The first answer since `from` of somebody else.
    pub fn first_other(&self, address: IpAddr, than: &str, from: Duration) -> Option<Duration> {
        let ended = self.runs(address, from).map(|run| &run.who);
        let rounds = ended.chain(self.now.get(&address));
        let others = rounds.flat_map(|who| who.iter().filter(|(name, at)| *name != than && **at >= from));
        others.map(|(_, at)| *at).min()
    }

    /// The moves since `from`: each round that one alone answers, after one that another alone answered.
    pub fn moves(&self, address: IpAddr, from: Duration) -> Vec<Move> {
        let mut moves = vec![];
        let (before, since) = self.split(address, from);
        let alone = |run: &Run| (run.who.len() == 1).then(|| run.who.keys().next().cloned())?;
        let mut owner = before.iter().rev().find_map(alone);
        // From when on somebody answers for whom the rounds before tell nothing.
        let mut first: BTreeMap<&str, Duration> = BTreeMap::new();
        for run in since {
            for (who, at) in &run.who {
                first.entry(who).or_insert(*at);
            }
            let Some(who) = alone(run) else {
                continue;
            };
            first.retain(|name, _| *name == who);
            let at = first.get(who.as_str()).copied().unwrap_or(run.from);
            if let Some(before) = owner.replace(who.clone())
                && before != who
            {
                moves.push(Move {
                    at,
                    from: before,
                    to: who,
                });
            }
        }
        moves
    }

    /// The spans since `from` in which two or more answered for an address.
    pub fn doubled(&self, address: IpAddr, from: Duration) -> Vec<Span> {
        self.spans(address, from, |count| count > 1)
    }

    /// The spans since `from` in which nobody answered for an address.
    pub fn silent(&self, address: IpAddr, from: Duration) -> Vec<Span> {
        self.spans(address, from, |count| count == 0)
    }

    /// The spans since `from` in which anybody answered for an address.
    pub fn answered(&self, address: IpAddr, from: Duration) -> Vec<Span> {
        self.spans(address, from, |count| count > 0)
    }

    fn spans(&self, address: IpAddr, from: Duration, wanted: impl Fn(usize) -> bool) -> Vec<Span> {
        let mut spans: Vec<Span> = vec![];
        for run in self.runs(address, from).filter(|run| wanted(run.who.len())) {
            let who = run.who.keys().cloned();
            let began = run.from.max(from);
            match spans.last_mut() {
                // Two silences with an answer between them are two.
                Some(span) if began - span.to < JOIN && !run.who.is_empty() => {
                    span.to = run.to;
                    span.who.extend(who);
                }
                _ => spans.push(Span {
                    from: began,
                    to: run.to,
                    who: who.collect(),
                }),
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 30, 0, 100));

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// One round of 100 ms for each text; each letter is one who answers, 10 ms after the question.
    fn history(rounds: &[&str]) -> History {
        let mut history = History::of(&[VIP]);
        let mut at = Duration::ZERO;
        for round in rounds {
            history.round(at);
            for who in round.chars() {
                history.answer(VIP, &who.to_string(), at + ms(10));
            }
            at += ms(100);
        }
        history.round(at);
        history
    }

    fn spans(spans: &[Span]) -> Vec<(u64, u64)> {
        spans
            .iter()
            .map(|span| (span.from.as_millis() as u64, span.to.as_millis() as u64))
            .collect()
    }

    #[test]
    fn one_owner_all_the_time() {
        let history = history(&["a", "a", "a", "a"]);
        assert_eq!(history.only(VIP, Duration::ZERO), Some("a".to_owned()));
        assert!(history.moves(VIP, Duration::ZERO).is_empty());
        assert!(history.doubled(VIP, Duration::ZERO).is_empty());
        assert!(history.silent(VIP, Duration::ZERO).is_empty());
    }

    #[test]
    fn a_hand_over_with_an_overlap_is_one_move() {
        let history = history(&["a", "a", "ab", "ab", "b", "b"]);
        let moves = history.moves(VIP, Duration::ZERO);
        assert_eq!(moves.len(), 1);
        assert_eq!((moves[0].at, moves[0].to.as_str()), (ms(210), "b"));
        assert_eq!(spans(&history.doubled(VIP, Duration::ZERO)), [(200, 400)]);
        assert_eq!(history.first_other(VIP, "a", ms(100)), Some(ms(210)));
        assert_eq!(history.only(VIP, ms(350)), None);
        assert_eq!(history.only(VIP, ms(400)), Some("b".to_owned()));
    }

    #[test]
    fn a_dead_owner_is_a_silence_and_a_move() {
        let history = history(&["a", "", "", "b", "", "b"]);
        assert_eq!(
            spans(&history.silent(VIP, Duration::ZERO)),
            [(100, 300), (400, 500)]
        );
        for from in [0, 250] {
            assert_eq!(
                history.moves(VIP, ms(from)).len(),
                1,
                "the dead one had it before"
            );
        }
        assert_eq!(history.ever(VIP), ["a".to_owned(), "b".to_owned()].into());
        assert_eq!(spans(&history.silent(VIP, ms(250))), [(250, 300), (400, 500)]);
    }

    #[test]
    fn two_who_quarrel_are_double_all_the_time() {
        let history = history(&["ab", "a", "ab", "b", "b", "b", "b", "ab", "a"]);
        assert_eq!(
            spans(&history.doubled(VIP, Duration::ZERO)),
            [(0, 300), (700, 800)]
        );
    }

    #[test]
    fn back_and_forth_is_two_moves() {
        let history = history(&["a", "b", "a"]);
        let moves: Vec<(Duration, String)> = history
            .moves(VIP, Duration::ZERO)
            .into_iter()
            .map(|m| (m.at, m.to))
            .collect();
        assert_eq!(moves, [(ms(110), "b".to_owned()), (ms(210), "a".to_owned())]);
    }

    #[test]
    fn others_are_seen_at_once() {
        let mut history = history(&["a"]);
        history.answer(VIP, "b", ms(105));
        history.answer("172.30.0.101".parse().unwrap(), "b", ms(105));
        assert_eq!(history.first_other(VIP, "a", ms(100)), Some(ms(105)));
        assert_eq!(history.answering(VIP), ["a".to_owned()].into());
    }
}
