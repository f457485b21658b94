//! What a speaker that restarts may go on with, before the API server has said anything or although it never does.
//!
//! The file lies in memory (`/run`), so it does not outlive the boot, and is used for a day at the most. It never starts
//! anything: it only lets a process go on with the claims of the one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fairlead_api::NodeStateStatus;
use fairlead_core::announce::{Candidacy, Evaluation, Hold, ProbeTarget};
use fairlead_core::config::{BgpAdvertisement, Health, Peer};
use fairlead_core::model::{NodeName, ServiceKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::bgp::Password;
use crate::decide::Decision;
use crate::membership::seal::Key as GossipKey;
use crate::membership::task::{Contents, Peers};
use crate::membership::wire::{Key, Meta, encode_candidacy};
use crate::passwords::Passwords;

/// Where it is on every node.
pub const FILE: &str = "/run/fairlead/speaker.json";
/// A snapshot that is older is not used.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Changes that follow each other within this time are written together.
const GATHER: Duration = Duration::from_millis(100);
/// Different with every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    /// Of which boot.
    pub boot: String,
    /// When it was written, in seconds of Unix time.
    pub written: i64,
    /// Start number of the speaker.
    pub incarnation: i64,
    /// The gossip keys, newest first, in hexadecimal.
    pub keys: Vec<String>,
    /// Addresses of the cluster's nodes.
    pub peers: BTreeMap<String, IpAddr>,
    /// The MAC addresses of their speakers: by these a fellow is told from a stranger before the gossip reaches it.
    pub macs: BTreeMap<String, Vec<String>>,
    /// What was announced at layer 2, and how it was decided.
    pub claims: Vec<Claim>,
    /// The same of BGP.
    pub bgp: Bgp,
    /// The last report, from which times since when something holds are continued.
    pub status: NodeStateStatus,
}

/// One address that was announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Epoch of the claim.
    pub claim: i64,
    /// As it was published.
    pub cordoned: bool,
    /// As it was published.
    pub weight: i32,
    /// As it was published.
    pub preempts: bool,
    /// The Services that have it.
    pub services: Vec<ServiceKey>,
    /// The interfaces it was announced on.
    pub interfaces: Vec<String>,
    /// What was probed.
    pub probes: BTreeSet<ProbeTarget>,
    /// How: the settings of its pool.
    #[serde(default)]
    pub health: Health,
}

/// Sessions and routes: what they were made from, so that the next process makes the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bgp {
    /// The configuration.
    pub config: BgpConfig,
    /// The node was cordoned.
    pub cordoned: bool,
    /// The assigned addresses that advertisements are for, announced or not.
    pub routes: Vec<Route>,
    /// Passwords of sessions by the name of their Secret.
    pub passwords: BTreeMap<String, String>,
    /// Who this node is in its sessions.
    pub identity: Identity,
}

/// Who a node is in its BGP sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// Its BGP identifier.
    pub router_id: Option<Ipv4Addr>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What routes are made from, besides addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BgpConfig {
    /// Labels of this node.
    pub labels: BTreeMap<String, String>,
    /// The accepted BGPPeers.
    pub peers: BTreeMap<String, Peer>,
    /// The accepted BGPAdvertisements.
    pub advertisements: BTreeMap<String, BgpAdvertisement>,
}

/// One address that advertisements are for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The address.
    pub address: IpAddr,
    /// Those that are for it and for this node.
    pub advertisements: BTreeSet<String>,
    /// This node had passed every filter for it. One that had not keeps aggregates from going out.
    pub announced: bool,
    /// The Services that have it.
    pub services: Vec<ServiceKey>,
    /// What was probed.
    pub probes: BTreeSet<ProbeTarget>,
    /// How: the settings of its pool.
    #[serde(default)]
    pub health: Health,
}

