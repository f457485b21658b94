//! The hard filters, applied to this node only.
//!
//! An address that several Services share moves as one: the node must be fit for each of them that has a usable endpoint
//! anywhere, and the refusal names the Service that it is not fit for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{Config, ConflictPolicy, Health};
use crate::endpoints::Endpoints;
use crate::model::{Family, Node, NodeName, Service, ServiceKey, ServiceType, Slice, TrafficPolicy};
use crate::ownership::{Owner, Ownership};
use crate::reason::{Reason, Refusal};

mod evaluator;
mod offers;
mod routes;

pub use evaluator::{Evaluations, Evaluator};

use offers::{Offer, Offers};
use routes::Routes;

/// A network interface of this node that could carry announcements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Administratively up, with carrier.
    pub up: bool,
    /// The subnets of its addresses.
    pub subnets: Vec<IpNet>,
}

/// What the node agent's reports say about one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPath {
    /// The address is in the kernel.
    Programmed,
    /// It is not, or the agent was never heard of; with a sentence.
    NotProgrammed(String),
    /// What is in the kernel may be out of date; with a sentence.
    Stale(String),
}

/// What probing said last, thresholds applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet enough answers.
    Pending,
    /// The probe passes.
    Pass,
    /// The probe fails; with a sentence.
    Fail(String),
}

/// What has to be probed for an address. Addresses that need the same probe share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum ProbeTarget {
    /// `http://<address>:<port>/healthz`, the health-check node port of one Service.
    Service {
        /// The Service.
        service: ServiceKey,
        /// The node's InternalIP of the address' family.
        address: IpAddr,
        /// `spec.healthCheckNodePort`.
        port: u16,
    },
    /// The node's service proxy.
    Proxy {
        /// The node's InternalIP of the address' family.
        address: IpAddr,
    },
    /// The node agent's own answer for one Service of policy Local to which the API gives no healthCheckNodePort.
    Agent {
        /// The Service.
        service: ServiceKey,
        /// The family of the address.
        family: Family,
    },
}

/// A node that passed every filter for an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The interfaces to announce on; never empty.
    pub interfaces: BTreeSet<String>,
    /// The node is cordoned: it comes after those that are not.
    pub cordoned: bool,
    /// Preference for this node: that of the advertisement which prefers it most.
    pub weight: i32,
    /// After what time without a break as a candidate this node may take the address over from one that it is preferred
    /// to; `None` is never. Said by the same advertisement; where several prefer it equally, the shortest.
    pub preempt_after: Option<Duration>,
    /// What to do when another machine uses the address. One advertisement that says `Yield` is enough.
    pub conflict: ConflictPolicy,
}

/// A node that passed every filter for announcing an address by BGP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BgpCandidate {
    /// The node is cordoned: it announces as less preferred, and hands over to those that are not.
    pub cordoned: bool,
}

/// What the filters found about one address by BGP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// The BGPAdvertisements that are for the address and for this node, by name.
    pub advertisements: BTreeSet<String>,
    /// A candidate, or the first filter that refused.
    pub outcome: Result<BgpCandidate, Refusal>,
}

/// What the filters found about one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// The Services that have the address, the senior one first.
    pub services: Vec<ServiceKey>,
    /// At layer 2: a candidate, or the first filter that refused. `NoAdvertisement` if the address is for BGP alone.
    pub outcome: Result<Candidate, Refusal>,
    /// By BGP; `None` if no BGPAdvertisement is for the address.
    pub bgp: Option<Routed>,
    /// What to probe: one target for each Service, less what they have in common. Filled as soon as all filters but
    /// the probes are passed, at layer 2 or by BGP, so that a node that could become the owner is probed all the time.
    pub probes: BTreeSet<ProbeTarget>,
    /// How to probe: as the pool of the address says.
    pub health: Health,
}

/// Everything the filters look at.
pub struct View<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// Its Node object, if it exists.
    pub node: Option<&'a Node>,
    /// The checked configuration.
    pub config: &'a Config,
    /// Who owns which address.
    pub ownership: &'a Ownership<'a>,
    /// The EndpointSlices of a Service.
    pub slices: &'a dyn Fn(&ServiceKey) -> Vec<&'a Slice>,
    /// The interfaces of this node by name.
    pub interfaces: &'a BTreeMap<String, Interface>,
    /// The families that this speaker can announce.
    pub families: &'a [Family],
    /// The installation is being removed.
    pub leaving: bool,
    /// The data path, address by address; absent means not programmed.
    pub data_path: &'a BTreeMap<IpAddr, DataPath>,
    /// Probe verdicts; absent means pending.
    pub verdicts: &'a BTreeMap<ProbeTarget, Verdict>,
}

