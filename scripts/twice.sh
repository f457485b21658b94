#!/usr/bin/env bash
# Runs tests, and those that failed once more: with real clocks and packets on a busy machine a deadline can pass for no
# fault of the product. Only what fails both times fails. Whatever failed is told at the end, so that it is not forgotten.
#   usage: scripts/twice.sh cargo test … -- …
set -euo pipefail

# More than so many are no accident.
most=5
output=$(mktemp)
trap 'rm -f "$output"' EXIT
if "$@" 2>&1 | tee "$output"; then
  exit 0
fi
# The names stand between the last `failures:` of a test program and its result.
mapfile -t failed < <(awk '
  /^failures:$/ {delete names; count = 0}
  /^    [A-Za-z0-9_:]+$/ {names[++count] = $1}
  /^test result:/ {for (i = 1; i <= count; i++) print names[i]; delete names; count = 0}' "$output" | sort -u)
if [ ${#failed[@]} -eq 0 ] || [ ${#failed[@]} -gt $most ] || grep -q '^error: could not compile' "$output"; then
  exit 1
fi
printf '\n%s failed once; again: %s\n\n' "${#failed[@]}" "${failed[*]}"
"$@" --exact "${failed[@]}"
printf '\nPASSED AT THE SECOND ATTEMPT ONLY: %s\n' "${failed[*]}"