impl Bgp {
    /// What the next process needs of this decision.
    pub fn of(decision: &Decision, passwords: BTreeMap<String, String>, identity: Identity) -> Self {
        let route = |(address, evaluation): (&IpAddr, &Arc<Evaluation>)| {
            let routed = evaluation.bgp.as_ref()?;
            Some(Route {
                address: *address,
                advertisements: routed.advertisements.clone(),
                announced: routed.outcome.is_ok(),
                services: evaluation.services.clone(),
                probes: evaluation.probes.clone(),
                health: evaluation.health,
            })
        };
        Self {
            config: decision.bgp_config.clone(),
            cordoned: decision.cordoned,
            routes: decision.evaluations.iter().filter_map(route).collect(),
            passwords,
            identity,
        }
    }
}

impl Snapshot {
    /// Reads the file. What cannot be used counts as absent.
    pub fn load(path: &Path, now: Timestamp) -> Self {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot read the snapshot");
                return Self::default();
            }
        };
        let snapshot: Self = match serde_json::from_slice(&text) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot use the snapshot");
                return Self::default();
            }
        };
        if !snapshot.usable(&boot(), now) {
            info!("the snapshot is of an earlier boot or older than a day");
            return Self {
                incarnation: snapshot.incarnation,
                ..Self::default()
            };
        }
        info!(
            claims = snapshot.claims.len(),
            peers = snapshot.peers.len(),
            "snapshot read"
        );
        snapshot
    }

    fn usable(&self, boot: &str, now: Timestamp) -> bool {
        // A clock that was set back makes it no older.
        let age = now.as_second().saturating_sub(self.written);
        self.boot == boot && age <= LIFE.as_secs().cast_signed()
    }

    /// What was announced, as the plan continues it.
    pub fn held(&self) -> BTreeMap<IpAddr, Hold> {
        self.claims
            .iter()
            .map(|claim| {
                (
                    claim.address,
                    Hold {
                        claim: claim.claim,
                        losing: None,
                    },
                )
            })
            .collect()
    }

    /// The record that was published, as far as it had claims: with it the others go on counting on this node. The right to
    /// take addresses over is earned anew: a node that was dead meanwhile must not have it before it can act on it.
    pub fn contents(&self) -> Contents {
        self.claims
            .iter()
            .map(|claim| {
                let candidacy = Candidacy {
                    cordoned: claim.cordoned,
                    weight: claim.weight,
                    preempts: false,
                    claim: Some(claim.claim),
                };
                (Key::address(claim.address), encode_candidacy(&candidacy))
            })
            .collect()
    }

    /// What their speakers said of themselves.
    pub fn metas(&self) -> BTreeMap<NodeName, Meta> {
        let macs = |texts: &Vec<String>| texts.iter().filter_map(|text| text.parse().ok()).collect();
        self.macs
            .iter()
            .map(|(name, texts)| (NodeName(name.clone()), Meta { macs: macs(texts) }))
            .collect()
    }

    /// The passwords of BGP sessions.
    pub fn passwords(&self) -> Passwords {
        let known = self.bgp.passwords.iter();
        known
            .map(|(name, password)| (name.clone(), Ok(Password::new(password))))
            .collect()
    }

    /// The gossip keys.
    pub fn gossip_keys(&self) -> Vec<GossipKey> {
        let keys = self.keys.iter().filter_map(|text| unhex(text));
        keys.filter_map(|bytes| GossipKey::new(&bytes).ok()).collect()
    }

    /// The nodes' addresses.
    pub fn nodes(&self) -> Peers {
        self.peers
            .iter()
            .map(|(name, address)| (NodeName(name.clone()), *address))
            .collect()
    }
}

/// Identifies this boot; empty if the system does not say, and then no snapshot is of this boot.
fn boot() -> String {
    std::fs::read_to_string(BOOT_ID)
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// Writes every new value, with the boot and the time, until there will be none any more.
pub async fn keep(path: PathBuf, mut snapshots: watch::Receiver<Option<Snapshot>>) {
    let (boot, mut complained) = (boot(), false);
    loop {
        let ended = snapshots.changed().await.is_err();
        if !ended {
            tokio::time::sleep(GATHER).await;
        }
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            let snapshot = Snapshot {
                boot: boot.clone(),
                written: Timestamp::now().as_second(),
                ..snapshot
            };
            match write(&path, &snapshot).await {
                Ok(()) => complained = false,
                Err(error) if !complained => {
                    warn!(path = %path.display(), %error, "cannot write the snapshot; a restart without the API server would begin from nothing");
                    complained = true;
                }
                Err(error) => debug!(%error, "cannot write the snapshot"),
            }
        }
        if ended {
            return;
        }
    }
}

