//! What has been said of which object, so that nothing is said again with each list and each change.

use std::collections::BTreeSet;

/// Enough for any cluster in which the log is of use.
const MOST: usize = 4096;

/// Remembers objects, each with the reasons that were told of it.
#[derive(Clone, Debug)]
pub struct Said<R> {
    known: BTreeSet<(String, R)>,
}

impl<R> Default for Said<R> {
    fn default() -> Self {
        Self {
            known: BTreeSet::new(),
        }
    }
}

impl<R: Ord> Said<R> {
    /// Is this the first time that `reason` is told of the object? The answer is `no` from then on, also if the object
    /// was sound meanwhile. Of so many objects that remembering them costs too much, the later ones are not told.
    pub fn first(&mut self, object: &str, reason: R) -> bool {
        self.known.len() < MOST && self.known.insert((object.to_owned(), reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_once_for_each_object() {
        let mut said = Said::default();
        assert!(said.first("a", 1) && said.first("a", 2) && said.first("b", 1));
        assert!(!said.first("a", 1) && !said.first("b", 1));
        for n in 0..2 * MOST {
            said.first(&n.to_string(), 1);
        }
        assert_eq!(said.known.len(), MOST);
        assert!(!said.first("c", 1));
    }
}
