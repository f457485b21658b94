//! The difference between what an object's status says and what it should say, as a merge patch with a
//! `resourceVersion` precondition, and the events that go with it. Pure functions.
//!
//! A merge patch replaces lists as a whole. That is what `ingress` needs, since the address and its record must change
//! together; conditions of others are carried over, and the precondition makes sure that none is lost.

use std::net::IpAddr;

use fairlead_api::conditions::{self, ANNOUNCED, ASSIGNED, REMARK, condition, render_assigned};
use fairlead_api::pool::PoolUsage;
use fairlead_core::ipam::{Outcome, PoolCount};
use fairlead_core::model::{AssignedRecord, Service};
use fairlead_core::reason::{Reason, Refusal};
use k8s_openapi::api::core::v1::LoadBalancerIngress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Map, Value, json};

use crate::announced::{ANNOUNCED_BY, Announcement};
use crate::index::{AdvertisementEntry, Meta, PoolEntry, ServiceEntry};

/// What the status of a Service of ours should say.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted<'a> {
    /// Its addresses, or why it has none.
    pub outcome: &'a Outcome,
    /// What `Announced` should say; `None` leaves the condition as it is for now. Without meaning unless addresses
    /// are assigned.
    pub announcement: Option<&'a Announcement>,
}

/// A change of a status.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Merge patch for the status subresource.
    pub patch: Value,
    /// Events to publish once the patch has been accepted.
    pub notices: Vec<Notice>,
    /// For a Service: what it will look like.
    pub after: Option<Service>,
}

/// An event to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notice {
    /// Something is wrong.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// What was being done: `Assign`, `Announce` or `Configure`.
    pub action: &'static str,
    /// One sentence.
    pub note: String,
}

impl Notice {
    /// A warning.
    pub fn warning(action: &'static str, refusal: &Refusal) -> Self {
        Self {
            warning: true,
            reason: refusal.reason.as_str().to_owned(),
            action,
            note: refusal.message.clone(),
        }
    }

    fn normal(action: &'static str, reason: &str, note: String) -> Self {
        Self {
            warning: false,
            reason: reason.to_owned(),
            action,
            note,
        }
    }
}

