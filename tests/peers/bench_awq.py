"""AWQ side by side on the same tokens: round-to-nearest, AutoAWQ and ours; perplexity, time, memory and size.

Usage: bench_awq.py [--group 64] [--samples 16] [--more 64 110] [--length 512] [--windows 100] [--set KEY=VALUE]
                    [--rounds 1] [--without round-to-nearest autoawq ours]

How, is said in bench.py. `--more` adds lines of ours with more samples. AutoAWQ needs `setup.sh CACHE autoawq` once, and
some nine minutes for a 135M model; not part of .ci/run.
"""

import os
import pathlib

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import torch
from transformers.utils import logging as transformers_logging

import awq
import bench
import llama
from common import Check, ToolError

# For AutoAWQ, which gives memory back and asks for it again all the time.
ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}


class Bench(bench.Bench):
    def setting(self, group):
        """All tools at one setting."""
        args = self.args
        label = f"group {group}"
        if "round-to-nearest" not in args.without:
            self.rounded(f"{label}: nearest", lambda weight: nearest(weight, group))
        commands = {}
        if "autoawq" not in args.without:
            name = f"{label}: AutoAWQ, {args.samples} samples"
            commands[name] = self.autoawq(self.calibration(args.samples), group, self.work / name)
        if "ours" not in args.without:
            sets = [word for item in args.set for word in ("--set", item)]
            for samples in [args.samples, *args.more]:
                name = f"{label}: ours, {samples} samples"
                commands[name] = self.our_command(name, [
                    "awq", "-q", "4bit", f"--group-size={group}", *sets, *self.calibration(samples).arguments()])
        self.in_turns(commands, awq.dequantized)

    def autoawq(self, calibration, group, out):
        python = llama.cache_dir() / "venv-autoawq" / "bin" / "python"
        if not python.exists():
            raise ToolError(f"{python} is not there: run setup.sh with `autoawq` as its second argument")
        program = pathlib.Path(__file__).with_name("autoawq_quantize.py")
        environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        # -P: its package has the name of a module here.
        return ["env", *environment, python, "-P", program, self.source, calibration.tokens, out, "--group", group]


def nearest(weight, group):
    """What a weight becomes by AutoAWQ's rule alone."""
    q, zeros, scales = awq.round_to_nearest(weight, group)
    return torch.from_numpy(awq.decoded(q, zeros, scales))


def main():
    check = Check(
        __doc__.splitlines()[0],
        group={"type": int, "nargs": "+", "default": [64]},
        samples={"type": int, "default": 16}, more={"type": int, "nargs": "*", "default": []},
        length={"type": int, "default": 512}, windows={"type": int, "default": 100},
        set={"action": "append", "default": [], "help": "KEY=VALUE for our plugin"},
        rounds={"type": int, "default": 1, "help": "runs of each quantizer, in turns; the median counts"},
        without={"nargs": "*", "default": [], "choices": ["round-to-nearest", "autoawq", "ours"]},
    )
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(llama.cores())
    with check.folder() as work:
        for name in check.args.models:
            table = Bench(check, name, work.absolute())
            for group in check.args.group:
                table.setting(group)


if __name__ == "__main__":
    main()
