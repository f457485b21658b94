//! FRR: zebra, bgpd and bfdd, spoken to by `vtysh`.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use super::daemons::Daemons;
use super::{Family, Neighbor, Nodes, Path, Router, kernel};
use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::machine::ServiceSpec;
use crate::net::run;
use crate::preflight::routing_packages;
use crate::progress::Progress;
use crate::topology::Place;

/// The daemons, in the order in which they start.
pub const DAEMONS: [&str; 3] = ["zebra", "bgpd", "bfdd"];

/// Where zebra listens for the others.
const ZEBRA_SOCKET: &str = "/run/frr/zserv.api";

/// Zebra's number among routing protocols (`RTPROT_ZEBRA`), by which the kernel keeps the next hops that it has made.
const ZEBRA_PROTOCOL: &str = "11";

/// Well-known communities as FRR names them, with their numbers.
const WELL_KNOWN: [(&str, &str); 10] = [
    ("graceful-shutdown", "65535:0"),
    ("accept-own", "65535:1"),
    ("llgr-stale", "65535:6"),
    ("no-llgr", "65535:7"),
    ("blackhole", "65535:666"),
    ("no-export", "65535:65281"),
    ("no-advertise", "65535:65282"),
    ("local-AS", "65535:65283"),
    ("no-peer", "65535:65284"),
    ("internet", "0:0"),
];

/// FRR at work in a place; it ends when this is dropped, and its routes go with it.
#[derive(Debug)]
pub struct Frr {
    daemons: Daemons,
    /// All that it was told, to be told again to one that was started anew.
    config: Mutex<String>,
}

impl Frr {
    /// Starts FRR on `router` with a neighbour group for the nodes.
    ///
    /// # Errors
    /// As [`Frr::start_at`].
    pub fn start(lab: &Lab, nodes: &Nodes) -> Result<Self> {
        Self::start_at(lab, Place::Router, &nodes.frr(Place::Router))
    }

    /// Starts FRR in any place, with a configuration as `frr.conf` has it. What is left there of an earlier one, whose
    /// owner was killed, is ended first.
    ///
    /// # Errors
    /// When it cannot be installed or started, or refuses the configuration.
    pub fn start_at(lab: &Lab, place: Place, config: &str) -> Result<Self> {
        routing_packages(&Progress::stderr())?;
        let frr = Self::of(lab, place, config);
        frr.daemons.kill()?;
        // FRR's daemons drop their rights to this user before they write here.
        let mkdir = ["install", "-d", "-o", "frr", "-g", "frr", "/run/frr"];
        run(frr.daemons.machine()?.command(mkdir), "make /run/frr")?;
        frr.restart()?;
        Ok(frr)
    }

    /// What this would be if it ran.
    pub(super) fn of(lab: &Lab, place: Place, config: &str) -> Self {
        let spec = |daemon: &str| {
            let program = format!("/usr/lib/frr/{daemon}");
            ServiceSpec::new(&service(daemon), [&program, "-A", "127.0.0.1", "--log", "stdout"])
        };
        Self {
            daemons: Daemons {
                lab: lab.clone(),
                place,
                specs: DAEMONS.into_iter().map(spec).collect(),
            },
            config: Mutex::new(config.to_owned()),
        }
    }

    /// Changes the configuration by lines as `frr.conf` has them.
    ///
    /// # Errors
    /// When a line is refused.
    pub fn configure(&self, lines: &str) -> Result<()> {
        self.apply(lines)?;
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        *config += lines;
        if !config.ends_with('\n') {
            config.push('\n');
        }
        Ok(())
    }

    fn apply(&self, lines: &str) -> Result<()> {
        let path = self.lab().paths().machine(self.place()).join("frr-to-configure");
        fs::write(&path, format!("{}\n", lines.trim_end())).doing(format!("write {}", path.display()))?;
        self.vtysh(&["-f", &path.display().to_string()]).map(drop)
    }

    /// Runs one of FRR's commands, such as `clear bgp *`, and answers with what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn command(&self, line: &str) -> Result<String> {
        self.vtysh(&["-c", line])
            .map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs one of FRR's `show … json` commands.
    ///
    /// # Errors
    /// When it fails, or does not answer in JSON.
    pub fn show(&self, line: &str) -> Result<Value> {
        let text = self.vtysh(&["-c", &format!("show {line} json")])?;
        serde_json::from_slice(&text).doing(format!("answer of FRR to: show {line} json"))
    }

    fn vtysh(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let machine = self.daemons.machine()?;
        let argv = ["vtysh"].into_iter().chain(arguments.iter().copied());
        run(
            machine.command(argv),
            &format!("vtysh {} in {}", arguments.join(" "), self.place().name()),
        )
    }

