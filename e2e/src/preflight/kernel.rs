//! What the kernel must be able to do. Each thing is tried in namespaces made for it, which vanish with the trial: a
//! kernel's configuration says nothing of modules that cannot be loaded or of what a container is not allowed.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::PreflightError;

/// Each thing to try: its name, and a shell command that succeeds where the kernel can do it. They run one after the other in
/// one set of new namespaces.
const TRIALS: &[(&str, &str)] = &[
    ("veth pairs", "ip link add va type veth peer name vb"),
    (
        "bridges",
        "ip link add name b0 type bridge && ip link set va master b0",
    ),
    ("IPv6", "ip -6 address add fd00::1/64 dev vb nodad"),
    (
        "overlayfs",
        "mount -t tmpfs none /mnt && mkdir /mnt/l /mnt/u /mnt/w /mnt/m && \
         mount -t overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w none /mnt/m",
    ),
    ("nf_tables", "nft add table inet t"),
    (
        "NAT in nf_tables' inet family",
        "nft 'add chain inet t nat { type nat hook prerouting priority -100; }'",
    ),
    (
        "masquerading in nf_tables",
        "nft 'add chain inet t post { type nat hook postrouting priority 100; }' && \
      nft 'add rule inet t post meta mark 1 masquerade'",
    ),
    (
        "route lookups in nf_tables (fib)",
        "nft 'add rule inet t nat fib daddr type local accept'",
    ),
    (
        "number generation in nf_tables (numgen)",
        "nft 'add rule inet t nat meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }'",
    ),
    (
        "hashing in nf_tables (jhash)",
        "nft 'add rule inet t nat meta l4proto tcp dnat ip to jhash ip saddr mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }'",
    ),
    (
        "connection tracking in nf_tables",
        "nft 'add rule inet t post ct state new ct mark set 1'",
    ),
    (
        "verdict maps of concatenations in nf_tables",
        "nft 'add map inet t m { type ipv4_addr . inet_service : verdict; }'",
    ),
];

/// cgroup controllers that a kubelet and a container runtime need.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "memory", "pids"];

/// Tries everything.
pub(super) fn check() -> Result<(), PreflightError> {
    let mut lacking = trials()?;
    let root = Path::new("/sys/fs/cgroup");
    lacking.extend(
        missing_controllers(root)
            .into_iter()
            .map(|name| format!("the cgroup controller {name}")),
    );
    if lacking.is_empty() {
        Ok(())
    } else {
        Err(PreflightError::Kernel(lacking))
    }
}

/// Names of the trials that failed, each with what was said.
fn trials() -> Result<Vec<String>, PreflightError> {
    let output = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            &script(TRIALS),
        ])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| PreflightError::Io {
            what: "starting unshare".to_owned(),
            source,
        })?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    // The last word of the script tells a namespace that could not be made from one in which all was well.
    if stdout.lines().last() != Some(END) {
        let why = String::from_utf8_lossy(&output.stderr);
        return Ok(vec![format!("namespaces ({})", why.trim())]);
    }
    Ok(stdout
        .lines()
        .filter(|line| *line != END)
        .map(str::to_owned)
        .collect())
}

const END: &str = "end of trials";

/// A shell script that prints a line for each trial that fails.
fn script(trials: &[(&str, &str)]) -> String {
    let line = |(name, command): &(&str, &str)| {
        format!(
            "said=$( {{ {command} ; }} 2>&1 ) || printf '%s (%s)\\n' \"{name}\" \"$(echo \"$said\" | head -n 1)\"\n"
        )
    };
    trials.iter().map(line).collect::<String>() + &format!("echo {END}\n")
}

/// Controllers for which no group can be made.
fn missing_controllers(root: &Path) -> Vec<&'static str> {
    let unified = fs::read_to_string(root.join("cgroup.controllers"));
    let usable = |name: &str| match &unified {
        Ok(list) => list.split_whitespace().any(|controller| controller == name),
        Err(_) => can_make_group(&root.join(name)).is_ok(),
    };
    CONTROLLERS.iter().copied().filter(|name| !usable(name)).collect()
}

fn can_make_group(controller: &Path) -> io::Result<()> {
    let group = controller.join(format!("fairlead-lab-trial-{}", std::process::id()));
    // Without a mounted controller this would be an ordinary directory.
    fs::metadata(controller.join("cgroup.procs"))?;
    fs::create_dir(&group)?;
    fs::remove_dir(&group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_trial_is_named_with_what_was_said() {
        let script = script(&[
            ("this", "true"),
            ("that (odd)", "echo no such thing >&2; false"),
            ("those", "true"),
        ]);
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("that (odd) (no such thing)\n{END}\n")
        );
    }

    #[test]
    fn controllers_of_a_unified_hierarchy() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu io memory\n").unwrap();
        assert_eq!(missing_controllers(dir.path()), ["pids"]);
    }

    #[test]
    fn controllers_of_separate_hierarchies() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cpu", "memory", "pids"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("cgroup.procs"), "").unwrap();
        }
        assert_eq!(missing_controllers(dir.path()), ["cpuset"]);
    }
}
