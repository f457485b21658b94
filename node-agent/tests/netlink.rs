//! Our own netlink against the nft program: what we put into the kernel is what nft puts there for the same text, it
//! prints as that text, and nft reads its own print again.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::collections::BTreeSet;

use fairlead_core::model::Family;
use fairlead_node_agent::nft::netlink::batch::Batch;
use fairlead_node_agent::nft::netlink::error::KernelError;
use fairlead_node_agent::nft::netlink::handover::{self, Handover};
use fairlead_node_agent::nft::netlink::message::TableFamily;
use fairlead_node_agent::nft::netlink::object::{Element, Field, SetSpec, Table, Type};
use fairlead_node_agent::nft::netlink::socket::NetlinkSocket;
use fairlead_node_agent::nft::netlink::watch::{Heard, Watch};
use support::kernel::{in_namespace, nft, same};

fn handover(family: &str, address: &str, owners: &[(&str, &str)]) -> String {
    let elements: Vec<String> = owners
        .iter()
        .map(|(vip, node)| format!("{vip} : {node}"))
        .collect();
    let elements = elements.join(", ");
    let hops = if family == "ip" { "ttl" } else { "hoplimit" };
    format!(
        "table {family} fairlead {{
            map owners {{ type {address} : {address}; elements = {{ {elements} }}; }}
            map earlier {{ type {address} : {address}; elements = {{ {elements} }}; }}
            set fellows {{ type ether_addr; elements = {{ 02:00:00:00:00:01, 02:00:00:00:00:02 }}; }}
            chain prerouting {{
                type filter hook prerouting priority -115; policy accept;
                ether saddr @fellows ct state invalid,new tcp flags & (fin | syn | rst | ack) != syn \
                {family} {hops} != 1 dup to {family} daddr map @earlier drop
                ether saddr @fellows accept
                ct state invalid,new tcp flags & (fin | syn | rst | ack) != syn \
                {family} {hops} != 1 dup to {family} daddr map @owners drop
            }}
        }}"
    )
}

#[test]
fn handover_tables_are_those_of_nft() {
    for (family, text, owners) in [
        (
            Family::V4,
            ("ip", "ipv4_addr"),
            [("192.0.2.1", "172.30.0.2"), ("192.0.2.2", "172.30.0.3")],
        ),
        (
            Family::V6,
            ("ip6", "ipv6_addr"),
            [("2001:db8::1", "fd00::2"), ("2001:db8::2", "fd00::3")],
        ),
    ] {
        let parsed = |(vip, node): &(&str, &str)| (vip.parse().unwrap(), node.parse().unwrap());
        let wanted = Handover {
            owners: owners.iter().map(parsed).collect(),
            earlier: owners.iter().map(parsed).collect(),
            fellows: BTreeSet::from([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]]),
        };
        let before = Handover {
            owners: owners[..1].iter().map(parsed).collect(),
            earlier: owners[1..].iter().map(parsed).collect(),
            fellows: BTreeSet::from([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]]),
        };
        let text = handover(text.0, text.1, &owners);
        same(&text, |socket| {
            let mut batch = Batch::new(None);
            handover::replace(&mut batch, family, &wanted);
            socket.commit(&mut batch).unwrap();
        });
        same(&text, |socket| {
            let mut batch = Batch::new(None);
            handover::replace(&mut batch, family, &before);
            socket.commit(&mut batch).unwrap();
            let mut batch = Batch::new(Some(socket.generation().unwrap()));
            handover::change(&mut batch, family, &before, &wanted);
            socket.commit(&mut batch).unwrap();
            assert_eq!(handover::read(socket, family).unwrap(), Some(wanted));
        });
    }
}

const TABLE: Table = Table {
    family: TableFamily::Inet,
    name: "fairlead",
};

fn element(last: u8) -> Element {
    Element {
        key: vec![192, 0, 2, last],
        ..Element::default()
    }
}

/// A table with a set `vips4` of two addresses.
fn small(socket: &mut NetlinkSocket) {
    let mut batch = Batch::new(None);
    batch.add_table(TABLE);
    batch.add_set(TABLE, &SetSpec::set("vips4", [Field::of(Type::Ipv4)]));
    batch.add_elements(TABLE, "vips4", [element(1), element(2)]);
    socket.commit(&mut batch).unwrap();
}

