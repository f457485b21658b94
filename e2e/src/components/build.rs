//! Builds one component.

use std::fs;
use std::process::{Command, Stdio};

use super::cache::Lock;
use super::table::Component;
use super::{ComponentError, doing};

/// What the builder's own environment must not change. Without cgo no C compiler is needed, and the same compiled packages serve
/// all components.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    ("CGO_ENABLED", "0"),
    ("GOFLAGS", "-mod=readonly"),
    ("GOWORK", "off"),
    ("GOOS", "linux"),
    ("GOEXPERIMENT", ""),
];

/// So many lines of the compiler's output are shown if it fails.
const SHOWN: usize = 20;

/// Builds `component` and puts it into the cache.
pub(super) fn build(component: &Component, lock: &Lock<'_>) -> Result<(), ComponentError> {
    let scratch = lock.scratch()?;
    let module = scratch.path().join("module");
    let finished = scratch.path().join("finished");
    for dir in [&module, &finished] {
        fs::create_dir(dir).map_err(doing("creating", dir))?;
    }
    // Built from copies: Go may want to write beside its go.mod, and the tree may be read-only or gone.
    for (name, text) in component.files() {
        let path = module.join(name);
        fs::write(&path, text).map_err(doing("writing", &path))?;
    }
    let binary = finished.join(component.name);
    let output = Command::new("go")
        .args(component.go_args(&binary.to_string_lossy()))
        .envs(ENVIRONMENT.iter().copied())
        .current_dir(&module)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ComponentError::Io {
            what: "starting go".to_owned(),
            source,
        })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("go: downloading"))
            .collect();
        let output = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
        return Err(ComponentError::Build {
            component: component.name,
            output,
        });
    }
    for program in component
        .programs()
        .iter()
        .filter(|&&program| program != component.name)
    {
        let link = finished.join(program);
        fs::hard_link(&binary, &link).map_err(doing("linking", &link))?;
    }
    lock.publish(component, &finished)
}
