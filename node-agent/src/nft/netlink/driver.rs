//! Our table in the kernel: replaced, changed, read, removed. Every method blocks for as long as the kernel works; none
//! waits for anything else.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_core::model::Family;

use super::batch::Batch;
use super::dump::{ChainFound, SetFound};
use super::error::KernelError;
use super::handover::{self, Handover};
use super::message::TableFamily;
use super::object::Table;
use super::socket::NetlinkSocket;
use super::{decode, encode};
use crate::nft::TABLE;
use crate::nft::change::{Changes, Element};
use crate::nft::ruleset::{Chain, Elements, FAMILIES, Rule, Ruleset, Set};

/// The table that all is in but what is handed over.
pub const INET: Table = Table {
    family: TableFamily::Inet,
    name: TABLE,
};

/// How often tables are read again because somebody changed some meanwhile.
const TRIES: usize = 20;

/// The kernel's tables, by one socket.
#[derive(Debug)]
pub struct Kernel {
    pub(super) socket: NetlinkSocket,
}

/// What was found where our table should be.
#[derive(Debug)]
pub enum Reading {
    /// There is no table of our name.
    Absent,
    /// Our table, or one that can be changed into it.
    Table(Found),
    /// Something that only replacing helps with, and why.
    Garbage(String),
}

/// Our table as the kernel holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The generation of all tables when it was read.
    pub generation: u32,
    /// Every chain with the comments of its rules.
    pub chains: BTreeMap<Chain, Vec<Option<String>>>,
    /// Every element, but for those that the kernel added by itself.
    pub elements: Elements,
}

impl Found {
    /// The same as a ruleset. The kernel does not tell rules in our words, but a chain whose rules are those of `known`
    /// is recognised; any other gets a rule that nobody wants, so that it differs from everything.
    pub fn ruleset(self, known: &Ruleset) -> Ruleset {
        let rules = |(chain, comments): (Chain, Vec<Option<String>>)| {
            let same = known.chains.get(&chain).filter(|rules| {
                let expected = rules
                    .iter()
                    .map(|rule| Some(encode::comment(&encode::expressions(rule))));
                expected.eq(comments)
            });
            let rules = same.cloned().unwrap_or_else(|| vec![Rule::new([], [])]);
            (chain, rules)
        };
        Ruleset {
            chains: self.chains.into_iter().map(rules).collect(),
            elements: self.elements,
        }
    }
}

impl Kernel {
    /// Opens a socket.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or when there is no nfnetlink.
    pub fn open() -> Result<Self, KernelError> {
        NetlinkSocket::open().map(|socket| Self { socket })
    }