impl Evaluation {
    /// Why the address is not announced at layer 2; `None` also if it is for BGP alone.
    pub fn layer2_refusal(&self) -> Option<&Refusal> {
        let refusal = self.outcome.as_ref().err()?;
        (self.bgp.is_none() || refusal.reason != Reason::NoAdvertisement).then_some(refusal)
    }

    /// Why the address is not announced by BGP; `None` also if it is not meant to be.
    pub fn bgp_refusal(&self) -> Option<&Refusal> {
        self.bgp.as_ref()?.outcome.as_ref().err()
    }
}

/// Applies the filters to one address, in the order of the announcement reasons in [`Reason`]. Those that have to do with
/// interfaces are for layer 2 alone; all others count for both ways and are looked at once.
fn evaluate(view: &View, ways: (&Offers, &Routes), address: IpAddr, owner: &Owner) -> Evaluation {
    let mut probes = BTreeSet::new();
    let (outcome, bgp) = filter(view, ways, address, owner, &mut probes);
    let pool = view.config.pools.get(owner.pool);
    Evaluation {
        services: owner
            .services
            .iter()
            .map(|(service, _)| service.key.clone())
            .collect(),
        outcome,
        bgp,
        probes,
        health: pool.map(|pool| pool.health).unwrap_or_default(),
    }
}

fn filter(
    view: &View,
    (offers, routes): (&Offers, &Routes),
    address: IpAddr,
    owner: &Owner,
    probes: &mut BTreeSet<ProbeTarget>,
) -> (Result<Candidate, Refusal>, Option<Routed>) {
    let node = takes_part(view);
    let linked = offers.advertised(owner).and_then(|advertised| {
        node.clone()?;
        linked(view, address, owner, advertised)
    });
    let routed = routes.advertised(owner).map(|advertised| {
        let selected = routes::selecting(view, owner, &advertised);
        (advertised, node.clone().and(selected))
    });
    // Whichever way it goes out, the node must be fit to serve it: found out once, and only if there is a way.
    let way = linked.is_ok() || routed.as_ref().is_some_and(|(_, selected)| selected.is_ok());
    let fit = match node {
        Ok(node) if way => fit(view, address, owner, node, probes).map(|()| node.cordoned),
        Ok(node) => Ok(node.cordoned),
        Err(refusal) => Err(refusal),
    };
    let outcome = linked.and_then(|(interfaces, selected)| {
        let cordoned = fit.clone()?;
        let (weight, preempt_after) = offers::preference(&selected);
        Ok(Candidate {
            interfaces,
            cordoned,
            weight,
            preempt_after,
            conflict: offers::conflict(&selected),
        })
    });
    let bgp = routed.map(|(advertised, selected)| Routed {
        advertisements: routes::names(&advertised),
        outcome: selected.and(fit).map(|cordoned| BgpCandidate { cordoned }),
    });
    (outcome, bgp)
}

/// Is there anything that this node may announce at all?
fn takes_part<'a>(view: &View<'a>) -> Result<&'a Node, Refusal> {
    if view.leaving {
        return refuse(Reason::Leaving, "the installation is being removed");
    }
    match view.node {
        Some(node) => Ok(node),
        None => {
            let message = format!("there is no Node object named {}", view.me);
            refuse(Reason::NodeLeaving, message)
        }
    }
}

/// The interfaces for an address, and the advertisements that select this node.
fn linked<'a, 'o>(
    view: &View,
    address: IpAddr,
    owner: &Owner,
    advertised: Vec<&'o Offer<'a>>,
) -> Result<(BTreeSet<String>, Vec<&'o Offer<'a>>), Refusal> {
    let selected: Vec<&Offer> = advertised
        .into_iter()
        .filter(|offer| offer.selects_node)
        .collect();
    if selected.is_empty() {
        let message = format!(
            "no L2Advertisement of AddressPool {} selects node {}",
            owner.pool, view.me
        );
        return refuse(Reason::NodeNotSelected, message);
    }
    let family = Family::of(address);
    if !view.families.contains(&family) {
        let message = format!("this version does not announce {family} addresses");
        return refuse(Reason::NoInterface, message);
    }
    let interfaces = offers::interfaces(address, &selected)?;
    Ok((interfaces, selected))
}

/// Is this node fit to serve an address, whichever way it is announced?
fn fit(
    view: &View,
    address: IpAddr,
    owner: &Owner,
    node: &Node,
    probes: &mut BTreeSet<ProbeTarget>,
) -> Result<(), Refusal> {
    node_takes_part(view.me, node)?;
    let services = served(view, address, owner)?;
    programmed(view.data_path.get(&address))?;
    let mut questions = Vec::new();
    for service in services {
        questions.push((&service.key, probe_target(address, service, node)?));
    }
    probes.extend(questions.iter().map(|(_, target)| target.clone()));
    answered(view, &questions)
}

