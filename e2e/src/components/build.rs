//! Builds one component.

use std::fs;
use std::path::{Path, PathBuf};
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
    go(component, &component.go_args(&binary.to_string_lossy()), &module)?;
    for program in component
        .programs()
        .iter()
        .filter(|&&program| program != component.name)
    {
        let link = finished.join(program);
        fs::hard_link(&binary, &link).map_err(doing("linking", &link))?;
    }
    for (of, path) in component.keeps {
        let args = ["list", "-m", "-f", "{{.Dir}}", of].map(String::from);
        let source = PathBuf::from(go(component, &args, &module)?.trim()).join(path);
        let name = source.file_name().unwrap_or_default();
        // Read and written rather than copied: Go's module cache is read-only, and the copy must not be.
        let bytes = fs::read(&source).map_err(doing("reading", &source))?;
        let kept = finished.join(name);
        fs::write(&kept, bytes).map_err(doing("writing", &kept))?;
    }
    lock.publish(component, &finished)
}

/// Runs `go` in the module and answers with what it printed.
fn go(component: &Component, args: &[String], module: &Path) -> Result<String, ComponentError> {
    let output = Command::new("go")
        .args(args)
        .envs(ENVIRONMENT.iter().copied())
        .current_dir(module)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ComponentError::Io {
            what: "starting go".to_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("go: downloading"))
        .collect();
    let output = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    Err(ComponentError::Build {
        component: component.name,
        output,
    })
}
