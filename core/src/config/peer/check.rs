//! Checks of one peer.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Bfd, GracefulRestart, Peer, PeerEndpoint, RawBfd, RawGracefulRestart, RawPeer, RemoteAsn};
use crate::config::duration;
use crate::config::number::within as number;
use crate::model::Family;
use crate::reason::{Reason, Refusal};

/// Where BGP listens.
const PORT: u16 = 179;
/// RFC 4271 §4.2: three seconds at the least. It also allows zero, for a session that is never over by silence; there is
/// none here, for the routes of a dead node would stay.
const HOLD_TIMES: RangeInclusive<Duration> = seconds(3, 65_535);
const HOLD_TIME: Duration = Duration::from_secs(90);
const KEEPALIVE_TIMES: RangeInclusive<Duration> = seconds(1, 21_845);
const CONNECT_RETRY_TIMES: RangeInclusive<Duration> = seconds(2, 3600);
const CONNECT_RETRY_TIME: Duration = Duration::from_secs(5);
/// RFC 4724 §3: 12 bits.
const RESTART_TIMES: RangeInclusive<Duration> = seconds(1, 4095);
const RESTART_TIME: Duration = Duration::from_secs(120);
/// RFC 9494 §3.1: 24 bits.
const LONG_LIVED_TIMES: RangeInclusive<Duration> = seconds(1, 16_777_215);
const BFD_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const BFD_INTERVAL: Duration = Duration::from_millis(300);
const BFD_MULTIPLIER: u8 = 3;
/// What no router may have: RFC 7607, AS_TRANS (RFC 6793), and the last of two and of four bytes (RFC 7300).
const RESERVED_ASNS: [u32; 4] = [0, 23_456, 65_535, u32::MAX];
/// The longest name the kernel gives an interface, in bytes.
const DEVICE_MOST: usize = 15;

const fn seconds(least: u64, most: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(least)..=Duration::from_secs(most)
}

/// Checks what can be checked without the other peers.
pub(in crate::config) fn check(raw: &RawPeer) -> Result<Peer, Refusal> {
    let nodes = raw
        .nodes
        .clone()
        .map_err(|error| Refusal::new(Reason::InvalidSelector, format!("spec.nodeSelectors: {error}")))?;
    let peer = read(raw).map_err(|error| Refusal::new(Reason::InvalidField, format!("spec.{error}")))?;
    Ok(Peer { nodes, ..peer })
}

/// All fields but the selectors. Errors begin with the name of the field.
fn read(raw: &RawPeer) -> Result<Peer, String> {
    let my_asn = asn("myASN", raw.my_asn)?;
    let remote_asn = remote_asn(&raw.remote_asn)?;
    let ibgp = match remote_asn {
        RemoteAsn::Internal => true,
        RemoteAsn::Number(number) => number == my_asn,
        RemoteAsn::External => false,
    };
    let endpoint = endpoint(raw)?;
    let source_address = source_address(raw, &endpoint)?;
    let hold_time = whole("holdTime", raw.hold_time.as_deref(), &HOLD_TIMES)?.unwrap_or(HOLD_TIME);
    // RFC 4271 §10 suggests a third; in whole seconds it may have to be a little less.
    let third = Duration::from_secs(hold_time.as_secs() / 3);
    let keepalive_time =
        whole("keepaliveTime", raw.keepalive_time.as_deref(), &KEEPALIVE_TIMES)?.unwrap_or(third);
    if keepalive_time >= hold_time {
        return Err(format!(
            "keepaliveTime: {keepalive_time:?} is not shorter than the hold time, {hold_time:?}"
        ));
    }
    let connect = raw.connect_retry_time.as_deref();
    let ebgp_multihop = number("ebgpMultihop", raw.ebgp_multihop, 2..=255)?;
    let ttl_security = number("ttlSecurity", raw.ttl_security, 1..=254)?;
    hops(ebgp_multihop, ttl_security, ibgp, &endpoint)?;
    let far = ebgp_multihop.is_some() || ttl_security.is_some_and(|hops| hops > 1);
    if raw.bfd.is_some() && far {
        return Err(
            "bfd: it is for routers that are one hop away (RFC 5881), and spec.ebgpMultihop or spec.ttlSecurity says \
             that this one is not"
                .to_owned(),
        );
    }
    if let Some(name) = raw
        .password_secret
        .as_deref()
        .filter(|name| !is_object_name(name))
    {
        return Err(format!("passwordSecret: \"{name}\" is not the name of a Secret"));
    }
    let vrf = raw.vrf.as_deref().map(|name| device("vrf", name)).transpose()?;
    Ok(Peer {
        name: raw.name.clone(),
        my_asn,
        remote_asn,
        endpoint,
        port: number("port", raw.port, 1..=65_535)?.unwrap_or(PORT),
        source_address,
        hold_time,
        keepalive_time,
        connect_retry_time: whole("connectRetryTime", connect, &CONNECT_RETRY_TIMES)?
            .unwrap_or(CONNECT_RETRY_TIME),
        ebgp_multihop,
        ttl_security,
        password_secret: raw.password_secret.clone(),
        bfd: raw.bfd.as_ref().map(bfd).transpose()?,
        graceful_restart: raw.graceful_restart.as_ref().map(graceful_restart).transpose()?,
        vrf,
        families: families(&raw.families)?,
        nodes: Vec::new(),
        disabled: raw.disabled,
    })
}

fn asn(field: &str, written: i64) -> Result<u32, String> {
    match u32::try_from(written) {
        Ok(asn) if RESERVED_ASNS.contains(&asn) => {
            Err(format!("{field}: {written} is reserved, no router may have it"))
        }
        Ok(asn) => Ok(asn),
        Err(_) => Err(format!("{field}: {written} is not between 1 and 4294967294")),
    }
}

