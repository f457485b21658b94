//! Work that leaves no core idle.

use std::process::{Child, Command, Stdio};

use crate::error::{Doing, Result};

/// Processes that do nothing but run, until this is dropped.
pub struct Busy {
    processes: Vec<Child>,
}

impl Busy {
    /// So many of them on each core, of usual priority.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(each_core: usize) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut busy = Self { processes: vec![] };
        for _ in 0..cores * each_core {
            let mut command = Command::new("sh");
            command
                .args(["-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            busy.processes
                .push(command.spawn().doing("start a busy process")?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended by itself needs no end.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
