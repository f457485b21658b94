//! EndpointSlices, and what in them is passed over.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_core::endpoints::{AddressFault, address_fault};
use fairlead_core::model::{Family, Hints, NodeName, ServiceKey, Slice, SliceEndpoint, SlicePort};
use k8s_openapi::api::discovery::v1 as discovery_v1;

use super::{family, port_number, protocol};

/// Label of EndpointSlices that names their Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Why a part of an EndpointSlice is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// The whole slice has no IP family: `addressType` FQDN, or one that we do not know.
    AddressType,
    /// A port without a number, with 0, or with one that is too large.
    Port,
    /// A protocol that is neither TCP nor UDP nor SCTP.
    Protocol,
    /// An endpoint without an address.
    NoAddress,
    /// An address that cannot be read.
    Unreadable,
    /// An address that no endpoint can have.
    Address(AddressFault),
}

/// One kind of thing that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// How often.
    pub count: usize,
    /// The first one, as it stands in the slice.
    pub example: String,
}

/// In words: `2 endpoints with a loopback address (127.0.0.1)`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, example) = (self.count, &self.example);
        let many = if count == 1 { "" } else { "s" };
        match self.kind {
            FaultKind::AddressType => write!(f, "the whole slice, of addressType {example:?}"),
            FaultKind::Port => write!(f, "{count} port{many} without a usable number ({example})"),
            FaultKind::Protocol => write!(f, "{count} port{many} of unknown protocol ({example})"),
            FaultKind::NoAddress => write!(f, "{count} endpoint{many} without an address"),
            FaultKind::Unreadable => {
                write!(
                    f,
                    "{count} endpoint{many} with an unreadable address ({example:?})"
                )
            }
            FaultKind::Address(fault) => write!(f, "{count} endpoint{many} with {fault} ({example})"),
        }
    }
}

/// An EndpointSlice; `None` if it belongs to no Service or has no IP family.
pub fn slice(object: &discovery_v1::EndpointSlice) -> Option<Slice> {
    slice_and_faults(object).0
}

/// As [`slice()`], with what was passed over, one entry a kind.
///
/// Who wrote the slice does not matter, nor whether its nodes exist. With `publishNotReadyAddresses` the slice itself says
/// that its endpoints are ready.
pub fn slice_and_faults(object: &discovery_v1::EndpointSlice) -> (Option<Slice>, Vec<Fault>) {
    let mut faults = Faults::default();
    let slice = read(object, &mut faults);
    (slice, faults.0.into_values().collect())
}

#[derive(Default)]
struct Faults(BTreeMap<FaultKind, Fault>);

impl Faults {
    /// Notes one; answers with `None`, for use in a chain.
    fn note<T>(&mut self, kind: FaultKind, example: &str) -> Option<T> {
        let fault = self.0.entry(kind).or_insert_with(|| Fault {
            kind,
            count: 0,
            // It is the user's text, of any length.
            example: example.chars().take(80).collect(),
        });
        fault.count += 1;
        None
    }
}

fn read(object: &discovery_v1::EndpointSlice, faults: &mut Faults) -> Option<Slice> {
    let service = object.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    if service.is_empty() {
        return None;
    }
    let Some(family) = family(&object.address_type) else {
        return faults.note(FaultKind::AddressType, &object.address_type);
    };
    Some(Slice {
        service: ServiceKey::new(object.metadata.namespace.clone()?, service.clone()),
        family,
        ports: object
            .ports
            .iter()
            .flatten()
            .filter_map(|port| slice_port(port, faults))
            .collect(),
        endpoints: object
            .endpoints
            .iter()
            .filter_map(|endpoint| slice_endpoint(endpoint, family, faults))
            .collect(),
    })
}

fn slice_port(port: &discovery_v1::EndpointPort, faults: &mut Faults) -> Option<SlicePort> {
    let name = port.name.clone().unwrap_or_default();
    let Some(protocol) = protocol(port.protocol.as_deref()) else {
        return faults.note(FaultKind::Protocol, port.protocol.as_deref().unwrap_or_default());
    };
    let Some(number) = port.port.and_then(port_number) else {
        let number = port
            .port
            .map_or_else(|| "none".to_owned(), |number| number.to_string());
        return faults.note(FaultKind::Port, &number);
    };
    Some(SlicePort {
        name,
        protocol,
        port: number,
    })
}

fn slice_endpoint(
    endpoint: &discovery_v1::Endpoint,
    family: Family,
    faults: &mut Faults,
) -> Option<SliceEndpoint> {
    let Some(text) = endpoint.addresses.first() else {
        return faults.note(FaultKind::NoAddress, "");
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        return faults.note(FaultKind::Unreadable, text);
    };
    if let Some(fault) = address_fault(address, family) {
        return faults.note(FaultKind::Address(fault), text);
    }
    let conditions = endpoint.conditions.as_ref();
    Some(SliceEndpoint {
        address,
        node: endpoint
            .node_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .map(NodeName::from),
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        hints: endpoint.hints.as_ref().and_then(hints),
    })
}

fn hints(object: &discovery_v1::EndpointHints) -> Option<Arc<Hints>> {
    let hints = Hints {
        nodes: object
            .for_nodes
            .iter()
            .flatten()
            .map(|node| NodeName(node.name.clone()))
            .collect(),
        zones: object
            .for_zones
            .iter()
            .flatten()
            .map(|zone| zone.name.clone())
            .collect(),
    };
    (hints != Hints::default()).then(|| Arc::new(hints))
}