    /// Ends all daemons properly: neighbours are told, and routes leave the kernel.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn stop(&self) -> Result<()> {
        self.daemons.end(Signal::SIGTERM)
    }

    /// Kills all daemons: neighbours are not told, and routes stay in the kernel.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn kill(&self) -> Result<()> {
        self.daemons.kill()
    }

    /// Ends one of [`DAEMONS`] by a signal.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn end_daemon(&self, daemon: &str, signal: Signal) -> Result<()> {
        self.daemons.end_one(&service(daemon), signal)
    }

    /// Starts the daemons that do not run, and configures all as they were.
    ///
    /// # Errors
    /// When one does not come up, or refuses its configuration.
    pub fn restart(&self) -> Result<()> {
        let [zebra, bgpd, bfdd] = DAEMONS.map(service);
        let machine = self.daemons.machine()?;
        if !self.daemons.runs(&zebra)? {
            // Left by one that was killed; the others would try it, and come back after ten seconds.
            run(
                machine.command(["rm", "-f", ZEBRA_SOCKET]),
                "remove zebra's socket",
            )?;
        }
        self.daemons.start(&[&zebra])?;
        self.daemons.wait_ready(&[&zebra], || {
            let there = machine.command(["test", "-S", ZEBRA_SOCKET]);
            run(there, "zebra's socket").map(drop)
        })?;
        self.daemons.start(&[&bgpd, &bfdd])?;
        // Before bgpd knows the interfaces from zebra it refuses good routes and announces bad next hops.
        self.daemons.wait_ready(&[&zebra, &bgpd, &bfdd], || {
            let answering = self.command("show daemons")?;
            let clients = self.command("show zebra client summary")?;
            let connected = |name: &str| clients.lines().any(|line| line.starts_with(name));
            if DAEMONS.iter().all(|name| answering.contains(name)) && connected("bgp") && connected("bfd") {
                return Ok(());
            }
            let seen = format!("FRR's daemons: {}; zebra's clients: {clients}", answering.trim());
            Err(LabError::Refused(seen))
        })?;
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        self.apply(&config)
    }

    /// The log of one of [`DAEMONS`] so far.
    pub fn log(&self, daemon: &str) -> String {
        self.daemons.log(&service(daemon))
    }
}

impl Router for Frr {
    fn lab(&self) -> &Lab {
        &self.daemons.lab
    }

    fn place(&self) -> Place {
        self.daemons.place
    }

    fn neighbor(&self, address: IpAddr) -> Result<Option<Neighbor>> {
        neighbor(self.show(&format!("bgp neighbors {address}"))?)
    }

    fn paths(&self, prefix: IpNet) -> Result<Vec<Path>> {
        paths(self.show(&format!("bgp {} unicast {prefix}", name(Family::of(prefix))))?)
    }

    fn count(&self, family: Family) -> Result<u64> {
        let answer = self.show(&format!("bgp {} unicast statistics", name(family)))?;
        Ok(total_prefixes(&answer))
    }

    fn protocol(&self) -> &'static str {
        "bgp"
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        let _ = self.stop();
        if let Ok(machine) = self.daemons.machine() {
            kernel::flush(&machine, self.protocol());
            kernel::flush_next_hops(&machine, ZEBRA_PROTOCOL);
        }
    }
}

