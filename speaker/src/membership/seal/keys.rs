//! The keys that speakers share, and how one takes another's place.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ring::digest;

/// A key is no shorter, in bytes.
pub const MIN_KEY: usize = 32;
/// How long a key is accepted after it has left the Secret.
pub const ACCEPTED_FOR: Duration = Duration::from_secs(600);
/// So many keys are accepted at once, at the most; the newest ones.
pub const MAX_KEYS: usize = 8;

/// Names a key without telling anything of it: the beginning of a hash of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// Why bytes are no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too short.
    #[error("a key has at least {MIN_KEY} bytes, not {0}")]
    TooShort(usize),
}

/// A secret that all speakers share. Its `Debug` shows the id only.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    id: KeyId,
    bytes: Arc<[u8]>,
}

impl Key {
    /// A key of these bytes.
    ///
    /// # Errors
    /// When they are too few.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() < MIN_KEY {
            return Err(KeyError::TooShort(bytes.len()));
        }
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"fairlead gossip key id");
        hash.update(bytes);
        let hash = hash.finish();
        let mut id = [0; 4];
        id.copy_from_slice(&hash.as_ref()[..4]);
        Ok(Self {
            id: KeyId(id),
            bytes: bytes.into(),
        })
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The secret itself.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.id).finish()
    }
}

#[derive(Clone, Debug)]
struct Held {
    key: Key,
    /// When it ends, if it has left the Secret.
    until: Option<Duration>,
}

/// The keys that are accepted, newest first.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: Vec<Held>,
}

impl KeyRing {
    /// One key is the newest now; the former ones are accepted for [`ACCEPTED_FOR`].
    pub fn offer(&mut self, key: Key, now: Duration) {
        self.replace(vec![key], now);
    }

    /// These are the keys now, newest first; former ones that are not among them are accepted for [`ACCEPTED_FOR`].
    /// Without any, nothing changes: a Secret that is away for a moment does not silence the speakers.
    pub fn replace(&mut self, keys: Vec<Key>, now: Duration) {
        if keys.is_empty() {
            return;
        }
        let mut held: Vec<Held> = Vec::new();
        for key in keys {
            if held.iter().all(|held| held.key.id != key.id) {
                held.push(Held { key, until: None });
            }
        }
        for mut former in std::mem::take(&mut self.keys) {
            let until = *former.until.get_or_insert(now + ACCEPTED_FOR);
            if now < until && held.iter().all(|held| held.key.id != former.key.id) {
                held.push(former);
            }
        }
        held.truncate(MAX_KEYS);
        self.keys = held;
    }

    /// The accepted keys, newest first.
    pub fn accepted(&self, now: Duration) -> impl Iterator<Item = &Key> {
        self.keys
            .iter()
            .filter(move |held| held.until.is_none_or(|until| now < until))
            .map(|held| &held.key)
    }

    /// The newest key; `None` as long as there is none at all.
    pub fn newest(&self) -> Option<&Key> {
        self.keys.first().map(|held| &held.key)
    }

    /// The accepted key of this id.
    pub fn get(&self, id: KeyId, now: Duration) -> Option<&Key> {
        self.accepted(now).find(|key| key.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key::new(&[n; 32]).unwrap()
    }

    fn ids(ring: &KeyRing, now: Duration) -> Vec<KeyId> {
        ring.accepted(now).map(Key::id).collect()
    }

    #[test]
    fn a_key_is_long_enough_and_shows_nothing_of_itself() {
        assert_eq!(Key::new(&[1; 31]), Err(KeyError::TooShort(31)));
        assert_ne!(key(1).id(), key(2).id());
        assert!(Key::new(&[1; 100]).is_ok());
        assert_eq!(format!("{:?}", key(1)), format!("Key({:?})", key(1).id()));
    }

    #[test]
    fn former_keys_end_ten_minutes_after_they_left() {
        let mut ring = KeyRing::default();
        let at = Duration::from_secs;
        assert!(ring.newest().is_none());
        ring.offer(key(1), at(0));
        ring.offer(key(2), at(100));
        ring.offer(key(3), at(200));
        // Said again, it makes no difference.
        ring.offer(key(3), at(650));
        let (one, two, three) = (key(1).id(), key(2).id(), key(3).id());
        assert_eq!(ids(&ring, at(699)), [three, two, one]);
        assert_eq!(ids(&ring, at(700)), [three, two]);
        assert_eq!(ids(&ring, at(800)), [three]);
        assert_eq!(ids(&ring, at(1_000_000)), [three], "the newest has no end");
        assert!(ring.get(two, at(799)).is_some() && ring.get(two, at(800)).is_none());
    }

    #[test]
    fn a_former_key_may_become_the_newest_again_and_others_may_stand_beside_it() {
        let mut ring = KeyRing::default();
        let at = Duration::from_secs;
        ring.replace(vec![key(1), key(2), key(1)], at(0));
        assert_eq!(ids(&ring, at(9999)), [key(1).id(), key(2).id()]);
        ring.offer(key(2), at(10_000));
        ring.offer(key(1), at(10_001));
        assert_eq!(ids(&ring, at(10_002)), [key(1).id(), key(2).id()]);
        assert_eq!(ids(&ring, at(10_602)), [key(1).id()]);
        ring.replace(Vec::new(), at(10_700));
        assert_eq!(ids(&ring, at(20_000)), [key(1).id()]);
    }

    #[test]
    fn the_ring_is_bounded() {
        let mut ring = KeyRing::default();
        for n in 0..100 {
            ring.offer(key(n), Duration::ZERO);
        }
        assert_eq!(ids(&ring, Duration::ZERO).len(), MAX_KEYS);
        assert_eq!(ring.newest(), Some(&key(99)));
    }
}
