//! What the kernel tells of tables, which anybody with the right may have made: whatever is in it, reading never panics,
//! and what is taken for an element of ours is one that we would write.
#![no_main]

use fairlead_node_agent::nft::netlink::message::Messages;
use fairlead_node_agent::nft::netlink::object::Element;
use fairlead_node_agent::nft::netlink::{decode, dump, encode};
use fairlead_node_agent::nft::ruleset::Set;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for message in Messages::new(bytes).flatten() {
        let mut chains = Vec::new();
        let _ = dump::read_chain(&message, &mut chains);
        for found in chains {
            if let Some(chain) = decode::chain(&found.name) {
                assert_eq!(chain.to_string(), found.name);
            }
        }
        let _ = dump::read_rule(&message, &mut Vec::new());
        let _ = dump::read_set(&message, &mut Vec::new());
        let mut elements = Vec::new();
        let _ = dump::read_elements(&message, &mut elements);
        for set in Set::all() {
            let Some(ours) = decode::elements(set, elements.clone()) else {
                continue;
            };
            let again: Vec<Element> = ours
                .iter()
                .flat_map(|(key, value)| encode::elements(key, value))
                .collect();
            assert_eq!(decode::elements(set, again), Some(ours));
        }
    }
});
