//! Processes seen from the host: found by pid and start time, or by the marker on their command line.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid on the host.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start: u64,
}

impl ProcessId {
    /// The process that has this pid now, if it is alive (a zombie is not).
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command name is in parentheses and may itself hold blanks and parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        Some(Self {
            pid,
            start: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Kills it, if it is still the same process.
    pub fn kill(self) {
        if self.is_alive() {
            // It may have ended in between: then there is nothing left to do.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Waits until it is gone; false if it is still there after `limit`.
    pub fn wait_gone(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// The processes whose command line begins with `program`, then `subcommand`, and goes on with `rest`.
pub fn find_marked(program: &Path, subcommand: &str, rest: &[&str]) -> Vec<ProcessId> {
    let mut marker = program.as_os_str().as_bytes().to_vec();
    for word in std::iter::once(&subcommand).chain(rest) {
        marker.push(0);
        marker.extend_from_slice(word.as_bytes());
    }
    marker.push(0);
    let Ok(entries) = fs::read_dir("/proc") else {
        return vec![];
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let id = ProcessId::of(pid)?;
            fs::read(format!("/proc/{pid}/cmdline"))
                .ok()?
                .starts_with(&marker)
                .then_some(id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn finds_by_marker_and_kills() {
        let mut child = Command::new("/bin/sleep").args(["61.5", "0.25"]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        // Between fork and exec the command line is still the test's.
        let found = loop {
            let found = find_marked(Path::new("/bin/sleep"), "61.5", &["0.25"]);
            if !found.is_empty() || Instant::now() > end {
                break found;
            }
        };
        assert_eq!(found.iter().map(|p| p.pid).collect::<Vec<_>>(), [pid]);
        assert!(find_marked(Path::new("/bin/sleep"), "61.5", &["0.2"]).is_empty());
        let stale = ProcessId {
            start: found[0].start + 1,
            ..found[0]
        };
        assert!(!stale.is_alive());
        found[0].kill();
        assert!(
            found[0].wait_gone(Duration::from_secs(5)),
            "a zombie counts as gone"
        );
        child.wait().unwrap();
    }
}
