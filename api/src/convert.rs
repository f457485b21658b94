//! Kubernetes objects → the vocabulary of `fairlead-core`.
//!
//! Conversions never fail as a whole: what cannot be read inside an object is left out where leaving it out is safe
//! (an endpoint whose address does not parse), and the object is treated as absent where it is not.

mod bgp;
mod ranges;
mod slice;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use bgp::{bgp_advertisement, peer};
pub use ranges::SOURCE_RANGES;
pub use slice::{Fault, FaultKind, SERVICE_NAME_LABEL, slice, slice_and_faults};

use fairlead_core::config::{
    Access, Allocation, ConflictPolicy, OnRemove, Preference, RawAdvertisement, RawHealth, RawPool,
};
use fairlead_core::model::{
    AFFINITY_DEFAULT, AFFINITY_SECONDS, Family, FamilyPolicy, Node, NodeName, Protocol, Service, ServiceKey,
    ServicePort, ServiceType, TrafficPolicy,
};
use fairlead_core::selector::{Requirement, Selector};
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::annotations;
use crate::conditions::parse_assigned;
use crate::l2_advertisement::{self, NodePreference};
use crate::pool::{ExternalIpPolicy, PoolAllocation, PoolExternalIps, PoolHealth, RemovePolicy};
use crate::{AddressPool, L2Advertisement};

/// Label that keeps a node out of external load balancing (KEP-3458).
pub const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Taint by which the cluster autoscaler marks a node that it will remove.
pub const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// A Service; `None` if it has no name, which the API server never sends.
pub fn service(object: &core_v1::Service) -> Option<Service> {
    let spec = object.spec.as_ref()?;
    let status = object.status.as_ref();
    let ingress = status
        .and_then(|s| s.load_balancer.as_ref())
        .and_then(|lb| lb.ingress.as_deref())
        .unwrap_or(&[]);
    let vip_mode = |entry: &core_v1::LoadBalancerIngress| entry.ip_mode.as_deref().unwrap_or("VIP") == "VIP";
    let vips: Vec<IpAddr> = ingress
        .iter()
        .filter(|e| vip_mode(e))
        .filter_map(|e| e.ip.as_deref()?.parse().ok())
        .collect();
    let empty = BTreeMap::new();
    let notes = object.metadata.annotations.as_ref().unwrap_or(&empty);
    let ranges = ranges::source_ranges(spec.load_balancer_source_ranges.as_deref().unwrap_or(&[]), notes);
    Some(Service {
        key: ServiceKey::new(object.metadata.namespace.clone()?, object.metadata.name.clone()?),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        created: created(&object.metadata),
        deleting: object.metadata.deletion_timestamp.is_some(),
        kind: match spec.type_.as_deref() {
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("NodePort") => ServiceType::NodePort,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        },
        class: spec.load_balancer_class.clone(),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        selector: spec.selector.clone().unwrap_or_default(),
        headless: spec.cluster_ip.as_deref() == Some("None"),
        family_policy: match spec.ip_family_policy.as_deref() {
            Some("RequireDualStack") => FamilyPolicy::RequireDualStack,
            Some("PreferDualStack") => FamilyPolicy::PreferDualStack,
            _ => FamilyPolicy::SingleStack,
        },
        wishes: annotations::wishes(notes),
        metallb: annotations::metallb_wishes(notes),
        external_wish: notes.get(annotations::EXTERNAL_IPS).cloned(),
        external_ips: spec
            .external_ips
            .iter()
            .flatten()
            .filter_map(|text| text.parse().ok())
            .collect(),
        external: notes
            .get(annotations::EXTERNAL_RECORD)
            .and_then(|text| annotations::parse_external(text)),
        families: spec
            .ip_families
            .iter()
            .flatten()
            .filter_map(|name| family(name))
            .collect(),
        requested: spec.load_balancer_ip.clone().filter(|text| !text.is_empty()),
        ports: spec.ports.iter().flatten().filter_map(service_port).collect(),
        policy: policy(spec.external_traffic_policy.as_deref()),
        health_check_node_port: spec.health_check_node_port.and_then(port_number),
        affinity: affinity(spec),
        source_ranges: ranges.readable,
        unread_ranges: ranges.unread,
        foreign_ingress: vips.len() != ingress.len(),
        ingress: vips,
        assigned: status.and_then(|s| s.conditions.as_ref()?.iter().find_map(parse_assigned)),
    })
}

