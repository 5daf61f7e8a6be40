#!/usr/bin/env bash
# Speed and memory against llama.cpp's quantizer on the same model, both with two threads, runs alternating:
#   (a) llm-quantize straight from the Hugging Face folder
#   (b) llama_model_quantize from a BF16 GGUF that is already there (its conversion is not counted)
# Prints each run, then the median wall times, their ratio, and the peak resident memory of both. Resident memory counts
# mapped pages of the input and output files too, for both.
#
# The prebuilt libggml-base encodes with code for baseline x86-64: a llama.cpp compiled for the very processor is faster.
#
# Usage: compare.sh BINARY HF_DIR [WORK_DIR]      environment: LEVEL (Q4_K_M), RUNS (3), THREADS (2), BF16 (a ready file)
# Needs: GNU time, and tests/peers/setup.sh's cache (LLM_QUANTIZE_PEERS).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=${1:?usage: compare.sh BINARY HF_DIR [WORK_DIR]}
model=${2:?usage: compare.sh BINARY HF_DIR [WORK_DIR]}
level=${LEVEL:-Q4_K_M} runs=${RUNS:-3} threads=${THREADS:-2}
export LLM_QUANTIZE_PEERS=${LLM_QUANTIZE_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-quantize-peers}
python=$LLM_QUANTIZE_PEERS/venv/bin/python
[ -x /usr/bin/time ] || { echo "compare: GNU time is needed (Debian package time)" >&2; exit 1; }

if [ $# -ge 3 ]; then
  work=$3 && mkdir -p "$work"
else
  work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
fi

bf16=${BF16:-$work/bf16.gguf}
if [ ! -f "$bf16" ]; then
  "$binary" --verbosity quiet quantize "$model" gguf -q BF16 -o "$work" -n bf16.gguf --threads "$threads" >/dev/null
fi
cat "$model"/*.safetensors "$bf16" >/dev/null   # both inputs in the page cache

# measure LABEL COMMAND...: appends "LABEL seconds KiB" to runs.txt
measure() {
  local label=$1 report=$work/time.txt
  shift
  sync
  if ! /usr/bin/time -v -o "$report" "$@" >"$work/out.txt" 2>"$work/err.txt"; then
    tail -n 20 "$work/err.txt" >&2
    echo "compare: $label failed" >&2
    exit 1
  fi
  local wall rss
  wall=$(awk -F': ' '/Elapsed/ {n = split($NF, t, ":"); s = 0; for (i = 1; i <= n; i++) s = s * 60 + t[i]; print s}' "$report")
  rss=$(awk -F': ' '/Maximum resident/ {print $NF}' "$report")
  echo "$label $wall $rss" | tee -a "$work/runs.txt"
}

: >"$work/runs.txt"
for _ in $(seq "$runs"); do
  rm -rf "$work/ours" "$work/theirs.gguf"
  measure ours "$binary" --verbosity quiet quantize "$model" gguf -q "$level" -o "$work/ours" -n ours.gguf --threads "$threads"
  measure llama.cpp env PYTHONPATH="$here/../peers" "$python" -c \
    'import sys, llama; llama.quantize(sys.argv[1], sys.argv[2], sys.argv[3], nthread=int(sys.argv[4]))' \
    "$bf16" "$work/theirs.gguf" "$level" "$threads"
done

python3 - "$work/runs.txt" "$level" "$threads" <<'P'
import collections, statistics, sys

runs = collections.defaultdict(list)
for line in open(sys.argv[1]):
    label, wall, kib = line.split()
    runs[label].append((float(wall), int(kib)))
median = {label: statistics.median(w for w, _ in r) for label, r in runs.items()}
for label, r in runs.items():
    print(f"{label:10} {sys.argv[2]}, {sys.argv[3]} threads: median {median[label]:.2f} s of {len(r)} runs, peak RSS {max(k for _, k in r) / 1024:.0f} MiB")
print(f"ratio llama.cpp / ours: {median['llama.cpp'] / median['ours']:.2f} (above 1: ours is faster)")
P

# The comparison only counts if both wrote the same tensors.
PYTHONPATH="$here/../peers" "$python" - "$(find "$work/ours" -name '*.gguf' | head -n 1)" "$work/theirs.gguf" <<'P'
import sys
import gguf_file

problems = gguf_file.compare(gguf_file.GgufFile(sys.argv[1]), gguf_file.GgufFile(sys.argv[2]))
print("\n".join(problems[:10]) or "both files hold the same tensors and metadata")
sys.exit(bool(problems))
P
rm -rf "$work/ours" "$work/theirs.gguf"
