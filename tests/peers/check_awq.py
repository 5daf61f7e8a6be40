"""AWQ folders hold what they should, and real clients load them: transformers (by GPTQModel's kernels) and vLLM.

Every folder's files, configuration and tensors are held against its source; what is rounded to the nearest also code by
code against AutoAWQ's rule. Its weights, decoded by awq.py from the format's description, have to be bit for bit what our
own reader decodes. transformers and vLLM run it, and their perplexities, as well as that of `quality`, have to be that
of these weights.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import gptqmodel_client as client

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import awq
import gptq
import gptq_folder
import llama
from common import FIXTURES, Check, ToolError
from perplexity import Yardstick, windows_of

WINDOWS = {"tiny": (8, 256), "smollm": (4, 256)}
PROMPT = "The capital of France is"

# Largest relative difference of a perplexity. `quality` computes in float32 as the yardstick does, the clients' kernels
# in bf16.
QUALITY = 5e-4
CLIENT = 1e-2


@dataclasses.dataclass(frozen=True)
class Case:
    group: int
    clients: bool = False  # run it in all of them

    def __str__(self):
        return f"rtn g{self.group}"

    @property
    def runs_in_gptqmodel_on_cpus(self):
        """Its kernel there takes groups of 32 to 256; rows of both models are of other lengths."""
        return self.group != -1

    @property
    def arguments(self):
        return ["awq", "-q", "4bit", "--group-size", self.group, "--set", "method=rtn"]


CASES = {
    "tiny": [Case(64, clients=True), Case(32), Case(128), Case(-1, clients=True)],
    "smollm": [Case(64, clients=True)],
}


def problems(folder, source, group):
    """Lines about what is wrong with a folder, none of a good one."""
    yield from gptq_folder.files(folder, source)
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization_config", {})
    if config != json.loads((source / "config.json").read_text()):
        yield "config.json does not have the source's keys and values beside quantization_config"
    expected = {"quant_method": "awq", "zero_point": True, "group_size": group, "bits": 4, "version": "gemm",
                "modules_to_not_convert": None}
    for key, value in expected.items():
        if quantization.get(key, "nothing") != value:
            yield f"config.json has {key} {quantization.get(key)!r}, not {value!r}"
    ours, theirs = gptq.read_tensors(folder), gptq.read_tensors(source)
    for name, tensor in theirs.items():
        layer = name.removesuffix(".weight")
        if gptq_folder.LINEAR.fullmatch(name):
            parts = {part: ours.pop(f"{layer}.{part}") for part in awq.PARTS}
            yield from (f"{layer}: {line}" for line in layer_problems(parts, tensor, group))
        elif not torch.equal(ours.pop(name), tensor):
            yield f"{name} is not the source's"
    if ours:
        yield f"there are more tensors: {sorted(ours)[:5]}"


def layer_problems(parts, weight, group):
    out, width = weight.shape
    groups = 1 if group == -1 else width // group
    shapes = {"qweight": (torch.int32, (width, out // 8)), "qzeros": (torch.int32, (groups, out // 8)),
              "scales": (torch.float16, (groups, out))}
    for part, (dtype, shape) in shapes.items():
        if (parts[part].dtype, tuple(parts[part].shape)) != (dtype, shape):
            yield f"{part} is {parts[part].dtype} {tuple(parts[part].shape)}"
            return
    arrays = {part: value.numpy() for part, value in parts.items()}
    q, zeros = awq.codes(arrays)
    for what, found, expected in zip(("codes", "zeros", "scales"), (q, zeros, arrays["scales"]),
                                     awq.round_to_nearest(weight.float(), group)):
        off = np.count_nonzero(found != expected)
        if off:
            yield f"{off} of {found.size} {what} are not those of AutoAWQ's rule"


class Model:
    """A source model, its text, and the folders made of it."""

    def __init__(self, check, name, work):
        self.check, self.name, self.work = check, name, work / f"awq-{name}"
        self.work.mkdir(exist_ok=True)
        self.source = check.model(name, work)
        self.tokenizer = AutoTokenizer.from_pretrained(self.source)
        count, length = WINDOWS[name]
        self.windows = windows_of(self.tokenizer, FIXTURES / "text" / "eval.txt", count, length)
        self.yardstick = Yardstick.of_folder(self.source, self.windows)
        self.jobs = []

    def check_case(self, case):
        label = f"{self.name} {case}"
        document, said = self.check.run_aloud("quantize", self.source, *case.arguments, "-o", self.work, "-n",
                                              str(case).replace(" ", "-"), "--overwrite")
        folder = pathlib.Path(document["output_path"])
        self.check.verdict(f"{label} folder", list(problems(folder, self.source, case.group)))
        warned = [line for line in said.splitlines() if "refuses" in line]
        if case.runs_in_gptqmodel_on_cpus:
            self.check.verdict(f"{label} has no warning", warned)
        else:
            about = len(warned) == 1 and "GPTQModel" in warned[0]
            self.check.verdict(f"{label} has a warning about GPTQModel alone", [] if about else [said[-300:]], " ".join(warned))
        weights = awq.dequantized(folder)
        self.compare_weights(label, folder, weights)
        if case.clients:
            perplexity = self.yardstick.perplexity(weights)
            self.compare_quality(label, folder, perplexity)
            self.check.attempt(f"{label} in transformers", self.run_in_transformers, case, label, folder, perplexity)
            self.jobs.append((case, folder, perplexity))

    def compare_weights(self, label, folder, weights):
        self.check.run("convert", folder, "hf", "-q", "F32", "-o", self.work, "-n", "plain", "--overwrite")
        plain = gptq.read_tensors(self.work / "plain")
        lines = [f"{name} differs" for name in weights.keys() & plain.keys() if not torch.equal(weights[name].float(), plain[name])]
        lines += [f"{name} is in one of the folders only" for name in weights.keys() ^ plain.keys()]
        self.check.verdict(f"{label} weights by convert", lines, f"{len(plain)} tensors bit for bit")

    def compare(self, label, perplexity, expected, limit, detail=""):
        off = perplexity / expected - 1
        self.check.verdict(label, [] if abs(off) <= limit else [f"more than {limit:.2%} off {expected:.4f}"],
                           f"perplexity {perplexity:.4f}, {off:+.4%} {detail}")

    def compare_quality(self, label, folder, expected):
        count, length = WINDOWS[self.name]
        row, = self.check.run("quality", folder, "--data", FIXTURES / "text" / "eval.txt", "--windows", count, "--context", length)
        self.compare(f"{label} in quality", row["perplexity"], expected, QUALITY)

    def run_in_transformers(self, case, label, folder, expected):
        with client.quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        try:
            measured = Yardstick(model, self.windows).perplexity()
        except RuntimeError as error:
            if case.runs_in_gptqmodel_on_cpus or "qGroupSize" not in str(error):
                raise
            self.check.verdict(f"{label} in transformers is refused", [], str(error))
            return
        self.compare(f"{label} in transformers", measured, expected, CLIENT, " ".join(client.kernels(model)))


def run_in_vllm(check, models, work):
    """All folders of a model in one process of vLLM's own environment: importing it takes longer than a load."""
    for model in models:
        listed = [{"model": str(folder), "prompt": PROMPT, "windows": model.windows.tolist()} for _, folder, _ in model.jobs]
        path = work / "vllm-jobs.json"
        path.write_text(json.dumps(listed))
        program = [llama.cache_dir() / "venv-vllm" / "bin" / "python", pathlib.Path(__file__).with_name("vllm_client.py")]
        # As in check_gptq.py.
        rounds = {"tiny": "1", "smollm": "0"}[model.name]
        env = os.environ | {"VLLM_CACHE_ROOT": str(llama.cache_dir() / "vllm"), "VLLM_CPU_INT4_W4A8": rounds}
        done = subprocess.run([*program, path], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, env=env)
        results = [json.loads(line) for line in done.stdout.splitlines()]
        if len(results) != len(listed):
            raise ToolError(f"vLLM's process ended with {done.returncode} after {len(results)} of {len(listed)} folders\n{done.stderr[-1500:]}")
        for (case, _, expected), result in zip(model.jobs, results):
            label = f"{model.name} {case} in vLLM"
            if "error" in result:
                check.verdict(label, [result["error"][:600], *result["log"]])
            else:
                model.compare(label, result["perplexity"], expected, CLIENT, f"{' '.join(result['kernels'])} {result['text']!r}")


def main():
    check = Check(__doc__.splitlines()[0])
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(llama.cores())
    with check.folder() as work, tempfile.TemporaryDirectory() as elsewhere:
        work = work.absolute()
        os.chdir(elsewhere)  # GPTQModel keeps a folder of logs wherever it runs
        models = []
        for name in check.args.models:
            model = check.attempt(name, Model, check, name, work)
            if model:
                models.append(model)
                for case in CASES[name]:
                    check.attempt(f"{name} {case}", model.check_case, case)
        check.attempt("vLLM", run_in_vllm, check, models, work)
    check.finish()


if __name__ == "__main__":
    main()
