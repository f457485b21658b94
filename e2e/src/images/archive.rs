//! Writes an image as a docker-archive: one layer, its configuration and a manifest in a tar file, as `docker save` would.
//! containerd and docker import it. The same content gives the same bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::files::shared_libraries;
use super::{ImageError, doing};

/// One path of the image.
#[derive(Debug, Clone)]
enum Entry {
    Directory { mode: u32 },
    Copy { from: PathBuf, mode: u32 },
    Text { text: String, mode: u32 },
    Symlink { target: String },
}

/// An image in the making: files, what to start, under which names.
///
/// Everything belongs to root, with the epoch as its time. Directories that a path needs are made with it.
#[derive(Debug, Clone, Default)]
pub struct ImageBuilder {
    /// By path in the image, without the leading slash.
    entries: BTreeMap<String, Entry>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
}

impl ImageBuilder {
    /// An empty image.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a copy of the file `from` at `path`.
    pub fn copy(&mut self, path: &str, from: impl Into<PathBuf>, mode: u32) -> &mut Self {
        self.insert(
            path,
            Entry::Copy {
                from: from.into(),
                mode,
            },
        )
    }

    /// Adds a copy of a program of this machine at `path`, and the shared libraries it needs where this machine has them.
    ///
    /// # Errors
    /// A library is missing, or `ldd` cannot be run.
    pub fn program(&mut self, path: &str, from: impl Into<PathBuf>) -> Result<&mut Self, ImageError> {
        let from = from.into();
        for library in shared_libraries(&from)? {
            self.copy(&library.to_string_lossy(), &library, 0o755);
        }
        Ok(self.copy(path, from, 0o755))
    }

    /// Adds a file with this text at `path`.
    pub fn text(&mut self, path: &str, text: &str, mode: u32) -> &mut Self {
        self.insert(
            path,
            Entry::Text {
                text: text.to_owned(),
                mode,
            },
        )
    }

    /// Adds an empty directory.
    pub fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.insert(path, Entry::Directory { mode })
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.insert(
            path,
            Entry::Symlink {
                target: target.to_owned(),
            },
        )
    }

    /// What a container of the image starts, and the arguments it gets unless others are given.
    pub fn entrypoint(&mut self, entrypoint: &[&str], command: &[&str]) -> &mut Self {
        self.entrypoint = entrypoint.iter().map(|&word| word.to_owned()).collect();
        self.command = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Adds `NAME=value` to the environment.
    pub fn environment(&mut self, variable: &str) -> &mut Self {
        self.environment.push(variable.to_owned());
        self
    }

    /// Makes `/bin`, `/sbin`, `/lib` and `/lib64` links into `/usr`, as distributions have it; what is added under the one name is
    /// then found under both. To be called before anything is added there.
    pub fn merged_usr(&mut self) -> &mut Self {
        for name in ["bin", "sbin", "lib", "lib64"] {
            self.directory(&format!("/usr/{name}"), 0o755)
                .symlink(name, &format!("usr/{name}"));
        }
        self
    }

    fn insert(&mut self, path: &str, entry: Entry) -> &mut Self {
        let mut path = path.trim_matches('/').to_owned();
        if let Some((top, rest)) = path.split_once('/')
            && let Some(Entry::Symlink { target }) = self.entries.get(top)
        {
            path = format!("{target}/{rest}");
        }
        for (end, _) in path.match_indices('/') {
            self.entries
                .entry(path[..end].to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path, entry);
        self
    }

    /// Writes the image under these names (`registry/repository:tag`) to the file `to`, which appears only when it is complete.
    ///
    /// # Errors
    /// A file to be copied cannot be read, or `to` cannot be written.
    pub fn write(&self, names: &[&str], to: &Path) -> Result<(), ImageError> {
        let parent = to
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut layer = tempfile::tempfile_in(parent).map_err(doing("creating a file in", parent))?;
        let digest = self.write_layer(&mut layer)?;
        let mut archive =
            tempfile::NamedTempFile::new_in(parent).map_err(doing("creating a file in", parent))?;
        self.write_archive(names, &digest, &mut layer, archive.as_file_mut())
            .map_err(doing("writing", to))?;
        archive
            .persist(to)
            .map_err(|error| doing("writing", to)(error.error))?;
        Ok(())
    }

    /// Writes the layer; its SHA-256 in hexadecimal.
    fn write_layer(&self, to: &mut File) -> Result<String, ImageError> {
        let mut tar = tar::Builder::new(Hashing {
            inner: BufWriter::new(to),
            hash: Sha256::new(),
        });
        for (path, entry) in &self.entries {
            append(&mut tar, path, entry).map_err(doing("adding to the image:", Path::new(path)))?;
        }
        let finish = || {
            let mut hashing = tar.into_inner()?;
            hashing.inner.flush()?;
            io::Result::Ok(hexadecimal(hashing.hash))
        };
        finish().map_err(doing("writing", Path::new("the layer")))
    }

    fn write_archive(&self, names: &[&str], layer: &str, from: &mut File, to: &mut File) -> io::Result<()> {
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": { "Entrypoint": self.entrypoint, "Cmd": self.command, "Env": self.environment },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
            "history": [{ "created": "1970-01-01T00:00:00Z" }],
        }))?;
        let config_name = format!("{}.json", hexadecimal(Sha256::new_with_prefix(&config)));
        let layer_name = format!("{layer}/layer.tar");
        let manifest = serde_json::to_vec(&json!([
            { "Config": config_name, "RepoTags": names, "Layers": [layer_name] }
        ]))?;
        let size = from.stream_position()?;
        from.rewind()?;
        let mut tar = tar::Builder::new(BufWriter::new(to));
        for (name, bytes) in [(&config_name, &config), (&"manifest.json".to_owned(), &manifest)] {
            tar.append_data(
                &mut header(EntryType::Regular, 0o644, bytes.len() as u64),
                name,
                bytes.as_slice(),
            )?;
        }
        tar.append_data(
            &mut header(EntryType::Regular, 0o644, size),
            &layer_name,
            BufReader::new(from),
        )?;
        tar.into_inner()?.flush()
    }
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, entry: &Entry) -> io::Result<()> {
    match entry {
        Entry::Directory { mode } => tar.append_data(
            &mut header(EntryType::Directory, *mode, 0),
            format!("{path}/"),
            io::empty(),
        ),
        Entry::Copy { from, mode } => {
            let named = |error| io::Error::other(format!("{}: {error}", from.display()));
            let file = File::open(from).map_err(named)?;
            let size = file.metadata().map_err(named)?.len();
            // `take`: a file that grows meanwhile must not spoil the archive.
            tar.append_data(
                &mut header(EntryType::Regular, *mode, size),
                path,
                file.take(size),
            )
        }
        Entry::Text { text, mode } => tar.append_data(
            &mut header(EntryType::Regular, *mode, text.len() as u64),
            path,
            text.as_bytes(),
        ),
        Entry::Symlink { target } => tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target),
    }
}

