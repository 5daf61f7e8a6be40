"""GPTQ folders hold what they should, and real clients load them: GPTQModel, transformers and vLLM.

Every folder's files, configuration and tensors are held against its source. Its weights, decoded by gptq.py from the
format's description, have to be bit for bit what GPTQModel unpacks and what our own reader decodes. GPTQModel,
transformers and vLLM run it, and their perplexities, as well as that of `quality`, have to be that of these weights.
What vLLM refuses has to be announced by `quantize`. At last, runs are killed and go on to the same bytes.
"""

import dataclasses
import os
import pathlib
import signal
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import gptqmodel_client as client

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import gptq
import gptq_folder
import llama
from check_resume import Rounds, Task
import vllm_runs
from common import FIXTURES, Check, ToolError
from perplexity import Yardstick, windows_of

CALIBRATION = FIXTURES / "text" / "calibration.txt"
# Samples and tokens of a sample. Few: this is about the format, bench_gptq.py is about quality.
SAMPLES = {"tiny": (16, 256), "smollm": (8, 128)}
WINDOWS = {"tiny": (8, 256), "smollm": (4, 256)}
KILLS = {"tiny": 4, "smollm": 1}
PROMPT = "The capital of France is"

# Largest relative difference of a perplexity. `quality` computes in float32 as the yardstick does, the clients' kernels
# in bf16.
QUALITY = 5e-4
CLIENT = 1e-2


@dataclasses.dataclass(frozen=True)
class Case:
    bits: int
    group: int
    sym: bool = True
    format: str = "gptq"
    clients: bool = False  # run it in all of them

    def __str__(self):
        return f"{self.bits}bit g{self.group} {'sym' if self.sym else 'asym'} {self.format}"

    @property
    def fits_vllm(self):
        """vLLM takes symmetric grids of 4 and 8 bits, and refuses all others when it reads the configuration."""
        return self.sym and self.bits in (4, 8)

    @property
    def runs_in_vllm_cpu(self):
        """On a CPU it has no kernel for 8 bits."""
        return self.sym and self.bits == 4

    def arguments(self, model):
        samples, length = SAMPLES[model]
        sets = [] if self.sym else ["--set", "sym=false"]
        sets += [] if self.format == "gptq" else ["--set", f"format={self.format}"]
        return ["gptq", "-q", f"{self.bits}bit", "--group-size", self.group, *sets, "--calibration-data", CALIBRATION,
                "--calibration-samples", samples, "--calibration-length", length]


CASES = {
    "tiny": [Case(4, 64, clients=True), Case(4, 32), Case(4, 128), Case(4, -1),
             Case(4, 64, format="gptq_v2", clients=True), Case(4, 64, sym=False, format="gptq_v2", clients=True),
             Case(2, 64, clients=True), Case(2, 32, sym=False, format="gptq_v2"),
             Case(3, 64, clients=True), Case(3, 128, sym=False, format="gptq_v2"),
             Case(8, 64, clients=True), Case(8, -1, sym=False, format="gptq_v2")],
    "smollm": [Case(4, 64, clients=True), Case(3, 64), Case(8, 64)],
}


