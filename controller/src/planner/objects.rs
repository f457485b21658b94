//! The objects that are no Services: what has to change in each.

use fairlead_core::config::ConfigObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Planner;
use crate::change::Change;
use crate::index::Index;
use crate::pools::{advertisement_change, peer_change, pool_change, state_change};
use crate::writes::Object;

impl Planner {
    /// What has to change in an object that is no Service.
    pub(super) fn other(&self, index: &Index, object: &Object, wall: &Time) -> (String, Option<Change>) {
        let Some(basis) = &self.basis else {
            return (String::new(), None);
        };
        let verdict = |object: ConfigObject| basis.compiled.verdicts.get(&object);
        let change = match object {
            Object::Service(_) => None,
            Object::Pool(name) => index.pools.get(name).and_then(|entry| {
                let verdict = verdict(ConfigObject::Pool(name.clone()))?;
                let pool = basis.compiled.config.pools.get(name);
                let change = pool_change(entry, pool, verdict, &self.ledger.pool(name), wall);
                Some((entry.meta.uid.clone(), change))
            }),
            Object::Advertisement(name) => index.advertisements.get(name).and_then(|entry| {
                let verdict = verdict(ConfigObject::Advertisement(name.clone()))?;
                let change = advertisement_change(&entry.meta, &entry.conditions, verdict, wall);
                Some((entry.meta.uid.clone(), change))
            }),
            Object::Peer(name) => index.peers.get(name).and_then(|entry| {
                let verdict = verdict(ConfigObject::Peer(name.clone()))?;
                let change = peer_change(entry, verdict, self.sessions.count(name), wall);
                Some((entry.meta.uid.clone(), change))
            }),
            Object::BgpAdvertisement(name) => index.bgp_advertisements.get(name).and_then(|entry| {
                let verdict = verdict(ConfigObject::BgpAdvertisement(name.clone()))?;
                let change = advertisement_change(&entry.meta, &entry.conditions, verdict, wall);
                Some((entry.meta.uid.clone(), change))
            }),
            Object::State => index.state.values().next().map(|entry| {
                let pools = basis.compiled.config.pools.values();
                (entry.meta.uid.clone(), state_change(entry, pools))
            }),
        };
        change.unwrap_or_default()
    }
}

/// The version of an object, if it exists.
pub(super) fn version<'a>(index: &'a Index, object: &Object) -> Option<&'a str> {
    let meta = match object {
        Object::Service(key) => &index.services.get(&key.to_string())?.meta,
        Object::Pool(name) => &index.pools.get(name)?.meta,
        Object::Advertisement(name) => &index.advertisements.get(name)?.meta,
        Object::Peer(name) => &index.peers.get(name)?.meta,
        Object::BgpAdvertisement(name) => &index.bgp_advertisements.get(name)?.meta,
        Object::State => &index.state.values().next()?.meta,
    };
    Some(&meta.resource_version)
}