/// A header without owner and time: only the content decides the bytes.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The name that images use for this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes what passes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sample() -> ImageBuilder {
        let mut image = ImageBuilder::new();
        image
            .merged_usr()
            .text("/etc/passwd", "root:x:0:0::/:/bin/sh\n", 0o644)
            .directory("/tmp", 0o1777)
            .symlink("/bin/again", "sh")
            .entrypoint(&["/bin/sh"], &["-c", "true"])
            .environment("PATH=/bin");
        image.program("/bin/sh", "/bin/sh").unwrap();
        image
    }

    fn read_all(bytes: &[u8]) -> BTreeMap<String, (Header, Vec<u8>)> {
        let mut tar = tar::Archive::new(bytes);
        let entries = tar.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (path, (entry.header().clone(), content))
        });
        entries.collect()
    }

    #[test]
    fn the_archive_holds_what_its_manifest_and_configuration_say() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        sample()
            .write(&["example.org/a:1", "example.org/b:2"], &path)
            .unwrap();
        let outer = read_all(&fs::read(&path).unwrap());

        let manifest: serde_json::Value = serde_json::from_slice(&outer["manifest.json"].1).unwrap();
        assert_eq!(
            manifest[0]["RepoTags"],
            json!(["example.org/a:1", "example.org/b:2"])
        );
        let (_, config) = &outer[manifest[0]["Config"].as_str().unwrap()];
        let (_, layer) = &outer[manifest[0]["Layers"][0].as_str().unwrap()];
        let digest = hexadecimal(Sha256::new_with_prefix(config));
        assert_eq!(manifest[0]["Config"], json!(format!("{digest}.json")));
        let config: serde_json::Value = serde_json::from_slice(config).unwrap();
        let digest = hexadecimal(Sha256::new_with_prefix(layer));
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{digest}")]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/sh"]));
        assert_eq!(config["config"]["Cmd"], json!(["-c", "true"]));

        let inner = read_all(layer);
        assert_eq!(inner["tmp/"].0.mode().unwrap(), 0o1777);
        assert_eq!(inner["usr/bin/sh"].1, fs::read("/bin/sh").unwrap());
        assert_eq!(inner["bin"].0.link_name_bytes().unwrap().as_ref(), b"usr/bin");
        assert_eq!(
            inner["usr/bin/again"].0.link_name_bytes().unwrap().as_ref(),
            b"sh"
        );
        assert!(
            inner.keys().any(|path| path.ends_with("/libc.so.6")),
            "{:?}",
            inner.keys()
        );
        for (path, (header, _)) in &inner {
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0), "{path}");
            let parents = path
                .trim_end_matches('/')
                .match_indices('/')
                .map(|(end, _)| format!("{}/", &path[..end]));
            for parent in parents {
                assert!(inner.contains_key(&parent), "{path} lacks {parent}");
            }
        }
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        sample().write(&["example.org/a:1"], &one).unwrap();
        sample().write(&["example.org/a:1"], &two).unwrap();
        assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
    }

    #[test]
    fn a_missing_file_is_named_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        let error = ImageBuilder::new()
            .copy("/a", "/nowhere/file", 0o644)
            .write(&["example.org/a:1"], &path)
            .unwrap_err();
        assert!(error.to_string().contains("image: a:"), "{error}");
        assert!(error.to_string().contains("/nowhere/file"), "{error}");
        assert!(!path.exists());
    }
}
