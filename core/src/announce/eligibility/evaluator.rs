//! Evaluates all addresses, and looks again only at those for which something has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::offers::Offers;
use super::routes::Routes;
use super::{DataPath, Evaluation, Interface, ProbeTarget, Verdict, View, evaluate};
use crate::config::Config;
use crate::delta::delta;
use crate::model::{Node, ServiceKey};
use crate::ownership::Owner;

/// What the filters found about each owned address. Shared, since most of it stays from one decision to the next.
pub type Evaluations = BTreeMap<IpAddr, Arc<Evaluation>>;

/// Applies the filters for one node, whose name and families never change.
#[derive(Debug, Default)]
pub struct Evaluator {
    before: Option<Before>,
}

/// What the last evaluations were made from.
#[derive(Debug)]
struct Before {
    node: Option<Node>,
    config: Config,
    interfaces: BTreeMap<String, Interface>,
    leaving: bool,
    data_path: BTreeMap<IpAddr, DataPath>,
    verdicts: BTreeMap<ProbeTarget, Verdict>,
    evaluations: Evaluations,
}

/// What is not as it was before.
struct Changes<'a> {
    services: &'a BTreeSet<ServiceKey>,
    data_path: BTreeSet<&'a IpAddr>,
    verdicts: BTreeSet<&'a ProbeTarget>,
}

impl Evaluator {
    /// Applies the filters to every owned address. `changed` are the Services that changed since the last call, themselves
    /// or in their EndpointSlices; everything else in `view` is compared with what it was then.
    pub fn evaluate(&mut self, view: &View, changed: &BTreeSet<ServiceKey>) -> Evaluations {
        let before = self.before.take().filter(|before| before.concerns(view));
        let before = self
            .before
            .insert(before.unwrap_or_else(|| Before::nothing(view)));
        before.renew(view, changed);
        before.evaluations.clone()
    }
}

impl Before {
    /// No address has been looked at.
    fn nothing(view: &View) -> Self {
        Self {
            node: view.node.cloned(),
            config: view.config.clone(),
            interfaces: view.interfaces.clone(),
            leaving: view.leaving,
            data_path: view.data_path.clone(),
            verdicts: view.verdicts.clone(),
            evaluations: Evaluations::new(),
        }
    }

    /// Is all that concerns every address as it was?
    fn concerns(&self, view: &View) -> bool {
        self.node.as_ref() == view.node
            && self.config == *view.config
            && self.interfaces == *view.interfaces
            && self.leaving == view.leaving
    }

    fn renew(&mut self, view: &View, services: &BTreeSet<ServiceKey>) {
        let ways = (&Offers::new(view), &Routes::new(view));
        let changes = Changes {
            services,
            data_path: delta(&self.data_path, view.data_path).keys().collect(),
            verdicts: delta(&self.verdicts, view.verdicts).keys().collect(),
        };
        // Both in the order of the addresses.
        let mut all = self.evaluations.iter().peekable();
        let evaluation = |(&address, owner): (&IpAddr, &Owner)| {
            while all.next_if(|(other, _)| **other < address).is_some() {}
            let known = all.next_if(|(other, _)| **other == address);
            let stands = known
                .map(|(_, known)| known)
                .filter(|known| changes.spare(address, owner, known));
            let evaluation = stands.map_or_else(|| evaluate(view, ways, address, owner).into(), Arc::clone);
            (address, evaluation)
        };
        let evaluations = view.ownership.owners.iter().map(evaluation).collect();
        let (paths, verdicts) = (!changes.data_path.is_empty(), !changes.verdicts.is_empty());
        self.evaluations = evaluations;
        if paths {
            self.data_path.clone_from(view.data_path);
        }
        if verdicts {
            self.verdicts.clone_from(view.verdicts);
        }
    }
}

impl Changes<'_> {
    /// Does what is known of an address still hold?
    fn spare(&self, address: IpAddr, owner: &Owner, known: &Evaluation) -> bool {
        let services = owner.services.iter().map(|(service, _)| &service.key);
        services.eq(&known.services)
            && !known.services.iter().any(|key| self.services.contains(key))
            && !self.data_path.contains(&address)
            && !known.probes.iter().any(|probe| self.verdicts.contains(probe))
    }
}
