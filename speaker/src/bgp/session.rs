//! One session as the daemon is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use fairlead_core::config::{Bfd, GracefulRestart, Peer, PeerEndpoint, RemoteAsn};
use fairlead_core::model::Family;
use fairlead_gobgp::api;
use prost::Message;
use ring::digest;

use super::{Input, Refusal};

/// A router that sends more prefixes than this has its session ended: nothing of what it sends is used, but the daemon
/// keeps it in memory.
pub(super) const MOST_PREFIXES: u32 = 50_000;

/// After a restart of the daemon it waits so long, in seconds, for the routes of its peers before it sends ours. The
/// routes that it waits for are thrown away, so this is as short as can be asked for.
const DEFERRAL: u32 = 1;

/// Over what the session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Transport {
    /// IPv4.
    V4,
    /// Global IPv6.
    V6,
    /// Link-local IPv6.
    LinkLocal,
}

/// A session to be made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// What the daemon calls it: the address, with the interface if it is link-local.
    pub key: String,
    /// The address alone.
    pub address: IpAddr,
    pub transport: Transport,
    /// As in the BGPPeer.
    pub families: Vec<Family>,
    pub peer: api::Peer,
}

/// What the node has, as far as it matters to a session.
pub(super) struct Surroundings<'a> {
    pub input: &'a Input,
    /// Names of the sessions that are with the daemon.
    pub holders: &'a BTreeSet<String>,
    /// Routers by the interface they were found on.
    pub neighbours: &'a BTreeMap<String, Ipv6Addr>,
    /// Does the node have an interface of this name?
    pub has_interface: &'a dyn Fn(&str) -> bool,
}

/// All sessions that can be made, and why the others cannot.
pub(super) fn targets(around: &Surroundings<'_>) -> (BTreeMap<String, Target>, BTreeMap<String, Refusal>) {
    let (mut targets, mut refusals) = (BTreeMap::new(), BTreeMap::new());
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    let sessions = || around.input.wanted.sessions.iter();
    // Of two with one address the one that has the session keeps it.
    let holds = |name: &String| around.holders.contains(name);
    let holders = sessions().filter(|(name, _)| holds(name));
    for (name, peer) in holders.chain(sessions().filter(|(name, _)| !holds(name))) {
        let checked = target(peer, around).and_then(|target| match keys.get(&target.key) {
            Some(other) => Err(Refusal::DuplicatePeer(other.clone())),
            None => Ok(target),
        });
        match checked {
            Ok(target) => {
                keys.insert(target.key.clone(), name.clone());
                targets.insert(name.clone(), target);
            }
            Err(refusal) => {
                refusals.insert(name.clone(), refusal);
            }
        }
    }
    (targets, refusals)
}

fn target(peer: &Peer, around: &Surroundings<'_>) -> Result<Target, Refusal> {
    let (address, interface) = place(peer, around)?;
    if let Some(vrf) = &peer.vrf
        && !(around.has_interface)(vrf)
    {
        return Err(Refusal::NoVrf(vrf.clone()));
    }
    let transport = match (address, interface) {
        (IpAddr::V4(_), _) => Transport::V4,
        (IpAddr::V6(_), None) => Transport::V6,
        (IpAddr::V6(_), Some(_)) => Transport::LinkLocal,
    };
    let key = match interface {
        Some(interface) => format!("{address}%{interface}"),
        None => address.to_string(),
    };
    let mut encoded = encode(peer, &key, password(peer, around.input)?);
    let fingerprint = fingerprint(&encoded);
    if let Some(conf) = &mut encoded.conf {
        conf.description = fingerprint;
    }
    Ok(Target {
        key,
        address,
        transport,
        families: peer.families.clone(),
        peer: encoded,
    })
}

fn place<'a>(peer: &'a Peer, around: &Surroundings<'_>) -> Result<(IpAddr, Option<&'a str>), Refusal> {
    match &peer.endpoint {
        PeerEndpoint::Address(IpAddr::V6(address)) if address.is_unicast_link_local() => {
            Err(Refusal::Unsupported(format!(
                "{address} is a link-local address, which says nothing without an interface; name the interface \
                 in place of the address"
            )))
        }
        PeerEndpoint::Address(address) => Ok((*address, None)),
        PeerEndpoint::Interface(name) if !(around.has_interface)(name) => {
            Err(Refusal::NoInterface(name.clone()))
        }
        PeerEndpoint::Interface(name) => match around.neighbours.get(name) {
            Some(address) => Ok(((*address).into(), Some(name))),
            None => Err(Refusal::NoNeighbour(name.clone())),
        },
    }
}

fn password(peer: &Peer, input: &Input) -> Result<String, Refusal> {
    let Some(secret) = &peer.password_secret else {
        return Ok(String::new());
    };
    match input.passwords.get(secret) {
        Some(Ok(password)) => Ok(password.0.clone()),
        Some(Err(sentence)) => Err(Refusal::PasswordMissing(sentence.clone())),
        None => Err(Refusal::PasswordMissing(format!(
            "the Secret {secret} with the password is missing"
        ))),
    }
}

