//! Our ruleset in the words of the kernel: what sets are declared as, the expressions of rules, the bytes of elements.

use fairlead_core::hash::{FNV_OFFSET, fnv1a};
use fairlead_core::model::{Family, Protocol};

use super::expr::{Anonymous, Ct, Direction, Expr, Header, Meta, Refusal, Register, Verdict};
use super::message::TableFamily;
use super::object::{BaseChain, ChainKind, Data, DataSpec, Element, Field, Hook, Origin, SetSpec, Type};
use super::program::{
    address_bytes, address_type, answering_address, ct_state, ct_status, destination, family,
    original_destination, port, protocol, source, source_range, tcp_flags_other_than_syn,
};
use crate::nft::render::AFFINITY_SIZE;
use crate::nft::ruleset::{Action, Chain, ChainType, Key, Match, Rule, Set, Value};

const R: Register = Register::FIRST;
/// Longest name of an interface, with its NUL.
pub(super) const NAME_LENGTH: usize = 16;

/// How a set is declared.
pub fn set_spec(set: Set) -> SetSpec {
    let name = set.to_string();
    let of = set.family().unwrap_or(Family::V4);
    let address = Field::of(address_type(of));
    let destination = [address, Field::of(Type::Protocol), Field::of(Type::Port)];
    match set {
        Set::Vips(_) => SetSpec::set(name, [address]),
        Set::Pods(_) => SetSpec {
            interval: true,
            ..SetSpec::set(name, [address])
        },
        Set::Uplinks => SetSpec::set(name, [Field::of(Type::Name)]),
        Set::Hairpin(_) => SetSpec::set(name, [address, address]),
        Set::Filter(_) | Set::Nat(_) | Set::Inside(_) | Set::Sticky(_) => {
            SetSpec::map(name, destination, DataSpec::Verdict)
        }
        Set::Endpoints(_) | Set::Locals(_) => {
            let origin = match of {
                Family::V4 => Origin::Destination4,
                Family::V6 => Origin::Destination6,
            };
            let address = Field::from((address_type(of), origin));
            let key = [
                address,
                Field::from((Type::Protocol, Origin::Protocol)),
                Field::from((Type::Port, Origin::Port)),
                Field::from((Type::Integer, Origin::Number)),
            ];
            let endpoint = vec![address, Field::from((Type::Port, Origin::Port))];
            SetSpec::map(name, key, DataSpec::Fields(endpoint))
        }
        Set::Echo(_) => SetSpec::map(name, [address], DataSpec::Fields(vec![address])),
        Set::Affinity(_) => {
            let key = [address, address, Field::of(Type::Protocol), Field::of(Type::Port)];
            let endpoint = vec![address, Field::of(Type::Port)];
            SetSpec {
                dynamic: Some(AFFINITY_SIZE),
                ..SetSpec::map(name, key, DataSpec::Fields(endpoint))
            }
        }
    }
}

/// How a chain is hooked in.
pub fn base_chain(chain: &Chain) -> Option<BaseChain> {
    let base = chain.base()?;
    Some(BaseChain {
        kind: match base.kind {
            ChainType::Filter => ChainKind::Filter,
            ChainType::Nat => ChainKind::Nat,
        },
        hook: Hook::named(base.hook)?,
        priority: base.priority,
    })
}

/// By what comment a rule is known again: a hash of its expressions.
pub fn comment(expressions: &[Expr]) -> String {
    let mut bytes = Vec::new();
    for expression in expressions {
        expression.write(&mut bytes);
        if let Expr::OneOf(_, set) = expression {
            bytes.extend(set.values.iter().flatten());
        }
    }
    format!("{:016x}", fnv1a(FNV_OFFSET, &bytes))
}

/// The expressions of a rule, as nft writes them.
pub fn expressions(rule: &Rule) -> Vec<Expr> {
    let mut program = Program::default();
    for condition in &rule.matches {
        program.condition(condition);
    }
    for action in &rule.actions {
        program.action(action);
    }
    program.expressions
}

/// A rule being written.
#[derive(Default)]
struct Program {
    expressions: Vec<Expr>,
    /// The family that a packet which comes so far is known to have.
    family: Option<Family>,
}

impl Program {
    fn add(&mut self, expressions: impl IntoIterator<Item = Expr>) {
        self.expressions.extend(expressions);
    }

    /// What follows reads addresses of this family.
    fn of(&mut self, of: Family) {
        if self.family != Some(of) {
            self.family = Some(of);
            self.add(family(of));
        }
    }

    /// What follows reads addresses of a set's family.
    fn of_set(&mut self, set: Set) -> Family {
        let of = set.family().unwrap_or(Family::V4);
        self.of(of);
        of
    }

