#!/usr/bin/env bash
# Builds the numeric code for arm64 Linux and runs its tests in an emulator: the bytes must be those of every other CPU.
# setup.sh, which is called first, says what that takes and where it is kept.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${LLM_QUANTIZE_EMULATION:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-quantize-emulation}
"$here/setup.sh"
cache=$(cd "$cache" && pwd)
# Settings and libraries for this processor are of no use there.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS LLM_QUANTIZE_GGML_LIB
cd "$here/../.."
arm64() { cargo --config "$cache/root/cargo.toml" test "$@"; }
arm64 -p llm-quantize-plugin-api --lib -- kernels services
arm64 -p llm-quantize-emulation --features emulated