class Model:
    """A source model, its text, and the folders made of it."""

    def __init__(self, check, name, work):
        self.check, self.name, self.work = check, name, work / f"gptq-{name}"
        self.work.mkdir(exist_ok=True)
        self.source = check.model(name, work)
        self.tokenizer = AutoTokenizer.from_pretrained(self.source)
        count, length = WINDOWS[name]
        self.windows = windows_of(self.tokenizer, FIXTURES / "text" / "eval.txt", count, length)
        self.yardstick = Yardstick.of_folder(self.source, self.windows)
        self.jobs = []

    def make(self, case):
        """Path of the folder, and what `quantize` said about it."""
        name = str(case).replace(" ", "-")
        document, said = self.check.run_aloud("quantize", self.source, *case.arguments(self.name), "-o", self.work, "-n",
                                              name, "--overwrite")
        return pathlib.Path(document["output_path"]), said

    def check_case(self, case):
        label = f"{self.name} {case}"
        folder, said = self.make(case)
        self.check.verdict(f"{label} folder",
                           list(gptq_folder.problems(folder, self.source, case.bits, case.group, case.sym, case.format)))
        warned = [line for line in said.splitlines() if "vLLM" in line]
        if case.runs_in_vllm_cpu:
            self.check.verdict(f"{label} has no warning about vLLM", warned)
        elif not case.fits_vllm:
            self.check.verdict(f"{label} has a warning about vLLM", [] if warned else [said[-300:]], " ".join(warned))
        weights = gptq.dequantized(folder)
        self.compare_weights(label, folder, weights)
        if case.clients:
            perplexity = self.yardstick.perplexity(weights)
            self.compare_quality(label, folder, perplexity)
            self.check.attempt(f"{label} in GPTQModel", self.run_in_gptqmodel, label, folder, perplexity)
            self.check.attempt(f"{label} in transformers", self.run_in_transformers, label, folder, perplexity)
            self.jobs.append((case, folder, perplexity))

    # -- the same weights everywhere ------------------------------------------------------------------------------------

    def compare_weights(self, label, folder, weights):
        theirs = client.unpacked(folder)
        layers = [name for name in weights if gptq_folder.LINEAR.fullmatch(name)]
        problems = [f"{name} differs" for name in layers if not torch.equal(weights[name], theirs.pop(name.removesuffix(".weight")))]
        self.check.verdict(f"{label} weights in GPTQModel", problems + [f"{name} is extra" for name in theirs],
                           f"{len(layers)} layers bit for bit")
        document = self.check.run("convert", folder, "hf", "-q", "F32", "-o", self.work, "-n", "plain", "--overwrite")
        plain = gptq.read_tensors(document["output_path"])
        problems = [f"{name} differs" for name in weights.keys() & plain.keys() if not torch.equal(weights[name].float(), plain[name])]
        problems += [f"{name} is in one of the folders only" for name in weights.keys() ^ plain.keys()]
        self.check.verdict(f"{label} weights by convert", problems, f"{len(plain)} tensors bit for bit")

    # -- perplexities ---------------------------------------------------------------------------------------------------

    def compare(self, label, perplexity, expected, limit, detail=""):
        off = perplexity / expected - 1
        self.check.verdict(label, [] if abs(off) <= limit else [f"more than {limit:.2%} off {expected:.4f}"],
                           f"perplexity {perplexity:.4f}, {off:+.4%} {detail}")

    def compare_quality(self, label, folder, expected):
        count, length = WINDOWS[self.name]
        row, = self.check.run("quality", folder, "--data", FIXTURES / "text" / "eval.txt", "--windows", count, "--context", length)
        self.compare(f"{label} in quality", row["perplexity"], expected, QUALITY)

    def run_model(self, label, model, expected):
        text = self.greedy(model)
        measured = Yardstick(model, self.windows).perplexity()
        self.compare(label, measured, expected, CLIENT, f"{' '.join(client.kernels(model))} {text!r}")

    def greedy(self, model):
        ids = self.tokenizer(PROMPT, return_tensors="pt").input_ids
        made = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, ids.shape[1]:]
        if not len(made):
            raise ToolError("nothing was generated")
        return self.tokenizer.decode(made)

    def run_in_gptqmodel(self, label, folder, expected):
        # In float32, it takes a kernel that gets asymmetric grids wrong, those of its own folders too.
        self.run_model(f"{label} in GPTQModel", client.load(folder, torch.bfloat16), expected)

    def run_in_transformers(self, label, folder, expected):
        with client.quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self.run_model(f"{label} in transformers", model, expected)


def run_in_vllm(check, models, work):
    """All folders of a model in one process of vLLM's own environment: importing it takes longer than a load."""
    for model in models:
        vllm_jobs(check, model, [(model, *job) for job in model.jobs], work)


def vllm_jobs(check, model, jobs, work):
    listed = [{"model": str(folder), "prompt": PROMPT, "windows": model.windows.tolist()} for model, _, folder, _ in jobs]
    # On CPUs with AMX vLLM rounds activations to 8 bits, which costs SmolLM2 some percent of perplexity. Without that, vLLM
    # 0.32 dies of an illegal instruction on tiny-llama, whoever made the folder.
    results = vllm_runs.run(listed, {"tiny": "1", "smollm": "0"}[model.name], work)
    for (model, case, _, expected), result in zip(jobs, results):
        label = f"{model.name} {case} in vLLM"
        if not case.runs_in_vllm_cpu:
            check.verdict(f"{label} is refused", refusal(case, result), " ".join(result.get("error", "").split())[:120])
        elif vllm_runs.lacks_kernels(result):
            check.skip(label, vllm_runs.NO_KERNELS)
        elif "error" in result:
            check.verdict(label, [result["error"][:600], *result["log"]])
        else:
            model.compare(label, result["perplexity"], expected, CLIENT, f"{' '.join(result['kernels'])} {result['text']!r}")


def refusal(case, result):
    """Lines about a refusal that did not come, or for another reason than the one known."""
    reason = "Unsupported quantization config" if not case.fits_vllm else "does not support weight_bits"
    return [] if reason in result.get("error", "") else [result.get("error", "it was loaded")[:300]]


def resume(check, name, work):
    case = Case(4, 64)
    rounds = Rounds(check, name, work, Task(case.arguments(name), "m"))
    rounds.rounds(f"{name} {case} SIGKILL", signal.SIGKILL, KILLS[name])


def main():
    check = Check(__doc__.splitlines()[0], seed={"type": int, "default": 1, "help": "of the moments of the kills"})
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
        for name in check.args.models:
            check.attempt(f"{name} resumed", resume, check, name, work)
    check.finish()


if __name__ == "__main__":
    main()
