//! The difference between what a Service's status says and what it should say. Pure functions.

use std::net::IpAddr;
use std::sync::Arc;

use fairlead_api::conditions::{self, ANNOUNCED, ASSIGNED, REMARK, condition, render_assigned};
use fairlead_core::ipam::{Decision, External, Outcome};
use fairlead_core::model::{AssignedRecord, Service};
use fairlead_core::reason::{Reason, Refusal};
use k8s_openapi::api::core::v1::LoadBalancerIngress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Map, Value, json};

use crate::announced::{ANNOUNCED_BY, ANNOUNCED_OVER_BGP, Announcement, BESIDES};
use crate::change::{Change, Notice, Part, listed, status_patch};
use crate::index::ServiceEntry;

/// What has to change in the status of a Service. A decision without anything in it stands for a Service that is not
/// ours: then only what the controller itself put there is taken back. `announcement` is what `Announced` should say;
/// `None` leaves the condition as it is for now.
pub fn service_change(
    entry: &ServiceEntry,
    decision: &Decision,
    announcement: Option<&Announcement>,
    now: &Time,
) -> Option<Change> {
    if *decision == Decision::default() && !entry.carries_ours() {
        return None;
    }
    let mut status = Status {
        entry,
        list: entry.conditions.clone(),
        notices: Vec::new(),
        now,
    };
    let (ingress, record) = status.ingress(decision);
    status.announced(decision, announcement);
    let Status { list, notices, .. } = status;

    let mut fields = Map::new();
    if !same_ingress(&entry.ingress, &ingress) {
        let value = if ingress.is_empty() {
            Value::Null
        } else {
            json!(ingress)
        };
        fields.insert("loadBalancer".to_owned(), json!({ "ingress": value }));
    }
    if list != entry.conditions {
        fields.insert("conditions".to_owned(), json!(list));
    }
    if fields.is_empty() {
        return None;
    }
    let addresses = ingress
        .iter()
        .filter_map(|entry| entry.ip.as_deref()?.parse().ok());
    let keeps_foreign = matches!(decision.ingress, Some(Outcome::LeftAlone(_)) | None);
    Some(Change {
        part: Part::Status,
        patch: status_patch(&entry.meta, Value::Object(fields)),
        notices,
        after: Some(Arc::new(Service {
            ingress: addresses.collect(),
            foreign_ingress: entry.service.foreign_ingress && keeps_foreign,
            assigned: record,
            ..Service::clone(&entry.service)
        })),
    })
}

/// A status that is being put together.
struct Status<'a> {
    entry: &'a ServiceEntry,
    list: Vec<Condition>,
    notices: Vec<Notice>,
    now: &'a Time,
}

