//! Programs that the lab builds from pinned Go modules: Kubernetes, etcd, agnhost, CoreDNS and Helm; and, for a
//! benchmark that asks for it, MetalLB.
//!
//! They are kept outside the checkout, each in a directory named by a hash of all that was pinned for it, so a
//! changed pin is built anew and two checkouts share what they have in common.
//! The directory is `$FAIRLEAD_LAB_CACHE`, else `$XDG_CACHE_HOME/fairlead-lab`, else `~/.cache/fairlead-lab`.

mod build;
mod cache;
mod go;
mod table;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use cache::Cache;
use table::{COMPONENTS, Component, METALLB_PROGRAMS};

use crate::progress::Progress;

/// Why the programs could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// Neither `FAIRLEAD_LAB_CACHE` nor a home directory is set.
    #[error("no directory to keep built programs in: set FAIRLEAD_LAB_CACHE or HOME")]
    NoCacheDirectory,
    /// The Go toolchain is missing.
    #[error("Go {required} or newer is needed to build Kubernetes, and there is no working `go` on the PATH")]
    NoGo {
        /// The oldest version that will do.
        required: String,
    },
    /// The Go toolchain is too old.
    #[error(
        "Go {required} or newer is needed to build Kubernetes; this is Go {found} (GOTOOLCHAIN=auto would let it fetch a newer one)"
    )]
    OldGo {
        /// The version found.
        found: String,
        /// The oldest version that will do.
        required: String,
    },
    /// The build itself failed.
    #[error("building {component} failed:\n{output}")]
    Build {
        /// What was built.
        component: &'static str,
        /// The end of what the compiler said.
        output: String,
    },
    /// A file operation in the cache failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// Adds what was being done to an operating system's error.
fn doing(what: &str, path: &Path) -> impl FnOnce(io::Error) -> ComponentError {
    let what = format!("{what} {}", path.display());
    move |source| ComponentError::Io { what, source }
}

/// The built programs.
#[derive(Debug, Clone)]
pub struct Components {
    cache: PathBuf,
    programs: BTreeMap<&'static str, PathBuf>,
}

impl Components {
    /// Finds every program in the cache, and builds those that are not there. Of several processes that ask for the same
    /// at once, one builds and the others wait.
    ///
    /// # Errors
    /// No Go (only if something has to be built), a failed build, a cache that cannot be written.
    pub fn ensure(progress: &Progress) -> Result<Self, ComponentError> {
        let cache = Cache::open()?;
        build_missing(&cache, COMPONENTS, progress)?;
        let programs = COMPONENTS
            .iter()
            .flat_map(|c| {
                c.programs()
                    .iter()
                    .map(|&program| (program, cache.directory(c).join(program)))
            })
            .collect();
        Ok(Self {
            cache: cache.path().to_owned(),
            programs,
        })
    }

    /// Can the lab build what is missing? Nothing is asked of a machine on which nothing is missing.
    ///
    /// # Errors
    /// [`ComponentError::NoGo`] or [`ComponentError::OldGo`].
    pub fn check_toolchain() -> Result<(), ComponentError> {
        require_go(missing(&Cache::open()?, COMPONENTS))
    }

    /// Path of one program: `etcd`, `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`, `kube-proxy`, `kubelet`,
    /// `kubectl`, `agnhost`, `coredns` or `helm`.
    ///
    /// # Panics
    /// On any other name.
    pub fn bin(&self, name: &str) -> PathBuf {
        match self.programs.get(name) {
            Some(path) => path.clone(),
            None => panic!("the lab builds no program called {name}"),
        }
    }

    /// The directory that [`Components::ensure`] will use.
    ///
    /// # Errors
    /// [`ComponentError::NoCacheDirectory`], or it cannot be made.
    pub fn cache_to_use() -> Result<PathBuf, ComponentError> {
        Ok(Cache::open()?.path().to_owned())
    }

    /// The directory in which built programs and images are kept.
    pub fn cache_dir(&self) -> &Path {
        &self.cache
    }
}

/// MetalLB, to be measured beside ours. No lab needs it, so it is built only when asked for.
#[derive(Debug, Clone)]
pub struct MetalLb {
    /// The controller; a static binary.
    pub controller: PathBuf,
    /// The speaker; a static binary.
    pub speaker: PathBuf,
    /// The manifest of the same release, as its users apply it.
    pub manifest: PathBuf,
}

impl MetalLb {
    /// The version that is pinned.
    pub const VERSION: &str = "v0.15.2";

    /// Finds it in the cache, or builds it.
    ///
    /// # Errors
    /// As [`Components::ensure`].
    pub fn ensure(progress: &Progress) -> Result<Self, ComponentError> {
        let cache = Cache::open()?;
        build_missing(&cache, METALLB_PROGRAMS, progress)?;
        let [controller, speaker] = METALLB_PROGRAMS;
        let (of_controller, of_speaker) = (cache.directory(controller), cache.directory(speaker));
        Ok(Self {
            controller: of_controller.join(controller.name),
            speaker: of_speaker.join(speaker.name),
            manifest: of_controller.join("metallb-native.yaml"),
        })
    }
}

fn missing(cache: &Cache, of: &'static [Component]) -> impl Iterator<Item = &'static Component> {
    of.iter().filter(|component| !cache.directory(component).exists())
}

fn build_missing(cache: &Cache, of: &'static [Component], progress: &Progress) -> Result<(), ComponentError> {
    if missing(cache, of).next().is_none() {
        return Ok(());
    }
    require_go(missing(cache, of))?;
    let lock = cache.lock(progress)?;
    // Asked again under the lock: another process may have built them meanwhile.
    for component in missing(cache, of) {
        progress.step(&format!("building {}", component.describe()), || {
            build::build(component, &lock)
        })?;
    }
    Ok(())
}

/// Fails unless there is a Go toolchain that can build all of these.
fn require_go(components: impl Iterator<Item = &'static Component>) -> Result<(), ComponentError> {
    match components
        .filter_map(|c| go::required(c.module.file("go.mod")))
        .max()
    {
        Some(required) => go::check(required),
        None => Ok(()),
    }
}
