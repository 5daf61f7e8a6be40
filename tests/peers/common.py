"""What the check programs share: arguments, running llm-quantize, the models, and a tally of comparisons."""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import llama

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "tiny-llama"
LEVELS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S",
          "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "Q2_K_S", "TQ1_0", "TQ2_0", "MXFP4_MOE"]
NEED_IMATRIX = ("Q2_K_S",)  # llama-quantize refuses these levels without an importance matrix, and so do we
FLOAT_LEVELS = ("F32", "F16", "BF16")


def smollm_gguf():
    path = llama.cache_dir() / "smollm" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        sys.exit(f"{path} is missing: run tests/peers/setup.sh first")
    return path


class Check:
    """One check program: its arguments, its work folder, and a count of what held and what did not."""

    def __init__(self, description, **options):
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--binary", default=os.environ.get("LLM_QUANTIZE"), help="path of llm-quantize")
        parser.add_argument("--work", type=pathlib.Path, help="keep outputs in this folder (default: a temporary one)")
        parser.add_argument("--models", nargs="+", choices=["tiny", "smollm"], default=["tiny", "smollm"])
        for name, settings in options.items():
            parser.add_argument("--" + name.replace("_", "-"), **settings)
        self.args = parser.parse_args()
        if not self.args.binary:
            parser.error("give --binary or set LLM_QUANTIZE")
        self.binary = shutil.which(self.args.binary) or parser.error(f"no program at {self.args.binary}")
        self.passed = self.failed = self.skipped = 0
        self.started = time.monotonic()

    @contextlib.contextmanager
    def folder(self):
        """The work folder, gone afterwards unless --work names it."""
        if self.args.work:
            self.args.work.mkdir(parents=True, exist_ok=True)
            yield self.args.work
        else:
            with tempfile.TemporaryDirectory(prefix="llm-quantize-check-") as name:
                yield pathlib.Path(name)

    def verdict(self, label, problems, detail=""):
        """Counts and prints one comparison; `problems` is a list of lines, empty when it held."""
        if problems:
            self.failed += 1
            print(f"FAIL  {label}  {detail}")
            for line in problems[:12]:
                print(f"      {line}")
            if len(problems) > 12:
                print(f"      and {len(problems) - 12} more")
        else:
            self.passed += 1
            print(f"ok    {label}  {detail}")
        sys.stdout.flush()
        return not problems

    def skip(self, label, why):
        """Tells that this machine cannot make a comparison."""
        self.skipped += 1
        print(f"none  {label}  {why}")

    def attempt(self, label, function, *arguments):
        """Runs one part; an exception is a failed comparison, the other parts still run."""
        try:
            return function(*arguments)
        except Exception as error:  # noqa: BLE001: clients raise all kinds
            self.verdict(label, [f"{type(error).__name__}: {error}"])
            return None

    def finish(self):
        seconds = time.monotonic() - self.started
        print(f"{pathlib.Path(sys.argv[0]).name} took {seconds:.0f} s" + ("" if self.passed else " and compared nothing"))
        if self.skipped:
            print(f"{self.skipped} comparisons cannot be made on this machine")
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed or not self.passed else 0)

    # -- the program under test -------------------------------------------------------------------------------------

    def run(self, *arguments):
        """llm-quantize with JSON output; returns the document."""
        return self.run_aloud(*arguments)[0]

    def run_aloud(self, *arguments):
        """The document and what was said on stderr."""
        command = [self.binary, "--format", "json", *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200)
        if done.returncode != 0:
            raise ToolError(f"exit {done.returncode} of {' '.join(command)}\n{done.stdout[-600:]}{done.stderr[-1500:]}")
        try:
            return json.loads(done.stdout), done.stderr
        except json.JSONDecodeError as error:
            raise ToolError(f"no JSON document on stdout of {' '.join(command)}: {error}\n{done.stdout[:300]}") from error

    def quantize(self, model, level, out, imatrix=None, sets=(), name=None):
        """Path of the file that `quantize MODEL gguf` wrote; `sets` are KEY=VALUE texts."""
        arguments = ["quantize", model, "gguf", "-q", level, "-o", out, "-n", name or f"{level}.gguf", "--overwrite"]
        if imatrix:
            arguments += ["--imatrix", imatrix]
        for item in sets:
            arguments += ["--set", item]
        document = self.run(*arguments)
        path = pathlib.Path(document["output_path"])
        if not path.exists():
            raise ToolError(f"output_path {path} of {level} does not exist")
        return path

    def smollm_folder(self, work):
        """The Hugging Face folder that `convert` makes of SmolLM2's GGUF; made once in a work folder.

        GGUF metadata names a model after its folder, so the folder has the name that the expected metadata was made with.
        """
        ready = work / "smollm2-135m"
        if not (ready / "config.json").exists():
            out = work / "smollm-convert"
            document = self.run("convert", smollm_gguf(), "hf", "-o", out, "-n", ready.name, "--overwrite")
            made = pathlib.Path(document["output_path"])
            if not (made / "config.json").exists():
                raise ToolError(f"convert to hf: no config.json in {made}")
            if ready.exists():
                shutil.rmtree(ready)
            made.rename(ready)
        return ready

    def model(self, name, work):
        """The Hugging Face folder of a model by its short name."""
        return TINY if name == "tiny" else self.smollm_folder(work)


class ToolError(RuntimeError):
    """llm-quantize failed or broke its command-line contract."""


def float_level(folder):
    """BF16 if every weight of the folder is bf16, else F32: the level that holds the weights exactly."""
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        if any(v["dtype"] != "BF16" for k, v in header.items() if k != "__metadata__"):
            return "F32"
    return "BF16"
