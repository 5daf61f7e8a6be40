"""The cache is the one that huggingface_hub keeps, in both directions.

Against a Hub on this machine (`loopback-hub`): what llm-quantize downloads, huggingface_hub finds without a request, in
the layout that its own scan accepts; what huggingface_hub downloads, llm-quantize uses offline. A download that both
begin at once, and one that llm-quantize was interrupted in, end well.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from common import TINY, Check

REPOSITORY = "org/tiny-llama"
CLIENT = """
import json, sys
from huggingface_hub import scan_cache_dir, snapshot_download
local = sys.argv[1] == "local"
folder = snapshot_download("org/tiny-llama", local_files_only=local, allow_patterns=["*.json", "model.safetensors", "LICENSE"])
layers = 4
if local:
    from transformers import AutoConfig
    layers = AutoConfig.from_pretrained("org/tiny-llama").num_hidden_layers
cache = scan_cache_dir()
print(json.dumps({"folder": folder, "layers": layers, "warnings": [str(warning) for warning in cache.warnings],
                  "refs": [sorted(revision.refs) for repo in cache.repos for revision in repo.revisions]}))
"""


@contextlib.contextmanager
def loopback_hub(binary):
    program = pathlib.Path(binary).with_name("loopback-hub")
    with subprocess.Popen([program, TINY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()


def environment(home, endpoint):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LLM_QUANTIZE_"))}
    return clean | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "*", "HF_HUB_DISABLE_TELEMETRY": "1",
                    "HF_HUB_DISABLE_XET": "1", "TRANSFORMERS_VERBOSITY": "error"}


def client(mode, variables):
    done = subprocess.run([sys.executable, "-c", CLIENT, mode], env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        return None, [done.stderr.strip()[-600:]]
    return json.loads(done.stdout.splitlines()[-1]), []


def quantize(check, work, variables):
    command = [check.binary, "quantize", REPOSITORY, "gguf", "-q", "Q4_0", "-o", work, "--overwrite"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def compare_files(folder):
    folder = pathlib.Path(folder)
    return [f"{path.name} differs" for path in sorted(TINY.iterdir())
            if not (folder / path.name).exists() or (folder / path.name).read_bytes() != path.read_bytes()]


def ours_then_theirs(check, work, endpoint):
    variables = environment(work / "ours", endpoint)
    done = quantize(check, work, variables)
    check.verdict("llm-quantize downloads", [done.stderr] if done.returncode else [])
    seen, problems = client("local", variables | {"HF_HUB_OFFLINE": "1"})
    if seen:
        problems = compare_files(seen["folder"]) + seen["warnings"]
        problems += [] if (seen["layers"], seen["refs"]) == (4, [["main"]]) else [str(seen)]
    check.verdict("huggingface_hub finds it offline", problems)
    blobs = {path: path.stat().st_mtime_ns for path in work.glob("ours/hub/models--*/blobs/*")}
    _, problems = client("online", variables)
    changed = [f"{path} changed" for path, before in blobs.items() if path.stat().st_mtime_ns != before]
    check.verdict("huggingface_hub downloads nothing again", problems or changed)


def theirs_then_ours(check, work, endpoint):
    variables = environment(work / "theirs", endpoint)
    seen, problems = client("online", variables)
    check.verdict("huggingface_hub downloads", problems or compare_files(seen["folder"]))
    before = sorted(work.glob("theirs/hub/models--*/**/*"))
    done = quantize(check, work, variables | {"HF_HUB_OFFLINE": "1"})
    problems = [done.stderr] if done.returncode else []
    check.verdict("llm-quantize uses it offline", problems)
    done = quantize(check, work, variables)
    problems = [done.stderr] if done.returncode or "Downloading" in done.stderr else []
    after = sorted(work.glob("theirs/hub/models--*/**/*"))
    check.verdict("llm-quantize downloads nothing again", problems or ([] if before == after else ["files changed"]))


def both_at_once(check, work, endpoint):
    variables = environment(work / "both", endpoint)
    command = [sys.executable, "-c", CLIENT, "online"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
        done = quantize(check, work, variables)
        _, errors = other.communicate()
    problems = ([done.stderr] if done.returncode else []) + ([errors[-600:]] if other.returncode else [])
    left = [str(path) for path in work.glob("both/hub/models--*/blobs/*.incomplete")]
    check.verdict("both at once", problems + left)


def interrupted(check, work, endpoint):
    variables = environment(work / "interrupted", endpoint)
    command = [check.binary, "quantize", REPOSITORY, "gguf", "-q", "Q4_0", "-o", work, "--overwrite"]
    with subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
    seen, problems = client("online", variables)
    check.verdict("huggingface_hub after a killed download", problems or compare_files(seen["folder"]))


def main():
    check = Check(__doc__)
    with check.folder() as work, loopback_hub(check.binary) as endpoint:
        ours_then_theirs(check, work, endpoint)
        theirs_then_ours(check, work, endpoint)
        both_at_once(check, work, endpoint)
        interrupted(check, work, endpoint)
    check.finish()


if __name__ == "__main__":
    main()
