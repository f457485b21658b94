//! The programs of the distribution that the lab needs.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use super::PreflightError;
use crate::progress::Progress;

/// Debian packages, each with one program of it by which it is recognised on other systems.
const PACKAGES: &[Package] = &[
    ("bind9-dnsutils", "dig"),
    ("conntrack", "conntrack"),
    ("containerd", "containerd"),
    ("containernetworking-plugins", "/usr/lib/cni/ptp"),
    ("coreutils", "sleep"),
    ("curl", "curl"),
    ("dash", "dash"),
    ("ethtool", "ethtool"),
    ("hostname", "hostname"),
    ("iproute2", "ip"),
    ("iptables", "iptables"),
    ("iputils-arping", "arping"),
    ("iputils-ping", "ping"),
    ("mount", "mount"),
    ("netcat-openbsd", "nc.openbsd"),
    ("nftables", "nft"),
    ("procps", "ps"),
    ("runc", "runc"),
    ("tcpdump", "tcpdump"),
    ("util-linux", "nsenter"),
];

/// The same for the routers that speak BGP, which few labs have.
const ROUTING_PACKAGES: &[Package] = &[("bird2", "bird"), ("frr", "/usr/lib/frr/bgpd")];

/// Services that these bring, and that are wanted inside the lab alone.
const ROUTING_SERVICES: &[&str] = &["bird", "frr"];

/// Asked by Debian's packages whether a service may be started (`invoke-rc.d(8)`).
const POLICY: &str = "/usr/sbin/policy-rc.d";

type Package = (&'static str, &'static str);

/// Installs what every lab needs, as far as it is missing.
pub(super) fn ensure(progress: &Progress) -> Result<(), PreflightError> {
    install_all(&missing(PACKAGES)?, progress)
}

/// Installs the routing daemons, as far as they are missing. On the machine itself they are neither started now nor at
/// its next start.
pub(super) fn ensure_routing(progress: &Progress) -> Result<(), PreflightError> {
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let missing = missing(ROUTING_PACKAGES)?;
    if missing.is_empty() {
        return Ok(());
    }
    let policy = Policy::forbid()?;
    install_all(&missing, progress)?;
    drop(policy);
    for service in ROUTING_SERVICES {
        // Best effort: where there is no init system nothing would start them.
        let _ = Command::new("update-rc.d")
            .args([service, "disable"])
            .stdin(Stdio::null())
            .output();
    }
    Ok(())
}

/// Tests start routers at once, and there is one package manager.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Lets no service be started, for as long as it lives.
struct Policy {
    ours: bool,
}

impl Policy {
    /// A policy that is there already stays as it is.
    fn forbid() -> Result<Self, PreflightError> {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
            .and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n"));
        match made {
            Ok(()) => Ok(Self { ours: true }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Self { ours: false }),
            Err(source) => Err(PreflightError::Io {
                what: format!("writing {POLICY}"),
                source,
            }),
        }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// The packages that are missing. Where they cannot be installed it is an error if a program is.
fn missing(packages: &[Package]) -> Result<Vec<&'static str>, PreflightError> {
    let Some(installed) = installed(packages)? else {
        return without_package_manager(packages).map(|()| vec![]);
    };
    let names = packages.iter().map(|(package, _)| *package);
    Ok(names
        .filter(|package| !is_installed(&installed, package))
        .collect())
}

fn install_all(missing: &[&str], progress: &Progress) -> Result<(), PreflightError> {
    if missing.is_empty() {
        return Ok(());
    }
    progress.step(
        &format!("installing Debian packages: {}", missing.join(" ")),
        || {
            // The lists of a fresh machine are empty or old; those of another may do as they are.
            if install(missing)?.is_ok() {
                return Ok(());
            }
            apt_get(&["update"])?.ok();
            install(missing)?.map_err(|output| PreflightError::Install {
                packages: missing.join(" "),
                output,
            })
        },
    )
}

/// What `dpkg-query` knows of the packages; `None` where there is no such program.
fn installed(packages: &[Package]) -> Result<Option<String>, PreflightError> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f=${Package} ${db:Status-Status}\n"])
        .args(packages.iter().map(|(package, _)| package))
        .output();
    match output {
        Ok(output) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PreflightError::Io {
            what: "starting dpkg-query".to_owned(),
            source,
        }),
    }
}

fn is_installed(listing: &str, package: &str) -> bool {
    listing
        .lines()
        .any(|line| line.split_once(' ') == Some((package, "installed")))
}

/// The inner error is what apt-get said.
fn install(packages: &[&str]) -> Result<Result<(), String>, PreflightError> {
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages);
    apt_get(&args)
}

fn apt_get(args: &[&str]) -> Result<Result<(), String>, PreflightError> {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new("apt-get")
        .arg("-q")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| PreflightError::Io {
            what: "starting apt-get".to_owned(),
            source,
        })?;
    if status.success() {
        return Ok(Ok(()));
    }
    let said = if stderr.is_empty() { stdout } else { stderr };
    let said = String::from_utf8_lossy(&said);
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    Ok(Err(last.into_iter().rev().collect::<Vec<_>>().join("; ")))
}

fn without_package_manager(packages: &[Package]) -> Result<(), PreflightError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = env::split_paths(&path).collect();
    let missing: Vec<String> = packages
        .iter()
        .map(|(_, program)| *program)
        .filter(|program| !found(program, &directories))
        .map(str::to_owned)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PreflightError::MissingPrograms(missing))
    }
}

fn found(program: &str, directories: &[PathBuf]) -> bool {
    match Path::new(program) {
        path if path.is_absolute() => path.exists(),
        path => directories.iter().any(|directory| directory.join(path).exists()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_installed_package_counts() {
        let listing = "curl installed\nrunc config-files\nkmod not-installed\n";
        assert!(is_installed(listing, "curl"));
        for package in ["runc", "kmod", "cur", "containerd"] {
            assert!(!is_installed(listing, package), "{package}");
        }
    }

    #[test]
    fn programs_are_found_on_the_path_or_where_they_must_be() {
        let directories = [PathBuf::from("/nowhere"), PathBuf::from("/bin")];
        assert!(found("sh", &directories));
        assert!(found("/bin/sh", &[]));
        assert!(!found("no-such-program", &directories));
        assert!(!found("/bin/no-such-program", &directories));
    }
}
