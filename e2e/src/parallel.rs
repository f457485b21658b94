//! Doing the same to several machines at once.

use std::{panic::resume_unwind, thread::ScopedJoinHandle};

use crate::error::Result;

/// Waits for a thread and hands on its result, or its panic.
pub(crate) fn join<T>(handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs `job` for every item, all at once; the first error is returned when all have ended.
pub(crate) fn each<I: Sync, T: Send>(items: &[I], job: impl Fn(&I) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let handles: Vec<_> = items.iter().map(|item| scope.spawn(|| job(item))).collect();
        let results: Vec<Result<T>> = handles.into_iter().map(join).collect();
        results.into_iter().collect()
    })
}
