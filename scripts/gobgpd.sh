#!/usr/bin/env bash
# Builds the BGP daemon and its command line from the Go module, and collects the licences of all that is linked in.
#   usage: scripts/gobgpd.sh VERSION      (such as v4.8.0)
# Writes target/gobgpd/{gobgpd,gobgp,licenses/}. What is there in that version already is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

module=github.com/osrg/gobgp/v4
version=${1:?usage: scripts/gobgpd.sh VERSION}
out=$PWD/target/gobgpd
# Written last, so that what was interrupted is built anew.
stamp=$out/version

if [ "$(cat "$stamp" 2>/dev/null)" = "$version" ] && [ -x "$out/gobgpd" ] && [ -x "$out/gobgp" ]; then
  exit 0
fi
command -v go >/dev/null || {
  echo "gobgpd: Go 1.25 or newer is needed to build GoBGP, and there is no 'go' on the PATH (https://go.dev/dl)" >&2
  exit 1
}

echo "building gobgpd $version"
rm -rf "$out"
mkdir -p "$out/licenses"
# What the builder's own environment must not change. Without cgo no C compiler is needed, and nothing is linked dynamically.
export CGO_ENABLED=0 GOFLAGS='' GOWORK=off GOEXPERIMENT=''
# Outside of any module, so that the one here or above is not meant.
cd "$out"
GOBIN=$out go install -trimpath -ldflags='-s -w' "$module/cmd/gobgpd@$version" "$module/cmd/gobgp@$version"

# The licences of the module and of every module in the two programs.
go version -m gobgpd gobgp | awk '$1 == "mod" || $1 == "dep" {print $2 "@" $3}' | sort -u >modules
while read -r name; do
  dir=$(go mod download -json "$name" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
  found=0
  while read -r file; do
    install -D -m 0644 "$file" "licenses/$name/$(basename "$file")"
    found=1
  done < <(find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \))
  [ "$found" = 1 ] || { echo "gobgpd: no licence was found in $name" >&2; exit 1; }
done <modules
rm modules
echo "$version" >"$stamp"
