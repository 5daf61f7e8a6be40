"""Our importance matrices are those that transformers and llama.cpp measure, and have the same effect.

`analyze` runs a model on a text that is cut into exactly as many windows as samples are asked for, so that every window is
taken. The sums are compared with those of float32 hooks in transformers and of libllama, which collects them as
llama-imatrix does; the files that `quantize` makes with them, from the matrix and in one go, with llama_model_quantize's.
"""

import os

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import shutil

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import gguf_file
import llama
from common import FIXTURES, Check, float_level

# Largest relative difference of an entry, as a whole and in its worst column. All three sum in their own order; columns far
# below the mean count as FLOOR times the mean, as they have no say in the choice of scales.
TOLERANCE = 0.0005
FLOOR = 1e-3
# model: tokens in a window, characters of text, levels
SIZES = {"tiny": (256, 6000, ["Q4_K_M", "IQ4_NL", "Q2_K_S"]), "smollm": (128, 3000, ["Q4_K_M"])}
# Only the run with a file has a name of one.
FILE_KEY = "quantize.imatrix.file"


class Windows:
    """A text and its windows of tokens, as `analyze` cuts them."""

    def __init__(self, folder, path, length, characters):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        text = (FIXTURES / "text" / "eval.txt").read_bytes().decode()[:characters]
        path.write_bytes(text.encode())
        start = tokenizer("").input_ids
        ids = tokenizer(text, add_special_tokens=False).input_ids
        piece = length - len(start)
        self.path, self.length = path, length
        self.ids = [start + ids[at:at + piece] for at in range(0, len(ids) - piece + 1, piece)]
        self.options = ["--calibration-data", path, "--calibration-samples", len(self.ids), "--calibration-length", length]


