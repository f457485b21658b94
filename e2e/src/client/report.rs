//! From what happened to what is reported: pure arithmetic, so that every published outage figure can be checked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// The connection was refused.
    Refused,
    /// The connection was reset while it was being opened (on a long-held one: at any time).
    Reset,
    /// A new connection was opened, and reset or closed before its answer was complete.
    Cut,
    /// The network or host was reported unreachable.
    Unreachable,
    /// No complete answer in time.
    Timeout,
    /// The connection was closed before the answer was complete.
    Closed,
    /// An answer that is not HTTP, not status 200, or not what the test server says.
    Http,
    /// On a long-held connection: another pod, another client address or other data than before.
    Altered,
    /// Any other error of the operating system.
    Other,
}

/// What a good answer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The pod that answered.
    pub backend: String,
    /// The address from which the pod saw the request come.
    pub client: IpAddr,
}

/// One request, on a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When it was started, from the start of the client.
    pub began: Duration,
    /// How long until its answer was complete, or it had failed.
    pub took: Duration,
    /// How it ended.
    pub outcome: Result<Answer, FailureKind>,
}

/// One long-held connection, on which request follows request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The pod that answered; none if there never was an answer.
    pub backend: Option<String>,
    /// The address from which the pod saw it come, if it was asked.
    pub client: Option<SocketAddr>,
    /// Good answers.
    pub good: u64,
    /// The longest time that an answer took, of all that came.
    pub slowest: Duration,
    /// When it broke, if it did: the time of the failure from the start of the client, and its kind.
    pub broke: Option<(Duration, FailureKind)>,
}

/// A time without a good answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Its length in milliseconds.
    pub ms: u64,
    /// When it began, in milliseconds from the start of the client.
    pub began_ms: u64,
}

/// One request, as reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerReport {
    /// When it was started, in milliseconds from the start of the client.
    pub t_ms: u64,
    /// How long it took, in microseconds.
    pub latency_us: u64,
    /// The pod that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The address from which the pod saw the request come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// How it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureKind>,
}

/// A long-held connection that broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenReport {
    /// When, in milliseconds from the start of the client.
    pub t_ms: u64,
    /// How.
    pub failure: FailureKind,
    /// The pod it was connected to; none if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// The long-held connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldReport {
    /// How many were asked for.
    pub connections: u64,
    /// Those that broke, also those that could not be opened, in the order of time.
    pub broken: Vec<BrokenReport>,
    /// Good answers on all of them.
    pub good: u64,
    /// The longest time that an answer on one of them took, in milliseconds: a connection that survives may still stall.
    pub longest_stall_ms: u64,
    /// Connections by the pod they are connected to.
    pub backends: BTreeMap<String, u64>,
    /// Connections by the address from which the pod saw them come.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clients: BTreeMap<IpAddr, u64>,
}

/// What the test client saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where the requests went.
    pub target: String,
    /// Wall-clock time of the start, to find it again in logs and captures.
    pub started_at: Timestamp,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// Requests made, each on a new connection.
    pub requests: u64,
    /// Those answered well.
    pub good: u64,
    /// Those that failed.
    pub failed: u64,
    /// Failures by kind.
    pub failures: BTreeMap<FailureKind, u64>,
    /// The longest time between two good answers that followed each other, also from the start to the first and from the last
    /// to the end.
    pub longest_gap: Gap,
    /// Good answers by the pod that gave them.
    pub backends: BTreeMap<String, u64>,
    /// Good answers by the address from which the pod saw the request come.
    pub clients: BTreeMap<IpAddr, u64>,
    /// The long-held connections, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldReport>,
    /// Every request in the order in which they were started, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<AnswerReport>>,
}

impl Report {
    /// Counts `samples` and `held`, taken by a client that ran for `duration`.
    pub fn new(
        target: String,
        started_at: Timestamp,
        duration: Duration,
        mut samples: Vec<Sample>,
        held: &[Held],
        with_answers: bool,
    ) -> Self {
        samples.sort_by_key(|sample| sample.began);
        let mut report = Self {
            target,
            started_at,
            duration_ms: millis(duration),
            requests: samples.len() as u64,
            good: 0,
            failed: 0,
            failures: BTreeMap::new(),
            longest_gap: longest_gap(&samples, duration),
            backends: BTreeMap::new(),
            clients: BTreeMap::new(),
            held: (!held.is_empty()).then(|| count_held(held)),
            answers: with_answers.then(|| samples.iter().map(AnswerReport::from).collect()),
        };
        for sample in samples {
            match sample.outcome {
                Ok(answer) => {
                    report.good += 1;
                    *report.backends.entry(answer.backend).or_default() += 1;
                    *report.clients.entry(answer.client).or_default() += 1;
                }
                Err(kind) => {
                    report.failed += 1;
                    *report.failures.entry(kind).or_default() += 1;
                }
            }
        }
        report
    }
}

