#!/usr/bin/env bash
# Makes an OCI image of programs as an archive that `docker load`, `ctr image import` and skopeo read.
#   usage: [LICENSES=DIRECTORY] scripts/image.sh NAME DOCKERFILE PROGRAM…      (paths of the built programs)
# Writes target/images/NAME.tar. The libraries that the programs load are copied from this system, with the copyright files
# of their packages. LICENSES are those of programs that are not our own.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 2 ] || { echo "image: usage: scripts/image.sh NAME DOCKERFILE PROGRAM…" >&2; exit 1; }
archive=$1 dockerfile=$2
shift 2
name=ghcr.io/fairlead-dev/$archive
version=$(sed -n 's/^appVersion: "\(.*\)"$/\1/p' charts/fairlead/Chart.yaml)
out=target/images
root=$out/rootfs
[ -n "$version" ] || { echo "image: charts/fairlead/Chart.yaml has no appVersion" >&2; exit 1; }

rm -rf "$root"
mkdir -p "$root"/{usr/bin,etc,run,tmp}
printf 'root:x:0:0:root:/:/sbin/nologin\nfairlead:x:65532:65532:fairlead:/:/sbin/nologin\n' > "$root/etc/passwd"
printf 'root:x:0:\nfairlead:x:65532:\n' > "$root/etc/group"
# Host names (of an API server, say) are looked up in files and DNS.
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
install -m 0755 "$@" "$root/usr/bin/"

# The libraries of all programs, and the two that the C library loads by itself to look up host names.
# A program that is linked statically has none, and ldd calls that a failure.
libraries=$(for program in "$@"; do ldd "$program" 2>/dev/null || true; done | awk '$2 == "=>" {print $3} $1 ~ "^/" && $1 !~ ":$" {print $1}' | sort -u)
libc=$(printf '%s\n' "$libraries" | grep '/libc\.so' | head -n 1)
for extra in "$(dirname "$libc")"/libnss_files.so.2 "$(dirname "$libc")"/libnss_dns.so.2 "$(dirname "$libc")"/libresolv.so.2; do
  [ -e "$extra" ] && libraries="$libraries $extra"
done
for library in $libraries; do
  install -D -m 0755 "$(readlink -f "$library")" "$root$library"
done
if command -v dpkg >/dev/null; then
  for file in $libraries; do
    # Where /lib is a link to /usr/lib, packages may own a file by either name.
    package=$(dpkg -S "$(readlink -f "$file")" 2>/dev/null || dpkg -S "${file#/usr}" 2>/dev/null || true)
    package=${package%%:*}
    [ -n "$package" ] && [ -e "/usr/share/doc/$package/copyright" ] &&
      install -D -m 0644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
  done
fi
install -D -m 0644 LICENSE "$root/usr/share/doc/fairlead/copyright"
if [ -n "${LICENSES:-}" ]; then
  cp -r --no-preserve=mode,ownership "$LICENSES" "$root/usr/share/doc/licenses"
fi
find "$root" -exec touch -h -d @0 {} +

rm -f "$out/$archive.tar"
if command -v buildah >/dev/null; then
  # A store of its own: nothing is left in the system's.
  store=$(mktemp -d)
  trap 'rm -rf "$store"' EXIT
  run() { buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"; }
  run bud --quiet --isolation chroot --timestamp 0 -t "$name:$version" -f "$dockerfile" . >/dev/null
  run push --quiet "$name:$version" "docker-archive:$out/$archive.tar:$name:$version"
elif command -v docker >/dev/null && docker info >/dev/null 2>&1; then
  docker build --quiet -t "$name:$version" -f "$dockerfile" . >/dev/null
  docker save -o "$out/$archive.tar" "$name:$version"
else
  echo "image: neither buildah (Debian package buildah) nor a running docker was found" >&2
  exit 1
fi
bytes=$(stat -c %s "$out/$archive.tar")
echo "$out/$archive.tar: $name:$version, $((bytes / 1048576)) MiB"
[ "$bytes" -lt $((60 * 1048576)) ] || { echo "image: larger than 60 MiB" >&2; exit 1; }
