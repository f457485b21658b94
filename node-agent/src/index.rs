//! What is watched, and the plan made from it.

use std::collections::BTreeSet;

use fairlead_api::convert;
use fairlead_core::config::{RawPool, Written, compile};
use fairlead_core::endpoints::Here;
use fairlead_core::forward::{Forwarding, Local, Snapshot, plan};
use fairlead_core::model::{Node, NodeName, Service, ServiceKey, Slice};
use fairlead_core::ownership::ClassPolicy;
use fairlead_runtime::watch::{Guarded, Shared, config, follow};
use fairlead_runtime::{Slices, Table, follow_services};
use k8s_openapi::api::core::v1 as core_v1;
use kube::{Api, Client};
use tokio::task::JoinSet;

use crate::surroundings::{Surroundings, Wishes};

/// The objects that the node agent follows.
#[derive(Debug)]
pub struct Index {
    /// All Services.
    pub services: Table<Service>,
    /// All EndpointSlices.
    pub slices: Slices,
    /// All Nodes: this one is all that matters.
    pub nodes: Table<Node>,
    /// All AddressPools.
    pub pools: Table<RawPool>,
    /// What the node is by itself; `None` until it has been read once.
    pub surroundings: Option<Surroundings>,
    /// What is asked for, that the surroundings matter for.
    wishes: Wishes,
    /// More than endpoints changed since the last whole plan.
    stale: bool,
}

/// What has to be planned anew.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing, or not every kind has been listed yet.
    Nothing,
    /// Everything.
    Everything,
    /// The endpoints of these Services.
    Services(BTreeSet<ServiceKey>),
}

impl Default for Index {
    fn default() -> Self {
        Self {
            services: Table::tracked("Service"),
            slices: Slices::default(),
            nodes: Table::tracked("Node"),
            pools: Table::tracked("AddressPool"),
            surroundings: None,
            wishes: Wishes::default(),
            stale: true,
        }
    }
}

impl Index {
    /// One in which nothing has been listed.
    pub fn new(wishes: Wishes) -> Self {
        Self {
            wishes,
            ..Self::default()
        }
    }

    /// Does a whole plan have to be made?
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// What changed since the last call. Unless a `whole` plan may be made, only endpoints are told, and the rest stays
    /// to be told.
    pub fn news(&mut self, me: &NodeName, whole: bool) -> News {
        let services = self.slices.changes();
        self.stale |= !self.services.changes().is_empty()
            | !self.pools.changes().is_empty()
            | self.nodes.changes().contains(me.as_str());
        if !self.listed() {
            return News::Nothing;
        }
        if self.stale && whole {
            self.stale = false;
            News::Everything
        } else if services.is_empty() {
            News::Nothing
        } else {
            News::Services(services)
        }
    }

    /// A Service and its slices.
    pub fn service(&self, key: &ServiceKey) -> Option<(&Service, Vec<&Slice>)> {
        let service = self.services.get(&key.to_string())?;
        Some((service, self.slices.of(key)))
    }

    /// Where endpoints are looked for.
    pub fn here<'a>(&'a self, me: &'a NodeName) -> Here<'a> {
        Here {
            node: me,
            zone: self.nodes.get(me.as_str()).and_then(Node::zone),
        }
    }

    /// What is particular to the node.
    pub fn local(&self, me: &NodeName) -> Local {
        let node = self.nodes.get(me.as_str());
        match &self.surroundings {
            Some(seen) => seen.local(&self.wishes, node),
            None => Local::of(node),
        }
    }

    /// Takes in what the node is by itself. Answers whether that makes a difference.
    pub fn see(&mut self, me: &NodeName, now: Surroundings) -> bool {
        if self.surroundings.as_ref() == Some(&now) {
            return false;
        }
        let before = self.surroundings.is_some().then(|| self.local(me));
        self.surroundings = Some(now);
        let changed = before.as_ref() != Some(&self.local(me));
        self.stale |= changed;
        changed
    }

    fn listed(&self) -> bool {
        self.services.listed()
            && self.slices.table.listed()
            && self.nodes.listed()
            && self.pools.listed()
            && self.surroundings.is_some()
    }

    /// The plan for node `me`; `None` until every kind has been listed once, so that a restart never takes away what
    /// it has merely not heard of yet.
    pub fn plan(&self, me: &NodeName, class: ClassPolicy) -> Option<Forwarding> {
        if !self.listed() {
            return None;
        }
        let pools: Vec<RawPool> = self.pools.values().cloned().collect();
        let config = compile(&Written::new(&pools, &[])).config;
        let services: Vec<&Service> = self.services.values().collect();
        let slices: Vec<&Slice> = self.slices.table.values().collect();
        let snapshot = Snapshot {
            services: &services,
            slices: &slices,
            config: &config,
            class,
            node: self.nodes.get(me.as_str()),
            local: &self.local(me),
        };
        Some(plan(&snapshot, me))
    }
}

/// Starts one watch for each kind.
pub fn follow_all(client: &Client, shared: &Shared<Index>, tasks: &mut JoinSet<()>) {
    follow_services(
        client,
        shared,
        tasks,
        |index| &mut index.services,
        |index| &mut index.slices.table,
        |index| &mut index.pools,
    );
    tasks.spawn(follow(
        Api::<Guarded<core_v1::Node>>::all(client.clone()),
        config(),
        shared.clone(),
        |index| &mut index.nodes,
        convert::node,
    ));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use fairlead_core::forward::pods::Link;

    fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            ..Link::default()
        }
    }

    #[test]
    fn links_of_pods_cause_no_plan() {
        let me = NodeName::from("n1");
        let mut index = Index::default();
        index.services.reset(BTreeMap::new());
        index.slices.table.reset(BTreeMap::new());
        index.pools.reset(BTreeMap::new());
        let node = fairlead_core::testing::node("n1", "192.0.2.11");
        index.nodes.reset(BTreeMap::from([("n1".to_owned(), node)]));
        assert_eq!(index.news(&me, true), News::Nothing);
        let mut seen = Surroundings {
            links: vec![link(2, "eth0", None)],
            routes: vec![],
        };
        assert!(index.see(&me, seen.clone()));
        assert_eq!(index.news(&me, true), News::Everything);
        seen.links.push(link(3, "cali1", Some("veth")));
        assert!(!index.see(&me, seen.clone()));
        assert_eq!(index.news(&me, true), News::Nothing);
        seen.links.push(link(4, "eth1", None));
        assert!(index.see(&me, seen.clone()));
        assert!(!index.see(&me, seen));
        assert_eq!(index.news(&me, true), News::Everything);
        assert_eq!(index.news(&me, true), News::Nothing);
    }

    #[test]
    fn nothing_is_planned_before_every_kind_has_been_listed() {
        let me = NodeName::from("n1");
        let class = ClassPolicy {
            serve_classless: true,
            metallb: false,
        };
        let mut index = Index::default();
        assert_eq!(index.plan(&me, class), None);
        index.services.reset(BTreeMap::new());
        index.slices.table.reset(BTreeMap::new());
        index.nodes.reset(BTreeMap::new());
        assert_eq!(index.plan(&me, class), None);
        index.pools.reset(BTreeMap::new());
        assert_eq!(index.plan(&me, class), None);
        assert!(index.see(&me, Surroundings::default()));
        assert_eq!(index.plan(&me, class), Some(Forwarding::default()));
    }
}