impl Status<'_> {
    /// Sets `Assigned`; answers with the ingress and the record that goes with it.
    fn ingress(&mut self, decision: &Decision) -> (Vec<LoadBalancerIngress>, Option<AssignedRecord>) {
        let entry = self.entry;
        match (&decision.ingress, &decision.external) {
            (
                Some(Outcome::Assigned {
                    addresses,
                    note,
                    lost,
                }),
                external,
            ) => {
                self.assigned(addresses, note.as_ref(), lost.as_ref(), external.as_ref());
                let condition = find(&self.list, ASSIGNED);
                let since = condition.map_or(0, |condition| condition.last_transition_time.0.as_second());
                let record = AssignedRecord {
                    addresses: addresses.clone(),
                    since,
                };
                let ingress = addresses.iter().map(|(address, _)| vip(*address)).collect();
                (ingress, Some(record))
            }
            (Some(Outcome::Refused(refusal)), _) => {
                self.refused(refusal);
                (vec![], None)
            }
            (Some(Outcome::LeftAlone(refusal)), _) => {
                self.refused(refusal);
                (entry.ingress.clone(), None)
            }
            (None, Some(external)) => {
                self.external(external);
                (without_recorded(entry), None)
            }
            (None, None) => {
                self.list.retain(|condition| condition.type_ != ASSIGNED);
                (without_recorded(entry), None)
            }
        }
    }

    fn assigned(
        &mut self,
        addresses: &[(IpAddr, String)],
        note: Option<&Refusal>,
        lost: Option<&Refusal>,
        external: Option<&External>,
    ) {
        let record = self.entry.service.assigned.as_ref();
        let same = record.is_some_and(|record| same_addresses(record, addresses));
        let message = render_assigned(addresses);
        if !same {
            let (reason, was) = match record.filter(|record| !record.addresses.is_empty()) {
                Some(record) => {
                    let was = listed(record.addresses.iter().map(|(address, _)| *address));
                    (Reason::Reassigned, format!(" (was {was})"))
                }
                None => (Reason::Assigned, String::new()),
            };
            if let Some(lost) = lost {
                self.notices.push(Notice::warning("Assign", lost));
            }
            self.notices.push(Notice::normal(
                "Assign",
                reason,
                format!("assigned {message}{was}"),
            ));
            // The transition time of this condition is the age of the record, by which two holders of one address
            // are told apart: another address is another record, so the time starts anew.
            if let Some(old) = self.list.iter_mut().find(|condition| condition.type_ == ASSIGNED) {
                old.status.clear();
            }
        }
        let unread = unread_ranges(&self.entry.service);
        let note = note
            .or(external.and_then(|external| external.note.as_ref()))
            .or(unread.as_ref());
        let reason = note.map_or(Reason::Assigned, |note| note.reason);
        let remark = note
            .map(|note| note.message.clone())
            .or_else(|| external.and_then(external_text));
        let message = match remark {
            Some(remark) => format!("{message}{REMARK}{remark}"),
            None => message,
        };
        self.warn_once(note, reason, &message);
        self.set(ASSIGNED, true, &Refusal::new(reason, message));
    }

    /// A Service whose only addresses of ours are external IPs.
    fn external(&mut self, external: &External) {
        let reason = external
            .note
            .as_ref()
            .map_or(Reason::Assigned, |note| note.reason);
        match (external_text(external), &external.note) {
            (Some(text), note) => {
                let message = match note {
                    Some(note) => format!("{text}{REMARK}{}", note.message),
                    None => text,
                };
                self.warn_once(note.as_ref(), reason, &message);
                self.set(ASSIGNED, true, &Refusal::new(reason, message));
            }
            (None, Some(note)) => self.refused(note),
            (None, None) => self.list.retain(|condition| condition.type_ != ASSIGNED),
        }
    }

    fn refused(&mut self, refusal: &Refusal) {
        let said = self
            .entry
            .condition(ASSIGNED)
            .filter(|condition| condition.status == "False");
        if !says(said, refusal) {
            self.notices.push(Notice::warning("Assign", refusal));
        }
        self.set(ASSIGNED, false, refusal);
    }

    fn announced(&mut self, decision: &Decision, announcement: Option<&Announcement>) {
        let external = decision.external.as_ref();
        let has_external = external.is_some_and(|external| !external.addresses.is_empty());
        match &decision.ingress {
            Some(Outcome::Assigned { .. }) => {}
            _ if has_external => {}
            Some(Outcome::Refused(_)) => {
                let verdict = Refusal::new(Reason::NotAssigned, "the Service has no address");
                return self.set(ANNOUNCED, false, &verdict);
            }
            Some(Outcome::LeftAlone(_)) | None => {
                return self.list.retain(|condition| condition.type_ != ANNOUNCED);
            }
        }
        let Some(announcement) = announcement else { return };
        let verdict = announcement.verdict();
        let by = matches!(announcement, Announcement::By(..));
        let before = self
            .entry
            .condition(ANNOUNCED)
            .filter(|condition| condition.status == "True");
        if by {
            // Who announces, and what else there is to say, are told by events of their own.
            let was = before.map_or("", |condition| condition.message.as_str());
            let (now_by, was_by) = (owner(&verdict.message), owner(was));
            // Over BGP nodes come and go; none of them takes the address from another.
            let both_bgp = [now_by, was_by]
                .iter()
                .all(|by| by.starts_with(ANNOUNCED_OVER_BGP));
            if now_by != was_by && !both_bgp {
                self.notices.push(match was_by.strip_prefix(ANNOUNCED_BY) {
                    Some(was) if now_by.starts_with(ANNOUNCED_BY) => {
                        Notice::normal("Announce", Reason::OwnerChanged, format!("{now_by} (was {was})"))
                    }
                    _ => Notice::normal("Announce", Reason::Announced, now_by.to_owned()),
                });
            }
            if let Announcement::By(_, conflicts) = announcement {
                let news = conflicts
                    .iter()
                    .filter(|conflict| !was.contains(conflict.as_str()));
                let warning = |conflict: &String| {
                    Notice::warning(
                        "Announce",
                        &Refusal::new(Reason::AddressConflict, conflict.clone()),
                    )
                };
                self.notices.extend(news.map(warning));
            }
        }
        self.set(ANNOUNCED, by, &verdict);
    }

    fn set(&mut self, type_: &str, status: bool, verdict: &Refusal) {
        let generation = self.entry.meta.generation;
        let new = condition(type_, status, verdict, generation, self.now.clone());
        conditions::set(&mut self.list, new);
    }

    /// Warns of what is wrong although there are addresses, when the condition does not say so yet.
    fn warn_once(&mut self, note: Option<&Refusal>, reason: Reason, message: &str) {
        let said = self.entry.condition(ASSIGNED);
        let said = said.is_some_and(|c| c.reason == reason.as_str() && c.message == message);
        if let Some(note) = note.filter(|_| !said) {
            self.notices.push(Notice::warning("Assign", note));
        }
    }
}

/// What to say of source ranges that cannot be read; nothing if there are none.
fn unread_ranges(service: &Service) -> Option<Refusal> {
    let quoted = |text: &String| format!("{:?}", text.chars().take(80).collect::<String>());
    let texts: Vec<String> = service.unread_ranges.iter().take(3).map(quoted).collect();
    let more = match service.unread_ranges.len().saturating_sub(texts.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!texts.is_empty()).then(|| {
        let message = format!(
            "of loadBalancerSourceRanges, {}{more} cannot be read and admits nobody",
            texts.join(", ")
        );
        Refusal::new(Reason::InvalidField, message)
    })
}

/// `external IPs 192.0.2.9 from pool blue`; nothing if there are none. Its beginning keeps it from being read as the
/// record of load balancer addresses.
fn external_text(external: &External) -> Option<String> {
    let addresses: Vec<(IpAddr, String)> = external
        .addresses
        .iter()
        .map(|external| (external.address, external.pool.clone()))
        .collect();
    (!addresses.is_empty()).then(|| format!("external IPs {}", render_assigned(&addresses)))
}

fn says(condition: Option<&Condition>, refusal: &Refusal) -> bool {
    condition.is_some_and(|c| c.reason == refusal.reason.as_str() && c.message == refusal.message)
}

/// The part of the message of a true `Announced` condition that says who announces.
fn owner(message: &str) -> &str {
    message.split_once(BESIDES).map_or(message, |(owner, _)| owner)
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
        address.is_some_and(|address| entry.service.records(address))
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
