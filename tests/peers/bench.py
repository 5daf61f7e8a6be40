"""What benchmarks beside another quantizer share: the same tokens for all tools, each a measured process of its own, in
turns, and one judge: a decoding of the weights by this folder's modules, run by transformers in float32 on evaluation
text. The loss over the source is paired token by token, with its standard error over windows."""

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys

import numpy as np
from transformers import AutoTokenizer

import gptq
import gptq_folder
import llama
from common import FIXTURES, ToolError
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


@dataclasses.dataclass
class Calibration:
    """The same samples as a text, for our program, and as tokens, for the others: one sample a row."""

    samples: int
    length: int
    text: pathlib.Path
    tokens: pathlib.Path

    def arguments(self):
        return ["--calibration-data", self.text, "--calibration-samples", self.samples, "--calibration-length", self.length]


class Bench:
    """A model, evaluation text, and the table's head."""

    def __init__(self, check, name, work):
        args = check.args
        self.check, self.args, self.work = check, args, work
        self.source = check.model(name, work)
        self.tokenizer = AutoTokenizer.from_pretrained(self.source)
        windows = windows_of(self.tokenizer, TEXT / "eval.txt", args.windows, args.length)
        self.yardstick = Yardstick.of_folder(self.source, windows)
        self.tensors = gptq.read_tensors(self.source)
        print(f"{name}: samples of {args.length} tokens, {windows.shape[0]} windows of evaluation text, {llama.cores()} cores")
        print(f"{'':44} {'perplexity':>10} {'loss over source':>20} {'seconds':>9} {'peak MiB':>9} {'MB':>8}")
        self.base = self.yardstick.losses()
        self._row("source", None, self.source, self.base)

    def calibration(self, samples):
        """The first samples of the calibration text."""
        text, tokens = self.work / f"calibration-{samples}.txt", self.work / f"calibration-{samples}.npy"
        length = self.args.length
        cut_text(self.tokenizer, TEXT / "calibration.txt", samples, length, text)
        np.save(tokens, windows_of(self.tokenizer, text, samples, length).numpy())
        return Calibration(samples, length, text, tokens)

    def rounded(self, label, decoded):
        """A line of weights that need no process: `decoded` turns a linear layer's weight into what it becomes."""
        state = {name: decoded(tensor.float()) if gptq_folder.LINEAR.fullmatch(name) else tensor
                 for name, tensor in self.tensors.items()}
        self.judge(label, None, None, state)

    def in_turns(self, commands, dequantized):
        """Lines of processes, by label: each command writes the folder `work / label`, and they take turns."""
        costs = {label: [] for label in commands}
        for _ in range(self.args.rounds):
            for label, command in commands.items():
                costs[label].append(measured(command, self.work))
        for label, each in costs.items():
            self.judge(label, each, self.work / label, dequantized(self.work / label))

    def our_command(self, label, arguments):
        return [self.check.binary, "quantize", self.source, *arguments, "-o", self.work, "-n", label, "--overwrite"]

    def judge(self, label, costs, path, state):
        """A line of weights: what making them took, if anything, and where they lie, if anywhere."""
        self._row(label, costs, path, self.yardstick.losses(state))

    def _row(self, label, costs, path, losses):
        over = ""
        if losses is not self.base:
            each = (losses - self.base).mean(1)
            over = f"{each.mean():+.4f} ± {each.std(ddof=1) / len(each) ** 0.5:.4f}"
        seconds = f"{statistics.median(cost.seconds for cost in costs):9.1f}" if costs else f"{'':9}"
        peak = f"{max(cost.peak_mib for cost in costs):9.0f}" if costs else f"{'':9}"
        print(f"{label:44} {np.exp(losses.mean()):10.3f} {over:>20} {seconds} {peak} {_size_mb(path)}", flush=True)


def _size_mb(path):
    """Megabytes of a file, or of a folder's tensors."""
    if path is None:
        return f"{'':8}"
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files) / 1e6:8.1f}"