fn encode(peer: &Peer, key: &str, password: String) -> api::Peer {
    let peer_asn = match peer.remote_asn {
        RemoteAsn::Number(number) => number,
        RemoteAsn::Internal => peer.my_asn,
        // Any is taken; that it is not ours is seen to when the session is up.
        RemoteAsn::External => 0,
    };
    api::Peer {
        conf: Some(api::PeerConf {
            auth_password: password,
            local_asn: peer.my_asn,
            neighbor_address: key.to_owned(),
            peer_asn,
            ..api::PeerConf::default()
        }),
        ebgp_multihop: peer.ebgp_multihop.map(|ttl| api::EbgpMultihop {
            enabled: true,
            multihop_ttl: ttl.into(),
        }),
        ttl_security: peer.ttl_security.map(|hops| api::TtlSecurity {
            enabled: true,
            // A packet of a neighbour comes with 255 (RFC 5082).
            ttl_min: 256 - u32::from(hops.max(1)),
        }),
        timers: Some(api::Timers {
            config: Some(api::TimersConfig {
                connect_retry: seconds(peer.connect_retry_time),
                hold_time: seconds(peer.hold_time),
                keepalive_interval: seconds(peer.keepalive_time),
                // After BFD has ended the session, too. The daemon's own is half a minute.
                idle_hold_time_after_reset: 1,
                ..api::TimersConfig::default()
            }),
            state: None,
        }),
        transport: Some(api::Transport {
            local_address: peer
                .source_address
                .map(|address| address.to_string())
                .unwrap_or_default(),
            remote_port: peer.port.into(),
            bind_interface: peer.vrf.clone().unwrap_or_default(),
            ..api::Transport::default()
        }),
        graceful_restart: peer.graceful_restart.map(graceful_restart),
        afi_safis: peer
            .families
            .iter()
            .map(|family| afi_safi(*family, peer.graceful_restart))
            .collect(),
        bfd: peer.bfd.map(bfd),
        state: None,
    }
}

fn graceful_restart(times: GracefulRestart) -> api::GracefulRestart {
    api::GracefulRestart {
        enabled: true,
        restart_time: seconds(times.restart_time) as u32,
        deferral_time: DEFERRAL,
        longlived_enabled: times.long_lived_time.is_some(),
        // Routers would keep the routes of a node whose hold time has run out (RFC 8538).
        notification_enabled: false,
        ..api::GracefulRestart::default()
    }
}

fn afi_safi(family: Family, restart: Option<GracefulRestart>) -> api::AfiSafi {
    let long_lived = restart.and_then(|restart| restart.long_lived_time);
    api::AfiSafi {
        config: Some(api::AfiSafiConfig {
            family: Some(family_of(family)),
            enabled: true,
        }),
        // Of all families: the daemon withholds routes of those that are left out.
        mp_graceful_restart: restart.map(|_| api::MpGracefulRestart {
            config: Some(api::MpGracefulRestartConfig { enabled: true }),
        }),
        long_lived_graceful_restart: long_lived.map(|time| api::LongLivedGracefulRestart {
            config: Some(api::LongLivedGracefulRestartConfig {
                enabled: true,
                restart_time: seconds(time) as u32,
            }),
        }),
        prefix_limits: Some(api::PrefixLimit {
            family: Some(family_of(family)),
            max_prefixes: MOST_PREFIXES,
            shutdown_threshold_pct: 0,
        }),
        state: None,
    }
}

fn bfd(times: Bfd) -> api::BfdPeerConfig {
    api::BfdPeerConfig {
        enabled: true,
        port: 0,
        desired_minimum_tx_interval: times.transmit_interval.as_micros() as u32,
        required_minimum_receive: times.receive_interval.as_micros() as u32,
        detection_multiplier: times.detect_multiplier.into(),
    }
}

/// The daemon counts in whole seconds, and takes 0 for its own default.
fn seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000).max(1) as u64
}

/// The daemon's name of a family.
pub(super) fn family_of(family: Family) -> api::Family {
    let afi = match family {
        Family::V4 => api::family::Afi::Ip,
        Family::V6 => api::family::Afi::Ip6,
    };
    api::Family {
        afi: afi as i32,
        safi: api::family::Safi::Unicast as i32,
    }
}

/// Kept by the daemon as the description of the session, so that a speaker that starts again sees whether it is as it
/// should be, the password included.
fn fingerprint(peer: &api::Peer) -> String {
    format!("fairlead {}", short_digest(&peer.encode_to_vec()))
}

/// The first 64 bits of the SHA-256, in hexadecimal digits.
pub(super) fn short_digest(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests;