/// Commits a change of elements and says what came of it.
fn attempt(socket: &mut NetlinkSocket, change: impl FnOnce(&mut Batch)) -> Result<(), KernelError> {
    let mut batch = Batch::new(None);
    change(&mut batch);
    socket.commit(&mut batch)
}

#[test]
fn what_the_kernel_refuses_is_told_in_a_sentence() {
    in_namespace(|| {
        let mut socket = NetlinkSocket::open().unwrap();
        small(&mut socket);
        let there = attempt(&mut socket, |b| {
            b.add_elements(TABLE, "vips4", [element(3), element(2)]);
        })
        .unwrap_err();
        assert!(there.is_stale());
        let sentence = there.to_string();
        assert!(
            sentence.contains("c0000202 to set vips4 of table fairlead: File exists"),
            "{sentence}"
        );
        let gone = attempt(&mut socket, |b| b.delete_elements(TABLE, "vips4", [element(9)])).unwrap_err();
        assert!(gone.is_stale());
        let sentence = gone.to_string();
        assert!(
            sentence.contains("of set vips4 of table fairlead: No such file"),
            "{sentence}"
        );
        let twice = attempt(&mut socket, |b| {
            b.add_rule(TABLE, "nowhere", &[], None);
            b.delete_chain(TABLE, "nowhere");
        });
        let sentence = twice.unwrap_err().to_string();
        assert!(
            sentence.contains("add a rule to chain nowhere of table fairlead"),
            "{sentence}"
        );
        assert!(sentence.ends_with("and one other message"), "{sentence}");
        // Nothing of all that was done.
        let mut keys: Vec<Vec<u8>> = socket
            .elements(TABLE, "vips4")
            .unwrap()
            .into_iter()
            .map(|e| e.key)
            .collect();
        keys.sort();
        assert_eq!(keys, [element(1).key, element(2).key]);
        assert_eq!(socket.elements(TABLE, "none").unwrap(), []);
        assert!(socket.table_flags(TABLE).unwrap().is_some());
        assert_eq!(socket.table_flags(handover::table(Family::V4)).unwrap(), None);
    });
}

#[test]
fn a_transaction_for_another_generation_is_refused() {
    in_namespace(|| {
        let mut socket = NetlinkSocket::open().unwrap();
        small(&mut socket);
        let generation = socket.generation().unwrap();
        nft(&["add", "table", "ip", "other"], "");
        let mut batch = Batch::new(Some(generation));
        batch.add_elements(TABLE, "vips4", [element(3)]);
        let refused = socket.commit(&mut batch).unwrap_err();
        assert!(matches!(refused, KernelError::Changed), "{refused}");
        let mut batch = Batch::new(Some(socket.generation().unwrap()));
        batch.add_elements(TABLE, "vips4", [element(3)]);
        socket.commit(&mut batch).unwrap();
    });
}

#[test]
fn a_foreign_change_is_heard_and_an_own_one_is_not() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut socket = NetlinkSocket::open().unwrap();
            let mut other = NetlinkSocket::open().unwrap();
            let mut watch = Watch::open("fairlead", &[socket.port(), other.port()]).unwrap();
            small(&mut socket);
            attempt(&mut other, |b| b.delete_elements(TABLE, "vips4", [element(1)])).unwrap();
            nft(
                &["-f", "-"],
                "table ip kube-proxy { set fairlead { type ipv4_addr; }; chain c { accept; }; }",
            );
            nft(&["add", "table", "ip", "other"], "");
            nft(
                &["add", "element", "inet", "fairlead", "vips4", "{ 192.0.2.7 }"],
                "",
            );
            let heard = tokio::time::timeout(std::time::Duration::from_secs(5), watch.next());
            let Heard::Changed {
                families,
                process,
                pid,
            } = heard.await.unwrap().unwrap()
            else {
                panic!("something was lost");
            };
            assert_eq!((families, process.as_str()), (vec![TableFamily::Inet], "nft"));
            assert_ne!(pid, 0);
            nft(&["flush", "ruleset"], "");
            let heard = tokio::time::timeout(std::time::Duration::from_secs(5), watch.next());
            assert!(matches!(heard.await.unwrap().unwrap(), Heard::Changed { .. }));
            let more = tokio::time::timeout(std::time::Duration::from_millis(50), watch.next());
            assert!(more.await.is_err());
        });
    });
}
