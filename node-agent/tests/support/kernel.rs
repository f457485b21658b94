//! A network namespace, and what nft tells of the tables in it.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use fairlead_node_agent::nft::netlink::socket::NetlinkSocket;

/// Runs something in a network namespace of its own.
pub fn in_namespace<T: Send>(run: impl FnOnce() -> T + Send) -> T {
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
pub fn nft(arguments: &[&str], input: &str) -> String {
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
pub fn told() -> BTreeMap<&'static str, String> {
    let mut json: serde_json::Value = serde_json::from_str(&nft(&["-j", "list", "ruleset"], "")).unwrap();
    without_handles(&mut json);
    BTreeMap::from([
        ("list", without_comments(&nft(&["list", "ruleset"], ""))),
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
            object.remove("comment");
            object.remove("metainfo");
            object.values_mut().for_each(without_handles);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(without_handles),
        _ => {}
    }
}

fn without_comments(text: &str) -> String {
    let line = |line: &str| line.split(" comment ").next().unwrap_or_default().to_owned();
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Without what says nothing: the order of elements, which is that of a hash table, the numbers of rules, and that no
/// range ends at the first address.
fn settled(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut elements: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("\telement ") {
            elements.extend(line.split("\telement ").skip(1).map(|e| format!("\telement {e}")));
            continue;
        }
        elements.retain(|element| {
            let zeros = element
                .trim_start_matches("\telement ")
                .trim_start_matches(['0', ' ']);
            zeros != ": 1 [end]"
        });
        elements.sort_unstable();
        lines.append(&mut elements);
        if line.is_empty() || line.starts_with("  userdata = ") {
            continue;
        }
        let line = line.split(" comment ").next().unwrap_or_default();
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
pub fn same(text: &str, ours: impl FnOnce(&mut NetlinkSocket) + Send) {
    let expected = in_namespace(|| {
        nft(&["-f", "-"], text);
        told()
    });
    let found = in_namespace(|| {
        ours(&mut NetlinkSocket::open().unwrap());
        let (told, list) = (told(), nft(&["list", "ruleset"], ""));
        nft(&["flush", "ruleset"], "");
        nft(&["-f", "-"], &list);
        assert_eq!(nft(&["list", "ruleset"], ""), list);
        told
    });
    for (way, expected) in &expected {
        assert!(
            &found[way] == expected,
            "{way} by nft:\n{expected}\nours:\n{}\ndifferences: {:#?}",
            found[way],
            expected
                .lines()
                .zip(found[way].lines())
                .filter(|(a, b)| a != b)
                .take(5)
                .collect::<Vec<_>>()
        );
    }
}
