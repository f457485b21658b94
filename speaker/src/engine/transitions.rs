//! What begins and ends to be announced at layer 2, in logs and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tracing::info;

use super::Speaker;
use crate::decide::Decision;
use crate::metrics::TransitionLabels;
use crate::status::names;

impl Speaker {
    /// Logs and counts what begins and ends to be announced.
    pub(super) fn tell_changes(&self, decision: &Decision) {
        let was: BTreeMap<IpAddr, i64> = match &self.last {
            Some(_) => self
                .held
                .iter()
                .map(|(address, hold)| (*address, hold.claim))
                .collect(),
            None => BTreeMap::new(), // what was announced before this process began is announced anew
        };
        for (address, services, interfaces) in decision.announced() {
            let claim = decision.plan.held[&address].claim;
            let services = names(services).join(", ");
            match was.get(&address) {
                None => {
                    info!(%address, services, ?interfaces, claim, "announcing");
                    self.count("announced");
                }
                Some(old) if *old != claim => {
                    info!(%address, services, claim, "announcing under a new claim");
                }
                Some(_) => {}
            }
        }
        let gone: BTreeSet<IpAddr> = was
            .into_keys()
            .filter(|address| !decision.plan.held.contains_key(address))
            .collect();
        if gone.is_empty() {
            return;
        }
        let reasons: BTreeMap<IpAddr, String> = decision
            .held_back()
            .into_iter()
            .map(|(address, _, refusal)| (address, format!("{}: {}", refusal.reason, refusal.message)))
            .collect();
        for address in gone {
            let reason = reasons
                .get(&address)
                .map_or("no Service has it any more", String::as_str);
            info!(%address, reason, "withdrawn");
            self.count("withdrawn");
        }
    }

    fn count(&self, to: &'static str) {
        self.metrics
            .transitions
            .get_or_create(&TransitionLabels { to })
            .inc();
    }
}
