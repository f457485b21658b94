//! What has to change in the metadata and spec of a Service: external IPs with their record, and the finalizer.

use std::net::IpAddr;
use std::sync::Arc;

use fairlead_api::annotations::{EXTERNAL_RECORD, parse_external, render_external};
use fairlead_core::ipam::{Decision, External, Outcome};
use fairlead_core::model::{ExternalRecord, Service};
use fairlead_core::reason::Reason;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::change::{Change, Notice, Part, finalizers, listed};
use crate::index::ServiceEntry;

/// The finalizer that cloud providers use, and which the API's own tests look for.
pub const CLOUD_FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// What has to change before the status may: external IPs and their record, which change together, or the finalizer.
pub fn main_change(entry: &ServiceEntry, decision: &Decision, finalizer: bool, now: &Time) -> Option<Change> {
    if let Some(external) = &decision.external
        && let Some(change) = external_change(entry, external, now)
    {
        return Some(change);
    }
    let given = matches!(decision.ingress, Some(Outcome::Assigned { .. }));
    let left_alone = matches!(decision.ingress, Some(Outcome::LeftAlone(_)));
    let wanted = match (finalizer, given && !entry.service.deleting) {
        (true, true) => true,
        // What carries no condition of ours was never served by us: its finalizer is another's.
        (true, false) if entry.carries_ours() => false,
        // From a time when it was wanted: it must not hold up the deletion of a Service that we serve.
        (false, false) if entry.service.assigned.is_some() && !left_alone => false,
        _ => return None,
    };
    let list = finalizers(&entry.meta, CLOUD_FINALIZER, wanted)?;
    Some(Change {
        part: Part::Main,
        patch: json!({ "metadata": { "resourceVersion": entry.meta.resource_version, "finalizers": list } }),
        notices: vec![],
        after: None,
    })
}

fn external_change(entry: &ServiceEntry, external: &External, now: &Time) -> Option<Change> {
    let service = &entry.service;
    let before: &[_] = service.external.as_ref().map_or(&[], |record| &record.addresses);
    let since = match &service.external {
        Some(record) if record.addresses == external.addresses => record.since,
        _ => now.0.as_second(),
    };
    let record = (!external.addresses.is_empty()).then(|| ExternalRecord {
        addresses: external.addresses.clone(),
        since,
    });
    let wanted = |address: IpAddr| external.addresses.iter().any(|wanted| wanted.address == address);
    // Of what stands there, only what we wrote ourselves and is no longer wanted goes.
    let ours = |address: IpAddr| before.iter().any(|ours| ours.address == address && !ours.adopted);
    let mut list: Vec<String> = Vec::new();
    let mut standing: Vec<IpAddr> = Vec::new();
    for text in &entry.external_ips {
        match text.parse::<IpAddr>() {
            Ok(address) if ours(address) && !wanted(address) => {}
            Ok(address) => {
                standing.push(address);
                list.push(text.clone());
            }
            Err(_) => list.push(text.clone()),
        }
    }
    for wanted in &external.addresses {
        if !standing.contains(&wanted.address) {
            standing.push(wanted.address);
            list.push(wanted.address.to_string());
        }
    }
    let text = record.as_ref().map(render_external);
    // An unreadable record counts for nothing and is taken away.
    let written = entry.external_record.as_deref();
    let same_record = written.map(|text| parse_external(text).map(|record| record.addresses))
        == record.as_ref().map(|record| Some(record.addresses.clone()));
    if list == entry.external_ips && same_record {
        return None;
    }
    let ips = if list.is_empty() { Value::Null } else { json!(list) };
    let notice = match &record {
        Some(record) => {
            let addresses = listed(record.addresses.iter().map(|external| external.address));
            Notice::normal("Assign", Reason::Assigned, format!("external IPs {addresses}"))
        }
        None => {
            let addresses = listed(before.iter().map(|external| external.address));
            Notice::normal(
                "Assign",
                Reason::Released,
                format!("no longer external IPs: {addresses}"),
            )
        }
    };
    Some(Change {
        part: Part::Main,
        patch: json!({
            "metadata": {
                "resourceVersion": entry.meta.resource_version,
                "annotations": { EXTERNAL_RECORD: text },
            },
            "spec": { "externalIPs": ips },
        }),
        notices: vec![notice],
        after: Some(Arc::new(Service {
            external_ips: standing,
            external: record,
            ..Service::clone(service)
        })),
    })
}
