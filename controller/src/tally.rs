//! Services of ours by state, for the metrics.

use std::collections::HashMap;

use fairlead_core::model::ServiceKey;

/// What has become of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It has an address, and nodes announce all its addresses.
    Announced,
    /// It has an address, and not all its addresses are announced.
    HeldBack,
    /// It has no address.
    Refused,
    /// Another implementation serves it.
    LeftAlone,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Announced, Self::HeldBack, Self::Refused, Self::LeftAlone];

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::HeldBack => "held_back",
            Self::Refused => "refused",
            Self::LeftAlone => "served_by_another",
        }
    }
}

/// The states of all Services of ours, counted as they change.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    states: HashMap<ServiceKey, State>,
    counts: HashMap<State, i64>,
}

impl Tally {
    /// A Service has another state; `None` for one that is not ours, or is gone.
    pub fn set(&mut self, key: &ServiceKey, state: Option<State>) {
        let before = match state {
            Some(state) if self.states.get(key) == Some(&state) => return,
            Some(state) => {
                *self.counts.entry(state).or_default() += 1;
                self.states.insert(key.clone(), state)
            }
            None => self.states.remove(key),
        };
        if let Some(before) = before {
            *self.counts.entry(before).or_default() -= 1;
        }
    }

    /// How many Services have a state.
    pub fn count(&self, state: State) -> i64 {
        self.counts.get(&state).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_counts_once() {
        let (mut tally, a) = (Tally::default(), ServiceKey::new("n", "a"));
        let counts = |tally: &Tally| State::ALL.map(|state| tally.count(state));
        tally.set(&a, Some(State::Refused));
        tally.set(&a, Some(State::Refused));
        tally.set(&ServiceKey::new("n", "b"), Some(State::Announced));
        assert_eq!(counts(&tally), [1, 0, 1, 0]);
        tally.set(&a, Some(State::HeldBack));
        assert_eq!(counts(&tally), [1, 1, 0, 0]);
        tally.set(&a, None);
        tally.set(&a, None);
        assert_eq!(counts(&tally), [1, 0, 0, 0]);
    }
}