    fn condition(&mut self, condition: &Match) {
        match condition {
            Match::KnownFlow => self.add(ct_state(state::ESTABLISHED | state::RELATED)),
            Match::Untracked => self.add(ct_state(state::UNTRACKED)),
            Match::Invalid => self.add(ct_state(state::INVALID)),
            Match::MidFlow => {
                self.add(ct_state(state::NEW));
                self.add(protocol(Protocol::Tcp.number()));
                self.add(tcp_flags_other_than_syn());
            }
            Match::Protocol(of) => self.add(protocol(of.number())),
            Match::Echo(of) => {
                let request = match of {
                    Family::V4 => 8,
                    Family::V6 => 128,
                };
                self.icmp_type(*of);
                self.add([Expr::equal(R, [request])]);
            }
            Match::NeighbourDiscovery => {
                const SOLICITATION: u8 = 135;
                const ADVERTISEMENT: u8 = 136;
                self.icmp_type(Family::V6);
                let set = Anonymous {
                    field: Field::from((Type::IcmpKind, Origin::IcmpKind)),
                    values: vec![vec![SOLICITATION], vec![ADVERTISEMENT]],
                    id: 0,
                };
                self.add([Expr::OneOf(R, Box::new(set))]);
            }
            Match::SourceIn(set) => {
                let of = self.of_set(*set);
                self.add([source(of, R), Expr::InSet(R, set.to_string())]);
            }
            Match::SourceWithin(range) => {
                self.of(Family::of(range.addr()));
                self.add(source_range(range));
            }
            Match::SourceLocal => {
                const LOCAL: u32 = 2;
                self.add([Expr::SourceType(R), Expr::equal(R, LOCAL.to_ne_bytes())]);
            }
            Match::FromOther(set) => {
                self.add([Expr::Meta(Meta::InputName, R), Expr::NotInSet(R, set.to_string())]);
            }
            // A name that goes on is compared as far as it is given.
            Match::FromInterface(prefix) => {
                let known = prefix.as_bytes();
                let known = &known[..known.len().min(NAME_LENGTH - 1)];
                if !known.is_empty() {
                    self.add([Expr::Meta(Meta::InputName, R), Expr::equal(R, known)]);
                }
            }
            Match::DestinationIn(set) => {
                let of = self.of_set(*set);
                self.add([destination(of, R), Expr::InSet(R, set.to_string())]);
            }
            Match::Hairpin(set) => {
                const DESTINATION_TRANSLATED: u32 = 0x20;
                self.add(ct_status(DESTINATION_TRANSLATED));
                let of = self.of_set(*set);
                let second = R.after(address_type(of).length());
                self.add([
                    source(of, R),
                    destination(of, second),
                    Expr::InSet(R, set.to_string()),
                ]);
            }
            Match::Marked(mark) => {
                let mark = mark.to_ne_bytes();
                self.add([Expr::Ct(Ct::Mark, R), Expr::masked(R, mark), Expr::equal(R, mark)]);
            }
        }
    }

    /// Loads the kind of an ICMP message.
    fn icmp_type(&mut self, of: Family) {
        const ICMP: u8 = 1;
        const ICMPV6: u8 = 58;
        self.of(of);
        self.add(protocol(match of {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        }));
        self.add([Expr::Payload(Header::Transport, 0, 1, R)]);
    }

    fn action(&mut self, action: &Action) {
        match action {
            Action::Accept => self.add([Expr::Verdict(Verdict::Accept)]),
            Action::Drop => self.add([Expr::Verdict(Verdict::Drop)]),
            Action::Reset => self.add([Expr::Reject(Refusal::Reset)]),
            Action::Unreachable => self.add([Expr::Reject(Refusal::PortUnreachable)]),
            Action::Goto(chain) => self.add([Expr::Verdict(Verdict::Goto(chain.to_string()))]),
            Action::Lookup(set) => {
                let of = self.of_set(*set);
                self.destination(of, R);
                self.add([Expr::VerdictMap(R, set.to_string())]);
            }
            Action::LookupOriginal(set) => {
                let of = set.family().unwrap_or(Family::V4);
                self.original(of, R);
                self.add([Expr::VerdictMap(R, set.to_string())]);
            }
            Action::DnatBy(set) => {
                let of = self.of_set(*set);
                self.add([
                    destination(of, R),
                    Expr::Map(R, set.to_string(), R),
                    Expr::Dnat(table_family(of), R, None),
                ]);
            }
            Action::DnatRemembered(set) => {
                let of = self.of_set(*set);
                self.add([source(of, R)]);
                self.destination(of, R.after(address_type(of).length()));
                self.dnat(*set, of);
            }
            Action::Dnat(set, count) => {
                let of = self.of_set(*set);
                let index = self.destination(of, R);
                self.add([Expr::Random(*count, index)]);
                self.dnat(*set, of);
            }
            Action::Remember(set, seconds) => {
                let of = self.of_set(*set);
                self.add([source(of, R)]);
                let data = self.original(of, R.after(address_type(of).length()));
                self.add([
                    answering_address(of, data),
                    Expr::Ct(
                        Ct::SourcePort(Direction::Reply),
                        data.after(address_type(of).length()),
                    ),
                    Expr::Update {
                        set: set.to_string(),
                        key: R,
                        data,
                        timeout: u64::from(*seconds) * 1000,
                    },
                ]);
            }
            Action::Mark(mark) => self.add([
                Expr::Ct(Ct::Mark, R),
                Expr::Bitwise {
                    register: R,
                    mask: (!mark).to_ne_bytes().to_vec(),
                    xor: mark.to_ne_bytes().to_vec(),
                },
                Expr::SetMark(R),
            ]),
            Action::Masquerade => self.add([Expr::Masquerade]),
        }
    }