/// What has to change in the status of a Service. `wanted` is `None` for a Service that is not ours: then only what
/// the controller itself put there is taken back.
pub fn service_change(entry: &ServiceEntry, wanted: Option<&Wanted<'_>>, now: &Time) -> Option<Change> {
    if wanted.is_none() && !entry.carries_ours() {
        return None;
    }
    let record = entry.service.assigned.as_ref();
    let mut list = entry.conditions.clone();
    let mut notices = Vec::new();
    let (ingress, after) = match wanted.map(|wanted| wanted.outcome) {
        Some(Outcome::Assigned { addresses, note }) => {
            let same = record.is_some_and(|record| same_addresses(record, addresses));
            let message = render_assigned(addresses);
            if !same {
                notices.push(Notice::normal(
                    "Assign",
                    "Assigned",
                    format!("assigned {message}"),
                ));
                // The transition time of this condition is the age of the record, by which two holders of one
                // address are told apart: another address is another record, so the time starts anew.
                if let Some(old) = list.iter_mut().find(|condition| condition.type_ == ASSIGNED) {
                    old.status.clear();
                }
            }
            let reason = note.as_ref().map_or(Reason::Assigned, |note| note.reason);
            let message = note.as_ref().map_or(message.clone(), |note| {
                format!("{message}{REMARK}{}", note.message)
            });
            let said = entry
                .condition(ASSIGNED)
                .map(|c| (c.reason.as_str(), c.message.as_str()));
            if let Some(note) = note
                .as_ref()
                .filter(|_| said != Some((reason.as_str(), &message)))
            {
                notices.push(Notice::warning("Assign", note));
            }
            let verdict = Refusal::new(reason, message);
            conditions::set(
                &mut list,
                condition(ASSIGNED, true, &verdict, entry.meta.generation, now.clone()),
            );
            let since =
                find(&list, ASSIGNED).map_or(0, |condition| condition.last_transition_time.0.as_second());
            let record = AssignedRecord {
                addresses: addresses.clone(),
                since,
            };
            let ingress = addresses.iter().map(|(address, _)| vip(*address)).collect();
            (ingress, Some(record))
        }
        Some(Outcome::Refused(refusal)) => {
            refuse(entry, &mut list, refusal, &mut notices, now);
            (vec![], None)
        }
        Some(Outcome::LeftAlone(refusal)) => {
            refuse(entry, &mut list, refusal, &mut notices, now);
            (entry.ingress.clone(), None)
        }
        None => {
            list.retain(|condition| condition.type_ != ASSIGNED);
            (without_recorded(entry), None)
        }
    };
    match wanted {
        Some(Wanted {
            outcome: Outcome::Assigned { .. },
            announcement,
        }) => {
            if let Some(announcement) = announcement {
                announce(entry, &mut list, announcement, &mut notices, now);
            }
        }
        Some(Wanted {
            outcome: Outcome::Refused(_),
            ..
        }) => {
            let verdict = Refusal::new(Reason::NotAssigned, "the Service has no address");
            conditions::set(
                &mut list,
                condition(ANNOUNCED, false, &verdict, entry.meta.generation, now.clone()),
            );
        }
        Some(_) | None => list.retain(|condition| condition.type_ != ANNOUNCED),
    }

    let mut status = Map::new();
    if !same_ingress(&entry.ingress, &ingress) {
        let value = if ingress.is_empty() {
            Value::Null
        } else {
            json!(ingress)
        };
        status.insert("loadBalancer".to_owned(), json!({ "ingress": value }));
    }
    if list != entry.conditions {
        status.insert("conditions".to_owned(), json!(list));
    }
    if status.is_empty() {
        return None;
    }
    let addresses = ingress
        .iter()
        .filter_map(|entry| entry.ip.as_deref()?.parse().ok());
    Some(Change {
        patch: patch(&entry.meta, Value::Object(status)),
        notices,
        after: Some(Service {
            ingress: addresses.collect(),
            foreign_ingress: entry.service.foreign_ingress
                && matches!(wanted.map(|w| w.outcome), Some(Outcome::LeftAlone(_)) | None),
            assigned: after,
            ..entry.service.clone()
        }),
    })
}

/// What has to change in the status of a pool.
pub fn pool_change(entry: &PoolEntry, verdict: &Refusal, count: PoolCount, now: &Time) -> Option<Change> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let usage = PoolUsage {
        total: number(count.assigned.saturating_add(count.available)),
        assigned: number(count.assigned),
        available: number(count.available),
        usage: format!(
            "{}/{}",
            count.assigned,
            count.assigned.saturating_add(count.available)
        ),
    };
    let counts = json!({ "ipv4": usage });
    let same = entry.status.ipv4.as_ref() == Some(&usage);
    accepted_change(
        &entry.meta,
        &entry.status.conditions,
        verdict,
        (counts, same),
        now,
    )
}

/// What has to change in the status of an advertisement.
pub fn advertisement_change(entry: &AdvertisementEntry, verdict: &Refusal, now: &Time) -> Option<Change> {
    accepted_change(&entry.meta, &entry.conditions, verdict, (json!({}), true), now)
}

/// `status` is what else the status should say, and whether it says so already.
fn accepted_change(
    meta: &Meta,
    written: &[Condition],
    verdict: &Refusal,
    (mut status, same): (Value, bool),
    now: &Time,
) -> Option<Change> {
    let mut list = written.to_vec();
    let mut notices = Vec::new();
    let accepted = verdict.reason == Reason::Accepted;
    let new = condition(
        conditions::ACCEPTED,
        accepted,
        verdict,
        meta.generation,
        now.clone(),
    );
    if !accepted && !says(find(written, conditions::ACCEPTED), verdict) {
        notices.push(Notice::warning("Configure", verdict));
    }
    let changed = conditions::set(&mut list, new);
    if changed {
        status["conditions"] = json!(list);
    }
    (changed || !same).then(|| Change {
        patch: patch(meta, status),
        notices,
        after: None,
    })
}

