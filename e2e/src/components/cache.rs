//! Where built programs are kept.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::table::Component;
use super::{ComponentError, doing};
use crate::progress::Progress;

/// Prefix of a directory in which something is being built.
const UNFINISHED: &str = ".build-";

/// The directory of built programs. A component's directory in it is complete if it exists: it gets its name last.
pub(super) struct Cache {
    path: PathBuf,
}

/// The right to build into the cache.
pub(super) struct Lock<'a> {
    cache: &'a Cache,
    _file: Flock<File>,
}

impl Cache {
    /// Finds the cache, and makes it if need be.
    pub fn open() -> Result<Self, ComponentError> {
        let path = choose(|name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        })
        .ok_or(ComponentError::NoCacheDirectory)?;
        fs::create_dir_all(&path).map_err(doing("creating", &path))?;
        // Hard links and bind mounts are made from these paths, whatever the working directory is then.
        let path = fs::canonicalize(&path).map_err(doing("resolving", &path))?;
        Ok(Self { path })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory in which `component` is, or will be.
    pub fn directory(&self, component: &Component) -> PathBuf {
        self.path
            .join(format!("{}-{}", component.name, &key(component)[..16]))
    }

    /// Waits for the right to build.
    pub fn lock(&self, progress: &Progress) -> Result<Lock<'_>, ComponentError> {
        let path = self.path.join("lock");
        let file = File::create(&path).map_err(doing("opening", &path))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((file, Errno::EWOULDBLOCK)) => progress
                .step("waiting for another build of the same programs", || {
                    Flock::lock(file, FlockArg::LockExclusive)
                }),
            other => other,
        };
        let lock = lock.map_err(|(_, errno)| doing("locking", &path)(errno.into()))?;
        let lock = Lock {
            cache: self,
            _file: lock,
        };
        lock.remove_leftovers()?;
        Ok(lock)
    }
}

impl Lock<'_> {
    /// A directory to build in, on the same file system as the cache.
    pub fn scratch(&self) -> Result<tempfile::TempDir, ComponentError> {
        let made = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.cache.path);
        made.map_err(doing("creating a directory in", &self.cache.path))
    }

    /// Gives a finished directory its place in the cache.
    pub fn publish(&self, component: &Component, finished: &Path) -> Result<(), ComponentError> {
        fs::rename(finished, self.cache.directory(component)).map_err(doing("moving", finished))
    }

    /// Removes what a killed build has left: only the holder of the lock builds, so nobody is using it.
    fn remove_leftovers(&self) -> Result<(), ComponentError> {
        let path = &self.cache.path;
        for entry in fs::read_dir(path).map_err(doing("reading", path))? {
            let entry = entry.map_err(doing("reading", path))?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_dir_all(entry.path()).map_err(doing("removing", &entry.path()))?;
            }
        }
        Ok(())
    }
}

/// Chooses the directory from the environment.
fn choose(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("FAIRLEAD_LAB_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("fairlead-lab")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/fairlead-lab")))
}

/// Hash of all that decides what the binary will be, in hexadecimal. The installed Go is not part of it: a newer one does not
/// make a binary wrong, and a machine with a filled cache needs none at all.
fn key(component: &Component) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        // With its length, so that text cannot move from one field to the next unnoticed.
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    add(std::env::consts::ARCH);
    for (name, text) in component.files() {
        add(name);
        add(text);
    }
    for (name, value) in super::build::ENVIRONMENT {
        add(name);
        add(value);
    }
    component.go_args("").iter().for_each(|arg| add(arg));
    component.programs().iter().for_each(|program| add(program));
    for (module, path) in component.keeps {
        add(module);
        add(path);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::table::{COMPONENTS, Module};
    use super::*;

    #[test]
    fn the_most_special_variable_wins() {
        for (set, want) in [
            (
                &["FAIRLEAD_LAB_CACHE", "XDG_CACHE_HOME", "HOME"][..],
                Some("/FAIRLEAD_LAB_CACHE"),
            ),
            (&["XDG_CACHE_HOME", "HOME"], Some("/XDG_CACHE_HOME/fairlead-lab")),
            (&["HOME"], Some("/HOME/.cache/fairlead-lab")),
            (&[], None),
        ] {
            let chosen = choose(|name| set.contains(&name).then(|| PathBuf::from(format!("/{name}"))));
            assert_eq!(chosen, want.map(PathBuf::from), "{set:?}");
        }
    }

    #[test]
    fn the_key_follows_what_is_pinned() {
        static A: Module = Module {
            files: &[("go.mod", "a"), ("go.sum", "b"), ("main.go", "c")],
        };
        static OTHER_SUM: Module = Module {
            files: &[("go.mod", "a"), ("go.sum", "x"), ("main.go", "c")],
        };
        static OTHER_MAIN: Module = Module {
            files: &[("go.mod", "a"), ("go.sum", "b"), ("main.go", "x")],
        };
        let own = Component {
            name: "own",
            module: &A,
            package: ".",
            ldflags: "",
            programs: &[],
            keeps: &[],
        };
        let tool = Component {
            package: "example.org/tool",
            ..own
        };
        assert_eq!(key(&own), key(&own.clone()));
        assert_ne!(key(&own), key(&tool));
        assert_ne!(
            key(&own),
            key(&Component {
                ldflags: "-X a=b",
                ..own
            })
        );
        assert_ne!(
            key(&own),
            key(&Component {
                module: &OTHER_SUM,
                ..own
            })
        );
        assert_ne!(
            key(&own),
            key(&Component {
                module: &OTHER_MAIN,
                ..own
            })
        );
        assert_ne!(
            key(&tool),
            key(&Component {
                module: &OTHER_SUM,
                ..tool
            })
        );
        assert_ne!(
            key(&own),
            key(&Component {
                keeps: &[("example.org/tool", "a.yaml")],
                ..own
            })
        );
        // The program of another module does not contain our main.go.
        assert_eq!(
            key(&tool),
            key(&Component {
                module: &OTHER_MAIN,
                ..tool
            })
        );
    }

    #[test]
    fn no_two_components_share_a_program() {
        let mut programs: Vec<_> = COMPONENTS.iter().flat_map(|c| c.programs()).collect();
        let all = programs.len();
        programs.sort();
        programs.dedup();
        assert_eq!(programs.len(), all);
    }

    #[test]
    fn a_second_builder_waits_and_leftovers_of_a_killed_one_go() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache {
            path: dir.path().to_owned(),
        };
        let progress = Progress::quiet();
        let first = cache.lock(&progress).unwrap();
        let left = first.scratch().unwrap().keep();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let _lock = cache.lock(&progress).unwrap();
                left.exists()
            });
            assert!(left.exists());
            drop(first);
            assert!(!second.join().unwrap(), "{} is still there", left.display());
        });
    }
}
