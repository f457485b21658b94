//! Changes of endpoints, one at a time and many at once: how long until the kernel has them.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, WatchParams};
use serde::Serialize;

use super::contender::{LIMIT, Running};
use super::cost::Cpu;
use super::objects::{Objects, PORT, is_local, name, newcomer, slices, vip};
use super::stage::Stage;
use super::traffic::who_answers;
use crate::error::{LabError, Result};

/// So many connections tell whether the one new endpoint of ten is served: all missing it is as likely as 1 in 10^9.
const PACKETS: usize = 200;
/// So many Services are looked at after a burst.
const LOOKED_AT: usize = 20;
/// A Service's endpoints are changed; whose are next is remembered here, so that none is changed twice.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// One endpoint replaced, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Trial {
    /// From the beginning of the write until the kernel had it.
    pub from_write_ms: f64,
    /// From when another watch of the API server told it. Zero if that was later.
    pub from_event_ms: f64,
}

/// Many endpoints replaced.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Burst {
    /// Writes.
    pub changes: usize,
    /// From the first write until the last was answered, in seconds.
    pub seconds: f64,
    /// From the last answer until the kernel had everything, in milliseconds.
    pub last_ms: f64,
    /// Transactions of the kernel meanwhile.
    pub transactions: usize,
    /// CPU time until it was idle again.
    pub cpu: Cpu,
}

/// What a contender is asked to follow.
pub struct Changes<'a> {
    /// Where.
    pub stage: &'a Stage,
    /// What was created.
    pub objects: Objects,
    /// Number of Services there.
    pub services: usize,
}

impl Changes<'_> {
    /// Replaces one endpoint of one Service, and waits until a packet finds the new one.
    ///
    /// # Errors
    /// What the API server refuses, or when the change is not served in the end.
    pub fn trial(&self, running: &Running) -> Result<Trial> {
        running.settle()?;
        let (number, index) = self.next();
        let (begun, event) = self.stage.api.block_on(async {
            let client = self.stage.api.connections.first();
            let client = client.ok_or_else(|| LabError::Refused("no connection".to_owned()))?;
            let api = slices(client, index);
            let version = api
                .get(&name(index))
                .await?
                .resource_version()
                .unwrap_or_default();
            let only = WatchParams::default().fields(&format!("metadata.name={}", name(index)));
            let mut events = api.watch(&only, &version).await?.boxed();
            let patch = Patch::Merge(self.objects.change(index, newcomer(number)));
            let (name, params) = (name(index), PatchParams::default());
            let begun = Instant::now();
            let write = api.patch(&name, &params, &patch);
            let heard = async { events.next().await.map(|event| event.map(|_| Instant::now())) };
            let (written, heard) = futures::join!(write, heard);
            written?;
            let heard = heard.ok_or_else(|| LabError::Refused("a watch ended".to_owned()))??;
            Ok::<_, LabError>((begun, heard))
        })?;
        let mut after = begun;
        loop {
            let Some(change) = running.generations.first_after(after, LIMIT) else {
                let why = format!(
                    "{} does not serve {}",
                    running.contender.title(),
                    newcomer(number)
                );
                return Err(LabError::Refused(why));
            };
            // Some other change would be no answer: the packets know.
            if self.is_served(index, number)? {
                let ms = |since: Instant| change.saturating_duration_since(since).as_secs_f64() * 1e3;
                return Ok(Trial {
                    from_write_ms: ms(begun),
                    from_event_ms: ms(event),
                });
            }
            after = change;
        }
    }

    fn is_served(&self, index: usize, number: usize) -> Result<bool> {
        let to = SocketAddrV4::new(vip(index), PORT);
        let answers = who_answers(&self.stage.client, to, PACKETS)?;
        let wanted = newcomer(number);
        Ok(answers
            .iter()
            .any(|answer| answer.as_ref().is_ok_and(|pod| *pod == wanted)))
    }

    /// A change's number and the Service that it is for: with policy Cluster, so that its endpoint can be seen.
    fn next(&self) -> (usize, usize) {
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let index = number.wrapping_mul(7919) % self.services;
            if !is_local(index) {
                return (number, index);
            }
        }
    }

    /// Replaces one endpoint of each of `count` Services, evenly over a second if the API server keeps up.
    ///
    /// # Errors
    /// As [`Changes::trial`].
    pub fn burst(&self, running: &Running, count: usize) -> Result<Burst> {
        running.settle()?;
        let all: Vec<(usize, usize)> = (0..count).map(|_| self.next()).collect();
        let before = running.cpu();
        let begun = Instant::now();
        let last = self.stage.api.block_on(async {
            let write = |client, turn: usize| {
                let (number, index) = all[turn];
                async move {
                    let due = begun + Duration::from_secs(1).mul_f64(turn as f64 / count as f64);
                    tokio::time::sleep_until(due.into()).await;
                    let patch = Patch::Merge(self.objects.change(index, newcomer(number)));
                    let api = slices(client, index);
                    api.patch(&name(index), &PatchParams::default(), &patch).await?;
                    Ok(Instant::now())
                }
            };
            let answers = self.stage.api.connections.each(count, write).await?;
            Ok::<_, LabError>(answers.into_iter().max().unwrap_or(begun))
        })?;
        running.settle()?;
        let cpu = running.cpu().since(before);
        for (number, index) in all.iter().rev().take(LOOKED_AT) {
            if !self.is_served(*index, *number)? {
                let why = format!(
                    "{} does not serve {}",
                    running.contender.title(),
                    newcomer(*number)
                );
                return Err(LabError::Refused(why));
            }
        }
        let changes = running.generations.since(begun);
        let done = changes.last().copied().unwrap_or(begun);
        Ok(Burst {
            changes: count,
            seconds: (last - begun).as_secs_f64(),
            last_ms: done.saturating_duration_since(last).as_secs_f64() * 1e3,
            transactions: changes.len(),
            cpu,
        })
    }
}
