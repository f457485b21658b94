//! A witness of a router's kernel: every change of its routes, at the time at which it happens.
//!
//! What counts for packets is the kernel's table, not what a routing daemon says of its own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::topology::Place;

/// A route came, changed or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it was seen.
    pub at: Instant,
    /// Where the route leads.
    pub to: IpNet,
    /// Its next hops from then on; none when it went.
    pub next_hops: BTreeSet<IpAddr>,
}

/// Watches until it is dropped.
pub struct FibWatch {
    child: Child,
    changes: Arc<Mutex<Vec<Change>>>,
}

impl FibWatch {
    /// Begins to watch the routes of a place.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn start(lab: &Lab, place: Place) -> Result<Self> {
        let mut child = lab
            .command(place, ["ip", "-o", "monitor", "route"])?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .doing("start ip monitor")?;
        let changes = Arc::new(Mutex::new(Vec::new()));
        let output = child
            .stdout
            .take()
            .ok_or_else(|| LabError::Refused("ip monitor has no output".to_owned()))?;
        let written = Arc::clone(&changes);
        // It ends with the program.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                let at = Instant::now();
                if let Some((to, next_hops)) = parse(&line) {
                    locked(&written).push(Change { at, to, next_hops });
                }
            }
        });
        let watch = Self { child, changes };
        watch.wait_listening(lab, place)?;
        Ok(watch)
    }

    /// A route of our own is put in and taken out until it is told of: only then is everything seen.
    fn wait_listening(&self, lab: &Lab, place: Place) -> Result<()> {
        const CANARY: &str = "192.0.2.255/32";
        let canary: IpNet = CANARY.parse().map_err(|_| LabError::Refused(CANARY.to_owned()))?;
        crate::product::wait_for("ip monitor to listen", Duration::from_secs(10), || {
            for verb in ["replace", "del"] {
                let mut argv = vec!["ip", "route", verb];
                if verb == "replace" {
                    argv.push("blackhole");
                }
                argv.push(CANARY);
                lab.exec(place, argv).map_err(|e| e.to_string())?;
            }
            let told = self.changes().iter().any(|change| change.to == canary);
            told.then_some(()).ok_or_else(|| "nothing is told".to_owned())
        })
    }

    fn changes(&self) -> MutexGuard<'_, Vec<Change>> {
        locked(&self.changes)
    }

    /// All that was seen of a route since it began.
    pub fn of(&self, to: IpNet) -> Vec<Change> {
        self.changes().iter().filter(|c| c.to == to).cloned().collect()
    }

    /// When that was, in milliseconds of Unix time.
    pub fn times(&self, to: IpNet) -> Vec<i64> {
        let (now, clock) = (Instant::now(), jiff::Timestamp::now().as_millisecond());
        let ago =
            |at: Instant| i64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(i64::MAX);
        self.of(to).iter().map(|change| clock - ago(change.at)).collect()
    }

    /// When a route was first as `right` says, at or after `since`.
    pub fn first(
        &self,
        to: IpNet,
        since: Instant,
        right: impl Fn(&BTreeSet<IpAddr>) -> bool,
    ) -> Option<Instant> {
        self.changes()
            .iter()
            .find(|c| c.to == to && c.at >= since && right(&c.next_hops))
            .map(|c| c.at)
    }

    /// Waits until [`FibWatch::first`] has an answer; how long after `since` that was.
    ///
    /// # Errors
    /// When it is not so in time, with what was seen.
    pub fn wait(
        &self,
        to: IpNet,
        since: Instant,
        limit: Duration,
        right: impl Fn(&BTreeSet<IpAddr>) -> bool,
    ) -> Result<Duration> {
        let began = Instant::now();
        loop {
            if let Some(at) = self.first(to, since, &right) {
                return Ok(at.saturating_duration_since(since));
            }
            if began.elapsed() >= limit {
                return Err(LabError::Timeout {
                    what: format!("the route to {to} to change in the kernel"),
                    after: limit,
                    seen: format!("{:?}", self.of(to)),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for FibWatch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn locked(changes: &Mutex<Vec<Change>>) -> MutexGuard<'_, Vec<Change>> {
    changes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One line of `ip -o monitor route`: the destination, and the next hops unless it is gone.
fn parse(line: &str) -> Option<(IpNet, BTreeSet<IpAddr>)> {
    let (gone, rest) = match line.strip_prefix("Deleted ") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let mut words = rest.split_whitespace().peekable();
    if matches!(words.peek(), Some(&("blackhole" | "unicast" | "unreachable"))) {
        words.next();
    }
    let to = words.next()?;
    let to = match to.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(to.parse::<IpAddr>().ok()?),
    };
    let mut next_hops = BTreeSet::new();
    while let Some(word) = words.next() {
        if word != "via" {
            continue;
        }
        // `via inet6 fe80::1`: IPv4 by way of an IPv6 neighbour.
        let address = words.find(|word| *word != "inet6" && *word != "inet");
        next_hops.extend(address.and_then(|address| address.parse::<IpAddr>().ok()));
    }
    if gone {
        next_hops.clear();
    }
    Some((to, next_hops))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<(String, Vec<String>)> {
        let (to, hops) = parse(line)?;
        Some((to.to_string(), hops.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn reads_what_ip_tells() {
        for (line, to, hops) in [
            (
                "198.51.100.1 nhid 12 via 172.30.0.11 dev eth0 proto bgp metric 20 ",
                "198.51.100.1/32",
                vec!["172.30.0.11"],
            ),
            (
                "198.51.100.1 nhid 14 proto bgp metric 20 \\\tnexthop via 172.30.0.11 dev eth0 weight 1 \\\tnexthop via 172.30.0.12 dev eth0 weight 1 ",
                "198.51.100.1/32",
                vec!["172.30.0.11", "172.30.0.12"],
            ),
            (
                "Deleted 198.51.100.0/24 nhid 14 proto bgp metric 20 \\\tnexthop via 172.30.0.11 dev eth0 weight 1",
                "198.51.100.0/24",
                vec![],
            ),
            (
                "198.51.100.1 nhid 9 via inet6 fe80::a dev link0 proto bgp metric 20",
                "198.51.100.1/32",
                vec!["fe80::a"],
            ),
            (
                "fd00:b6b::1 nhid 3 via fd00:30::11 dev eth0 proto bgp metric 20 pref medium",
                "fd00:b6b::1/128",
                vec!["fd00:30::11"],
            ),
            ("blackhole 192.0.2.255 ", "192.0.2.255/32", vec![]),
        ] {
            let hops = hops.into_iter().map(str::to_owned).collect();
            assert_eq!(read(line), Some((to.to_owned(), hops)), "{line}");
        }
        assert_eq!(read("default via 172.30.0.1 dev eth0"), None);
        assert_eq!(read(""), None);
    }
}