fn service(daemon: &str) -> String {
    format!("frr-{daemon}")
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NeighborText {
    bgp_state: String,
    remote_as: u32,
    #[serde(default)]
    address_family_info: BTreeMap<String, FamilyText>,
    last_reset_due_to: Option<String>,
    last_notification_reason: Option<String>,
    last_shutdown_description: Option<String>,
    peer_bfd_info: Option<BfdText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FamilyText {
    #[serde(default)]
    accepted_prefix_counter: u64,
}

#[derive(Deserialize)]
struct BfdText {
    status: String,
}

/// `show bgp neighbors ADDRESS json`: one object under the address, or a remark that there is none.
fn neighbor(answer: Value) -> Result<Option<Neighbor>> {
    let Some(text) = answer
        .as_object()
        .and_then(|all| all.values().find(|value| value.get("bgpState").is_some()))
    else {
        return Ok(None);
    };
    let text: NeighborText = serde_json::from_value(text.clone()).doing("FRR's words on a neighbour")?;
    let received = [(Family::V4, "ipv4Unicast"), (Family::V6, "ipv6Unicast")]
        .into_iter()
        .filter_map(|(family, key)| {
            Some((family, text.address_family_info.get(key)?.accepted_prefix_counter))
        })
        .collect();
    let words = [
        text.last_reset_due_to,
        text.last_notification_reason,
        text.last_shutdown_description,
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    Ok(Some(Neighbor {
        state: text.bgp_state,
        asn: text.remote_as,
        received,
        last_error: (!words.is_empty()).then(|| words.join("; ")),
        bfd: text.peer_bfd_info.map(|bfd| bfd.status),
    }))
}

/// `show bgp FAMILY unicast statistics json`: under the family a list with one object, if there is a route.
fn total_prefixes(answer: &Value) -> u64 {
    let families = answer.as_object().into_iter().flat_map(|all| all.values());
    families
        .filter_map(|tables| tables[0]["totalPrefixes"].as_u64())
        .sum()
}

#[derive(Deserialize)]
struct PathText {
    #[serde(default)]
    nexthops: Vec<HopText>,
    aspath: Option<AsPathText>,
    community: Option<StringText>,
    #[serde(rename = "largeCommunity")]
    large_community: Option<StringText>,
    #[serde(rename = "locPrf")]
    local_pref: Option<u32>,
    metric: Option<u32>,
    bestpath: Option<Value>,
    #[serde(default)]
    multipath: bool,
    #[serde(default)]
    stale: bool,
}

#[derive(Deserialize)]
struct HopText {
    ip: IpAddr,
}

#[derive(Deserialize)]
struct AsPathText {
    #[serde(default)]
    segments: Vec<SegmentText>,
}

#[derive(Deserialize)]
struct SegmentText {
    #[serde(default)]
    list: Vec<u32>,
}

#[derive(Deserialize)]
struct StringText {
    string: String,
}

/// `show bgp FAMILY unicast PREFIX json`: nothing, or an object with the paths.
fn paths(mut answer: Value) -> Result<Vec<Path>> {
    let Some(texts) = answer.get_mut("paths").map(Value::take) else {
        return Ok(vec![]);
    };
    let texts: Vec<PathText> = serde_json::from_value(texts).doing("FRR's words on a route")?;
    Ok(texts.into_iter().map(path).collect())
}

fn path(text: PathText) -> Path {
    let words = |text: Option<StringText>| -> Vec<String> {
        let text = text.map(|text| text.string).unwrap_or_default();
        text.split_whitespace().map(number).collect()
    };
    let best = text.bestpath.is_some_and(|best| best["overall"] == true);
    Path {
        next_hops: text.nexthops.into_iter().map(|hop| hop.ip).collect(),
        as_path: text
            .aspath
            .into_iter()
            .flat_map(|path| path.segments)
            .flat_map(|segment| segment.list)
            .collect(),
        communities: words(text.community),
        large_communities: words(text.large_community),
        local_pref: text.local_pref,
        med: text.metric,
        best,
        used: best || text.multipath,
        stale: text.stale,
    }
}

/// A community in numbers.
fn number(word: &str) -> String {
    WELL_KNOWN
        .iter()
        .find(|(name, _)| *name == word)
        .map_or(word, |(_, number)| number)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_neighbour_that_is_there_and_one_that_is_not() {
        assert_eq!(neighbor(json!({"bgpNoSuchNeighbor": true})).unwrap(), None);
        let answer = json!({"172.30.0.11": {
            "remoteAs": 64500, "bgpState": "Established",
            "addressFamilyInfo": {"ipv4Unicast": {"acceptedPrefixCounter": 2, "sentPrefixCounter": 0}},
            "lastResetDueTo": "Peer closed the session",
            "peerBfdInfo": {"type": "single hop", "status": "Up"},
        }});
        let expected = Neighbor {
            state: "Established".into(),
            asn: 64500,
            received: BTreeMap::from([(Family::V4, 2)]),
            last_error: Some("Peer closed the session".into()),
            bfd: Some("Up".into()),
        };
        assert_eq!(neighbor(answer).unwrap(), Some(expected));
    }

    #[test]
    fn numbers_of_prefixes() {
        let answer = json!({"ipv4Unicast": [{"instance": "VRF default", "totalPrefixes": 10000}]});
        assert_eq!(total_prefixes(&answer), 10000);
        assert_eq!(total_prefixes(&json!({})), 0);
    }

    #[test]
    fn paths_with_all_that_they_carry() {
        assert!(paths(json!({})).unwrap().is_empty());
        let answer = json!({"prefix": "10.99.0.1/32", "paths": [{
            "aspath": {"string": "64500 64500", "segments": [{"type": "as-sequence", "list": [64500, 64500]}]},
            "metric": 7, "locPrf": 0, "valid": true, "multipath": true, "bestpath": {"overall": true},
            "community": {"string": "64500:1 graceful-shutdown", "list": ["64500:1", "gracefulShutdown"]},
            "largeCommunity": {"string": "64500:2:3", "list": ["64500:2:3"]},
            "nexthops": [{"ip": "fd00:30::13", "used": false}, {"ip": "fe80::fa:17ff:feea:300d", "used": true}],
        }]});
        let expected = Path {
            next_hops: vec![
                "fd00:30::13".parse().unwrap(),
                "fe80::fa:17ff:feea:300d".parse().unwrap(),
            ],
            as_path: vec![64500, 64500],
            communities: vec!["64500:1".into(), "65535:0".into()],
            large_communities: vec!["64500:2:3".into()],
            local_pref: Some(0),
            med: Some(7),
            best: true,
            used: true,
            stale: false,
        };
        assert_eq!(paths(answer).unwrap(), std::slice::from_ref(&expected));
        assert_eq!(expected.leads_to(), Some(Place::Node(3)));
    }
}
