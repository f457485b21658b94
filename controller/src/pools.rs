//! What has to change in pools, advertisements, BGP peers and the state ConfigMap. Pure functions.

use fairlead_api::bgp_peer::BgpPeerStatus;
use fairlead_api::conditions::{self, condition};
use fairlead_api::pool::{AddressPoolStatus, PoolUsage};
use fairlead_core::config::Pool;
use fairlead_core::ipam::{PoolState, Usage};
use fairlead_core::range::IpRange;
use fairlead_core::reason::{Reason, Refusal};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Map, Value, json};

use crate::change::{Change, Notice, Part, finalizers, status_patch};
use crate::index::{Meta, POOL_CIDRS, PeerEntry, PoolEntry, StateEntry};
use crate::sessions::Count;

/// Keeps a pool that is deleted while Services have its addresses.
pub const FINALIZER: &str = "fairlead.dev/addresses-in-use";

/// More than this is shown as such.
const COUNTABLE: u64 = i64::MAX as u64;

/// What has to change in a pool: its finalizer first, then its status. `pool` is what is obeyed of it.
pub fn pool_change(
    entry: &PoolEntry,
    pool: Option<&Pool>,
    verdict: &Refusal,
    state: &PoolState,
    now: &Time,
) -> Option<Change> {
    let assigned = [state.v4, state.v6]
        .iter()
        .flatten()
        .any(|usage| usage.assigned > 0);
    let deleting = entry.raw.deleting;
    // A pool that is used gets the finalizer; only one that is deleted and not used loses it, so that between the two
    // no address is given from a pool that can vanish.
    let wanted = match (deleting, assigned) {
        (true, false) => Some(false),
        (false, _) if pool.is_some_and(|pool| !pool.ranges.is_empty()) => Some(true),
        _ => None,
    };
    if let Some(list) = wanted.and_then(|wanted| finalizers(&entry.meta, FINALIZER, wanted)) {
        let meta = json!({ "resourceVersion": entry.meta.resource_version, "finalizers": list });
        return Some(Change {
            part: Part::Main,
            patch: json!({ "metadata": meta }),
            notices: vec![],
            after: None,
        });
    }
    let verdict = told(verdict, state, deleting);
    let mut new = AddressPoolStatus {
        ipv4: state.v4.map(usage),
        ipv6: state.v6.map(usage),
        cidrs: pool.map(cidrs).unwrap_or_default(),
        retained: state.retained.iter().map(ToString::to_string).collect(),
        conditions: entry.status.conditions.clone(),
    };
    let notices = accepted(&mut new.conditions, &entry.meta, &verdict, !deleting, now);
    let mut fields = Map::new();
    let old = &entry.status;
    let mut differ = |name: &str, same: bool, value: Value| {
        if !same {
            fields.insert(name.to_owned(), value);
        }
    };
    differ("ipv4", old.ipv4 == new.ipv4, json!(new.ipv4));
    differ("ipv6", old.ipv6 == new.ipv6, json!(new.ipv6));
    differ("cidrs", old.cidrs == new.cidrs, json!(new.cidrs));
    differ("retained", old.retained == new.retained, json!(new.retained));
    differ(
        "conditions",
        old.conditions == new.conditions,
        json!(new.conditions),
    );
    (!fields.is_empty()).then(|| Change {
        part: Part::Status,
        patch: status_patch(&entry.meta, Value::Object(fields)),
        notices,
        after: None,
    })
}

/// What has to change in the status of an advertisement with these conditions, of whatever kind.
pub fn advertisement_change(
    meta: &Meta,
    conditions: &[Condition],
    verdict: &Refusal,
    now: &Time,
) -> Option<Change> {
    let mut list = conditions.to_vec();
    let notices = accepted(&mut list, meta, verdict, true, now);
    (list != conditions).then(|| Change {
        part: Part::Status,
        patch: status_patch(meta, json!({ "conditions": list })),
        notices,
        after: None,
    })
}

/// What has to change in the status of a BGP peer.
pub fn peer_change(entry: &PeerEntry, verdict: &Refusal, count: Count, now: &Time) -> Option<Change> {
    let mut new = BgpPeerStatus {
        sessions_established: count.established,
        sessions_total: count.total,
        sessions: format!("{}/{}", count.established, count.total),
        conditions: entry.status.conditions.clone(),
    };
    let notices = accepted(&mut new.conditions, &entry.meta, verdict, true, now);
    (new != entry.status).then(|| Change {
        part: Part::Status,
        patch: status_patch(&entry.meta, json!(new)),
        notices,
        after: None,
    })
}

/// What has to change in the state ConfigMap: the addresses of all pools, for the admission policies.
pub fn state_change<'a>(entry: &StateEntry, pools: impl Iterator<Item = &'a Pool>) -> Option<Change> {
    let all: Vec<String> = pools.flat_map(cidrs).collect();
    let text = all.join(",");
    (entry.pool_cidrs.as_ref() != Some(&text)).then(|| Change {
        part: Part::Main,
        patch: json!({
            "metadata": { "resourceVersion": entry.meta.resource_version },
            "data": { POOL_CIDRS: text },
        }),
        notices: vec![],
        after: None,
    })
}

/// The verdict with what only the ledger knows: who still has addresses that left the pool.
fn told(verdict: &Refusal, state: &PoolState, deleting: bool) -> Refusal {
    if state.retained.is_empty() {
        return verdict.clone();
    }
    let named: Vec<String> = state.holders.iter().map(ToString::to_string).collect();
    let (count, names) = (state.retained.len(), named.join(", "));
    if deleting {
        let message = format!("being deleted; {count} address(es) are still in use, by {names}");
        return Refusal::new(Reason::InUse, message);
    }
    let message = format!(
        "{}; {count} address(es) left the pool and are still in use, by {names}",
        verdict.message
    );
    let reason = if verdict.reason == Reason::Accepted {
        Reason::InUse
    } else {
        verdict.reason
    };
    Refusal::new(reason, message)
}

/// Sets the condition `Accepted`; answers with the events.
fn accepted(
    list: &mut Vec<Condition>,
    meta: &Meta,
    verdict: &Refusal,
    may_be_true: bool,
    now: &Time,
) -> Vec<Notice> {
    let obeyed = [
        Reason::Accepted,
        Reason::InUse,
        Reason::GracefulRestartIneffective,
        Reason::PeerDisabled,
    ];
    let accepted = may_be_true && obeyed.contains(&verdict.reason);
    let wished = [Reason::Accepted, Reason::PeerDisabled].contains(&verdict.reason);
    let said = list
        .iter()
        .find(|condition| condition.type_ == conditions::ACCEPTED)
        .is_some_and(|c| c.reason == verdict.reason.as_str() && c.message == verdict.message);
    let new = condition(
        conditions::ACCEPTED,
        accepted,
        verdict,
        meta.generation,
        now.clone(),
    );
    conditions::set(list, new);
    if wished || said {
        vec![]
    } else {
        vec![Notice::warning("Configure", verdict)]
    }
}

/// The addresses of the spec as CIDRs.
fn cidrs(pool: &Pool) -> Vec<String> {
    let nets = pool.ranges.iter().flat_map(IpRange::cidrs);
    nets.map(|net| net.to_string()).collect()
}

fn usage(usage: Usage) -> PoolUsage {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let total = match usage.total {
        COUNTABLE.. => ">2^63".to_owned(),
        total => total.to_string(),
    };
    PoolUsage {
        total: number(usage.total),
        assigned: number(usage.assigned),
        available: number(usage.available),
        usage: format!("{}/{total}", usage.assigned),
    }
}
