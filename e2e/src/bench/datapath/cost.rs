//! What a contender costs: CPU time and memory of its process and of those that it starts, such as kube-proxy's `nft`.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::process::ProcessId;

/// How often memory is looked at.
const PERIOD: Duration = Duration::from_millis(25);
/// Every so many looks, new children are searched for.
const SEARCH_EVERY: u32 = 4;

/// CPU time, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// In programs.
    pub user: f64,
    /// In the kernel on behalf of them.
    pub system: f64,
}

impl Cpu {
    /// Both.
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            user: (self.user - before.user).max(0.0),
            system: (self.system - before.system).max(0.0),
        }
    }
}

/// Memory, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Resident set of the process at the end.
    pub resident: f64,
    /// The largest that it was.
    pub peak: f64,
    /// The largest that it was together with its children at the same time, as far as looking every 25 ms tells.
    pub peak_with_children: f64,
}

/// CPU time of a process and of its children, those that have ended included.
pub fn cpu(of: ProcessId) -> Cpu {
    let own = ticks(of.pid).unwrap_or_default();
    let mut sum = [own[0] + own[2], own[1] + own[3]];
    for child in children(of.pid) {
        let ticks = ticks(child).unwrap_or_default();
        sum = [sum[0] + ticks[0], sum[1] + ticks[1]];
    }
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    Cpu {
        user: sum[0] as f64 / per_second,
        system: sum[1] as f64 / per_second,
    }
}

/// Watches memory until it is dropped.
pub struct MemoryWatch {
    of: ProcessId,
    peak: Arc<Mutex<f64>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// Begins to watch.
    pub fn start(of: ProcessId) -> Self {
        let (peak, stop) = (Arc::<Mutex<f64>>::default(), Arc::<AtomicBool>::default());
        let thread = std::thread::spawn({
            let (peak, stop) = (peak.clone(), stop.clone());
            move || {
                let (mut look, mut known) = (0_u32, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    if look.is_multiple_of(SEARCH_EVERY) {
                        known = children(of.pid);
                    }
                    look = look.wrapping_add(1);
                    let resident = |pid: i32| status(pid, "VmRSS").unwrap_or_default();
                    let now = resident(of.pid) + known.iter().map(|pid| resident(*pid)).sum::<f64>();
                    let mut peak = peak.lock().unwrap_or_else(PoisonError::into_inner);
                    *peak = peak.max(now);
                    drop(peak);
                    std::thread::sleep(PERIOD);
                }
            }
        });
        Self {
            of,
            peak,
            stop,
            thread: Some(thread),
        }
    }

    /// What was seen so far.
    pub fn memory(&self) -> Memory {
        let peak = status(self.of.pid, "VmHWM").unwrap_or_default();
        let together = *self.peak.lock().unwrap_or_else(PoisonError::into_inner);
        Memory {
            resident: status(self.of.pid, "VmRSS").unwrap_or_default(),
            peak,
            peak_with_children: together.max(peak),
        }
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// User and system time of a process and of its ended children, in clock ticks.
fn ticks(pid: i32) -> Option<[u64; 4]> {
    fields(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, 11)
}

/// Four numbers of `/proc/PID/stat`, from so many after the state.
fn fields(stat: &str, skip: usize) -> Option<[u64; 4]> {
    // The command's name may hold blanks and parentheses.
    let rest = stat.rsplit_once(')')?.1.split_whitespace().skip(skip);
    let numbers: Vec<u64> = rest.take(4).filter_map(|field| field.parse().ok()).collect();
    numbers.try_into().ok()
}

fn children(of: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1));
            parent.and_then(|parent| parent.parse().ok()) == Some(of)
        })
        .collect()
}

/// A size out of `/proc/PID/status`, in MiB.
fn status(pid: i32, name: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_four_times() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 1 0 12345 0 0";
        assert_eq!(fields(stat, 11), Some([250, 50, 7, 8]));
        assert_eq!(fields("42 (a) S 1", 11), None);
    }

    #[test]
    fn children_count() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        assert!(children(own).contains(&i32::try_from(child.id()).unwrap()));
        let watch = MemoryWatch::start(ProcessId::of(own).unwrap());
        let memory = watch.memory();
        assert!(memory.resident > 0.0 && memory.peak_with_children >= memory.peak);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
