//! Where a lab keeps its state, and who may change it: `/var/lib/fairlead-lab/NAME`.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Doing, LabError, Result},
    topology::{Place, check_name},
};

/// Directory of all labs. A real file system, since containerd keeps its snapshots below.
const ALL_LABS: &str = "/var/lib/fairlead-lab";

/// Who programs Services on the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum KubeProxy {
    /// kube-proxy in nftables mode.
    #[default]
    Nftables,
    /// kube-proxy in iptables mode.
    Iptables,
    /// No kube-proxy at all.
    None,
}

impl KubeProxy {
    /// The name it has on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::None => "none",
        }
    }
}

impl FromStr for KubeProxy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Nftables, Self::Iptables, Self::None]
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| "one of nftables, iptables, none".into())
    }
}

/// What a lab was made as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Number of nodes.
    pub nodes: u8,
    /// Who programs Services.
    pub kube_proxy: KubeProxy,
    /// Port on the host's 127.0.0.1 that leads to the API server.
    pub api_port: u16,
}

/// The paths of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    name: String,
    root: PathBuf,
}

impl Paths {
    /// The paths of the lab called `name`, whether or not there is one.
    ///
    /// # Errors
    /// [`LabError::Refused`] when no lab can have this name.
    pub fn new(name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            root: Path::new(ALL_LABS).join(name),
        })
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The lab's own copy of the `lab` program: a rebuild does not disturb a running lab, and no other process has
    /// this path on its command line.
    pub fn program(&self) -> PathBuf {
        self.root.join("lab")
    }

    /// Kubeconfig of the administrator, for use on the host.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Keys, certificates and kubeconfigs of the cluster's programs.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// Record of what the lab was made as.
    pub fn shape(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    /// Record of the cables.
    pub(crate) fn cables(&self) -> PathBuf {
        self.root.join("cables.json")
    }

    /// A machine's own directory.
    pub fn machine(&self, place: Place) -> PathBuf {
        self.root.join("machines").join(place.name())
    }

    /// Log of one service of a machine.
    pub fn log(&self, place: Place, service: &str) -> PathBuf {
        self.machine(place).join("logs").join(format!("{service}.log"))
    }

    pub(crate) fn read_log(&self, place: Place, service: &str) -> String {
        fs::read(self.log(place, service))
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    pub(crate) fn socket(&self, place: Place) -> PathBuf {
        self.machine(place).join("init.sock")
    }

    pub(crate) fn pid_file(&self, place: Place) -> PathBuf {
        self.machine(place).join("init.json")
    }

    /// The lab's record, `None` when there is no lab of this name.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read_shape(&self) -> Result<Option<Shape>> {
        let path = self.shape();
        match fs::read(&path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).doing(path.display())?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing(format!("read {}", path.display())),
        }
    }

    /// Writes the lab's record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_shape(&self, shape: &Shape) -> Result<()> {
        write_whole(
            &self.shape(),
            &serde_json::to_vec_pretty(shape).doing("lab.json")?,
        )
    }

    /// The names of all labs on this host.
    pub fn all_labs() -> Vec<String> {
        let Ok(entries) = fs::read_dir(ALL_LABS) else {
            return vec![];
        };
        let mut names: Vec<String> = entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Makes the directory if needed and takes the right to change this lab, waiting for whoever has it.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn lock(&self) -> Result<Lock> {
        let what = || format!("lock {}", self.root.display());
        loop {
            fs::create_dir_all(&self.root).doing(format!("create {}", self.root.display()))?;
            fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700)).doing(what())?;
            let Ok(dir) = File::open(&self.root) else { continue };
            let inode = dir.metadata().doing(what())?.ino();
            let held = Flock::lock(dir, FlockArg::LockExclusive)
                .map_err(|(_, errno)| errno)
                .doing(what())?;
            // A `down` that held the lock before us has removed the directory: lock the new one.
            if fs::metadata(&self.root).is_ok_and(|now| now.ino() == inode) {
                return Ok(Lock { _held: held });
            }
        }
    }

    /// Removes everything of this lab, and the directory of all labs if it was the last.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(format!("remove {}", self.root.display()));
            }
            _ => {}
        }
        // Fails while other labs are there.
        let _ = fs::remove_dir(ALL_LABS);
        Ok(())
    }
}

/// The right to change a lab, until dropped.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<File>,
}

/// Writes a file so that a reader, also after a crash, finds the old or the new one whole. Readable by root only.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    let what = || format!("write {}", path.display());
    fs::write(&beside, content).doing(what())?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).doing(what())?;
    fs::rename(&beside, path).doing(what())
}

/// Refuses when `name` is no lab.
pub(crate) fn no_such_lab(name: &str) -> LabError {
    let all = Paths::all_labs();
    let there = if all.is_empty() {
        "there is none".into()
    } else {
        format!("there are: {}", all.join(", "))
    };
    LabError::Refused(format!(
        "no lab {name:?} ({there}); make it with: lab up --name {name}"
    ))
}
