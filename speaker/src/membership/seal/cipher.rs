//! Encryption: one key for each epoch, derived from the key that all share.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use super::keys::Key;
use super::wire::{Epoch, HEADER, NodeId};

/// Header and destination.
pub type Associated = [u8; HEADER + 16];

/// The key of one epoch.
#[derive(Debug)]
pub struct Subkey(LessSafeKey);

impl Subkey {
    /// Derives the key of an epoch (RFC 5869).
    pub fn derive(key: &Key, epoch: &Epoch) -> Self {
        let secret = Salt::new(HKDF_SHA256, epoch).extract(key.bytes());
        let output = secret
            .expand(&[b"fairlead gossip datagrams"], &CHACHA20_POLY1305)
            .expect("a key of this cipher is short enough for HKDF");
        Self(LessSafeKey::new(UnboundKey::from(output)))
    }

    /// Encrypts in place and appends the tag. A counter is used once.
    pub fn seal(&self, counter: u64, associated: Associated, text: &mut Vec<u8>) {
        self.0
            .seal_in_place_append_tag(nonce(counter), Aad::from(associated), text)
            .expect("a datagram is short enough for the cipher");
    }

    /// Checks the tag and decrypts in place; `None` if this was not sealed so.
    pub fn open<'a>(&self, counter: u64, associated: Associated, text: &'a mut [u8]) -> Option<&'a [u8]> {
        self.0
            .open_in_place(nonce(counter), Aad::from(associated), text)
            .ok()
            .map(|text| &*text)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// What a datagram's tag covers besides its contents.
pub fn associated(header: &[u8; HEADER], destination: &NodeId) -> Associated {
    let mut whole = [0; HEADER + 16];
    whole[..HEADER].copy_from_slice(header);
    whole[HEADER..].copy_from_slice(&destination.0);
    whole
}
