//! `BGPPeer` and `BGPAdvertisement`.

use fairlead_core::config::{RawBfd, RawBgpAdvertisement, RawGracefulRestart, RawPeer};

use super::{created, selectors};
use crate::bgp_peer::RemoteAsn;
use crate::{BGPAdvertisement, BGPPeer};

/// A BGPPeer, unchecked.
pub fn peer(object: &BGPPeer) -> Option<RawPeer> {
    let spec = &object.spec;
    Some(RawPeer {
        name: object.metadata.name.clone()?,
        created: created(&object.metadata),
        my_asn: spec.my_asn,
        remote_asn: match &spec.remote_asn {
            RemoteAsn::Number(number) => number.to_string(),
            RemoteAsn::Word(word) => word.clone(),
        },
        address: spec.address.clone(),
        interface: spec.interface.clone(),
        port: spec.port,
        source_address: spec.source_address.clone(),
        hold_time: spec.hold_time.clone(),
        keepalive_time: spec.keepalive_time.clone(),
        connect_retry_time: spec.connect_retry_time.clone(),
        ebgp_multihop: spec.ebgp_multihop,
        ttl_security: spec.ttl_security,
        password_secret: spec.password_secret.clone(),
        bfd: spec.bfd.as_ref().map(|bfd| RawBfd {
            receive_interval: bfd.receive_interval.clone(),
            transmit_interval: bfd.transmit_interval.clone(),
            detect_multiplier: bfd.detect_multiplier,
        }),
        graceful_restart: spec.graceful_restart.as_ref().map(|restart| RawGracefulRestart {
            restart_time: restart.restart_time.clone(),
            long_lived_time: restart.long_lived_time.clone(),
        }),
        vrf: spec.vrf.clone(),
        families: spec.families.clone(),
        nodes: selectors(&spec.node_selectors),
        disabled: spec.disabled,
    })
}

/// A BGPAdvertisement, unchecked.
pub fn bgp_advertisement(object: &BGPAdvertisement) -> Option<RawBgpAdvertisement> {
    let spec = &object.spec;
    Some(RawBgpAdvertisement {
        name: object.metadata.name.clone()?,
        pools: spec.address_pools.clone(),
        nodes: selectors(&spec.node_selectors),
        preferred: selectors(&spec.preferred_nodes),
        services: selectors(&spec.service_selectors),
        peers: spec.peers.clone(),
        aggregation_v4: spec.aggregation_length,
        aggregation_v6: spec.aggregation_length_v6,
        local_pref: spec.local_pref,
        med: spec.med,
        prepend: spec.as_path_prepend,
        communities: spec.communities.clone(),
    })
}