    /// Loads destination address, protocol and port; what comes next goes to the register that this returns.
    fn destination(&mut self, of: Family, to: Register) -> Register {
        let second = to.after(address_type(of).length());
        let third = second.after(1);
        self.add([
            destination(of, to),
            Expr::Meta(Meta::Protocol, second),
            port(third),
        ]);
        third.after(2)
    }

    /// The same of what the flow was addressed to at first.
    fn original(&mut self, of: Family, to: Register) -> Register {
        let second = to.after(address_type(of).length());
        let third = second.after(1);
        self.add([
            original_destination(of, to),
            Expr::Meta(Meta::Protocol, second),
            Expr::Ct(Ct::DestinationPort(Direction::Original), third),
        ]);
        third.after(2)
    }

    /// Translates the destination to address and port in a map, the key being loaded.
    fn dnat(&mut self, set: Set, of: Family) {
        let port = R.after(address_type(of).length());
        self.add([
            Expr::Map(R, set.to_string(), R),
            Expr::Dnat(table_family(of), R, Some(port)),
        ]);
    }
}

/// States of connection tracking, as bits.
mod state {
    pub const INVALID: u32 = 0x01;
    pub const ESTABLISHED: u32 = 0x02;
    pub const RELATED: u32 = 0x04;
    pub const NEW: u32 = 0x08;
    pub const UNTRACKED: u32 = 0x40;
}

const fn table_family(family: Family) -> TableFamily {
    match family {
        Family::V4 => TableFamily::Ip,
        Family::V6 => TableFamily::Ip6,
    }
}

/// The elements of the kernel for one of ours: a range takes one for its beginning and one for its end, unless it ends
/// with the last address there is.
pub fn elements(key: &Key, value: &Value) -> impl Iterator<Item = Element> + use<> {
    let bytes = key_bytes(key);
    let data = match value {
        Value::Member => None,
        Value::Goto(chain) => Some(Data::Verdict(Verdict::Goto(chain.to_string()))),
        Value::Address(address) => Some(Data::Bytes(address_bytes(*address))),
        Value::Endpoint(endpoint) => {
            let mut bytes = address_bytes(endpoint.ip());
            bytes.extend_from_slice(&endpoint.port().to_be_bytes());
            bytes.extend_from_slice(&[0; 2]);
            Some(Data::Bytes(bytes))
        }
    };
    let end = match key {
        Key::Range(range) => after(address_bytes(range.broadcast())),
        _ => None,
    };
    let end = end.map(|key| Element {
        key,
        end: true,
        data: None,
    });
    let begin = Element {
        key: bytes,
        end: false,
        data,
    };
    [Some(begin), end].into_iter().flatten()
}

/// The number after one, big-endian; none after the last.
pub(super) fn after(mut number: Vec<u8>) -> Option<Vec<u8>> {
    for byte in number.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(number);
        }
    }
    None
}

fn key_bytes(key: &Key) -> Vec<u8> {
    match key {
        Key::Address(address) => address_bytes(*address),
        Key::Range(range) => address_bytes(range.network()),
        Key::Interface(name) => {
            let mut bytes = name.as_bytes().to_vec();
            bytes.truncate(NAME_LENGTH - 1);
            bytes.resize(NAME_LENGTH, 0);
            bytes
        }
        Key::Pair(source, destination) => {
            let mut bytes = address_bytes(*source);
            bytes.extend(address_bytes(*destination));
            bytes
        }
        Key::Destination(destination) => {
            let mut bytes = address_bytes(destination.address);
            bytes.extend_from_slice(&[destination.protocol.number(), 0, 0, 0]);
            bytes.extend_from_slice(&destination.port.to_be_bytes());
            bytes.extend_from_slice(&[0; 2]);
            bytes
        }
        Key::Numbered(destination, index) => {
            let mut bytes = key_bytes(&Key::Destination(*destination));
            bytes.extend_from_slice(&index.to_ne_bytes());
            bytes
        }
    }
}
