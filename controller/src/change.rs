//! A change of an object: a merge patch with a `resourceVersion` precondition, and the events that go with it.
//!
//! A merge patch replaces lists as a whole. That is what `ingress` and `externalIPs` need, since an address and its
//! record must change together; entries of others are carried over, and the precondition makes sure that none is lost.

use std::net::IpAddr;
use std::sync::Arc;

use fairlead_core::model::Service;
use fairlead_core::reason::{Reason, Refusal};
use serde_json::{Value, json};

use crate::index::Meta;

/// Which part of an object a patch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Metadata and spec.
    Main,
    /// The status subresource.
    Status,
}

/// A change of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What it is for.
    pub part: Part,
    /// Merge patch.
    pub patch: Value,
    /// Events to publish once the patch has been accepted.
    pub notices: Vec<Notice>,
    /// For a Service: what it will look like.
    pub after: Option<Arc<Service>>,
}

/// An event to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notice {
    /// Something is wrong.
    pub warning: bool,
    /// One word.
    pub reason: Reason,
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
            reason: refusal.reason,
            action,
            note: refusal.message.clone(),
        }
    }

    /// Good news.
    pub fn normal(action: &'static str, reason: Reason, note: String) -> Self {
        Self {
            warning: false,
            reason,
            action,
            note,
        }
    }
}

/// A patch of a status.
pub fn status_patch(meta: &Meta, status: Value) -> Value {
    json!({ "metadata": { "resourceVersion": meta.resource_version }, "status": status })
}

/// The finalizers with one added or taken out; `None` if nothing changes.
pub fn finalizers(meta: &Meta, name: &str, wanted: bool) -> Option<Vec<String>> {
    if meta.finalizers.iter().any(|known| known == name) == wanted {
        return None;
    }
    let mut list = meta.finalizers.clone();
    if wanted {
        list.push(name.to_owned());
    } else {
        list.retain(|known| known != name);
    }
    Some(list)
}

/// Addresses for people: `192.0.2.1, 2001:db8::1`.
pub fn listed(addresses: impl IntoIterator<Item = IpAddr>) -> String {
    let texts: Vec<String> = addresses.into_iter().map(|address| address.to_string()).collect();
    texts.join(", ")
}
