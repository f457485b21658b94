//! From term to term: follows while another leads, and leads when elected.

use std::time::Instant;

use fairlead_runtime::Guard;
use fairlead_runtime::lease::Term;
use fairlead_runtime::watch::Shared;
use tokio::sync::watch;
use tracing::info;

use crate::index::Index;
use crate::planner::Planner;
use crate::writer::{End, Writer};

/// Leads whenever this process is elected, until it is asked to `stop` or the installation is being removed. When it
/// returns, no write is under way.
pub async fn run(mut writer: Writer, planner: impl Fn() -> Planner, mut stop: watch::Receiver<bool>) {
    while let Some(term) = follow(&mut writer, &mut stop).await {
        // What an earlier term left under way or assumed says nothing now.
        match writer.lead(planner(), term.number, &mut stop).await {
            End::Deposed => {
                writer.metrics.deposed();
                info!("deposed; what was planned is dropped");
            }
            End::Stopped => return,
            End::Leaving => {
                info!("the installation is being removed; writing no more");
                return;
            }
        }
    }
}

/// Waits for a term, and for a view of the world that is good enough to begin it; `None` when asked to stop.
async fn follow(writer: &mut Writer, stop: &mut watch::Receiver<bool>) -> Option<Term> {
    let mut changes = writer.index.changes();
    loop {
        let term = tokio::select! {
            term = writer.leadership.begun() => term,
            () = stopped(stop) => return None,
            Ok(()) = changes.changed() => {
                // A term takes over everything at its beginning. Names of what came and went must not pile up until then.
                writer.index.with(Index::forget_changes);
                continue;
            }
        };
        // The former leader may have given an address that our watch has not shown yet. What it wrote in its term was
        // accepted before ours began, so a list that begins now has it.
        let began = Instant::now();
        tokio::select! {
            () = writer.relist.since(term.acquired) => {
                info!(took = ?began.elapsed(), "all Services are known as of the beginning of the term");
                return Some(term);
            }
            () = writer.leadership.lost(term.number) => {}
            () = stopped(stop) => return None,
        }
    }
}

/// Completes when `stop` says so.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could ask.
        std::future::pending::<()>().await;
    }
}

/// Drops `unready` when every kind has been listed: a follower is as ready as a leader.
pub async fn ready_when_listed(index: Shared<Index>, unready: Guard) {
    let mut changes = index.changes();
    while !index.with(|index| index.listed()) && changes.changed().await.is_ok() {}
    drop(unready);
}
