#!/usr/bin/env bash
# Fuzzes every reader for a short while: those of this folder, and those of the plugins' own folders, as no program
# can hold the root modules of two plugins. Builds the targets with the address sanitizer (with the stable compiler and
# without it where no nightly one is installed) and runs each over a copy of its seeds. Writes nothing into the tree.
# A finding stays in the cache folder; add it to the folder's seeds/<target>/ when it is fixed.
#
# Usage: run.sh [SECONDS]    for each target, default 20
# Environment: LLM_QUANTIZE_FUZZ (cache folder: cargo-fuzz, build, findings), FUZZ_TARGETS (default: all)
set -uo pipefail
seconds=${1:-20}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${LLM_QUANTIZE_FUZZ:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-quantize-fuzz}
cargo_fuzz_version=0.13.2
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
export PATH=$cache/tools/bin:$PATH CARGO_TERM_COLOR=never CARGO_TARGET_DIR=$cache/target
# The workspace's release profile is for users. Here a sum that overflows is a finding, and links must be quick.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only
export CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true CARGO_PROFILE_RELEASE_OPT_LEVEL=1

if ! cargo fuzz --version 2>/dev/null | grep -qF "$cargo_fuzz_version"; then
  CARGO_TARGET_DIR=$cache/tools-build cargo install --quiet --locked --root "$cache/tools" "cargo-fuzz@$cargo_fuzz_version" || exit 1
fi
cargo=(cargo) sanitizer=none
if cargo +nightly --version >/dev/null 2>&1; then cargo=(cargo +nightly) sanitizer=address; fi

crates=() chosen=()
for crate in "$root"/tests/fuzz "$root"/plugins/*/fuzz; do
  for seeds in "$crate"/seeds/*; do
    [[ " ${FUZZ_TARGETS:-${seeds##*/}} " == *" ${seeds##*/} "* ]] || continue
    chosen+=("$seeds")
    [[ " ${crates[*]} " == *" $crate "* ]] || crates+=("$crate")
  done
done
[ ${#chosen[@]} -gt 0 ] || { echo "no target is named $FUZZ_TARGETS"; exit 1; }

echo "building with ${cargo[*]}, sanitizer $sanitizer"
for crate in "${crates[@]}"; do
  (cd "$root" && "${cargo[@]}" fuzz build --fuzz-dir "$crate" --features targets --sanitizer "$sanitizer") 2>&1 |
    grep -v '^ *\(Compiling\|Fresh\|Downloaded\)'
  [ "${PIPESTATUS[0]}" -eq 0 ] || exit 1
done
binaries=$(dirname "$(find "$CARGO_TARGET_DIR" -path "*/release/${chosen[0]##*/}" -type f -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2-)")

export ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=32
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

run_target() {
  local seeds=$1 target=${1##*/}
  local log=$work/$target.log findings=$cache/artifacts/$target start=$SECONDS status=ok
  mkdir -p "$work/$target" "$findings"
  cp "$seeds"/* "$work/$target"
  "$binaries/$target" "$work/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=512 -malloc_limit_mb=256 \
    -max_len=16384 -print_final_stats=1 -artifact_prefix="$findings/" >"$log" 2>&1 || status=FAILED
  printf '%-16s %-7s %8s inputs  %s  %d s\n' "$target" "$status" \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)" \
    "$(grep -o 'cov: [0-9]*' "$log" | tail -1)" $((SECONDS - start))
  [ "$status" = ok ] && return
  grep -v '^#' "$log" | tail -60
  echo "the input is in $findings"
  return 1
}
export -f run_target
export cache work seconds binaries

# Two at a time; xargs fails if one of them does.
printf '%s\n' "${chosen[@]}" | xargs -P 2 -I{} bash -c 'run_target {}'
