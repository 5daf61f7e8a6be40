"""GPTQ side by side on the same tokens: round-to-nearest, GPTQModel and ours; perplexity, time, memory and size.

Usage: bench_gptq.py [--bits 4 3] [--group 64] [--asym] [--samples 64] [--length 512] [--windows 100] [--levels Q4_K_M]
                     [--set KEY=VALUE] [--rounds 1] [--without round-to-nearest gptqmodel ours]

The calibration text is cut so that it holds exactly the samples asked for, lest the tools choose different ones. Each
quantizer runs as a process of its own, in turns, and its largest resident set is the system's count. Every result is
judged alike: gptq.py's decoding of its weights, run by transformers in float32 on evaluation text; the loss over the
source is paired token by token, with its standard error over windows. `--levels` adds GGUF files of ours for comparison.
Takes some ten minutes a row of a 135M model; not part of .ci/run.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import numpy as np
import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

import gptq
import gptq_folder
import llama
from common import FIXTURES, Check, ToolError
from perplexity import Yardstick, windows_of

TEXT = FIXTURES / "text"


@dataclasses.dataclass
class Cost:
    """What a process took; see measure.py."""

    seconds: float
    peak_mib: float


def measured(command, work):
    """Runs a command to its end in the work folder."""
    log, result = work / "log.txt", work / "measured.json"
    program = pathlib.Path(__file__).with_name("measure.py")
    with open(log, "wb") as file:
        subprocess.run([sys.executable, program, result, *map(str, command)], stdout=file, stderr=file, cwd=work, check=True)
    found = json.loads(result.read_text())
    if found["exit"] != 0:
        raise ToolError(f"exit {found['exit']} of {command}\n{log.read_text(errors='replace')[-2000:]}")
    return Cost(found["seconds"], found["peak_mib"])


def cut_text(tokenizer, path, samples, length, out):
    """Writes the beginning of a text that has exactly so many windows, whole lines of it."""
    piece = length - len(tokenizer("").input_ids)
    text = path.read_bytes().decode()
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    wanted = samples * piece
    if len(offsets) < wanted:
        raise ToolError(f"{path} has {len(offsets)} tokens, {samples} samples of {length} need {wanted}")
    # From the end of the last window that is wanted, to the line before the end of the next one.
    last = offsets[min(len(offsets), wanted + piece) - 1][0]
    part = text[:text.rindex("\n", 0, last) + 1]
    count = len(tokenizer(part, add_special_tokens=False).input_ids)
    if not wanted <= count < wanted + piece:
        raise ToolError(f"the text has no line that ends between {wanted} and {wanted + piece} tokens")
    out.write_bytes(part.encode())


class Bench:
    def __init__(self, check, name, work):
        args = check.args
        self.check, self.args, self.work = check, args, work
        self.source = check.model(name, work)
        self.calibration, self.tokens = work / "calibration.txt", work / "calibration.npy"
        tokenizer = AutoTokenizer.from_pretrained(self.source)
        cut_text(tokenizer, TEXT / "calibration.txt", args.samples, args.length, self.calibration)
        np.save(self.tokens, windows_of(tokenizer, self.calibration, args.samples, args.length).numpy())
        windows = windows_of(tokenizer, TEXT / "eval.txt", args.windows, args.length)
        self.yardstick = Yardstick.of_folder(self.source, windows)
        self.tensors = gptq.read_tensors(self.source)
        print(f"{name}: {args.samples} samples of {args.length} tokens, {windows.shape[0]} windows of evaluation text, "
              f"{llama.cores()} cores")
        print(f"{'':34} {'perplexity':>10} {'loss over source':>20} {'seconds':>9} {'peak MiB':>9} {'MB':>8}")
        self.base = self.yardstick.losses()
        self.row("source", None, self.source)

    def row(self, label, costs, path, losses=None):
        """One line of the table; without losses, that of the source."""
        over = ""
        if losses is None:
            losses = self.base
        else:
            each = (losses - self.base).mean(1)
            over = f"{each.mean():+.4f} ± {each.std(ddof=1) / len(each) ** 0.5:.4f}"
        seconds = f"{statistics.median(cost.seconds for cost in costs):9.1f}" if costs else f"{'':9}"
        peak = f"{max(cost.peak_mib for cost in costs):9.0f}" if costs else f"{'':9}"
        print(f"{label:34} {np.exp(losses.mean()):10.3f} {over:>20} {seconds} {peak} {size_mb(path)}", flush=True)

    def judge(self, label, costs, path, state):
        self.row(label, costs, path, self.yardstick.losses(state))

    def setting(self, bits, group):
        """All tools at one setting; the quantizers take turns over the rounds."""
        args = self.args
        label = f"{bits} bits, group {group}, {'asym' if args.asym else 'sym'}"
        if "round-to-nearest" not in args.without:
            rounded = {name: gptq.round_to_nearest(tensor.float(), bits, group, not args.asym)
                       if gptq_folder.LINEAR.fullmatch(name) else tensor for name, tensor in self.tensors.items()}
            self.judge(f"{label}: nearest", None, None, rounded)
        commands = {"GPTQModel": self.gptqmodel_command, "ours": self.our_command}
        costs = {tool: [] for tool in commands if tool.lower() not in args.without}
        for _ in range(args.rounds):
            for tool in costs:
                command = commands[tool](bits, group, self.work / tool)
                costs[tool].append(measured(command, self.work))
        for tool in costs:
            self.judge(f"{label}: {tool}", costs[tool], self.work / tool, gptq.dequantized(self.work / tool))

    def gptqmodel_command(self, bits, group, out):
        program = pathlib.Path(__file__).with_name("gptqmodel_quantize.py")
        return [sys.executable, program, self.source, self.tokens, out, "--bits", bits, "--group", group,
                *(["--asym"] if self.args.asym else [])]

    def our_command(self, bits, group, out):
        sets = [word for item in (["sym=false"] if self.args.asym else []) + self.args.set for word in ("--set", item)]
        return [self.check.binary, "quantize", self.source, "gptq", "-q", f"{bits}bit", "--group-size", group, *sets,
                "--calibration-data", self.calibration, "--calibration-samples", self.args.samples,
                "--calibration-length", self.args.length, "-o", out.parent, "-n", out.name, "--overwrite"]

    def gguf_level(self, level):
        out = self.work / f"{level}.gguf"
        command = [self.check.binary, "quantize", self.source, "gguf", "-q", level, "-o", self.work, "-n", out.name, "--overwrite"]
        costs = [measured(command, self.work)]
        document = self.check.run("convert", out, "hf", "-q", "F32", "-o", self.work, "-n", "plain", "--overwrite")
        self.judge(f"GGUF {level}", costs, out, gptq.read_tensors(document["output_path"]))
        out.unlink()


def size_mb(path):
    """Megabytes of a file, or of a folder's tensors."""
    if path is None:
        return f"{'':8}"
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files) / 1e6:8.1f}"


def main():
    check = Check(
        __doc__.splitlines()[0],
        bits={"type": int, "nargs": "+", "default": [4], "choices": [2, 3, 4, 8]},
        group={"type": int, "nargs": "+", "default": [64]},
        asym={"action": "store_true", "help": "asymmetric grids"},
        samples={"type": int, "default": 64}, length={"type": int, "default": 512}, windows={"type": int, "default": 100},
        levels={"nargs": "*", "default": [], "help": "GGUF levels of ours to put beside"},
        set={"action": "append", "default": [], "help": "KEY=VALUE for our plugin"},
        rounds={"type": int, "default": 1, "help": "runs of each quantizer, in turns; the median counts"},
        without={"nargs": "*", "default": [], "choices": ["round-to-nearest", "gptqmodel", "ours"]},
    )
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(llama.cores())
    with check.folder() as work:
        for name in check.args.models:
            bench = Bench(check, name, work.absolute())
            for bits in check.args.bits:
                for group in check.args.group:
                    bench.setting(bits, group)
            for level in check.args.levels:
                bench.gguf_level(level)


if __name__ == "__main__":
    main()
