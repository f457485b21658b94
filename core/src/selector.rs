//! Label selectors (`matchLabels` and `matchExpressions`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requirement {
    /// The label exists and has one of the values.
    In(String, Vec<String>),
    /// The label is absent or has none of the values.
    NotIn(String, Vec<String>),
    /// The label exists.
    Exists(String),
    /// The label is absent.
    DoesNotExist(String),
}

/// All requirements must hold; an empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector(pub Vec<Requirement>);

impl Selector {
    /// Do these labels satisfy the selector?
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }
}

/// Does any of the selectors match? No selector at all matches everything.
pub fn any_matches(selectors: &[Selector], labels: &BTreeMap<String, String>) -> bool {
    selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let one = |requirement| Selector(vec![requirement]).matches(&labels);
        let zone = || "zone".to_owned();
        assert!(one(Requirement::In(zone(), vec!["a".into(), "b".into()])));
        assert!(!one(Requirement::In(zone(), vec!["b".into()])));
        assert!(!one(Requirement::In("rack".into(), vec!["a".into()])));
        assert!(one(Requirement::NotIn(zone(), vec!["b".into()])));
        assert!(one(Requirement::NotIn("rack".into(), vec!["b".into()])));
        assert!(one(Requirement::Exists(zone())));
        assert!(one(Requirement::DoesNotExist("rack".into())));
        assert!(Selector::default().matches(&labels));
        assert!(any_matches(&[], &labels));
    }
}
