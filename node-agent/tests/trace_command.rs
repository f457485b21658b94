//! The command that explains one packet, with the table in the kernel.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use fairlead_core::forward::pods::{PodLinks, Pods};
use fairlead_core::model::Protocol::{self, Sctp, Tcp, Udp};
use fairlead_node_agent::nft::build::build;
use fairlead_node_agent::nft::netlink::driver::Kernel;
use support::cases::{Case, Expected, Layout, Place, Ranges, Seen, address_of, cases, cluster};
use support::objects::MARK;
use support::programmed::with;
use support::topology::Topology;

/// Exit code, what it printed, what it complained of.
fn command(topology: &Topology, arguments: &[&str]) -> (i32, String, String) {
    let program = [env!("CARGO_BIN_EXE_fairlead-node-agent"), "trace"];
    let output = topology.exec("node1", &[&program, arguments].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn explain(topology: &Topology, case: &Case) -> (i32, String, String) {
    let (from, to) = (case.source().to_string(), case.to().to_string());
    command(
        topology,
        &["--from", &from, "--to", &to, "--protocol", case.protocol.as_str()],
    )
}

#[track_caller]
fn check(topology: &Topology, case: &Case) {
    let (code, text, errors) = explain(topology, case);
    let last = text.lines().last().unwrap_or_default();
    let (expected, phrases) = match case.expected() {
        Expected::Forwarded(pods) => {
            let mut phrases: Vec<String> = pods
                .iter()
                .map(|(pod, _)| std::net::SocketAddr::new(address_of(pod, case.six), 8080).to_string())
                .collect();
            // The node's own address is the sender's, too, if the node sends.
            if case.from != "node1" {
                phrases.extend(pods.iter().map(|(_, seen)| match seen {
                    Seen::Sender => "which sees the sender's address".into(),
                    Seen::ThisNode => "which sees an address of this node".into(),
                }));
            }
            (0, phrases)
        }
        Expected::Refused => (1, vec!["It is refused".into()]),
        Expected::Dropped => (1, vec!["It is dropped".into()]),
    };
    let right = code == expected && phrases.iter().all(|phrase| last.contains(phrase));
    assert!(right, "{case:?}: expected {code} and {phrases:?}\n{text}{errors}");
}

#[test]
fn the_command_says_what_the_rules_say() {
    let topology = with(&cluster());
    topology.all_around();
    let all = cases(&[Tcp, Udp, Sctp]);
    // A number that has nothing in common with how many there are of each kind, so that all kinds are among them.
    for case in all.iter().step_by(97) {
        check(&topology, case);
    }
    // The same with pods told by interface, for those to whom it matters.
    for links in [
        PodLinks::AllBut(["lo", "c0", "n0"].map(str::to_owned).into()),
        PodLinks::Prefixes(vec!["cali".into(), "pod".into()]),
    ] {
        let mut plan = cluster().plan();
        plan.pods = Pods {
            ranges: vec![],
            links,
        };
        topology.within("node1", || {
            Kernel::open().unwrap().replace(&build(&plan, MARK)).unwrap()
        });
        let inside = |case: &&Case| {
            case.of.layout == Layout::Elsewhere && matches!(case.from, "pod1a" | "pod2" | "client")
        };
        for case in all.iter().filter(inside).step_by(13) {
            check(&topology, case);
        }
    }
}

#[test]
fn the_command_knows_what_is_remembered_of_a_client() {
    let topology = with(&cluster());
    let wanted = |case: &&Case| {
        let of = case.of;
        of.affinity && of.layout == Layout::Everywhere && of.ranges == Ranges::None && case.from == "client"
    };
    let cases = cases(&[Protocol::Tcp]);
    let case = cases
        .iter()
        .filter(wanted)
        .find(|case| case.place == Place::Vip && !case.six)
        .unwrap();
    let answer = topology.ask("client", &case.to().to_string());
    let (pod, _) = answer.split_once(' ').unwrap_or_else(|| panic!("{answer}"));
    let (code, text, errors) = explain(&topology, case);
    let expected = format!("It is forwarded to {}:8080, which", address_of(pod, false));
    assert!(
        code == 0 && text.contains(&expected),
        "{expected}\n{text}{errors}"
    );
}

#[test]
fn what_cannot_be_told_is_one_line_and_exit_code_2() {
    let topology = Topology::new();
    let known = ["--from", "198.51.100.2", "--to", "192.0.2.10:80"];
    for (arguments, complaint) in [
        (&known[..], "no table inet fairlead"),
        (&["--from", "client", "--to", "192.0.2.10:80"], "--from client"),
        (
            &["--from", "198.51.100.2", "--to", "192.0.2.10"],
            "--to 192.0.2.10",
        ),
        (
            &["--from", "fd00:ffff::1", "--to", "[2001:db8::10]:80"],
            "no route",
        ),
        (
            &[&known[..], &["--interface", "eth9"]].concat(),
            "no interface eth9",
        ),
    ] {
        let (code, text, errors) = command(&topology, arguments);
        let one_line = errors.trim_end().lines().count() == 1;
        assert!(
            code == 2 && text.is_empty() && one_line && errors.contains(complaint),
            "{arguments:?}: {code}\n{text}{errors}"
        );
    }
    // A rule that somebody put into our table.
    let topology = with(&cluster());
    topology
        .nft(&["-f", "-"], "add rule inet fairlead refuse accept\n")
        .unwrap();
    let (code, _, errors) = command(&topology, &known);
    assert!(
        code == 2 && errors.contains("refuse has a rule of somebody else"),
        "{code} {errors}"
    );
}