fn remote_asn(text: &str) -> Result<RemoteAsn, String> {
    match text {
        "internal" => Ok(RemoteAsn::Internal),
        "external" => Ok(RemoteAsn::External),
        number => {
            let written = number.parse().map_err(|_| {
                format!("remoteASN: \"{number}\" is neither a number, nor internal, nor external")
            })?;
            asn("remoteASN", written).map(RemoteAsn::Number)
        }
    }
}

fn endpoint(raw: &RawPeer) -> Result<PeerEndpoint, String> {
    match (&raw.address, &raw.interface) {
        (Some(text), None) => address("address", text).map(PeerEndpoint::Address),
        (None, Some(name)) => device("interface", name).map(PeerEndpoint::Interface),
        _ => Err("address: exactly one of address and interface is needed".to_owned()),
    }
}

/// An address that a router can have, and reach from more than one link.
fn address(field: &str, text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("{field}: \"{text}\" is not an IP address"))?;
    let no_use = |what: &str| Err(format!("{field}: {address} is {what}"));
    match address {
        _ if address.is_unspecified() => no_use("the unspecified address"),
        _ if address.is_loopback() => no_use("a loopback address"),
        _ if address.is_multicast() => no_use("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => no_use("the broadcast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            no_use("a link-local address: name the interface in spec.interface instead")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            no_use("an IPv4-mapped IPv6 address; write it as IPv4")
        }
        address => Ok(address),
    }
}

fn source_address(raw: &RawPeer, endpoint: &PeerEndpoint) -> Result<Option<IpAddr>, String> {
    let Some(text) = &raw.source_address else {
        return Ok(None);
    };
    let source = address("sourceAddress", text)?;
    match endpoint {
        PeerEndpoint::Address(remote) if Family::of(*remote) == Family::of(source) => Ok(Some(source)),
        PeerEndpoint::Address(remote) => Err(format!(
            "sourceAddress: {source} and the address of the peer, {remote}, are of different families"
        )),
        PeerEndpoint::Interface(_) => Err(format!(
            "sourceAddress: {source} is no use over an interface, where both sides have link-local addresses"
        )),
    }
}

/// The name of a network interface, or of a VRF, which is one.
fn device(field: &str, name: &str) -> Result<String, String> {
    let odd = |c: char| c.is_whitespace() || "!*?/:[]{}".contains(c);
    let named =
        (1..=DEVICE_MOST).contains(&name.len()) && !name.contains(odd) && ![".", ".."].contains(&name);
    if named {
        Ok(name.to_owned())
    } else {
        Err(format!(
            "{field}: \"{name}\" is not the name of a network interface"
        ))
    }
}

/// A duration as BGP can tell it.
fn whole(
    field: &str,
    text: Option<&str>,
    bounds: &RangeInclusive<Duration>,
) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    let duration = duration::parse_within(text, bounds).map_err(|error| format!("{field}: {error}"))?;
    if duration.subsec_nanos() == 0 {
        Ok(Some(duration))
    } else {
        Err(format!("{field}: \"{text}\" is not a number of whole seconds"))
    }
}

fn hops(
    multihop: Option<u8>,
    security: Option<u8>,
    ibgp: bool,
    endpoint: &PeerEndpoint,
) -> Result<(), String> {
    let Some(ttl) = multihop else { return Ok(()) };
    if security.is_some() {
        return Err(format!(
            "ebgpMultihop: {ttl} and spec.ttlSecurity exclude each other"
        ));
    }
    if ibgp {
        return Err(format!(
            "ebgpMultihop: {ttl} is for eBGP, and the peer is of the same AS; iBGP needs nothing for several hops"
        ));
    }
    match endpoint {
        PeerEndpoint::Address(_) => Ok(()),
        PeerEndpoint::Interface(name) => Err(format!(
            "ebgpMultihop: {ttl} is for an address; what is found over {name} is one hop away"
        )),
    }
}

fn bfd(raw: &RawBfd) -> Result<Bfd, String> {
    let interval = |field: &str, text: &Option<String>| match text {
        None => Ok(BFD_INTERVAL),
        Some(text) => {
            duration::parse_within(text, &BFD_INTERVALS).map_err(|error| format!("bfd.{field}: {error}"))
        }
    };
    Ok(Bfd {
        receive_interval: interval("receiveInterval", &raw.receive_interval)?,
        transmit_interval: interval("transmitInterval", &raw.transmit_interval)?,
        detect_multiplier: number("bfd.detectMultiplier", raw.detect_multiplier, 2..=255)?
            .unwrap_or(BFD_MULTIPLIER),
    })
}

fn graceful_restart(raw: &RawGracefulRestart) -> Result<GracefulRestart, String> {
    let (restart, long) = (raw.restart_time.as_deref(), raw.long_lived_time.as_deref());
    Ok(GracefulRestart {
        restart_time: whole("gracefulRestart.restartTime", restart, &RESTART_TIMES)?.unwrap_or(RESTART_TIME),
        long_lived_time: whole("gracefulRestart.longLivedTime", long, &LONG_LIVED_TIMES)?,
    })
}

fn families(texts: &[String]) -> Result<Vec<Family>, String> {
    let mut families = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let family = match text.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return Err(format!("families[{index}]: \"{text}\" is neither IPv4 nor IPv6")),
        };
        if !families.contains(&family) {
            families.push(family);
        }
    }
    if families.is_empty() {
        families.extend([Family::V4, Family::V6]);
    }
    Ok(families)
}

/// RFC 1123, as the API server asks of the names of most objects.
fn is_object_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(plain) && label.ends_with(plain) && label.chars().all(|c| plain(c) || c == '-')
    };
    name.len() <= 253 && name.split('.').all(label)
}
