//! `spec.interfaces` of an advertisement: names, patterns and exclusions.

use std::fmt;

/// The longest name the kernel gives an interface, in bytes.
const NAME_MOST: usize = 15;

/// Which interfaces an advertisement is for. In a name `*` stands for any text and `?` for one character; a leading `!`
/// excludes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    wanted: Vec<String>,
    unwanted: Vec<String>,
}

impl Interfaces {
    /// Reads the list.
    ///
    /// # Errors
    /// A sentence that quotes the entry that cannot be the name of an interface, or a pattern of such names.
    pub fn parse(entries: &[String]) -> Result<Self, String> {
        let mut interfaces = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            let name = entry.strip_prefix('!').unwrap_or(entry);
            let odd = |c: char| c.is_whitespace() || "/:[]{}".contains(c);
            let length = 1..=NAME_MOST;
            if !length.contains(&name.len())
                || name.contains(odd)
                || name.starts_with('!')
                || [".", ".."].contains(&name)
            {
                return Err(format!(
                    "[{index}]: \"{entry}\" is neither the name of a network interface nor a pattern of names"
                ));
            }
            let list = if name.len() == entry.len() {
                &mut interfaces.wanted
            } else {
                &mut interfaces.unwanted
            };
            list.push(name.to_owned());
        }
        Ok(interfaces)
    }

    /// Does the list say what is wanted? If not, the interfaces with a subnet of the address are, less those excluded.
    pub fn is_explicit(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Is the interface wanted by name, if the list is explicit, and not excluded?
    pub fn allows(&self, name: &str) -> bool {
        let any = |patterns: &[String]| {
            patterns
                .iter()
                .any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
        };
        (self.wanted.is_empty() || any(&self.wanted)) && !any(&self.unwanted)
    }
}

/// In words: `eth0 or bond?, but not eth1`.
impl fmt::Display for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wanted.join(" or "))?;
        if self.unwanted.is_empty() {
            return Ok(());
        }
        let comma = if self.wanted.is_empty() { "" } else { ", but " };
        write!(f, "{comma}not {}", self.unwanted.join(" or "))
    }
}

/// Does the pattern match the whole name? Goes back to the last `*` only: one that stands before it has nothing to win
/// by taking more.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last `*`, and how much of the name that `*` has not taken yet.
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, seen));
                at += 1;
            }
            Some(&c) if c == b'?' || c == name[seen] => (at, seen) = (at + 1, seen + 1),
            _ => match star {
                Some((behind, taken)) => {
                    star = Some((behind, taken + 1));
                    (at, seen) = (behind, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(entries: &[&str]) -> Interfaces {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        Interfaces::parse(&entries).unwrap()
    }

    #[test]
    fn patterns() {
        for (pattern, yes, no) in [
            ("eth0", &["eth0"][..], &["eth", "eth00", "xeth0", ""][..]),
            ("eth*", &["eth", "eth0", "eth0.10"], &["et", "veth0"]),
            ("*", &["", "eth0"], &[]),
            (
                "bond?.10",
                &["bond0.10", "bondx.10"],
                &["bond.10", "bond10.10", "bond0.100"],
            ),
            ("*.1*0", &["a.10", "a.1.10", ".1x0"], &["a.1", "10"]),
            ("e**0?", &["e0x", "eth00"], &["e0", "eth0"]),
        ] {
            for name in yes {
                assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            }
            for name in no {
                assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_list_wants_any_of_its_names_less_those_excluded() {
        let mixed = list(&["!eth1", "eth*", "bond0"]);
        assert!(mixed.is_explicit());
        assert_eq!(mixed.to_string(), "eth* or bond0, but not eth1");
        assert!(mixed.allows("eth0") && mixed.allows("bond0"));
        assert!(!mixed.allows("eth1") && !mixed.allows("bond1"));
        let excluding = list(&["!veth*", "!eth1"]);
        assert!(!excluding.is_explicit() && excluding.allows("eth0") && !excluding.allows("veth7"));
        assert_eq!(excluding.to_string(), "not veth* or eth1");
        assert!(!list(&[]).is_explicit() && list(&[]).allows("anything"));
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        for entry in [
            "",
            "!",
            "!!eth0",
            ".",
            "!..",
            "a/b",
            "eth 0",
            "eth0:1",
            "eth[0-9]",
            "{eth0}",
            "sixteen-letters-",
            "!sixteen-letters-",
            "eth0\n",
        ] {
            let error = Interfaces::parse(&["eth0".into(), entry.into()]).unwrap_err();
            assert!(error.starts_with(&format!("[1]: \"{entry}\"")), "{error}");
        }
        list(&["fifteen-letters", "!fifteen-letters", "eth0@x_y-z.10"]);
    }

    /// The same by trying everything.
    fn slowly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, name) => name.is_none(),
            (Some((b'*', rest)), None) => slowly(rest, name),
            (Some((b'*', rest)), Some((_, left))) => slowly(rest, name) || slowly(pattern, left),
            (Some((c, rest)), Some((n, left))) => (*c == b'?' || c == n) && slowly(rest, left),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn going_back_to_the_last_star_is_enough(pattern in "[ab*?]{0,9}", name in "[ab]{0,12}") {
            let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(matches(pattern, name), slowly(pattern, name));
        }
    }
}
