//! What a machine sees of the file system: the host's, but for the directories in which programs keep state.
//!
//! Everything is mounted in the machine's own mount namespace, so nothing of it shows on the host and all of it goes
//! when the machine ends. `/sys`, with the cgroups in it, stays the host's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};

use crate::{
    error::{Doing, Result},
    topology::Place,
};

/// Kernel settings that kubelet wants and would change on the whole host. A file with the wanted value is laid over
/// each, so that kubelet finds what it wants.
const KUBELET_SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Where a machine finds its boot ID, as every Linux program does.
pub(super) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Gives this process's (new) mount namespace the machine's view. `root` is the lab's state directory, `own` the
/// machine's part of it, `hosts` the text for `/etc/hosts`.
pub(super) fn set_up(place: Place, root: &Path, own: &Path, hosts: &str) -> Result<()> {
    plain(
        None,
        Path::new("/"),
        None,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None,
    )?;
    plain(
        Some("proc"),
        Path::new("/proc"),
        Some("proc"),
        MsFlags::empty(),
        None,
    )?;
    plain(
        Some("tmpfs"),
        Path::new("/run"),
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )?;
    for dir in [
        "/run/lock",
        "/run/netns",
        "/run/.lab/etc",
        "/run/.lab/etc-work",
        "/run/.lab/proc",
    ] {
        make_dir(Path::new(dir))?;
    }
    own_etc(place, own, hosts)?;
    own_var(root, own)?;
    own_identity(place)?;
    // Shared among the machine's own namespaces: pods with mount propagation expect that.
    plain(
        None,
        Path::new("/"),
        None,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
        None,
    )
}

fn own_etc(place: Place, own: &Path, hosts: &str) -> Result<()> {
    let layers = "lowerdir=/etc,upperdir=/run/.lab/etc,workdir=/run/.lab/etc-work";
    plain(
        Some("overlay"),
        Path::new("/etc"),
        Some("overlay"),
        MsFlags::empty(),
        Some(layers),
    )?;
    // Outlives a power cycle, as on a disk.
    make_dir(&own.join("cni/net.d"))?;
    make_dir(Path::new("/etc/cni"))?;
    bind(&own.join("cni"), Path::new("/etc/cni"))?;
    replace("/etc/hostname", &format!("{}\n", place.name()))?;
    replace("/etc/hosts", hosts)?;
    replace("/etc/resolv.conf", "nameserver 172.30.0.2\n")?;
    replace("/etc/machine-id", &format!("{}\n", new_uuid()?.replace('-', "")))
}

/// Replaces, not overwrites: the file may be a link to somewhere that does not exist here.
fn replace(path: &str, text: &str) -> Result<()> {
    let _ = fs::remove_file(path);
    fs::write(path, text).doing(format!("write {path}"))
}

fn own_var(root: &Path, own: &Path) -> Result<()> {
    let lib = own.join("lib");
    // /var/lib becomes the machine's own; the lab's state directory lies below it and must stay in sight.
    let within = root
        .strip_prefix("/var/lib")
        .map_or_else(|_| PathBuf::from("lab"), Path::to_path_buf);
    let window = lib.join(within);
    for dir in [
        &lib.join("kubelet"),
        &lib.join("containerd"),
        &lib.join("cni"),
        &window,
        &own.join("log/pods"),
    ] {
        make_dir(dir)?;
    }
    make_dir(&own.join("log/containers"))?;
    bind(root, &window)?;
    bind(&lib, Path::new("/var/lib"))?;
    bind(&own.join("log"), Path::new("/var/log"))
}

/// A boot ID of its own, so that a node which was powered off is seen to have rebooted.
fn own_identity(place: Place) -> Result<()> {
    lay_over(BOOT_ID.trim_start_matches("/proc/sys/"), &new_uuid()?)?;
    if matches!(place, Place::Node(_)) {
        for (key, value) in KUBELET_SYSCTLS {
            lay_over(key, value)?;
        }
    }
    Ok(())
}

fn lay_over(key: &str, value: &str) -> Result<()> {
    let file = Path::new("/run/.lab/proc").join(key.replace('/', "."));
    fs::write(&file, format!("{value}\n")).doing(format!("write {}", file.display()))?;
    bind(&file, &Path::new("/proc/sys").join(key))
}

fn new_uuid() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(path)
        .doing(format!("read {path}"))?
        .trim()
        .to_owned())
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).doing(format!("create {}", path.display()))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(
        Some(from),
        to,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .doing(format!("bind {} to {}", from.display(), to.display()))
}

fn plain(
    source: Option<&str>,
    to: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<()> {
    mount(source, to, kind, flags, data).doing(format!("mount {}", to.display()))
}
