//! What routes say to whom: the daemon's export policy.
//!
//! Everything here is named by its content and never changes: what would be changed gets another name. So the daemon
//! has what is wanted if it has the names, and a new one can stand beside the old one until no route needs that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fairlead_core::announce::bgp::{Attributes, Treatment, Wanted};
use fairlead_core::model::Family;
use fairlead_gobgp::api;
use ipnet::IpNet;
use prost::Message;

use super::OwnAddresses;
use super::session::{Target, Transport, family_of, short_digest};

/// First part of the large communities that mark classes: of the numbers for private use, and not likely to be a user's.
pub(super) const MARKER: u32 = 0xFA1E_1EAD;

/// The policy that all statements about routes are in.
pub(super) const POLICY: &str = "fairlead";
/// The policy of what is taken into the table: ours, and nothing of any router's.
pub(super) const IMPORT: &str = "fairlead-import";

/// LOCAL_PREF of routes that say none (RFC 4271 leaves it to us; all routers take 100).
const LOCAL_PREF: u32 = 100;

/// Which peers get a route, with what attributes and next hops: the same for the same content, in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassId(pub [u32; 2]);

/// All classes, and the families of the routes that are in them.
pub(super) type Classes<'a> = BTreeMap<ClassId, (&'a Treatment, BTreeSet<Family>)>;

/// The classes of the wanted routes, and the class of each.
pub(super) fn classes(wanted: &Wanted, own: OwnAddresses) -> (Classes<'_>, Vec<(IpNet, ClassId)>) {
    // By where it is, for it is shared; what is not shared comes to the same class by its content.
    let mut known: HashMap<*const Treatment, ClassId> = HashMap::new();
    let mut classes: Classes<'_> = BTreeMap::new();
    let mut routes = Vec::with_capacity(wanted.routes.len());
    for (prefix, treatment) in &wanted.routes {
        let known = known.entry(Arc::as_ptr(treatment));
        let id = *known.or_insert_with(|| class_id(treatment, own));
        let class = classes
            .entry(id)
            .or_insert_with(|| (treatment.as_ref(), BTreeSet::new()));
        class.1.insert(Family::of(prefix.addr()));
        routes.push((prefix.trunc(), id));
    }
    (classes, routes)
}

fn class_id(treatment: &Treatment, own: OwnAddresses) -> ClassId {
    // Whose address is the next hop depends on which the node has: what a class says never changes.
    let hops = (own.v4.is_some(), own.v6.is_some());
    let digest = short_digest(format!("{treatment:?} {hops:?}").as_bytes());
    let part = |range| u32::from_str_radix(&digest[range], 16).unwrap_or_default();
    ClassId([part(0..8), part(8..16)])
}

/// Our own paths come through the import policy too, and only they are accepted.
pub(super) fn import() -> api::Policy {
    api::Policy {
        name: IMPORT.to_owned(),
        statements: vec![api::Statement {
            name: "fairlead-local".to_owned(),
            conditions: Some(api::Conditions {
                route_type: api::conditions::RouteType::Local as i32,
                ..api::Conditions::default()
            }),
            actions: Some(api::Actions {
                route_action: api::RouteAction::Accept as i32,
                ..api::Actions::default()
            }),
        }],
    }
}

/// What the policy is made of, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Policies {
    pub sets: BTreeMap<String, api::DefinedSet>,
    pub statements: BTreeMap<String, api::Statement>,
}

/// Peers that are treated alike.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Group<'a> {
    attributes: &'a Attributes,
    family: Family,
    /// They are told the session's own address, not the node's.
    own_hop: bool,
}

