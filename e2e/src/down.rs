//! Ending a lab, whatever state it is in.

use crate::{cgroup, error::Result, forward, machine, progress::Progress, state::Paths};

/// Ends every process of a lab and removes its cgroups and files; mounts and namespaces go with the processes.
///
/// Nothing is assumed of the lab's state: the processes are found by their command lines, so a lab that was being
/// brought up when something crashed is ended as well. A lab that does not exist is no error.
///
/// # Errors
/// When a process, a cgroup or a file resists.
pub fn down(name: &str, progress: &Progress) -> Result<()> {
    let paths = Paths::new(name)?;
    // An `up` of the same name may be at work: after it, not among it.
    let _lock = paths.lock()?;
    progress.step(&format!("ending lab {name}"), || {
        forward::end(&paths)?;
        machine::end_all(&paths)?;
        cgroup::remove_all(name)?;
        paths.remove()
    })
}
