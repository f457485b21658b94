//! Datagrams of speakers, and what is inside them. The first byte says how the rest is taken: as a datagram from the
//! network, as the contents of one that was sealed rightly, or as an honest datagram with a few bytes changed.
#![no_main]

use std::time::Duration;

use fairlead_core::model::NodeName;
use fairlead_speaker::membership::seal::wire::Body;
use fairlead_speaker::membership::seal::{Key, NEWEST, Random, Sessions};
use libfuzzer_sys::fuzz_target;

const NOW: Duration = Duration::from_secs(1);

/// Not random at all, but different for each speaker.
fn random(seed: u8) -> Random {
    Box::new(move |bytes| {
        bytes.fill(seed);
        Ok(())
    })
}

fn speaker(me: &str, other: &str, seed: u8) -> Sessions {
    let mut sessions = Sessions::new(&NodeName::from(me), NEWEST, random(seed)).unwrap();
    sessions.set_keys(vec![Key::new(&[7; 32]).unwrap()], NOW);
    sessions.set_peers([&NodeName::from(other)]);
    sessions
}

fuzz_target!(|bytes: &[u8]| {
    let Some((what, bytes)) = bytes.split_first() else {
        return;
    };
    if what % 3 == 1 {
        for version in [1, 2] {
            if let Some(body) = Body::parse(version, bytes) {
                assert!(body.messages.iter().all(|message| !message.is_empty()));
                assert_eq!(Body::parse(version, &body.encode()), Some(body));
            }
        }
        return;
    }
    let (mut a, mut b) = (speaker("a", "b", 1), speaker("b", "a", 2));
    let hello = a.greet(&NodeName::from("b"), NOW).unwrap();
    let reply = b.open(&hello, NOW).reply.unwrap();
    let reply = a.open(&reply, NOW).reply.unwrap();
    assert!(b.open(&reply, NOW).verified);
    let honest = a
        .seal(&NodeName::from("b"), &[b"a message"], NOW)
        .unwrap()
        .remove(0);
    let mut datagram = bytes.to_vec();
    if what % 3 == 2 {
        datagram.clone_from(&honest);
        for change in bytes.chunks_exact(2) {
            let place = usize::from(change[0]) % datagram.len();
            datagram[place] ^= change[1];
        }
    }
    let opened = b.open(&datagram, NOW);
    let taken = opened.from.is_some();
    assert_eq!(taken, datagram == honest);
    assert_eq!(taken, !opened.messages.is_empty());
    assert!(opened.reply.is_none_or(|reply| reply.len() <= datagram.len()));
});
