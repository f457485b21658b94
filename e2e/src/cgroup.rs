//! The cgroups in which a node's kubelet keeps its pods: `/fairlead-lab-NAME/NODE` in every hierarchy.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::error::{Doing, LabError, Result};

/// The path that a node's kubelet gets as `cgroupRoot`.
pub(crate) fn root_of(lab: &str, node: &str) -> String {
    format!("/fairlead-lab-{lab}/{node}")
}

#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    at: PathBuf,
    unified: bool,
}

/// The mounted cgroup hierarchies.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let at = PathBuf::from(left.split(' ').nth(4)?);
            match right.split(' ').next()? {
                "cgroup" => Some(Hierarchy { at, unified: false }),
                "cgroup2" => Some(Hierarchy { at, unified: true }),
                _ => None,
            }
        })
        .collect()
}

/// Those that hold pods: the ones of v1 if there are any, else the one of v2.
fn for_pods(mut all: Vec<Hierarchy>) -> Vec<Hierarchy> {
    if all.iter().any(|h| !h.unified) {
        all.retain(|h| !h.unified);
    }
    all
}

fn mounted() -> Result<Vec<Hierarchy>> {
    let path = "/proc/self/mountinfo";
    Ok(hierarchies(
        &fs::read_to_string(path).doing(format!("read {path}"))?,
    ))
}

/// Makes a node's cgroup in every hierarchy.
pub(crate) fn create(lab: &str, node: &str) -> Result<()> {
    for hierarchy in for_pods(mounted()?) {
        let mut at = hierarchy.at.clone();
        for part in root_of(lab, node).trim_start_matches('/').split('/') {
            let above = at.clone();
            at.push(part);
            fs::create_dir_all(&at).doing(format!("create cgroup {}", at.display()))?;
            if hierarchy.unified {
                hand_down_controllers(&above)?;
            } else if above.join("cpuset.cpus").exists() {
                // A new v1 cpuset is empty, and nothing can be put into it.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let value = fs::read(above.join(file)).doing(format!("read {file}"))?;
                    fs::write(at.join(file), value).doing(format!("write {file} of {}", at.display()))?;
                }
            }
        }
    }
    Ok(())
}

/// On cgroup v2 a child has only the controllers that its parent enables.
fn hand_down_controllers(parent: &Path) -> Result<()> {
    let list = fs::read_to_string(parent.join("cgroup.controllers")).doing("read cgroup.controllers")?;
    let enable: Vec<String> = list.split_whitespace().map(|c| format!("+{c}")).collect();
    let file = parent.join("cgroup.subtree_control");
    fs::write(&file, enable.join(" ")).doing(format!("write {}", file.display()))
}

/// Removes all cgroups of a lab. Its processes must have ended.
pub(crate) fn remove_all(lab: &str) -> Result<()> {
    remove(&format!("fairlead-lab-{lab}"))
}

/// Removes the cgroups of a node, as a power cycle does. A kubelet that finds some of dead pods waits for each.
pub(crate) fn remove_node(lab: &str, node: &str) -> Result<()> {
    remove(root_of(lab, node).trim_start_matches('/'))
}

fn remove(path: &str) -> Result<()> {
    // Of every hierarchy: beside v1, runc uses a v2 hierarchy as well if it finds one.
    for hierarchy in mounted()? {
        let top = hierarchy.at.join(path);
        let begun = Instant::now();
        let limit = Duration::from_secs(10);
        while top.exists() {
            let error = remove_tree(&top).err();
            // Just after its last process has ended, a cgroup may be busy for a moment.
            match error {
                Some(error) if begun.elapsed() > limit => {
                    let what = format!("cgroup {} to be empty", top.display());
                    return Err(LabError::Timeout {
                        what,
                        after: limit,
                        seen: error.to_string(),
                    });
                }
                Some(_) => std::thread::sleep(Duration::from_millis(20)),
                None => {}
            }
        }
    }
    Ok(())
}

fn remove_tree(at: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(at)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_hierarchies() {
        let v1 = "34 33 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  43 33 0:39 / /sys/fs/cgroup/unified rw,relatime shared:1 - cgroup2 cgroup2 rw\n";
        let found = for_pods(hierarchies(v1));
        assert_eq!(
            found,
            [Hierarchy {
                at: "/sys/fs/cgroup/cpu".into(),
                unified: false
            }]
        );
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            for_pods(hierarchies(v2)),
            [Hierarchy {
                at: "/sys/fs/cgroup".into(),
                unified: true
            }]
        );
    }
}
