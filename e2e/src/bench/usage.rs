//! What processes have used: CPU time and memory, from `/proc`.

use std::collections::BTreeMap;
use std::fs;

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::error::{LabError, Result};
use crate::lab::Lab;
use crate::process::ProcessId;
use crate::topology::Place;

/// The processes of one container, by its ID (`containerd://…`).
///
/// # Errors
/// When there is none.
pub fn of_container(id: &str) -> Result<Vec<ProcessId>> {
    let id = id.rsplit('/').next().unwrap_or(id);
    let found = processes(|pid| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(id))
    });
    if id.is_empty() || found.is_empty() {
        return Err(LabError::Refused(format!("no process of container {id:?} runs")));
    }
    Ok(found)
}

/// The processes of services of a place, such as etcd's.
///
/// # Errors
/// When one does not run.
pub fn of_services(lab: &Lab, place: Place, names: &[&str]) -> Result<Vec<ProcessId>> {
    let machine = lab.machine(place)?;
    let namespace = pid_namespace(machine.id().pid);
    let inside = processes(|pid| namespace.is_some() && pid_namespace(pid) == namespace);
    let services = machine.services()?;
    names
        .iter()
        .map(|name| {
            let service = services.iter().find(|s| s.name == *name && s.is_running());
            let found = service.and_then(|service| {
                inside
                    .iter()
                    .find(|process| innermost_pid(process.pid) == Some(service.pid))
            });
            found
                .copied()
                .ok_or_else(|| LabError::Refused(format!("{name} of {} does not run", place.name())))
        })
        .collect()
}

/// CPU time of these processes since they started, user and system, in seconds.
///
/// # Errors
/// When one has ended: its time is lost.
pub fn cpu_seconds(of: &[ProcessId]) -> Result<f64> {
    let ticks: Result<Vec<u64>> = of
        .iter()
        .map(|process| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok();
            stat.filter(|_| process.is_alive())
                .and_then(|stat| process_ticks(&stat))
                .ok_or_else(|| LabError::Refused(format!("process {} has ended", process.pid)))
        })
        .collect();
    Ok(seconds(ticks?.into_iter().sum()))
}

/// Sum of the largest resident sets that these processes have had, in MiB.
///
/// # Errors
/// When one has ended.
pub fn peak_rss_mib(of: &[ProcessId]) -> Result<f64> {
    let kib: Result<Vec<u64>> = of
        .iter()
        .map(|process| {
            fs::read_to_string(format!("/proc/{}/status", process.pid))
                .ok()
                .and_then(|status| field(&status, "VmHWM")?.split_whitespace().next()?.parse().ok())
                .ok_or_else(|| LabError::Refused(format!("process {} has ended", process.pid)))
        })
        .collect();
    Ok(kib?.into_iter().sum::<u64>() as f64 / 1024.0)
}

/// CPU time of each thread of a process since it started, by the thread's name, in seconds. Threads of one name are added up.
///
/// # Errors
/// When the process has ended.
pub fn thread_seconds(of: ProcessId) -> Result<BTreeMap<String, f64>> {
    let mut threads = BTreeMap::new();
    let entries = fs::read_dir(format!("/proc/{}/task", of.pid))
        .into_iter()
        .flatten();
    for thread in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        // A thread may end while we look.
        let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
        if let (Some(name), Some(ticks)) = (command(&stat), process_ticks(&stat)) {
            *threads.entry(name.to_owned()).or_default() += seconds(ticks);
        }
    }
    if threads.is_empty() || !of.is_alive() {
        return Err(LabError::Refused(format!("process {} has ended", of.pid)));
    }
    Ok(threads)
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Resident set.
    pub rss_mib: f64,
    /// The largest that it has been.
    pub peak_mib: f64,
    /// Of the resident set, what no file backs: neither the program nor its libraries.
    pub own_mib: f64,
}

/// Memory of a process at present.
///
/// # Errors
/// When it has ended.
pub fn memory(of: ProcessId) -> Result<Memory> {
    fs::read_to_string(format!("/proc/{}/status", of.pid))
        .ok()
        .filter(|_| of.is_alive())
        .and_then(|status| memory_in(&status))
        .ok_or_else(|| LabError::Refused(format!("process {} has ended", of.pid)))
}

fn memory_in(status: &str) -> Option<Memory> {
    let mib = |name| {
        let kib: f64 = field(status, name)?.split_whitespace().next()?.parse().ok()?;
        Some(kib / 1024.0)
    };
    Some(Memory {
        rss_mib: mib("VmRSS")?,
        peak_mib: mib("VmHWM")?,
        own_mib: mib("RssAnon")?,
    })
}

/// CPU time that this machine has spent on anything since it started, over all cores, in seconds.
pub fn machine_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    seconds(machine_ticks(&stat).unwrap_or_default())
}

fn processes(wanted: impl Fn(i32) -> bool) -> Vec<ProcessId> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| wanted(*pid))
        .filter_map(ProcessId::of)
        .collect()
}

fn pid_namespace(pid: i32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// A process's pid in the namespace that it lives in.
fn innermost_pid(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    field(&status, "NSpid")?.split_whitespace().last()?.parse().ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// The command's name out of `/proc/PID/stat`.
fn command(stat: &str) -> Option<&str> {
    Some(stat.split_once('(')?.1.rsplit_once(')')?.0)
}

/// User and system time out of `/proc/PID/stat`. The command's name may hold blanks and parentheses.
fn process_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// All but idle time and waiting for disks out of `/proc/stat`; guests' time is in the users' already.
fn machine_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = fields
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    let busy = [0, 1, 2, 5, 6, 7].iter().map(|index| fields.get(*index).copied());
    busy.sum()
}

fn seconds(ticks: u64) -> f64 {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    ticks as f64 / per_second as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 1 0 12345 0 0";
        assert_eq!(process_ticks(stat), Some(300));
        assert_eq!(command(stat), Some("a) b) c"));
        let stat = "cpu  10 20 30 1000 2000 1 2 4 500 500\ncpu0 1 1 1 1\n";
        assert_eq!(machine_ticks(stat), Some(67));
        let status = "VmHWM:\t 2048 kB\nVmRSS:\t 1536 kB\nRssAnon:\t 512 kB\n";
        let memory = memory_in(status).unwrap();
        assert_eq!((memory.rss_mib, memory.peak_mib, memory.own_mib), (1.5, 2.0, 0.5));
        assert_eq!(memory_in("VmHWM:\t 2048 kB\n"), None);
        assert_eq!(field("VmHWM:\t  12 kB\nNSpid:\t7\t1\n", "NSpid"), Some("\t7\t1"));
    }

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let own = [ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap()];
        let begun = cpu_seconds(&own).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // Threads that have ended count for the process, and not among its threads.
        let threads = || thread_seconds(own[0]).unwrap().into_values().sum::<f64>();
        while cpu_seconds(&own).unwrap() <= begun || threads() <= 0.0 {
            assert!(std::time::Instant::now() < end, "no CPU time in 10 s of work");
        }
        assert!(peak_rss_mib(&own).unwrap() > 1.0);
        assert!(memory(own[0]).unwrap().rss_mib > 1.0);
        assert!(machine_cpu_seconds() > begun);
    }

    #[test]
    fn an_ended_process_is_an_error() {
        let gone = ProcessId {
            pid: i32::try_from(std::process::id()).unwrap(),
            start: 1,
        };
        assert!(cpu_seconds(&[gone]).is_err());
        assert!(thread_seconds(gone).is_err());
        assert!(memory(gone).is_err());
    }
}