/// The longest time between the completions of two good answers that follow each other; the start and the end count as such.
/// Answers that came after the end, to requests started before it, lengthen nothing beyond their own time.
fn longest_gap(samples: &[Sample], duration: Duration) -> Gap {
    let good = samples.iter().filter(|sample| sample.outcome.is_ok());
    let mut times: Vec<Duration> = good.map(|sample| sample.began + sample.took).collect();
    times.extend([Duration::ZERO, duration]);
    times.sort();
    let gaps = times.windows(2).map(|pair| (pair[1] - pair[0], pair[0]));
    // The first of several equally long ones.
    let longest = gaps.reduce(|longest, gap| if gap.0 > longest.0 { gap } else { longest });
    longest.map_or_else(Gap::default, |(length, began)| Gap {
        ms: millis(length),
        began_ms: millis(began),
    })
}

fn count_held(held: &[Held]) -> HeldReport {
    let mut report = HeldReport {
        connections: held.len() as u64,
        ..HeldReport::default()
    };
    for connection in held {
        report.good += connection.good;
        report.longest_stall_ms = report.longest_stall_ms.max(millis(connection.slowest));
        if let Some(backend) = &connection.backend {
            *report.backends.entry(backend.clone()).or_default() += 1;
        }
        if let Some(client) = connection.client {
            *report.clients.entry(client.ip().to_canonical()).or_default() += 1;
        }
        if let Some((when, failure)) = connection.broke {
            report.broken.push(BrokenReport {
                t_ms: millis(when),
                failure,
                backend: connection.backend.clone(),
            });
        }
    }
    report.broken.sort_by_key(|broken| broken.t_ms);
    report
}

impl From<&Sample> for AnswerReport {
    fn from(sample: &Sample) -> Self {
        let answer = sample.outcome.as_ref().ok();
        Self {
            t_ms: millis(sample.began),
            latency_us: u64::try_from(sample.took.as_micros()).unwrap_or(u64::MAX),
            backend: answer.map(|answer| answer.backend.clone()),
            client: answer.map(|answer| answer.client),
            failure: sample.outcome.as_ref().err().copied(),
        }
    }
}

/// Milliseconds, rounded up: no outage is reported shorter than it was.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

impl fmt::Display for Report {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests in {:.1} s: ",
            self.requests,
            self.duration_ms as f64 / 1000.0
        )?;
        write!(
            f,
            "{} good, {} failed{}",
            self.good,
            self.failed,
            Kinds(&self.failures)
        )?;
        write!(f, "; longest gap {} ms", self.longest_gap.ms)?;
        if !self.backends.is_empty() {
            write!(f, "; backends {}", Counts(&self.backends))?;
        }
        if self.clients.len() == 1 {
            let only = self.clients.keys().next();
            write!(
                f,
                "; client seen as {}",
                only.map(ToString::to_string).unwrap_or_default()
            )?;
        } else if !self.clients.is_empty() {
            write!(f, "; client seen as {}", Counts(&self.clients))?;
        }
        if let Some(held) = &self.held {
            write!(
                f,
                "; {} held connections: {} broken",
                held.connections,
                held.broken.len()
            )?;
            if let Some(first) = held.broken.first() {
                write!(f, " (first after {:.1} s)", first.t_ms as f64 / 1000.0)?;
            }
            write!(f, ", longest stall {} ms", held.longest_stall_ms)?;
        }
        Ok(())
    }
}

/// ` (refused 2, timeout 1)`, or nothing.
struct Kinds<'a>(&'a BTreeMap<FailureKind, u64>);

impl fmt::Display for Kinds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", Counts(self.0))
        }
    }
}

/// `web-a 2, web-b 1`.
struct Counts<'a, K>(&'a BTreeMap<K, u64>);

