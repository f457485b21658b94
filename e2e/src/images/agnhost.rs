//! The image of test pods.
//!
//! The Kubernetes project's own end-to-end tests run in it, so it holds what those expect beside agnhost: a shell that
//! starts real programs (dash, not busybox, whose shell would run its own `nc`), curl, OpenBSD netcat, dig.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::archive::ImageBuilder;
use super::{ImageError, doing};
use crate::components::Components;

/// The name under which the Kubernetes project's tests ask for the image.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
/// The same image's name as the container that holds a pod's namespaces: agnhost can do that too.
pub const PAUSE: &str = "lab.fairlead.dev/pause:1";

/// Changed whenever this file makes another image of the same programs.
const RECIPE: &str = "2";

/// Programs of this machine that go into the image, by their path here and, where it differs, there.
const PROGRAMS: &[(&str, &str)] = &[
    ("/bin/dash", "/bin/sh"),
    ("/bin/nc.openbsd", "/bin/nc"),
    ("/usr/bin/curl", ""),
    ("/usr/bin/dig", ""),
    ("/usr/bin/getent", ""),
    ("/bin/grep", ""),
    ("/bin/hostname", ""),
    ("/bin/ip", ""),
    ("/bin/ping", ""),
    ("/bin/ps", ""),
    ("/bin/sed", ""),
    ("/bin/ss", ""),
    ("/bin/tar", ""),
    ("/bin/cat", ""),
    ("/bin/chmod", ""),
    ("/bin/chown", ""),
    ("/bin/cp", ""),
    ("/bin/date", ""),
    ("/bin/dd", ""),
    ("/bin/df", ""),
    ("/bin/echo", ""),
    ("/bin/false", ""),
    ("/bin/ln", ""),
    ("/bin/ls", ""),
    ("/bin/mkdir", ""),
    ("/bin/mktemp", ""),
    ("/bin/mv", ""),
    ("/bin/pwd", ""),
    ("/bin/readlink", ""),
    ("/bin/rm", ""),
    ("/bin/sleep", ""),
    ("/bin/stty", ""),
    ("/bin/sync", ""),
    ("/bin/touch", ""),
    ("/bin/true", ""),
    ("/bin/uname", ""),
    ("/usr/bin/basename", ""),
    ("/usr/bin/base64", ""),
    ("/usr/bin/cut", ""),
    ("/usr/bin/dirname", ""),
    ("/usr/bin/env", ""),
    ("/usr/bin/expr", ""),
    ("/usr/bin/head", ""),
    ("/usr/bin/id", ""),
    ("/usr/bin/md5sum", ""),
    ("/usr/bin/printf", ""),
    ("/usr/bin/seq", ""),
    ("/usr/bin/sha256sum", ""),
    ("/usr/bin/sort", ""),
    ("/usr/bin/stat", ""),
    ("/usr/bin/tail", ""),
    ("/usr/bin/tee", ""),
    ("/usr/bin/test", ""),
    ("/usr/bin/timeout", ""),
    ("/usr/bin/tr", ""),
    ("/usr/bin/uniq", ""),
    ("/usr/bin/wc", ""),
    ("/usr/bin/xargs", ""),
    ("/usr/bin/yes", ""),
];

/// Path of a docker-archive of the image, named [`AGNHOST`] and [`PAUSE`]. It is kept beside the built programs, and made anew
/// only when one of its programs has changed.
///
/// # Errors
/// A program or one of its libraries is not installed, or the cache cannot be written.
pub fn agnhost_image(components: &Components) -> Result<PathBuf, ImageError> {
    let agnhost = components.bin("agnhost");
    let directory = components.cache_dir().join("images");
    let path = directory.join(format!("agnhost-{}.tar", &key(&agnhost)?[..16]));
    if !path.exists() {
        fs::create_dir_all(&directory).map_err(doing("creating", &directory))?;
        recipe(&agnhost)?.write(&[AGNHOST, PAUSE], &path)?;
    }
    Ok(path)
}

/// A cheap hash of what goes in: name, size and time of each program rather than its content.
fn key(agnhost: &Path) -> Result<String, ImageError> {
    let mut hash = Sha256::new_with_prefix(RECIPE);
    for path in std::iter::once(agnhost).chain(PROGRAMS.iter().map(|(from, _)| Path::new(from))) {
        let metadata = fs::metadata(path).map_err(doing("reading", path))?;
        hash.update(format!(
            "{} {} {}\n",
            path.display(),
            metadata.len(),
            metadata.mtime()
        ));
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn recipe(agnhost: &Path) -> Result<ImageBuilder, ImageError> {
    let mut image = ImageBuilder::new();
    image
        .merged_usr()
        .copy("/agnhost", agnhost, 0o755)
        .symlink("/agnhost-2", "agnhost")
        .directory("/tmp", 0o1777)
        .directory("/uploads", 0o755)
        .directory("/root", 0o700)
        .text("/etc/passwd", PASSWD, 0o644)
        .text("/etc/group", GROUP, 0o644)
        .text(
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n",
            0o644,
        )
        .environment("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .entrypoint(&["/agnhost"], &["pause"]);
    for &(from, to) in PROGRAMS {
        image.program(if to.is_empty() { from } else { to }, from)?;
    }
    Ok(image)
}

/// The user and group `…-defined-in-image` are what the Kubernetes project's tests of supplementary groups look for.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/:/bin/false\n\
                      user-defined-in-image:x:1000:1000::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\n\
                     nogroup:x:65534:\n\
                     user-defined-in-image:x:1000:\n\
                     group-defined-in-image:x:50000:user-defined-in-image\n";
