//! The Go toolchain: is it there, and is it new enough?

use std::fmt;
use std::process::Command;

use super::ComponentError;

/// A version of Go, as in `go1.26.3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GoVersion(u32, u32, u32);

impl GoVersion {
    /// Reads `go1.26.3`, `1.26.3`, `1.26` or `go1.27rc1` (a candidate counts as its release).
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches("go");
        let mut parts = text.split('.').map(|part| {
            let digits = part
                .find(|c: char| !c.is_ascii_digit())
                .map_or(part, |end| &part[..end]);
            digits.parse::<u32>().ok()
        });
        let major = parts.next()??;
        let minor = parts.next()??;
        Some(Self(major, minor, parts.next().flatten().unwrap_or(0)))
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// From this version on, Go fetches the toolchain that a module asks for, unless told not to.
const FETCHES_TOOLCHAINS: GoVersion = GoVersion(1, 21, 0);

/// The version that a go.mod asks for.
pub(super) fn required(go_mod: &str) -> Option<GoVersion> {
    go_mod
        .lines()
        .find_map(|line| line.strip_prefix("go "))
        .and_then(GoVersion::parse)
}

/// Is there a Go that can build a module that needs `required`?
///
/// # Errors
/// `NoGo` if there is none, `OldGo` if it is too old and may not fetch a newer one.
pub(super) fn check(required: GoVersion) -> Result<(), ComponentError> {
    let output = Command::new("go")
        .args(["env", "GOVERSION", "GOTOOLCHAIN"])
        // In a module, `go env` would already choose that module's toolchain.
        .current_dir("/")
        .output()
        .map_err(|_| ComponentError::NoGo {
            required: required.to_string(),
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let found = lines
        .next()
        .and_then(GoVersion::parse)
        .ok_or_else(|| ComponentError::NoGo {
            required: required.to_string(),
        })?;
    if enough(found, lines.next().unwrap_or_default(), required) {
        Ok(())
    } else {
        Err(ComponentError::OldGo {
            found: found.to_string(),
            required: required.to_string(),
        })
    }
}

fn enough(found: GoVersion, toolchain: &str, required: GoVersion) -> bool {
    let fetches = toolchain.trim().ends_with("auto");
    found >= required || (found >= FETCHES_TOOLCHAINS && fetches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, version) in [
            ("go1.26.8", Some(GoVersion(1, 26, 8))),
            ("go1.26.8-X:nodwarf5", Some(GoVersion(1, 26, 8))),
            ("1.26", Some(GoVersion(1, 26, 0))),
            ("go1.27rc1", Some(GoVersion(1, 27, 0))),
            ("devel", None),
            ("", None),
        ] {
            assert_eq!(GoVersion::parse(text), version, "{text}");
        }
        assert_eq!(required("module x\n\ngo 1.26.0\n"), Some(GoVersion(1, 26, 0)));
    }

    #[test]
    fn an_older_go_will_do_if_it_may_fetch_a_newer() {
        let required = GoVersion(1, 26, 0);
        for (found, toolchain, ok) in [
            (GoVersion(1, 26, 8), "local", true),
            (GoVersion(1, 24, 1), "auto", true),
            (GoVersion(1, 24, 1), "local", false),
            (GoVersion(1, 19, 8), "", false),
        ] {
            assert_eq!(enough(found, toolchain, required), ok, "{found} {toolchain}");
        }
    }
}
