"""AWQ folders hold what they should, and real clients load them: transformers (by GPTQModel's kernels) and vLLM.

Every folder's files, configuration and tensors are held against its source; what is rounded to the nearest also code by
code against AutoAWQ's rule. Where factors were searched, the norms say what they are, and with them each code has to be
the nearest on a grid that covers its group or a part of it. GPTQModel has to unpack the same codes and zeros as awq.py,
which knows the format's description alone; the weights that it decodes have to be bit for bit what our own reader decodes.
Factors alone change nothing: with those that a folder has, and without rounding, a model gives the source's logits.
transformers and vLLM run the folder, and their perplexities, as well as that of `quality`, have to be that of these
weights, and near the source's.
"""

import dataclasses
import json
import os
import pathlib
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import gptqmodel_client as client

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import awq
import awq_folding
import gptq
import gptq_folder
import llama
import vllm_runs
from common import FIXTURES, TINY, Check
from perplexity import Yardstick, windows_of

CALIBRATION = FIXTURES / "text" / "calibration.txt"
# Samples and tokens of a sample. Few: this is about the format.
SAMPLES = {"tiny": (16, 256), "smollm": (8, 128)}
WINDOWS = {"tiny": (8, 256), "smollm": (4, 256)}
PROMPT = "The capital of France is"

# Largest relative difference of a perplexity. `quality` computes in float32 as the yardstick does, the clients' kernels
# in bf16.
QUALITY = 5e-4
CLIENT = 1e-2
# And of a folder's from its source's: a factor that is in one place only costs far more.
SOURCE = {"tiny": 2e-2, "smollm": 3e-1}
# Largest difference of a logit that factors make, in float32.
FOLDED = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    method: str
    group: int
    clients: bool = False  # run it in all of them
    more: tuple = ()

    def __str__(self):
        return " ".join([self.method, f"g{self.group}", *self.more])

    @property
    def runs_in_gptqmodel_on_cpus(self):
        """Its kernel there takes groups of 32 to 256; rows of both models are of other lengths."""
        return self.group != -1

    def arguments(self, model):
        samples, length = SAMPLES[model]
        sets = [word for item in (f"method={self.method}", *self.more) for word in ("--set", item)]
        return ["awq", "-q", "4bit", "--group-size", self.group, *sets, "--calibration-data", CALIBRATION,
                "--calibration-samples", samples, "--calibration-length", length]


CASES = {
    "tiny": [Case("rtn", 64, clients=True), Case("rtn", 32), Case("rtn", 128), Case("rtn", -1, clients=True),
             Case("awq", 64, clients=True), Case("awq", 128, clients=True), Case("awq", 32, more=("clip=false",)),
             Case("awq", -1, clients=True, more=("duo=false",))],
    "smollm": [Case("rtn", 64, clients=True), Case("awq", 64, clients=True)],
}

# Layers whose inputs a norm computes; values and the up projection have rows that are divided, too.
NORMED = {"self_attn.q_proj": "input_layernorm", "self_attn.k_proj": "input_layernorm", "mlp.gate_proj": "post_attention_layernorm"}


def problems(folder, source, case):
    """Lines about what is wrong with a folder, none of a good one."""
    group, searched = case.group, case.method == "awq"
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
    if quantization.get("meta", {}).get("method") != case.method:
        yield f"config.json has the meta {quantization.get('meta')!r}"
    ours, theirs = gptq.read_tensors(folder), gptq.read_tensors(source)
    norms = {name: factors(theirs[name], ours[name]) for name in theirs if searched and name.endswith("layernorm.weight")}
    if searched and not any((by != 1).any() for by in norms.values()):
        yield "no norm was changed"
    for name, tensor in theirs.items():
        layer = name.removesuffix(".weight")
        if gptq_folder.LINEAR.fullmatch(name):
            parts = {part: ours.pop(f"{layer}.{part}") for part in awq.PARTS}
            weight = known_weight(layer, tensor.float(), norms) if searched else tensor.float()
            yield from (f"{layer}: {line}" for line in layer_problems(parts, tensor.shape, weight, case))
            continue
        kept = ours.pop(name)
        if (kept.dtype, kept.shape) != (tensor.dtype, tensor.shape):
            yield f"{name} is {kept.dtype} {tuple(kept.shape)}"
        elif name not in norms and not torch.equal(kept, tensor):
            yield f"{name} is not the source's"
    if ours:
        yield f"there are more tensors: {sorted(ours)[:5]}"


def factors(before, after):
    """What a norm lacks, for each channel; 1 where it is zero."""
    before, after = before.float(), after.float()
    return torch.where(before == after, torch.ones_like(before), before / after)


def known_weight(layer, weight, norms):
    """A weight with its factors, or None if they cannot be read from a norm."""
    block, kind = layer.rsplit(".", 2)[0], ".".join(layer.rsplit(".", 2)[1:])
    return weight * norms[f"{block}.{NORMED[kind]}.weight"] if kind in NORMED else None


