//! Authenticated, encrypted datagrams between speakers.
//!
//! Sans-IO: [`Sessions::seal`] makes datagrams, [`Sessions::open`] takes one and says what to do. The caller owns the
//! socket and the clock (`now` is the time since any fixed moment of the process) and counts what is refused.
//!
//! ```text
//!  0       1      2               6        10          26          34
//! | version | kind | destination 4 | key 4  | epoch 16  | counter 8 | ciphertext and tag |
//! ```
//!
//! Every speaker that knows the key is trusted; what is kept out is everybody else, and everything old. Each process has
//! a random *epoch* and numbers its datagrams. From the key and the epoch comes the key that encrypts (HKDF-SHA256, then
//! ChaCha20-Poly1305 with the counter as nonce), so no nonce is used twice however often a speaker starts. Header and
//! destination are authenticated too: a datagram for one node is nothing for another.
//!
//! A receiver takes messages only of an epoch that it has *verified*: the sender has returned a fresh token from within
//! that epoch. So whatever was recorded from an earlier process proves nothing, also to a receiver that has just started
//! and remembers nothing. Within a verified epoch a sliding window refuses what came before. A datagram to a peer that
//! is not verified carries the challenge along, so two strangers come together in one and a half round trips:
//!
//! ```text
//! a → b  data, challenge          dropped: b has not verified a
//! b → a  answer, challenge        a has verified b
//! a → b  answer                   b has verified a
//! ```
//!
//! Nothing is answered with more bytes than came, and each peer's replies are limited, so nobody is flooded by way of a
//! speaker.

mod cipher;
mod keys;
mod limit;
mod peer;
mod sessions;
mod window;
pub mod wire;

pub use keys::{ACCEPTED_FOR, Key, KeyError, KeyId, KeyRing, MAX_KEYS, MIN_KEY};
pub use sessions::{NoRandomness, Opened, Random, Refused, SealError, Sessions, system_random};
pub use wire::{MAX_DATAGRAM, MAX_MESSAGE, NEWEST, OLDEST};

#[cfg(test)]
mod tests;