fn service_port(port: &core_v1::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol(port.protocol.as_deref())?,
        port: port_number(port.port)?,
        node_port: port.node_port.and_then(port_number),
    })
}

/// A Node.
pub fn node(object: &core_v1::Node) -> Option<Node> {
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let addresses: Vec<(&str, IpAddr)> = status
        .and_then(|s| s.addresses.as_deref())
        .unwrap_or(&[])
        .iter()
        .filter_map(|address| Some((address.type_.as_str(), address.address.parse().ok()?)))
        .collect();
    Some(Node {
        name: NodeName(object.metadata.name.clone()?),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        excluded: labels
            .get(EXCLUDE_LABEL)
            .is_some_and(|value| parse_bool(value) != Some(false)),
        labels,
        internal_ips: addresses
            .iter()
            .filter(|(kind, _)| *kind == "InternalIP")
            .map(|(_, ip)| *ip)
            .collect(),
        addresses: addresses.iter().map(|(_, ip)| *ip).collect(),
        pod_cidrs: spec
            .and_then(|s| s.pod_cidrs.as_deref())
            .unwrap_or(&[])
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        cordoned: spec.and_then(|s| s.unschedulable).unwrap_or(false),
        deleting: object.metadata.deletion_timestamp.is_some(),
        autoscaler_taint: spec
            .and_then(|s| s.taints.as_deref())
            .unwrap_or(&[])
            .iter()
            .any(|t| t.key == AUTOSCALER_TAINT),
        network_unavailable: status
            .and_then(|s| s.conditions.as_deref())
            .unwrap_or(&[])
            .iter()
            .any(|c| c.type_ == "NetworkUnavailable" && c.status == "True"),
    })
}

/// An AddressPool, unchecked.
pub fn pool(object: &AddressPool) -> Option<RawPool> {
    let spec = &object.spec;
    let status = object.status.clone().unwrap_or_default();
    Some(RawPool {
        name: object.metadata.name.clone()?,
        created: created(&object.metadata),
        deleting: object.metadata.deletion_timestamp.is_some(),
        addresses: spec.addresses.clone(),
        auto_assign: spec.auto_assign,
        avoid_buggy: spec.avoid_buggy_ips,
        reserved: spec.reserved.clone(),
        allocation: allocation(&spec.allocation.clone().unwrap_or_default()),
        external_ips: external_ips(spec.external_ips.as_ref()),
        on_remove: match spec.on_remove {
            RemovePolicy::Keep => OnRemove::Keep,
            RemovePolicy::Reassign => OnRemove::Reassign,
        },
        health: spec.health.as_ref().map(health).unwrap_or_default(),
        published: status.cidrs,
        retained: status.retained,
    })
}

fn health(object: &PoolHealth) -> RawHealth {
    RawHealth {
        interval: object.interval.clone(),
        timeout: object.timeout.clone(),
        failure: object.failure_threshold,
        success: object.success_threshold,
    }
}

fn allocation(object: &PoolAllocation) -> Result<Allocation, String> {
    Ok(Allocation {
        priority: object.priority,
        access: access(&object.namespaces, object.namespace_selector.as_ref())?,
        services: optional(object.service_selector.as_ref())?,
    })
}

