//! What has to change in the kernel: between two rulesets, or of single Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use fairlead_core::delta::delta;
use fairlead_core::forward::{Destination, Forwarding};
use fairlead_core::model::{Family, ServiceKey};

use super::build::{hairpin, hairpins, rules_of, service_part, target, with_standing};
use super::netlink::affinity::Lost;
use super::ruleset::{Chain, Choice, Elements, Key, Rule, Ruleset, Set, Value};

/// An element of a set or map.
pub type Element = ((Set, Key), Value);

/// One transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Chains that are new, with their rules. All are made before any rule is.
    pub add_chains: Vec<(Chain, Vec<Rule>)>,
    /// Chains that get other rules.
    pub rewrite_chains: Vec<(Chain, Vec<Rule>)>,
    /// Elements that go, those with a new value among them. They go before others come.
    pub delete: Vec<Element>,
    /// Elements that come.
    pub add: Vec<Element>,
    /// Chains that go, when nothing refers to them any more.
    pub delete_chains: Vec<Chain>,
}

impl Changes {
    /// From one table to another.
    pub fn between(old: &Ruleset, new: &Ruleset) -> Self {
        let mut changes = Self::default();
        changes.chains(&old.chains, &new.chains);
        changes.elements(&old.elements, &new.elements);
        changes
    }

    /// Endpoints that destinations lose by it.
    pub fn lost(&self) -> Lost {
        let endpoints = |elements: &[Element]| -> BTreeSet<(Set, Destination, SocketAddr)> {
            elements
                .iter()
                .filter_map(|((set, key), value)| match (key, value) {
                    (Key::Numbered(destination, _), Value::Endpoint(endpoint)) => {
                        Some((*set, *destination, *endpoint))
                    }
                    _ => None,
                })
                .collect()
        };
        let stay = endpoints(&self.add);
        let gone = endpoints(&self.delete)
            .into_iter()
            .filter(|endpoint| !stay.contains(endpoint));
        gone.map(|(_, destination, endpoint)| (destination, endpoint))
            .collect()
    }

    /// Is there nothing to do?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn chains(&mut self, old: &BTreeMap<Chain, Vec<Rule>>, new: &BTreeMap<Chain, Vec<Rule>>) {
        let chains = delta(old, new);
        let owned = |(chain, rules): (&Chain, &Vec<Rule>)| (chain.clone(), rules.clone());
        self.add_chains.extend(chains.add.into_iter().map(owned));
        let changed = chains.change.into_iter().map(|(chain, _, rules)| (chain, rules));
        self.rewrite_chains.extend(changed.map(owned));
        let gone = chains.remove.into_iter().map(|(chain, _)| chain.clone());
        self.delete_chains.extend(gone);
    }

    fn elements(&mut self, old: &Elements, new: &Elements) {
        let elements = delta(old, new);
        let owned = |(key, value): (&(Set, Key), &Value)| (key.clone(), value.clone());
        self.delete.extend(elements.remove.into_iter().map(owned));
        self.add.extend(elements.add.into_iter().map(owned));
        for (key, was, is) in elements.change {
            self.delete.push((key.clone(), was.clone()));
            self.add.push((key.clone(), is.clone()));
        }
    }
}

/// The table as the kernel holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    ruleset: Ruleset,
    /// How many elements lead to each chain.
    uses: BTreeMap<Chain, usize>,
}

impl Held {
    /// The kernel holds this.
    pub fn new(ruleset: Ruleset) -> Self {
        let mut uses = BTreeMap::new();
        for chain in ruleset.elements.values().filter_map(target) {
            *uses.entry(chain.clone()).or_default() += 1;
        }
        Self { ruleset, uses }
    }

    /// The table.
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// What has to change for some Services whose endpoints changed, the rest of the plan being in the kernel already.
    pub fn changes(&self, plan: &Forwarding, services: &BTreeSet<ServiceKey>, mark: u32) -> Changes {
        let mut changes = Changes::default();
        let mut balance: BTreeMap<Chain, isize> = BTreeMap::new();
        let (mut gone, mut come) = (BTreeSet::new(), BTreeSet::new());
        for service in services {
            let part = service_part(plan, service);
            let destinations = plan.services.get(service).map_or(&[][..], Vec::as_slice);
            let old: Elements = destinations.iter().flat_map(|d| self.of(d)).collect();
            for chain in old.values().filter_map(target) {
                *balance.entry(chain.clone()).or_default() -= 1;
            }
            for chain in part.elements.values().filter_map(target) {
                *balance.entry(chain.clone()).or_default() += 1;
            }
            let ranges = old.values().filter_map(target).filter_map(|chain| {
                let rules = self.ruleset.chains.get(chain)?;
                matches!(chain, Chain::Ranges(_)).then(|| (chain.clone(), rules.clone()))
            });
            changes.chains(&ranges.collect(), &part.chains);
            gone.extend(old.values().filter_map(|value| match value {
                Value::Endpoint(endpoint) => Some(endpoint.ip()),
                _ => None,
            }));
            come.extend(plan.backends_of(service).flat_map(hairpins));
            changes.elements(&old, &part.elements);
        }
        self.hairpins(plan, gone, &come, &mut changes);
        self.choices(&balance, mark, &mut changes);
        changes
    }