def transformers_sums(folder, windows):
    """{name in GGUF: sums}: the squares of what enters the linear layers of the blocks, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    sums = {}

    def hook(name):
        def collect(_module, inputs):
            squares = inputs[0].double().square().flatten(0, -2).sum(0).numpy()
            sums[name] = sums.get(name, 0.0) + squares
        return collect

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            module.register_forward_pre_hook(hook(names.get_name(name + ".weight", (".weight",))))
    with torch.inference_mode():
        for ids in windows.ids:
            model.model(torch.tensor([ids]))
    return sums


def libllama_sums(path, windows):
    """({name: sums}, {name: rows}) of the file, as llama-imatrix collects them."""
    collector = llama.SquareSums()
    with llama.Model(path, n_ctx=windows.length, collector=collector) as model:
        for ids in windows.ids:
            model.logits(ids)
    collector.check()
    return collector.sums, collector.counts


class Matrix:
    """What is in one of our files."""

    def __init__(self, path):
        self.path, self.file = path, gguf_file.GgufFile(path)
        numbers = {name: np.frombuffer(data, np.float32) for name, (_, _, data) in self.file.tensors.items()}
        self.sums = {n.removesuffix(".in_sum2"): v for n, v in numbers.items() if n.endswith(".in_sum2")}
        self.counts = {n.removesuffix(".counts"): float(v[0]) for n, v in numbers.items() if n.endswith(".counts")}
        self.weights = {name: values / np.float32(self.counts[name]) for name, values in self.sums.items()}


class ModelRun:
    """The comparisons of one model."""

    def __init__(self, check, name, work):
        self.check, self.name, self.work = check, name, work / f"imatrix-{name}"
        self.work.mkdir(exist_ok=True)
        length, characters, self.levels = SIZES[name]
        self.source = check.model(name, work)
        self.windows = Windows(self.source, self.work / "text.txt", length, characters)
        self.matrix = self._analyze(self.source, "imatrix.gguf")
        self.count = len(self.windows.ids) * length
        print(f"{name}: {len(self.windows.ids)} windows of {length} tokens, {len(self.matrix.sums)} entries")

    def _analyze(self, source, name):
        out = self.work / name
        self.check.run("analyze", source, "-o", out, "--overwrite", *self.windows.options)
        return Matrix(out)

    def everything(self):
        for label, part in (("transformers", self.transformers), ("libllama", self.libllama), ("gguf-py", self.gguf_py),
                            ("GGUF source", self.gguf_source)):
            self.check.attempt(f"{self.name} {label}", part)
        for level in self.levels:
            self.check.attempt(f"{self.name} {level}", self.bytes, level)

    def _compare(self, label, theirs, counts=None):
        ours = self.matrix.sums
        problems = [f"{name} only in {'ours' if name in ours else 'theirs'}" for name in sorted(ours.keys() ^ theirs.keys())]
        worst = {"as a whole": (0.0, ""), "in a column": (0.0, "")}
        for name in ours.keys() & theirs.keys():
            a, b = ours[name].astype(np.float64), theirs[name]
            found = {"as a whole": np.linalg.norm(a - b) / np.linalg.norm(b),
                     "in a column": (np.abs(a - b) / np.maximum(b, FLOOR * b.mean())).max()}
            for how, error in found.items():
                worst[how] = max(worst[how], (float(error), name))
                if not error <= TOLERANCE:
                    problems.append(f"{name} differs by {error:.3%} {how}")
        for name, count in self.matrix.counts.items():
            expected = (counts or {}).get(name, self.count)
            if not count == expected == self.count:
                problems.append(f"{name}: {count} tokens, not {expected} (windows have {self.count})")
        detail = ", ".join(f"{error:.4%} {how} ({name})" for how, (error, name) in worst.items())
        self.check.verdict(f"{self.name} {label}", problems, f"largest difference {detail}")

    def transformers(self):
        self._compare("sums against transformers", transformers_sums(self.source, self.windows))

    def libllama(self):
        full = self.check.quantize(self.source, "F32", self.work, name="full-F32.gguf")
        sums, counts = libllama_sums(full, self.windows)
        self._compare("sums against libllama", sums, counts=counts)
        full.unlink()

    def gguf_py(self):
        """The file as gguf-py sees it, and llama-imatrix's keys."""
        reader = gguf.GGUFReader(self.matrix.path)
        kinds = {"general.type": "imatrix", "imatrix.datasets": [self.windows.path.name],
                 "imatrix.chunk_count": len(self.windows.ids), "imatrix.chunk_size": self.windows.length}
        found = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        problems = [] if found == kinds else [f"{found} instead of {kinds}"]
        for tensor in reader.tensors:
            if not np.array_equal(tensor.data, np.frombuffer(self.matrix.file.tensors[tensor.name][2], np.float32)):
                problems.append(f"{tensor.name} differs")
        names = [tensor.name for tensor in reader.tensors]
        entries = [name.removesuffix(".in_sum2") for name in names[::2]]
        if entries != sorted(entries) or names[1::2] != [name + ".counts" for name in entries]:
            problems.append("the entries are not in llama-imatrix's order")
        self.check.verdict(f"{self.name} file in gguf-py", problems, f"{len(names)} tensors")

    def base(self):
        """The model as GGUF, exactly; made once."""
        level = float_level(self.source)
        path = self.work / f"base-{level}.gguf"
        return path if path.exists() else self.check.quantize(self.source, level, self.work, name=path.name)

    def gguf_source(self):
        """The file of the same model as GGUF, whose rows are read back into the folder's order."""
        matrix = self._analyze(self.base(), "from-gguf.gguf")
        problems = [] if matrix.path.read_bytes() == self.matrix.path.read_bytes() else ["another file than the folder's"]
        self.check.verdict(f"{self.name} file of the model as GGUF", problems, self.base().name)

    def bytes(self, level):
        """llama_model_quantize with our weights, ours with the file, and ours in one go, from both kinds of source."""
        reference, folder = self.work / "reference.gguf", self.work / "ours"
        llama.quantize(self.base(), reference, level, imatrix=self.matrix.weights)
        theirs = gguf_file.GgufFile(reference)
        by_file = gguf_file.GgufFile(self.check.quantize(self.source, level, folder, self.matrix.path, name="file.gguf"))
        problems = gguf_file.compare(by_file, theirs, ("quantize.imatrix.",))
        label = f"{self.name} {level} with our matrix"
        self.check.verdict(f"{label} against llama.cpp", problems, by_file.type_counts())
        for kind, source in (("folder", self.source), ("GGUF", self.base())):
            name = f"{kind}.gguf"
            self.check.run("quantize", source, "gguf", "-q", level, "-o", folder, "-n", name, *self.windows.options)
            once = gguf_file.GgufFile(folder / name)
            problems = gguf_file.compare(once, by_file, (FILE_KEY,))
            if FILE_KEY in once.kv or FILE_KEY not in by_file.kv:
                problems.append(f"{FILE_KEY} is for runs with a file")
            self.check.verdict(f"{label} in one go from a {kind}", problems)
        shutil.rmtree(folder)
        reference.unlink()


def main():
    check = Check(__doc__.splitlines()[0])
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(llama.cores())
    with check.folder() as work:
        for name in check.args.models:
            run = check.attempt(f"{name} preparation", ModelRun, check, name, work)
            if run is not None:
                run.everything()
    check.finish()


if __name__ == "__main__":
    main()
