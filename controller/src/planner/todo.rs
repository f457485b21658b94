//! Objects that are to be looked at, each once, in the order in which they came up; configuration objects come first,
//! for they are few and Services depend on them, and with them what is urgent.

use std::collections::{HashSet, VecDeque};

use crate::writes::Object;

#[derive(Debug, Default)]
pub(super) struct Todo {
    first: VecDeque<Object>,
    then: VecDeque<Object>,
    queued: HashSet<Object>,
    /// Those that cannot be written now.
    blocked: HashSet<Object>,
}

impl Todo {
    pub(super) fn push(&mut self, object: Object) {
        if self.queued.insert(object.clone()) {
            match object {
                Object::Service(_) => self.then.push_back(object),
                _ => self.first.push_back(object),
            }
        }
    }

    /// To be looked at before all Services that are not urgent.
    pub(super) fn urge(&mut self, object: Object) {
        if !self.queued.insert(object.clone()) {
            self.then.retain(|queued| *queued != object);
            self.first.retain(|queued| *queued != object);
        }
        self.first.push_back(object);
    }

    pub(super) fn extend(&mut self, objects: impl IntoIterator<Item = Object>) {
        for object in objects {
            self.push(object);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Object> {
        let object = self.first.pop_front().or_else(|| self.then.pop_front())?;
        self.queued.remove(&object);
        Some(object)
    }

    /// To be looked at as soon as it can be written again.
    pub(super) fn block(&mut self, object: Object) {
        self.blocked.insert(object);
    }

    /// Queues those that can be written now.
    pub(super) fn release(&mut self, free: impl Fn(&Object) -> bool) {
        let released: Vec<Object> = self
            .blocked
            .iter()
            .filter(|object| free(object))
            .cloned()
            .collect();
        for object in released {
            self.blocked.remove(&object);
            self.push(object);
        }
    }

    /// Is nothing to be looked at now?
    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_core::model::ServiceKey;

    #[test]
    fn each_object_comes_once_and_what_is_urgent_comes_first() {
        let service = |name: &str| Object::Service(ServiceKey::new("n", name));
        let mut todo = Todo::default();
        todo.extend(["a", "b", "a", "c"].map(service));
        todo.push(Object::Pool("p".into()));
        todo.urge(service("c"));
        let order: Vec<Object> = std::iter::from_fn(|| todo.pop()).collect();
        assert_eq!(
            order,
            [Object::Pool("p".into()), service("c"), service("a"), service("b")]
        );
        todo.block(service("a"));
        todo.release(|_| false);
        assert!(todo.is_empty());
        todo.release(|_| true);
        assert_eq!(todo.pop(), Some(service("a")));
    }
}