    /// The elements of a destination.
    fn of(&self, destination: &Destination) -> impl Iterator<Item = Element> {
        let family = Family::of(destination.address);
        let elements = &self.ruleset.elements;
        let owned = |(key, value): (&(Set, Key), &Value)| (key.clone(), value.clone());
        let single = [Set::Filter, Set::Nat, Set::Inside, Set::Sticky].map(|set| set(family));
        let single = single
            .into_iter()
            .filter_map(move |set| elements.get_key_value(&(set, Key::Destination(*destination))));
        let lists = [Set::Endpoints, Set::Locals].map(|set| set(family));
        let numbered = lists.into_iter().flat_map(move |set| {
            let at = |number| (set, Key::Numbered(*destination, number));
            elements.range(at(0)..=at(u32::MAX))
        });
        single.chain(numbered).map(owned).collect::<Vec<_>>().into_iter()
    }

    /// Services may share endpoints, so a pair goes only when no other has it.
    fn hairpins(
        &self,
        plan: &Forwarding,
        gone: BTreeSet<IpAddr>,
        come: &BTreeSet<IpAddr>,
        changes: &mut Changes,
    ) {
        let held = |address: IpAddr| self.ruleset.elements.contains_key(&hairpin(address).0);
        let added = come.iter().copied().filter(|address| !held(*address));
        changes.add.extend(added.map(hairpin));
        let left: Vec<IpAddr> = gone
            .into_iter()
            .filter(|a| held(*a) && !come.contains(a))
            .collect();
        if left.is_empty() {
            return;
        }
        let needed: BTreeSet<IpAddr> = plan.backends.values().flat_map(hairpins).collect();
        let unneeded = left.into_iter().filter(|address| !needed.contains(address));
        changes.delete.extend(unneeded.map(hairpin));
    }

    /// Makes and deletes the chains that Services share.
    fn choices(&self, balance: &BTreeMap<Chain, isize>, mark: u32, changes: &mut Changes) {
        let uses = |chain: &Chain| {
            let now = self.uses.get(chain).copied().unwrap_or_default();
            now.saturating_add_signed(balance.get(chain).copied().unwrap_or_default())
        };
        let (mut wanted, mut unwanted) = (BTreeSet::new(), BTreeSet::new());
        for chain in balance.keys() {
            if uses(chain) > 0 {
                wanted.extend(with_standing(chain));
            } else {
                unwanted.extend(with_standing(chain));
            }
        }
        // A chain of a group stands as long as any of the group is used.
        unwanted.retain(|chain| {
            let Chain::Choose(choice) = chain else {
                return uses(chain) == 0;
            };
            let of = |count| Chain::Choose(Choice { count, ..*choice });
            let touched = balance.range(of(0)..=of(u32::MAX)).map(|(chain, _)| chain);
            let others = self.uses.range(of(0)..=of(u32::MAX)).map(|(chain, _)| chain);
            let stands =
                choice.count <= super::build::STANDING && touched.chain(others).any(|chain| uses(chain) > 0);
            uses(chain) == 0 && !stands
        });
        let missing = |chain: &Chain| !self.ruleset.chains.contains_key(chain);
        let made = wanted.into_iter().filter(missing).filter_map(|chain| {
            let rules = rules_of(&chain, mark)?;
            Some((chain, rules))
        });
        changes.add_chains.extend(made);
        let known = |chain: &Chain| rules_of(chain, mark).is_some() && !missing(chain);
        changes.delete_chains.extend(unwanted.into_iter().filter(known));
    }

    /// The kernel has taken the changes.
    pub fn apply(&mut self, changes: Changes) {
        for (chain, rules) in changes.add_chains.into_iter().chain(changes.rewrite_chains) {
            self.ruleset.chains.insert(chain, rules);
        }
        for (key, value) in changes.delete {
            self.ruleset.elements.remove(&key);
            if let Some(chain) = target(&value)
                && let Some(uses) = self.uses.get_mut(chain)
            {
                *uses -= 1;
                if *uses == 0 {
                    self.uses.remove(chain);
                }
            }
        }
        for (key, value) in changes.add {
            if let Some(chain) = target(&value) {
                *self.uses.entry(chain.clone()).or_default() += 1;
            }
            self.ruleset.elements.insert(key, value);
        }
        for chain in changes.delete_chains {
            self.ruleset.chains.remove(&chain);
        }
    }
}
