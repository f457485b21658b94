//! What is done about strangers who use announced addresses: one defence in a while, and one log line in a while.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fairlead_core::config::ConflictPolicy;

/// At most one defence of one address in this time (`DEFEND_INTERVAL` of RFC 5227 §1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// At most one log line about one address in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// What to do about a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Response {
    /// Announce the address once more.
    pub defend: bool,
    /// Log it, with the number of frames since the last line.
    pub log: Option<u64>,
}

/// The conflicts of one interface. Times are those since the task began.
#[derive(Debug, Default)]
pub(super) struct Quarrels {
    known: BTreeMap<IpAddr, Quarrel>,
}

#[derive(Debug, Default)]
struct Quarrel {
    defended: Option<Duration>,
    logged: Option<Duration>,
    unlogged: u64,
}

impl Quarrels {
    /// A stranger uses the address; `None` for the policy of an address that is only asked about.
    pub(super) fn conflict(
        &mut self,
        address: IpAddr,
        policy: Option<ConflictPolicy>,
        now: Duration,
    ) -> Response {
        let quarrel = self.known.entry(address).or_default();
        let due = |last: Option<Duration>, interval| last.is_none_or(|last| now >= last + interval);
        let defend = policy == Some(ConflictPolicy::Defend) && due(quarrel.defended, DEFEND_INTERVAL);
        if defend {
            quarrel.defended = Some(now);
        }
        quarrel.unlogged += 1;
        let log = due(quarrel.logged, LOG_INTERVAL).then(|| std::mem::take(&mut quarrel.unlogged));
        if log.is_some() {
            quarrel.logged = Some(now);
        }
        Response { defend, log }
    }

    /// Forgets all addresses but these.
    pub(super) fn retain(&mut self, stays: impl Fn(IpAddr) -> bool) {
        self.known.retain(|address, _| stays(*address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defended_and_logged_now_and_then() {
        let mut quarrels = Quarrels::default();
        let ip = IpAddr::from([192, 0, 2, 1]);
        let mut at = |policy, seconds| quarrels.conflict(ip, policy, Duration::from_secs(seconds));
        let answer = |defend, log| Response { defend, log };
        let defend = Some(ConflictPolicy::Defend);
        assert_eq!(at(defend, 5), answer(true, Some(1)));
        assert_eq!(at(defend, 6), answer(false, None));
        assert_eq!(at(defend, 14), answer(false, None));
        assert_eq!(at(defend, 15), answer(true, None));
        assert_eq!(at(Some(ConflictPolicy::Yield), 30), answer(false, None));
        assert_eq!(at(None, 35), answer(false, Some(5)));
        quarrels.retain(|_| false);
        assert_eq!(
            quarrels.conflict(ip, defend, Duration::from_secs(16)),
            answer(true, Some(1))
        );
    }
}
