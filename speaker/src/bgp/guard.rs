//! BFD begins when a session is established, and ends with it.
//!
//! A router that takes nodes as dynamic neighbours knows nothing of a node without a session, BFD included, and FRR makes
//! its side of BFD twice while one comes up. The daemon ends a session when BFD does not come up within seconds of the
//! router's first packet, and once more the next session, if none was there to be ended. Begun with the session, neither
//! would ever stay up.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_gobgp::{Error, api};
use jiff::{SignedDuration, Timestamp};
use tracing::{debug, warn};

use super::link::Link;
use super::{Session, State};

/// So long after a session is established.
const BEGIN: SignedDuration = SignedDuration::from_secs(2);

/// The sessions that BFD watches at the daemon, by what it calls them, and what of that is to change.
pub(super) struct Guard {
    /// The sessions, as they are told to the daemon, by what it calls them.
    pub peers: BTreeMap<String, api::Peer>,
}

impl Guard {
    /// The sessions for which BFD is to be begun (true) or ended.
    fn due(
        &self,
        guarded: &BTreeSet<String>,
        session: impl Fn(&str) -> Option<Session>,
        now: Timestamp,
    ) -> Vec<(String, bool)> {
        let wanted = self.peers.iter().filter(|(_, peer)| peer.bfd.is_some());
        let due = wanted.filter_map(|(key, _)| {
            let session = session(key)?;
            let up = session.state == State::Established;
            // One that was never seen to change was there before this program.
            let settled = session
                .since
                .is_none_or(|since| now.duration_since(since) >= BEGIN);
            match guarded.contains(key) {
                true if !up => Some((key.clone(), false)),
                false if up && settled => Some((key.clone(), true)),
                _ => None,
            }
        });
        due.collect()
    }

    /// Begins and ends BFD where it is due.
    ///
    /// # Errors
    /// When the daemon is lost. What it refuses is logged, and tried again.
    pub async fn keep(
        &self,
        link: &mut Link,
        session: impl Fn(&str) -> Option<Session>,
        now: Timestamp,
    ) -> Result<(), Error> {
        for (key, begin) in self.due(&link.held.guarded, session, now) {
            let Some(peer) = self
                .peers
                .get(&key)
                .filter(|_| link.held.peers.contains_key(&key))
            else {
                continue;
            };
            let mut peer = peer.clone();
            if !begin {
                peer.bfd = None;
            }
            debug!(peer = key, begin, "BFD");
            match link.daemon.update_peer(peer).await {
                Ok(()) if begin => drop(link.held.guarded.insert(key)),
                Ok(()) => drop(link.held.guarded.remove(&key)),
                Err(error) if error.lost() => return Err(error),
                Err(error) => warn!(peer = key, begin, %error, "BFD is not begun or ended"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfd_follows_the_session() {
        let peer = |bfd: bool| api::Peer {
            bfd: bfd.then(api::BfdPeerConfig::default),
            ..api::Peer::default()
        };
        let guard = Guard {
            peers: BTreeMap::from([("a".to_owned(), peer(true)), ("b".to_owned(), peer(false))]),
        };
        let since = Timestamp::UNIX_EPOCH;
        let due = |guarded: &[&str], state: State, seconds: i64| {
            let guarded = guarded.iter().map(|key| (*key).to_owned()).collect();
            let session = Session {
                state,
                since: Some(since),
                ..Session::default()
            };
            let now = since + SignedDuration::from_secs(seconds);
            guard.due(&guarded, |_| Some(session.clone()), now)
        };
        let (begin, end) = (vec![("a".to_owned(), true)], vec![("a".to_owned(), false)]);
        assert_eq!(due(&[], State::Established, 2), begin);
        assert_eq!(due(&[], State::Established, 1), [], "not at once");
        assert_eq!(due(&["a"], State::Established, 9), []);
        assert_eq!(due(&["a"], State::Idle, 0), end, "at once");
        assert_eq!(due(&[], State::OpenConfirm, 9), []);
        assert_eq!(guard.due(&BTreeSet::new(), |_| None, since), []);
    }
}