/// Refuses an address of which this is known, unless it is in the kernel.
///
/// # Errors
/// The reason.
pub fn programmed(data_path: Option<&DataPath>) -> Result<(), Refusal> {
    match data_path {
        Some(DataPath::Programmed) => Ok(()),
        Some(DataPath::Stale(message)) => refuse(Reason::DataPathStale, message.clone()),
        Some(DataPath::NotProgrammed(message)) => refuse(Reason::DataPathNotProgrammed, message.clone()),
        None => refuse(
            Reason::DataPathNotProgrammed,
            "the node agent has not reported this address",
        ),
    }
}

fn refuse<T>(reason: Reason, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(reason, message))
}

fn node_takes_part(me: &NodeName, node: &Node) -> Result<(), Refusal> {
    if node.excluded {
        let message =
            format!("node {me} is labelled node.kubernetes.io/exclude-from-external-load-balancers");
        return refuse(Reason::NodeExcluded, message);
    }
    if node.deleting {
        return refuse(Reason::NodeLeaving, format!("node {me} is being deleted"));
    }
    if node.autoscaler_taint {
        let message = format!("node {me} has the taint ToBeDeletedByClusterAutoscaler");
        return refuse(Reason::NodeLeaving, message);
    }
    if node.network_unavailable {
        let message = format!("the condition NetworkUnavailable of node {me} is true");
        return refuse(Reason::NetworkUnavailable, message);
    }
    Ok(())
}

/// The Services at the address that this node must be fit for: all that have a usable endpoint anywhere. One without
/// is served by no node, and takes the address from the others on none.
fn served<'a>(view: &View, address: IpAddr, owner: &Owner<'a>) -> Result<Vec<&'a Service>, Refusal> {
    let mut served = Vec::new();
    for &(service, _) in &owner.services {
        let endpoints = Endpoints::join((view.slices)(&service.key), Family::of(address));
        if !endpoints.any_usable() {
            continue;
        }
        // Only *ready* endpoints count here, as for the health-check node port: a node whose last endpoint terminates
        // still serves it, while the address moves on (KEP-1669).
        if service.policy == TrafficPolicy::Local && endpoints.ready_on(view.me) == 0 {
            return no_endpoint(view.me, service);
        }
        served.push(service);
    }
    if served.is_empty() {
        return no_endpoint(view.me, owner.first());
    }
    Ok(served)
}

fn no_endpoint<T>(me: &NodeName, service: &Service) -> Result<T, Refusal> {
    let key = &service.key;
    match service.policy {
        TrafficPolicy::Local => {
            let message = format!("{key} has no ready endpoint on node {me}");
            refuse(Reason::NoLocalEndpoint, message)
        }
        TrafficPolicy::Cluster => refuse(Reason::NoEndpoint, format!("{key} has no usable endpoint")),
    }
}

/// Do all probes pass? A failure is told before an answer that is still awaited.
fn answered(view: &View, questions: &[(&ServiceKey, ProbeTarget)]) -> Result<(), Refusal> {
    let mut pending = None;
    for (service, target) in questions {
        match view.verdicts.get(target) {
            Some(Verdict::Pass) => {}
            Some(Verdict::Fail(message)) => {
                return refuse(Reason::ProbeFailed, format!("{service}: {message}"));
            }
            Some(Verdict::Pending) | None => pending = pending.or(Some(service)),
        }
    }
    match pending {
        None => Ok(()),
        Some(service) => {
            let message = format!("the first probes for {service} have not been answered yet");
            refuse(Reason::ProbePending, message)
        }
    }
}

fn probe_target(address: IpAddr, service: &Service, node: &Node) -> Result<ProbeTarget, Refusal> {
    let family = Family::of(address);
    // The API gives a healthCheckNodePort to type LoadBalancer alone. For the external IPs of other types the node agent
    // answers in the same way, and on a socket of the node.
    let balancer = service.kind == ServiceType::LoadBalancer;
    if (service.policy, service.health_check_node_port, balancer) == (TrafficPolicy::Local, None, false) {
        let service = service.key.clone();
        return Ok(ProbeTarget::Agent { service, family });
    }
    let Some(&own) = node.internal_ips.iter().find(|ip| Family::of(**ip) == family) else {
        let message = format!(
            "node {} has no {family} address of type InternalIP to probe",
            node.name
        );
        return refuse(Reason::ProbeFailed, message);
    };
    match (service.policy, service.health_check_node_port) {
        (TrafficPolicy::Cluster, _) => Ok(ProbeTarget::Proxy { address: own }),
        (TrafficPolicy::Local, Some(port)) => Ok(ProbeTarget::Service {
            service: service.key.clone(),
            address: own,
            port,
        }),
        (TrafficPolicy::Local, None) => refuse(
            Reason::ProbeFailed,
            format!("{} has no healthCheckNodePort to probe", service.key),
        ),
    }
}

#[cfg(test)]
mod tests;
