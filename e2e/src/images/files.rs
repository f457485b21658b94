//! The shared libraries that a program of this machine needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ImageError, doing};

/// Paths of the loader and all shared libraries of `program`; none for a static one or a script.
///
/// # Errors
/// `ldd` cannot be run, or a library is missing.
pub(super) fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .map_err(doing("running ldd on", program))?;
    // It fails on what is not a dynamic executable.
    if !output.status.success() {
        return Ok(Vec::new());
    }
    parse(&String::from_utf8_lossy(&output.stdout)).map_err(|library| ImageError::MissingLibrary {
        program: program.display().to_string(),
        library: library.to_owned(),
    })
}

/// Reads what `ldd` prints; the error is the name of a library that it did not find.
fn parse(text: &str) -> Result<Vec<PathBuf>, &str> {
    let mut paths = Vec::new();
    for line in text.lines() {
        let (name, rest) = match line.trim().split_once(" => ") {
            Some((name, rest)) => (name, rest),
            // The loader stands alone; so does the kernel's own library, which is no file.
            None => ("", line.trim()),
        };
        if rest.starts_with("not found") {
            return Err(name);
        }
        if let Some(path) = rest
            .split_whitespace()
            .next()
            .filter(|path| path.starts_with('/'))
        {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_output_of_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1c)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f1d)\n";
        let want = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(text), Ok(want.to_vec()));
        assert_eq!(parse("\tstatically linked\n"), Ok(vec![]));
        assert_eq!(parse("\tlibx.so.1 => not found\n"), Err("libx.so.1"));
    }

    #[test]
    fn libraries_of_a_real_program() {
        let found = shared_libraries(Path::new("/bin/sh")).unwrap();
        assert!(found.iter().any(|path| path.ends_with("libc.so.6")), "{found:?}");
    }
}
