#!/bin/bash
# Runs every fuzz target of fuzz/ for FUZZ_SECONDS (60), and says how many inputs each has tried. Coverage comes from
# flags that the stable compiler knows; `cargo fuzz run TARGET` works as well, with a nightly compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-60}
target=$(rustc -vV | sed -n 's/^host: //p')
coverage="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares"
# With --target, build scripts and macros are built without these flags.
RUSTFLAGS=$coverage ${CARGO:-cargo} build -q --locked --release --manifest-path fuzz/Cargo.toml --target "$target"

for source in fuzz/fuzz_targets/frames.rs; do
  name=$(basename "$source" .rs)
  corpus=fuzz/corpus/$name artifacts=fuzz/artifacts/$name/
  mkdir -p "$corpus" "$artifacts"
  log=$artifacts/log
  echo "$name: $seconds s"
  "fuzz/target/$target/release/$name" "$corpus" "fuzz/seeds/$name" -max_total_time="$seconds" -max_len=2000 \
    -artifact_prefix="$artifacts" -print_final_stats=1 >"$log" 2>&1 || { tail -n 40 "$log"; exit 1; }
  grep -E '^stat::(number_of_executed_units|average_exec_per_sec|new_units_added)' "$log"
done