fn external_ips(object: Option<&PoolExternalIps>) -> Result<Option<Access>, String> {
    let Some(object) = object.filter(|object| object.policy == ExternalIpPolicy::Allow) else {
        return Ok(None);
    };
    access(&object.namespaces, object.namespace_selector.as_ref()).map(Some)
}

fn access(namespaces: &[String], selector: Option<&LabelSelector>) -> Result<Access, String> {
    Ok(Access {
        namespaces: namespaces.to_vec(),
        selector: optional(selector)?,
    })
}

fn optional(object: Option<&LabelSelector>) -> Result<Option<Selector>, String> {
    object.map(selector).transpose()
}

/// An L2Advertisement, unchecked.
pub fn advertisement(object: &L2Advertisement) -> Option<RawAdvertisement> {
    Some(RawAdvertisement {
        name: object.metadata.name.clone()?,
        pools: object.spec.address_pools.clone(),
        nodes: selectors(&object.spec.node_selectors),
        preferred: preferences(&object.spec.preferred_node_selectors),
        services: selectors(&object.spec.service_selectors),
        interfaces: object.spec.interfaces.clone(),
        preempt_after: object.spec.preempt_after.clone(),
        conflict: match object.spec.conflict_policy {
            l2_advertisement::ConflictPolicy::Defend => ConflictPolicy::Defend,
            l2_advertisement::ConflictPolicy::Yield => ConflictPolicy::Yield,
        },
    })
}

fn selectors(objects: &[LabelSelector]) -> Result<Vec<Selector>, String> {
    objects.iter().map(selector).collect()
}

fn preferences(objects: &[NodePreference]) -> Result<Vec<Preference>, String> {
    let one = |object: &NodePreference| {
        Ok(Preference {
            weight: object.weight,
            nodes: selector(&object.preference)?,
        })
    };
    objects.iter().map(one).collect()
}

/// A label selector.
///
/// # Errors
/// A sentence that quotes what cannot be read.
pub fn selector(object: &LabelSelector) -> Result<Selector, String> {
    let mut requirements: Vec<Requirement> = object
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()]))
        .collect();
    for expression in object.match_expressions.iter().flatten() {
        let key = expression.key.clone();
        let values = expression.values.clone().unwrap_or_default();
        let requirement = match (expression.operator.as_str(), values.is_empty()) {
            ("In", false) => Requirement::In(key, values),
            ("NotIn", false) => Requirement::NotIn(key, values),
            ("Exists", true) => Requirement::Exists(key),
            ("DoesNotExist", true) => Requirement::DoesNotExist(key),
            ("In" | "NotIn", true) => {
                return Err(format!(
                    "operator {} of {key:?} needs values",
                    expression.operator
                ));
            }
            ("Exists" | "DoesNotExist", false) => {
                return Err(format!(
                    "operator {} of {key:?} takes no values",
                    expression.operator
                ));
            }
            (other, _) => return Err(format!("operator {other:?} of {key:?} is unknown")),
        };
        requirements.push(requirement);
    }
    Ok(Selector(requirements))
}

fn created(metadata: &ObjectMeta) -> i64 {
    metadata
        .creation_timestamp
        .as_ref()
        .map_or(0, |time| time.0.as_second())
}

fn family(name: &str) -> Option<Family> {
    match name {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    }
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The API server fills in the time and checks it; an object that is older than its rules is taken at the nearest bound.
fn affinity(spec: &core_v1::ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let client_ip = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|config| config.timeout_seconds);
    let (least, most) = (*AFFINITY_SECONDS.start(), *AFFINITY_SECONDS.end());
    Some(seconds.map_or(AFFINITY_DEFAULT, |seconds| {
        u32::try_from(seconds).unwrap_or(least).clamp(least, most)
    }))
}

fn policy(name: Option<&str>) -> TrafficPolicy {
    if name == Some("Local") {
        TrafficPolicy::Local
    } else {
        TrafficPolicy::Cluster
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// Booleans as Go reads them, since that is what the label was defined by.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