def layer_problems(parts, shape, weight, case):
    out, width = shape
    groups = 1 if case.group == -1 else width // case.group
    shapes = {"qweight": (torch.int32, (width, out // 8)), "qzeros": (torch.int32, (groups, out // 8)),
              "scales": (torch.float16, (groups, out))}
    for part, (dtype, expected) in shapes.items():
        if (parts[part].dtype, tuple(parts[part].shape)) != (dtype, expected):
            yield f"{part} is {parts[part].dtype} {tuple(parts[part].shape)}"
            return
    arrays = {part: value.numpy() for part, value in parts.items()}
    q, zeros = awq.codes(arrays)
    for what, ours, theirs in zip(("codes", "zeros"), (q, zeros), client.unpacked_awq(parts["qweight"], parts["qzeros"])):
        off = np.count_nonzero(ours != theirs.numpy())
        if off:
            yield f"{off} of {ours.size} {what} are others in GPTQModel"
    if weight is None:
        return
    rule = awq.round_to_nearest(weight, case.group)
    if case.method == "rtn":
        for what, found, expected in zip(("codes", "zeros", "scales"), (q, zeros, arrays["scales"]), rule):
            off = np.count_nonzero(found != expected)
            if off:
                yield f"{off} of {found.size} {what} are not those of AutoAWQ's rule"
        return
    # Half of the range at least, and no more than all of it; factors and scales are rounded.
    part = arrays["scales"].astype(np.float32) / rule[2].astype(np.float32)
    if part.min() < 0.499 or part.max() > 1.001 or ("clip=false" in case.more and part.min() < 0.999):
        yield f"grids cover from {part.min()} to {part.max()} of their groups"
    off = np.abs(q - awq.nearest(weight, arrays["scales"], zeros))
    # A quotient may fall on the other side of a tie.
    if off.max() > 1 or np.count_nonzero(off) > off.size / 1000:
        yield f"{np.count_nonzero(off)} of {q.size} codes are not the nearest"


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
        self.perplexity = self.yardstick.perplexity()  # before its weights are replaced
        self.jobs = []

    def check_case(self, case):
        label = f"{self.name} {case}"
        document, said = self.check.run_aloud("quantize", self.source, *case.arguments(self.name), "-o", self.work, "-n",
                                              str(case).replace(" ", "-"), "--overwrite")
        folder = pathlib.Path(document["output_path"])
        self.check.verdict(f"{label} folder", list(problems(folder, self.source, case)))
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
            self.compare(f"{label} beside its source", perplexity, self.perplexity, SOURCE[self.name])
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


def compare_folded(check, work):
    """Logits of a model with factors and without any rounding, beside its source's."""
    source = work / "awq-biases"
    awq_folding.add_biases(TINY, source)
    case = Case("awq", 64)
    document = check.run("quantize", source, *case.arguments("tiny"), "-o", work, "-n", "awq-folded", "--overwrite")
    state, factors = awq_folding.folded(gptq.read_tensors(source), gptq.read_tensors(document["output_path"]),
                                        json.loads((source / "config.json").read_text()))
    ids = windows_of(AutoTokenizer.from_pretrained(source), FIXTURES / "text" / "eval.txt", *WINDOWS["tiny"])
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        model.load_state_dict(state)
        off = (model(input_ids=ids).logits - before).abs().max().item()
    # In some block at least; the search may find that none are best.
    most = {}
    for name, each in factors.items():
        kind = name.split(".", 3)[3]
        most[kind] = max(most.get(kind, 0), (each.max() / each.min()).item())
    lines = [f"{kind} has hardly any factors in all blocks" for kind, ratio in most.items() if ratio < 1.2]
    lines += [f"more than {FOLDED}"] * (not off <= FOLDED)
    check.verdict("tiny with biases, factors and no rounding", lines, f"logits differ by {off:.1e} at most")


def run_in_vllm(check, models, work):
    """All folders of a model in one process of vLLM's own environment: importing it takes longer than a load."""
    for model in models:
        listed = [{"model": str(folder), "prompt": PROMPT, "windows": model.windows.tolist()} for _, folder, _ in model.jobs]
        # As in check_gptq.py.
        results = vllm_runs.run(listed, {"tiny": "1", "smollm": "0"}[model.name], work)
        for (case, _, expected), result in zip(model.jobs, results):
            label = f"{model.name} {case} in vLLM"
            if vllm_runs.lacks_kernels(result):
                check.skip(label, vllm_runs.NO_KERNELS)
            elif "error" in result:
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
        if "tiny" in check.args.models:
            check.attempt("folded", compare_folded, check, work)
        check.attempt("vLLM", run_in_vllm, check, models, work)
    check.finish()


if __name__ == "__main__":
    main()