fn patch(meta: &Meta, status: Value) -> Value {
    json!({ "metadata": { "resourceVersion": meta.resource_version }, "status": status })
}

fn refuse(
    entry: &ServiceEntry,
    list: &mut Vec<Condition>,
    refusal: &Refusal,
    notices: &mut Vec<Notice>,
    now: &Time,
) {
    if !says(
        entry
            .condition(ASSIGNED)
            .filter(|condition| condition.status == "False"),
        refusal,
    ) {
        notices.push(Notice::warning("Assign", refusal));
    }
    conditions::set(
        list,
        condition(ASSIGNED, false, refusal, entry.meta.generation, now.clone()),
    );
}

fn announce(
    entry: &ServiceEntry,
    list: &mut Vec<Condition>,
    announcement: &Announcement,
    notices: &mut Vec<Notice>,
    now: &Time,
) {
    let verdict = announcement.verdict();
    let by = matches!(announcement, Announcement::By(_));
    let before = entry
        .condition(ANNOUNCED)
        .filter(|condition| condition.status == "True");
    if by && !says(before, &verdict) {
        let was = before.and_then(|condition| condition.message.strip_prefix(ANNOUNCED_BY));
        notices.push(match was {
            Some(was) => Notice::normal(
                "Announce",
                "OwnerChanged",
                format!("{} (was {was})", verdict.message),
            ),
            None => Notice::normal("Announce", "Announced", verdict.message.clone()),
        });
    }
    conditions::set(
        list,
        condition(ANNOUNCED, by, &verdict, entry.meta.generation, now.clone()),
    );
}

fn says(condition: Option<&Condition>, refusal: &Refusal) -> bool {
    condition.is_some_and(|c| c.reason == refusal.reason.as_str() && c.message == refusal.message)
}

fn find<'a>(list: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    list.iter().find(|condition| condition.type_ == type_)
}

fn same_addresses(record: &AssignedRecord, addresses: &[(IpAddr, String)]) -> bool {
    record
        .addresses
        .iter()
        .map(|(address, _)| address)
        .eq(addresses.iter().map(|(address, _)| address))
}

fn vip(address: IpAddr) -> LoadBalancerIngress {
    LoadBalancerIngress {
        ip: Some(address.to_string()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    }
}

/// The ingress without what the controller recorded as its own.
fn without_recorded(entry: &ServiceEntry) -> Vec<LoadBalancerIngress> {
    let ours = |ingress: &&LoadBalancerIngress| {
        let address: Option<IpAddr> = ingress.ip.as_deref().and_then(|ip| ip.parse().ok());
        let record = entry.service.assigned.as_ref();
        address
            .zip(record)
            .is_some_and(|(address, record)| record.names(address))
    };
    entry
        .ingress
        .iter()
        .filter(|ingress| !ours(ingress))
        .cloned()
        .collect()
}

/// Do two lists mean the same? Addresses compare by value, and an absent mode is VIP.
fn same_ingress(a: &[LoadBalancerIngress], b: &[LoadBalancerIngress]) -> bool {
    let meaning = |entry: &LoadBalancerIngress| {
        let ip = entry
            .ip
            .as_deref()
            .map(|text| text.parse::<IpAddr>().map_err(|_| text.to_owned()));
        let mode = entry.ip_mode.clone().unwrap_or_else(|| "VIP".to_owned());
        (
            ip,
            mode,
            entry.hostname.clone(),
            entry.ports.clone().unwrap_or_default(),
        )
    };
    a.iter().map(meaning).eq(b.iter().map(meaning))
}
