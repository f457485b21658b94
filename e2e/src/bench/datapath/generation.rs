//! The witness in the kernel: when did nf_tables of a network namespace change?
//!
//! The generation number is asked for again and again. Listening for changes instead would make the kernel write a
//! message for every element of every change, and so slow down what is measured.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Doing, LabError, Result};
use crate::machine::Machine;

/// Between two questions: what a time can be too late by.
const PERIOD: Duration = Duration::from_micros(100);
/// `NFNL_SUBSYS_NFTABLES`, shifted to its place in a message's type.
const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_NEWGEN`, the answer.
const NEW_GENERATION: u16 = NFTABLES | 15;
/// `NFT_MSG_GETGEN`, the question.
const GET_GENERATION: u16 = NFTABLES | 16;
/// `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;
/// Length of netlink's header with nf_tables' own.
const HEADERS: usize = 20;

/// Watches one network namespace until it is dropped.
pub struct Generations {
    changes: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Generations {
    /// Begins to watch a machine.
    ///
    /// # Errors
    /// When its namespace cannot be entered, or the kernel does not answer.
    pub fn watch(machine: &Machine) -> Result<Self> {
        let path = format!("/proc/{}/ns/net", machine.id().pid);
        let namespace = File::open(&path).doing(format!("open {path}"))?;
        let (changes, stop) = (
            Arc::<Mutex<Vec<Instant>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (told, begun) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (changes, stop) = (changes.clone(), stop.clone());
            move || {
                let first = setns(namespace, CloneFlags::CLONE_NEWNET)
                    .doing("enter a network namespace")
                    .and_then(|()| Asker::new())
                    .and_then(|mut asker| Ok((asker.ask()?, asker)));
                let (mut known, mut asker) = match first {
                    Ok(first) => first,
                    Err(error) => return drop(told.send(Err(error))),
                };
                let _ = told.send(Ok(()));
                while !stop.load(Ordering::Relaxed) {
                    // A question can fail while memory is short; the next one is asked all the same.
                    if let Ok(now) = asker.ask()
                        && now != known
                    {
                        known = now;
                        lock(&changes).push(Instant::now());
                    }
                    std::thread::sleep(PERIOD);
                }
            }
        });
        let watch = Self {
            changes,
            stop,
            thread: Some(thread),
        };
        let died = |_| LabError::Refused("the witness in the kernel died".to_owned());
        begun.recv().map_err(died)??;
        Ok(watch)
    }

    /// When it changed, since `begin`.
    pub fn since(&self, begin: Instant) -> Vec<Instant> {
        let changes = lock(&self.changes);
        let from = changes.partition_point(|change| *change < begin);
        changes[from..].to_vec()
    }

    /// When it last changed.
    pub fn last(&self) -> Option<Instant> {
        lock(&self.changes).last().copied()
    }

    /// The first change after `begin`, waited for until `limit` after it.
    pub fn first_after(&self, begin: Instant, limit: Duration) -> Option<Instant> {
        loop {
            if let Some(change) = self.since(begin).into_iter().find(|change| *change > begin) {
                return Some(change);
            }
            if begin.elapsed() > limit {
                return None;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(changes: &Mutex<Vec<Instant>>) -> std::sync::MutexGuard<'_, Vec<Instant>> {
    changes.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Asker {
    socket: Socket,
    question: [u8; HEADERS],
}

impl Asker {
    fn new() -> Result<Self> {
        let (netlink, netfilter) = (
            Domain::from(libc::AF_NETLINK),
            Protocol::from(libc::NETLINK_NETFILTER),
        );
        let socket = Socket::new(netlink, Type::RAW, Some(netfilter)).doing("open a netlink socket")?;
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .doing("set a time-out")?;
        Ok(Self {
            socket,
            question: question(),
        })
    }

    fn ask(&mut self) -> Result<u32> {
        let what = "ask for the generation of nf_tables";
        self.socket.write_all(&self.question).doing(what)?;
        let mut answer = [0; 512];
        let length = self.socket.read(&mut answer).doing(what)?;
        generation(&answer[..length])
            .ok_or_else(|| LabError::Refused(format!("{what}: {:?}", &answer[..length])))
    }
}

fn question() -> [u8; HEADERS] {
    let mut message = [0; HEADERS];
    message[..4].copy_from_slice(&(HEADERS as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
    message[6..8].copy_from_slice(&1_u16.to_ne_bytes()); // NLM_F_REQUEST
    message
}

/// The number in an answer.
fn generation(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != NEW_GENERATION {
        return None;
    }
    let mut attributes = answer.get(HEADERS..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if kind == GENERATION_ID {
            return Some(u32::from_be_bytes(attributes.get(4..8)?.try_into().ok()?));
        }
        attributes = attributes.get(length.next_multiple_of(4).max(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_number() {
        let mut answer = [0_u8; 36];
        answer[4..6].copy_from_slice(&NEW_GENERATION.to_ne_bytes());
        // Another attribute of five bytes first.
        answer[20..22].copy_from_slice(&5_u16.to_ne_bytes());
        answer[22..24].copy_from_slice(&3_u16.to_ne_bytes());
        answer[28..30].copy_from_slice(&8_u16.to_ne_bytes());
        answer[30..32].copy_from_slice(&GENERATION_ID.to_ne_bytes());
        answer[32..36].copy_from_slice(&7_u32.to_be_bytes());
        assert_eq!(generation(&answer), Some(7));
        assert_eq!(generation(&answer[..34]), None);
        answer[4] ^= 1;
        assert_eq!(generation(&answer), None);
        assert_eq!(generation(&[]), None);
    }
}