/// All or nothing: who reads meanwhile reads what was there before. For root's eyes only, since it holds the keys.
async fn write(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let text = serde_json::to_vec(snapshot)?;
    let beside = path.with_extension("new");
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&beside).await?;
    tokio::io::AsyncWriteExt::write_all(&mut file, &text).await?;
    tokio::io::AsyncWriteExt::flush(&mut file).await?;
    tokio::fs::rename(&beside, path).await
}

/// Bytes as text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// And back; `None` if it is no such text.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use fairlead_core::model::Family;

    use super::*;

    fn snapshot() -> Snapshot {
        let service = ServiceKey::new("default", "web");
        Snapshot {
            boot: boot(),
            written: 1_000_000,
            incarnation: 7,
            keys: vec![hex(&[0, 255, 16])],
            peers: BTreeMap::from([("node1".to_owned(), IpAddr::from([192, 0, 2, 1]))]),
            macs: BTreeMap::from([("node2".to_owned(), vec!["02:00:5e:00:53:01".to_owned()])]),
            claims: vec![Claim {
                address: IpAddr::from([192, 0, 2, 100]),
                claim: 3,
                cordoned: true,
                weight: 5,
                preempts: false,
                services: vec![service.clone()],
                interfaces: vec!["eth0".to_owned()],
                probes: BTreeSet::from([
                    ProbeTarget::Service {
                        service: service.clone(),
                        address: IpAddr::from([192, 0, 2, 1]),
                        port: 31000,
                    },
                    ProbeTarget::Proxy {
                        address: IpAddr::from([192, 0, 2, 1]),
                    },
                    ProbeTarget::Agent {
                        service,
                        family: Family::V6,
                    },
                ]),
                health: Health {
                    interval: Some(Duration::from_millis(300)),
                    ..Health::default()
                },
            }],
            bgp: Bgp::default(),
            status: NodeStateStatus::default(),
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_again_and_only_for_a_day_of_this_boot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("speaker.json");
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(Snapshot::load(&path, at(0)), Snapshot::default(), "there is none");
        let written = snapshot();
        write(&path, &written).await.unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Snapshot::load(&path, at(1_000_000 + 86_400)), written);
        let old = Snapshot::load(&path, at(1_000_000 + 86_401));
        assert_eq!((old.incarnation, old.claims.len(), old.keys.len()), (7, 0, 0));
        write(
            &path,
            &Snapshot {
                boot: "another".into(),
                ..written
            },
        )
        .await
        .unwrap();
        assert!(Snapshot::load(&path, at(1_000_000)).claims.is_empty());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Snapshot::load(&path, at(1_000_000)), Snapshot::default());
    }

    #[test]
    fn targets_keys_and_claims_survive_the_round_trip() {
        let snapshot = snapshot();
        for probe in &snapshot.claims[0].probes {
            let text = serde_json::to_string(probe).unwrap();
            assert_eq!(serde_json::from_str::<ProbeTarget>(&text).unwrap(), *probe);
        }
        assert_eq!(unhex(&snapshot.keys[0]), Some(vec![0, 255, 16]));
        for bad in ["0", "0g", "zz"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
        assert_eq!(
            snapshot.held()[&IpAddr::from([192, 0, 2, 100])],
            Hold {
                claim: 3,
                losing: None
            }
        );
        assert_eq!(snapshot.contents().len(), 1);
        assert_eq!(
            snapshot.metas()[&NodeName::from("node2")].macs,
            ["02:00:5e:00:53:01".parse().unwrap()]
        );
        let text = serde_json::to_string(&snapshot.claims[0].health).unwrap();
        let health: Health = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (health.interval, health.timeout),
            (Some(Duration::from_millis(300)), None)
        );
    }
}
