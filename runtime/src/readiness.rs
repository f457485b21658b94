//! Readiness as named guards: a program is ready when the last guard has been dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What is still awaited before the program is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    awaited: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Readiness {
    /// Nothing awaited yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The program is not ready until the guard is dropped.
    pub fn guard(&self, name: &'static str) -> Guard {
        *self.lock().entry(name).or_default() += 1;
        Guard {
            readiness: self.clone(),
            name,
        }
    }

    /// The names that are still awaited; empty means ready.
    pub fn awaited(&self) -> Vec<&'static str> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds readiness back while it lives.
#[derive(Debug)]
pub struct Guard {
    readiness: Readiness,
    name: &'static str,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut awaited = self.readiness.lock();
        if let Some(count) = awaited.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                awaited.remove(self.name);
            }
        }
        if awaited.is_empty() {
            tracing::info!("ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_guard_is_gone() {
        let readiness = Readiness::new();
        let (a, b, c) = (readiness.guard("a"), readiness.guard("a"), readiness.guard("b"));
        assert_eq!(readiness.awaited(), ["a", "b"]);
        drop(a);
        drop(c);
        assert_eq!(readiness.awaited(), ["a"]);
        drop(b);
        assert!(readiness.awaited().is_empty());
    }
}
