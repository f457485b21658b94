//! Objects that are to be looked at, each once, in the order in which they came up; configuration objects come first,
//! for they are few and Services depend on them.

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