/// The statements for these classes and sessions.
pub(super) fn policies(
    classes: &Classes<'_>,
    targets: &BTreeMap<String, Target>,
    own: OwnAddresses,
) -> Policies {
    let mut policies = Policies::default();
    for (id, (treatment, families)) in classes {
        let mut groups: BTreeMap<Group<'_>, BTreeSet<String>> = BTreeMap::new();
        for (name, attributes) in *treatment {
            let Some(target) = targets.get(name) else { continue };
            for family in families {
                if let Some(own_hop) = own_hop(target, *family, own) {
                    let group = Group {
                        attributes,
                        family: *family,
                        own_hop,
                    };
                    let length = if target.address.is_ipv4() { 32 } else { 128 };
                    groups
                        .entry(group)
                        .or_default()
                        .insert(format!("{}/{length}", target.address));
                }
            }
        }
        for (group, members) in groups {
            let marker = policies.set(api::DefinedType::LargeCommunity, vec![marker(*id)]);
            let neighbours = policies.set(api::DefinedType::Neighbor, members.into_iter().collect());
            let mut statement = statement(&group, marker, neighbours);
            statement.name = format!("fl-{}", short_digest(&statement.encode_to_vec()));
            policies.statements.insert(statement.name.clone(), statement);
        }
    }
    policies
}

/// Is the session to say its own local address as the next hop of routes of this family? Nothing if they cannot be
/// sent over it at all.
fn own_hop(target: &Target, family: Family, own: OwnAddresses) -> Option<bool> {
    if !target.families.contains(&family) {
        return None;
    }
    match (target.transport, family) {
        (Transport::V4, Family::V4) | (Transport::V6, Family::V6) | (Transport::LinkLocal, _) => Some(true),
        // RFC 8950 if the node has no IPv4 address.
        (Transport::V6, Family::V4) => Some(own.v4.is_none()),
        (Transport::V4, Family::V6) => own.v6.map(|_| false),
    }
}

impl Policies {
    fn set(&mut self, kind: api::DefinedType, members: Vec<String>) -> String {
        let name = format!("fl-{}", short_digest(members.join(" ").as_bytes()));
        let set = api::DefinedSet {
            defined_type: kind as i32,
            name: name.clone(),
            list: members,
        };
        self.sets.insert(name.clone(), set);
        name
    }
}

fn marker(id: ClassId) -> String {
    format!("{MARKER}:{}:{}", id.0[0], id.0[1])
}

fn statement(group: &Group<'_>, marker: String, neighbours: String) -> api::Statement {
    let any = |name| {
        Some(api::MatchSet {
            r#type: api::match_set::Type::Any as i32,
            name,
        })
    };
    api::Statement {
        name: String::new(),
        conditions: Some(api::Conditions {
            neighbor_set: any(neighbours),
            large_community_set: any(marker),
            afi_safi_in: vec![family_of(group.family)],
            ..api::Conditions::default()
        }),
        actions: Some(actions(group)),
    }
}

fn actions(group: &Group<'_>) -> api::Actions {
    let attributes = group.attributes;
    let replace = |communities: Vec<String>| {
        Some(api::CommunityAction {
            r#type: api::community_action::Type::Replace as i32,
            communities,
        })
    };
    let communities = attributes.communities.iter();
    let communities: Vec<String> = communities
        .map(|bits| format!("{}:{}", bits >> 16, bits & 0xFFFF))
        .collect();
    let large = attributes.large_communities.iter();
    let large = large
        .map(|[admin, first, second]| format!("{admin}:{first}:{second}"))
        .collect();
    let local_pref = attributes.local_pref.unwrap_or(LOCAL_PREF);
    api::Actions {
        route_action: api::RouteAction::Accept as i32,
        community: if communities.is_empty() {
            None
        } else {
            replace(communities)
        },
        med: attributes.med.map(|med| api::MedAction {
            r#type: api::med_action::Type::Replace as i32,
            value: med.into(),
        }),
        // The path has our ASN already if the peer is another AS, and nothing to repeat if it is not.
        as_prepend: (attributes.prepend > 0).then(|| api::AsPrependAction {
            asn: 0,
            repeat: attributes.prepend.into(),
            use_left_most: true,
        }),
        nexthop: group.own_hop.then(|| api::NexthopAction {
            self_: true,
            ..api::NexthopAction::default()
        }),
        // Without: the path's own, which is 0.
        local_pref: (local_pref != 0).then_some(api::LocalPrefAction { value: local_pref }),
        // The marker goes.
        large_community: replace(large),
    }
}