    /// The number of the socket, by which a [`super::watch::Watch`] tells our changes from those of others.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Asks for something small, to see whether there is nf_tables and it lets us change it. Changes nothing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn probe(&mut self) -> Result<(), KernelError> {
        self.socket.generation().map(|_| ())
    }

    /// Replaces the whole table, whatever it held. Answers with the new generation.
    ///
    /// Base chains that are as ours stay, emptied and filled again: a hook that is taken out and put in again would let
    /// packets pass between.
    ///
    /// # Errors
    /// What the kernel says; the table is as before.
    pub fn replace(&mut self, ruleset: &Ruleset) -> Result<u32, KernelError> {
        for _ in 0..TRIES {
            let generation = self.socket.generation()?;
            let mut batch = Batch::new(Some(generation));
            let kept = self.empty(&mut batch)?;
            fill(&mut batch, ruleset, &kept);
            match self.commit(&mut batch) {
                Err(KernelError::Changed) => {}
                done => return done,
            }
        }
        Err(KernelError::Changed)
    }

    /// Takes everything out of the table but the base chains that are as ours, and tells which.
    fn empty(&mut self, batch: &mut Batch) -> Result<BTreeSet<Chain>, KernelError> {
        let mut kept = BTreeSet::new();
        if self.socket.table_flags(INET)? != Some(0) {
            remove(batch);
            return Ok(kept);
        }
        let chains = self.socket.chains(INET)?;
        for chain in &chains {
            batch.flush_chain(INET, &chain.name);
        }
        // Rules refer to sets, and elements of sets to chains.
        for set in self.socket.sets(INET)?.iter().filter(|set| !set.is_anonymous()) {
            batch.delete_set(INET, &set.name);
        }
        for chain in &chains {
            match recognise(chain) {
                Some(ours) if chain.base.is_some() => {
                    kept.insert(ours);
                }
                _ => batch.delete_chain(INET, &chain.name),
            }
        }
        Ok(kept)
    }

    /// Changes the table. Answers with the new generation. An element that is to be added and there already, or to be
    /// deleted and not there, is an error that is [stale](KernelError::is_stale): the table has to be read first.
    ///
    /// # Errors
    /// What the kernel says; the table is as before.
    pub fn apply(&mut self, changes: &Changes) -> Result<u32, KernelError> {
        let mut batch = Batch::new(None);
        apply(&mut batch, changes);
        self.commit(&mut batch)
    }

    /// Reads the table.
    ///
    /// # Errors
    /// When the kernel does not tell, or others change tables all the time.
    pub fn read(&mut self) -> Result<Reading, KernelError> {
        for _ in 0..TRIES {
            let before = self.socket.generation()?;
            let reading = match self.read_once() {
                Err(KernelError::Changed) => continue,
                other => other?,
            };
            if self.socket.generation()? != before {
                continue;
            }
            return Ok(match reading {
                Ok(None) => Reading::Absent,
                Ok(Some(found)) => Reading::Table(Found {
                    generation: before,
                    ..found
                }),
                Err(why) => Reading::Garbage(why),
            });
        }
        Err(KernelError::Changed)
    }

    /// Removes our tables, of all families, if there are any.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&mut self) -> Result<(), KernelError> {
        let mut batch = Batch::new(None);
        remove(&mut batch);
        for family in FAMILIES {
            handover::remove(&mut batch, family);
        }
        self.commit(&mut batch).map(|_| ())
    }

    /// Removes the main table only, if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_main(&mut self) -> Result<(), KernelError> {
        let mut batch = Batch::new(None);
        remove(&mut batch);
        self.commit(&mut batch).map(|_| ())
    }

    /// Replaces the table that hands flows over, of a family.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn replace_handover(&mut self, family: Family, wanted: &Handover) -> Result<(), KernelError> {
        let mut batch = Batch::new(None);
        handover::replace(&mut batch, family, wanted);
        self.commit(&mut batch).map(|_| ())
    }

    /// Reads it; `None` if there is none, or it has to be replaced.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn read_handover(&mut self, family: Family) -> Result<Option<Handover>, KernelError> {
        handover::read(&mut self.socket, family)
    }

    /// Changes it.
    ///
    /// # Errors
    /// What the kernel says; if it is stale, the table should be replaced.
    pub fn change_handover(
        &mut self,
        family: Family,
        old: &Handover,
        new: &Handover,
    ) -> Result<(), KernelError> {
        let mut batch = Batch::new(None);
        handover::change(&mut batch, family, old, new);
        self.commit(&mut batch).map(|_| ())
    }

    /// Is there such a table?
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn has_table(&mut self, table: Table) -> Result<bool, KernelError> {
        Ok(self.socket.table_flags(table)?.is_some())
    }

    pub(super) fn commit(&mut self, batch: &mut Batch) -> Result<u32, KernelError> {
        if !batch.is_empty() {
            self.socket.commit(batch).map_err(in_our_words)?;
        }
        self.socket.generation()
    }

    /// The table, or nothing, or why it cannot be ours.
    fn read_once(&mut self) -> Result<Result<Option<Found>, String>, KernelError> {
        let Some(flags) = self.socket.table_flags(INET)? else {
            return Ok(Ok(None));
        };
        if flags != 0 {
            return Ok(Err(format!("the table has flags {flags:#x}")));
        }
        let sets = self.socket.sets(INET)?;
        if let Err(why) = expected_sets(&sets) {
            return Ok(Err(why));
        }
        let mut found = Found::default();
        for chain in self.socket.chains(INET)? {
            match recognise(&chain) {
                Some(chain) => found.chains.insert(chain, Vec::new()),
                None => return Ok(Err(format!("chain {} is not one of ours", chain.name))),
            };
        }
        for rule in self.socket.rules(INET)? {
            let Some(rules) = decode::chain(&rule.chain).and_then(|chain| found.chains.get_mut(&chain))
            else {
                return Ok(Err(format!("there is a rule in a chain {}", rule.chain)));
            };
            rules.push(rule.comment);
        }
        for set in Set::all().filter(|set| !matches!(set, Set::Affinity(_))) {
            let elements = self.socket.elements(INET, &set.to_string())?;
            let Some(elements) = decode::elements(set, elements) else {
                return Ok(Err(format!("set {set} holds elements that are not ours")));
            };
            let known = found.elements.len() + elements.len();
            let keyed = elements.into_iter().map(|(key, value)| ((set, key), value));
            found.elements.extend(keyed);
            // While the kernel makes a hash table larger, a dump of it can tell elements twice, and others not at all.
            if found.elements.len() != known {
                return Err(KernelError::Changed);
            }
        }
        Ok(Ok(Some(found)))
    }
}

