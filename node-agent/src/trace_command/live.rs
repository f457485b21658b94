//! The table in the kernel as a ruleset, rules included.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairlead_core::forward::Forwarding;
use fairlead_core::forward::pods::{PodLinks, Pods};
use fairlead_core::model::Family;
use ipnet::IpNet;
use thiserror::Error;

use crate::nft::build::{build, rules_of};
use crate::nft::netlink::driver::{Kernel, Reading};
use crate::nft::netlink::error::KernelError;
use crate::nft::netlink::rules::Outline;
use crate::nft::netlink::{decode, encode};
use crate::nft::ruleset::{Action, Chain, FAMILIES, Match, Rule, Ruleset, Set};

/// How often the table is read again because somebody changed it meanwhile.
const TRIES: usize = 10;

/// Why the table could not be read.
#[derive(Debug, Error)]
pub enum LiveError {
    /// There is none.
    #[error("this node has no table inet fairlead")]
    Absent,
    /// It is not as this program makes it.
    #[error("the table inet fairlead is not as this program makes it: {0}")]
    Foreign(String),
    /// The kernel did not tell.
    #[error("cannot read the table inet fairlead: {0}")]
    Kernel(#[from] KernelError),
}

/// Reads the table.
///
/// # Errors
/// When there is none, or one with something in it that is not ours.
pub fn read(kernel: &mut Kernel) -> Result<Ruleset, LiveError> {
    for _ in 0..TRIES {
        let before = match kernel.read()? {
            Reading::Absent => return Err(LiveError::Absent),
            Reading::Garbage(why) => return Err(LiveError::Foreign(why)),
            Reading::Table(found) => found,
        };
        let (outlines, whole) = kernel.outlines()?;
        // The same chains with as many rules: what is between does not matter to one packet's walk.
        let expected: usize = before.chains.values().map(Vec::len).sum();
        if !whole || outlines.len() != expected {
            continue;
        }
        let known = Known::new(mark(&outlines));
        let mut chains: BTreeMap<Chain, Vec<Rule>> = before
            .chains
            .into_keys()
            .map(|chain| (chain, Vec::new()))
            .collect();
        for outline in outlines {
            let foreign =
                || LiveError::Foreign(format!("chain {} has a rule of somebody else", outline.chain));
            let chain = decode::chain(&outline.chain).ok_or_else(foreign)?;
            let rule = known.rule(&chain, &outline).ok_or_else(foreign)?;
            chains.entry(chain).or_default().push(rule);
        }
        return Ok(Ruleset {
            chains,
            elements: before.elements,
        });
    }
    Err(LiveError::Kernel(KernelError::Changed))
}

/// The bit of our mark, which one rule tells for all.
fn mark(outlines: &[Outline]) -> u32 {
    let served: Vec<&str> = outlines
        .iter()
        .filter(|outline| outline.chain == Chain::Served.to_string())
        .filter_map(|outline| outline.comment.as_deref())
        .collect();
    let has = |mark: &u32| {
        let rule = Rule::new([Match::SourceLocal], [Action::Mark(*mark), Action::Accept]);
        served.contains(&&*comment(&rule))
    };
    (0..u32::BITS).map(|bit| 1 << bit).find(has).unwrap_or_default()
}

/// All rules that stand in fixed chains, by their comments, whatever tells pods.
struct Known {
    fixed: BTreeMap<(Chain, String), Rule>,
    mark: u32,
}

impl Known {
    fn new(mark: u32) -> Self {
        let mut fixed = BTreeMap::new();
        for links in [PodLinks::None, PodLinks::AllBut([].into())] {
            let plan = Forwarding {
                pods: Pods {
                    links,
                    ..Pods::default()
                },
                ..Forwarding::default()
            };
            for (chain, rules) in build(&plan, mark).chains {
                fixed.extend(
                    rules
                        .into_iter()
                        .map(|rule| ((chain.clone(), comment(&rule)), rule)),
                );
            }
        }
        Self { fixed, mark }
    }

    /// The rule, if it is one that can stand in the chain.
    fn rule(&self, chain: &Chain, outline: &Outline) -> Option<Rule> {
        let wanted = outline.comment.clone()?;
        if let Some(rule) = self.fixed.get(&(chain.clone(), wanted.clone())) {
            return Some(rule.clone());
        }
        let candidates: Vec<Rule> = match chain {
            Chain::Ranges(key) => ranges(key.family, outline),
            Chain::Choose(_) | Chain::Affine(..) => rules_of(chain, self.mark).unwrap_or_default(),
            _ => prefixes(outline),
        };
        candidates.into_iter().find(|rule| comment(rule) == wanted)
    }
}

fn comment(rule: &Rule) -> String {
    encode::comment(&encode::expressions(rule))
}

/// Rules of a chain with source ranges.
fn ranges(family: Family, outline: &Outline) -> Vec<Rule> {
    let mut rules = vec![Rule::new([], [Action::Drop])];
    if let Some(range) = range(family, outline) {
        let verdicts = [Chain::Served, Chain::Inside, Chain::Refuse];
        let to = |chain| Rule::new([Match::SourceWithin(range)], [Action::Goto(chain)]);
        rules.extend(verdicts.map(to));
    }
    rules
}

/// The range that a rule compares with: whole bytes of an address, or an address under a mask.
fn range(family: Family, outline: &Outline) -> Option<IpNet> {
    let value = outline.values.last()?;
    let bits = match outline.mask.as_slice() {
        [] => value.len() * 8,
        mask => mask.iter().map(|byte| byte.count_ones() as usize).sum(),
    };
    let mut address = value.clone();
    let address = match family {
        Family::V4 => {
            address.resize(4, 0);
            IpAddr::from(<[u8; 4]>::try_from(address).ok()?)
        }
        Family::V6 => {
            address.resize(16, 0);
            IpAddr::from(<[u8; 16]>::try_from(address).ok()?)
        }
    };
    IpNet::new(address, u8::try_from(bits).ok()?).ok()
}

/// Rules that tell pods by the name of the interface.
fn prefixes(outline: &Outline) -> Vec<Rule> {
    let texts = outline
        .values
        .iter()
        .filter_map(|value| std::str::from_utf8(value).ok());
    texts
        .flat_map(|prefix| {
            let from = || Match::FromInterface(prefix.into());
            let lookup = |family| Rule::new([from()], [Action::Lookup(Set::Inside(family))]);
            let [four, six] = FAMILIES.map(lookup);
            [four, six, Rule::new([from()], [Action::Goto(Chain::Served)])]
        })
        .collect()
}
