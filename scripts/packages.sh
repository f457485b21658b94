#!/usr/bin/env bash
# Installs the Debian packages named on the command line that are not there yet, after saying so in one line. Services that
# come with them are neither started nor enabled: the tests start what they need themselves.
set -euo pipefail
missing=()
for package in "$@"; do
  [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "these Debian packages are missing: ${missing[*]} (install them, or run this as root)" >&2
  exit 1
fi
echo "installing Debian packages: ${missing[*]}"
log=$(mktemp)
guard=/usr/sbin/policy-rc.d
trap 'rm -f "$log"' EXIT
if [ ! -e "$guard" ]; then
  trap 'rm -f "$log" "$guard"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$guard"
  chmod 0755 "$guard"
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  exit 1
fi
if command -v systemctl >/dev/null; then
  for package in "${missing[@]}"; do
    case $package in
      frr) systemctl disable frr >/dev/null 2>&1 || true ;;
      bird2) systemctl disable bird >/dev/null 2>&1 || true ;;
    esac
  done
fi