/// Are all our sets there as we declare them, and no others?
fn expected_sets(found: &[SetFound]) -> Result<(), String> {
    let mut expected: BTreeMap<String, SetFound> = Set::all()
        .map(|set| SetFound::expected(&encode::set_spec(set)))
        .map(|set| (set.name.clone(), set))
        .collect();
    for set in found.iter().filter(|set| !set.is_anonymous()) {
        match expected.remove(&set.name) {
            Some(wanted) if wanted == *set => {}
            Some(_) => return Err(format!("set {} is declared differently", set.name)),
            None => return Err(format!("set {} is not one of ours", set.name)),
        }
    }
    match expected.keys().next() {
        Some(name) => Err(format!("set {name} is missing")),
        None => Ok(()),
    }
}

/// The chain, if it is one of ours and hooked in as it should be.
fn recognise(found: &ChainFound) -> Option<Chain> {
    let chain = decode::chain(&found.name)?;
    found.is(encode::base_chain(&chain)).then_some(chain)
}

/// Messages that replace the whole table.
pub fn replace(batch: &mut Batch, ruleset: &Ruleset) {
    remove(batch);
    fill(batch, ruleset, &BTreeSet::new());
}

/// Messages that fill an empty table, in which some chains stand already. Rules come before elements: to bind a map to a
/// rule, the kernel walks through all that is in it.
fn fill(batch: &mut Batch, ruleset: &Ruleset, kept: &BTreeSet<Chain>) {
    batch.add_table(INET);
    for set in Set::all() {
        batch.add_set(INET, &encode::set_spec(set));
    }
    for chain in ruleset.chains.keys().filter(|chain| !kept.contains(chain)) {
        add_chain(batch, chain);
    }
    for (chain, rules) in &ruleset.chains {
        add_rules(batch, chain, rules);
    }
    // They are sorted by set.
    let mut elements = ruleset.elements.iter().peekable();
    while let Some(((set, _), _)) = elements.peek() {
        let set = *set;
        let of_set = std::iter::from_fn(|| elements.next_if(|((of, _), _)| *of == set));
        let encoded = of_set.flat_map(|((_, key), value)| encode::elements(key, value));
        batch.add_elements(INET, &set.to_string(), encoded);
    }
}

/// Messages that change the table.
pub fn apply(batch: &mut Batch, changes: &Changes) {
    for (chain, _) in &changes.add_chains {
        add_chain(batch, chain);
    }
    for (chain, _) in &changes.rewrite_chains {
        batch.flush_chain(INET, &chain.to_string());
    }
    for (chain, rules) in changes.add_chains.iter().chain(&changes.rewrite_chains) {
        add_rules(batch, chain, rules);
    }
    grouped(&changes.delete, |set, elements| {
        batch.delete_elements(INET, set, elements);
    });
    grouped(&changes.add, |set, elements| {
        batch.add_elements(INET, set, elements);
    });
    // Chains that go may refer to each other: first all their rules, then the chains.
    for chain in &changes.delete_chains {
        batch.flush_chain(INET, &chain.to_string());
    }
    for chain in &changes.delete_chains {
        batch.delete_chain(INET, &chain.to_string());
    }
}

/// Messages that remove the table, whether there is one or not.
pub fn remove(batch: &mut Batch) {
    batch.add_table(INET);
    batch.delete_table(INET);
}

fn add_chain(batch: &mut Batch, chain: &Chain) {
    batch.add_chain(INET, &chain.to_string(), encode::base_chain(chain));
}

fn add_rules(batch: &mut Batch, chain: &Chain, rules: &[Rule]) {
    let name = chain.to_string();
    for rule in rules {
        let expressions = encode::expressions(rule);
        let comment = encode::comment(&expressions);
        batch.add_rule(INET, &name, &expressions, Some(&comment));
    }
}

fn grouped(elements: &[Element], mut write: impl FnMut(&str, Vec<super::object::Element>)) {
    let mut sorted: Vec<&Element> = elements.iter().collect();
    sorted.sort_by_key(|((set, _), _)| *set);
    for group in sorted.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
        let [((set, _), _), ..] = group else { continue };
        let encoded = group
            .iter()
            .flat_map(|((_, key), value)| encode::elements(key, value));
        write(&set.to_string(), encoded.collect());
    }
}

/// Names the element that the kernel refused as we would write it.
fn in_our_words(mut error: KernelError) -> KernelError {
    if let KernelError::Refused(refusal) = &mut error
        && let Some(set) = Set::all().find(|set| set.to_string() == refusal.task.name)
        && let Some(key) = refusal.task.key.as_deref()
        && let Some(key) = decode::key(set, key)
    {
        refusal.task.words = Some(decode::words(&key));
    }
    error
}
