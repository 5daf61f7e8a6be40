"""GPTQ side by side on the same tokens: round-to-nearest, GPTQModel and ours; perplexity, time, memory and size.

Usage: bench_gptq.py [--bits 4 3] [--group 64] [--asym] [--samples 64] [--length 512] [--windows 100] [--levels Q4_K_M]
                     [--set KEY=VALUE] [--rounds 1] [--without round-to-nearest gptqmodel ours]

How, is said in bench.py. `--levels` adds GGUF files of ours for comparison. Takes some five minutes a row of a 135M
model; not part of .ci/run.
"""

import os
import pathlib
import sys

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import torch
from transformers.utils import logging as transformers_logging

import bench
import gptq
import llama
from common import Check


class Bench(bench.Bench):
    def setting(self, bits, group, calibration):
        """All tools at one setting."""
        args = self.args
        label = f"{bits} bits, group {group}, {'asym' if args.asym else 'sym'}"
        if "round-to-nearest" not in args.without:
            self.rounded(f"{label}: nearest", lambda weight: gptq.round_to_nearest(weight, bits, group, not args.asym))
        commands = {}
        if "gptqmodel" not in args.without:
            name = f"{label}: GPTQModel"
            commands[name] = [*self.gptqmodel(calibration, self.work / name), "--bits", bits, "--group", group,
                              *(["--asym"] if args.asym else [])]
        if "ours" not in args.without:
            sets = [word for item in (["sym=false"] if args.asym else []) + args.set for word in ("--set", item)]
            name = f"{label}: ours"
            commands[name] = self.our_command(
                name, ["gptq", "-q", f"{bits}bit", f"--group-size={group}", *sets, *calibration.arguments()])
        self.in_turns(commands, gptq.dequantized)

    def gptqmodel(self, calibration, out):
        program = pathlib.Path(__file__).with_name("gptqmodel_quantize.py")
        return [sys.executable, program, self.source, calibration.tokens, out]

    def gguf_level(self, level):
        out = self.work / f"{level}.gguf"
        costs = [bench.measured(self.our_command(out.name, ["gguf", "-q", level]), self.work)]
        document = self.check.run("convert", out, "hf", "-q", "F32", "-o", self.work, "-n", "plain", "--overwrite")
        self.judge(f"GGUF {level}", costs, out, gptq.read_tensors(document["output_path"]))
        out.unlink()


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
            table = Bench(check, name, work.absolute())
            calibration = table.calibration(check.args.samples)
            for bits in check.args.bits:
                for group in check.args.group:
                    table.setting(bits, group, calibration)
            for level in check.args.levels:
                table.gguf_level(level)


if __name__ == "__main__":
    main()