impl<K: fmt::Display> fmt::Display for Counts<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, count)) in self.0.iter().enumerate() {
            write!(f, "{}{name} {count}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Cut => "cut",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Http => "http",
            Self::Altered => "altered",
            Self::Other => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn good(began: u64, took: u64, backend: &str) -> Sample {
        let answer = Answer {
            backend: backend.to_owned(),
            client: "172.31.0.2".parse().unwrap(),
        };
        Sample {
            began: ms(began),
            took: ms(took),
            outcome: Ok(answer),
        }
    }

    fn bad(began: u64, took: u64, kind: FailureKind) -> Sample {
        Sample {
            began: ms(began),
            took: ms(took),
            outcome: Err(kind),
        }
    }

    fn report(duration: u64, samples: Vec<Sample>, held: &[Held]) -> Report {
        Report::new(
            "t".to_owned(),
            Timestamp::UNIX_EPOCH,
            ms(duration),
            samples,
            held,
            true,
        )
    }

    #[test]
    fn gaps() {
        let refused = FailureKind::Refused;
        let cases = [
            ("nothing at all", 500, vec![], (500, 0)),
            (
                "only failures",
                500,
                vec![bad(0, 1, refused), bad(20, 1, refused)],
                (500, 0),
            ),
            (
                "steady",
                60,
                vec![good(0, 1, "a"), good(20, 1, "a"), good(40, 1, "a")],
                (20, 1),
            ),
            (
                "start to first",
                100,
                vec![bad(0, 1, refused), good(70, 10, "a")],
                (80, 0),
            ),
            (
                "last to end",
                100,
                vec![good(0, 5, "a"), bad(20, 1, refused)],
                (95, 5),
            ),
            (
                "between",
                120,
                vec![good(0, 10, "a"), bad(20, 1, refused), good(100, 5, "a")],
                (95, 10),
            ),
            // What counts is when answers are there, not when they were asked for.
            (
                "overtaken",
                200,
                vec![good(0, 150, "a"), good(20, 10, "a"), good(40, 20, "a")],
                (90, 60),
            ),
            (
                "a slow answer after the end",
                100,
                vec![good(0, 10, "a"), good(80, 60, "a")],
                (90, 10),
            ),
            ("the first of two", 40, vec![good(10, 10, "a")], (20, 0)),
        ];
        for (what, duration, samples, (length, began_ms)) in cases {
            let gap = report(duration, samples, &[]).longest_gap;
            assert_eq!(gap, Gap { ms: length, began_ms }, "{what}");
        }
    }

    #[test]
    fn a_gap_is_never_rounded_down() {
        assert_eq!(millis(Duration::from_micros(1001)), 2);
        assert_eq!(millis(Duration::from_micros(1000)), 1);
    }

    #[test]
    fn counts_and_the_one_line() {
        let samples = vec![
            good(20, 1, "web-b"),
            good(0, 1, "web-a"),
            good(40, 1, "web-a"),
            bad(60, 1, FailureKind::Refused),
            bad(80, 1000, FailureKind::Timeout),
            bad(100, 1, FailureKind::Refused),
        ];
        let held = [
            Held {
                backend: Some("web-a".to_owned()),
                good: 7,
                slowest: ms(3),
                ..Held::default()
            },
            Held {
                backend: None,
                broke: Some((ms(1500), FailureKind::Refused)),
                ..Held::default()
            },
            Held {
                backend: Some("web-b".to_owned()),
                good: 5,
                slowest: ms(900),
                broke: Some((ms(700), FailureKind::Reset)),
                ..Held::default()
            },
        ];
        let report = report(1200, samples, &held);
        assert_eq!(
            report.to_string(),
            "6 requests in 1.2 s: 3 good, 3 failed (refused 2, timeout 1); longest gap 1159 ms; \
             backends web-a 2, web-b 1; client seen as 172.31.0.2; \
             3 held connections: 2 broken (first after 0.7 s), longest stall 900 ms"
        );
        assert_eq!(report.held.as_ref().unwrap().good, 12);
        let answers = report.answers.as_ref().unwrap();
        assert_eq!(
            answers.iter().map(|answer| answer.t_ms).collect::<Vec<_>>(),
            [0, 20, 40, 60, 80, 100]
        );
        assert_eq!(answers[3].failure, Some(FailureKind::Refused));
    }

    #[test]
    fn the_line_of_a_good_run() {
        let mut samples: Vec<Sample> = (0..100)
            .map(|i| good(i * 20, 1, if i % 2 == 0 { "web-a" } else { "web-b" }))
            .collect();
        let line = report(2000, samples.clone(), &[]).to_string();
        assert_eq!(
            line,
            "100 requests in 2.0 s: 100 good, 0 failed; longest gap 20 ms; \
             backends web-a 50, web-b 50; client seen as 172.31.0.2"
        );
        if let Ok(answer) = &mut samples[0].outcome {
            answer.client = "172.30.0.11".parse().unwrap();
        }
        let line = report(2000, samples, &[]).to_string();
        assert!(
            line.ends_with("client seen as 172.30.0.11 1, 172.31.0.2 99"),
            "{line}"
        );
    }

    #[test]
    fn json_and_back() {
        let before = report(
            100,
            vec![good(0, 1, "a"), bad(20, 1, FailureKind::Http)],
            &[Held::default()],
        );
        let json = serde_json::to_string(&before).unwrap();
        assert!(json.contains(r#""failures":{"http":1}"#), "{json}");
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), before);
    }
}
