//! Our own netlink against the nft program: what we put into the kernel is what nft puts there for the same text, it
//! prints as that text, and nft reads its own print again.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use fairlead_core::model::Family;
use fairlead_node_agent::nft::netlink::batch::Batch;
use fairlead_node_agent::nft::netlink::error::KernelError;
use fairlead_node_agent::nft::netlink::handover::{self, Handover};
use fairlead_node_agent::nft::netlink::message::TableFamily;
use fairlead_node_agent::nft::netlink::object::{Element, Field, SetSpec, Table, Type};
use fairlead_node_agent::nft::netlink::socket::NetlinkSocket;
use fairlead_node_agent::nft::netlink::watch::{Heard, Watch};

/// Runs something in a network namespace of its own.
fn in_namespace<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            run()
        };
        match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs nft in the namespace of this thread.
#[track_caller]
fn nft(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {arguments:?}: {said}\n{input}");
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that nft can tell about the tables of this namespace.
fn told() -> BTreeMap<&'static str, String> {
    let mut json: serde_json::Value = serde_json::from_str(&nft(&["-j", "list", "ruleset"], "")).unwrap();
    without_handles(&mut json);
    BTreeMap::from([
        ("list", nft(&["list", "ruleset"], "")),
        ("json", serde_json::to_string_pretty(&json).unwrap()),
        (
            "netlink",
            settled(&nft(&["--debug=netlink", "list", "ruleset"], "")),
        ),
    ])
}

fn without_handles(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Object(object) => {
            object.remove("handle");
            object.remove("metainfo");
            object.values_mut().for_each(without_handles);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(without_handles),
        _ => {}
    }
}

/// Without what says nothing: the order of elements, which is that of a hash table, and the numbers of rules.
fn settled(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut elements: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("\telement ") {
            elements.extend(line.split("\telement ").skip(1).map(|e| format!("\telement {e}")));
            continue;
        }
        elements.sort_unstable();
        lines.append(&mut elements);
        let rule = !line.starts_with([' ', '\t']);
        let numbers: &[char] = if rule {
            &['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', ' ']
        } else {
            &[]
        };
        lines.push(line.trim_end_matches(numbers).to_owned());
    }
    lines.join("\n")
}

/// What nft tells of a table that it was given as text, and of one that we made, is the same; and it can read what it
/// prints.
#[track_caller]
fn same(text: &str, ours: impl FnOnce(&mut NetlinkSocket) + Send) {
    let expected = in_namespace(|| {
        nft(&["-f", "-"], text);
        told()
    });
    let found = in_namespace(|| {
        ours(&mut NetlinkSocket::open().unwrap());
        let told = told();
        nft(&["flush", "ruleset"], "");
        nft(&["-f", "-"], &told["list"]);
        assert_eq!(nft(&["list", "ruleset"], ""), told["list"]);
        told
    });
    for (way, expected) in &expected {
        assert!(
            &found[way] == expected,
            "{way} by nft:\n{expected}\nours:\n{}\nfirst difference: {:?}",
            found[way],
            expected.lines().zip(found[way].lines()).find(|(a, b)| a != b)
        );
    }
}

fn handover(family: &str, address: &str, owners: &[(&str, &str)]) -> String {
    let elements: Vec<String> = owners
        .iter()
        .map(|(vip, node)| format!("{vip} : {node}"))
        .collect();
    let elements = elements.join(", ");
    format!(
        "table {family} fairlead {{
            map owners {{ type {address} : {address}; elements = {{ {elements} }}; }}
            set fellows {{ type ether_addr; elements = {{ 02:00:00:00:00:01, 02:00:00:00:00:02 }}; }}
            chain prerouting {{
                type filter hook prerouting priority -115; policy accept;
                ether saddr @fellows accept
                ct state invalid,new tcp flags & (fin | syn | rst | ack) != syn \
                dup to {family} daddr map @owners drop
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
            fellows: BTreeSet::from([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]]),
        };
        let before = Handover {
            owners: owners[..1].iter().map(parsed).collect(),
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
            b.add_elements(TABLE, "vips4", [element(3), element(2)])
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
        assert!(socket.has_table(TABLE).unwrap());
        assert!(!socket.has_table(handover::table(Family::V4)).unwrap());
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
