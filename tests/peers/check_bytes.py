"""Every tensor that llm-quantize writes has the bytes that llama.cpp's own quantizer writes.

For each model our 16- or 32-bit GGUF goes through llama_model_quantize, and the result is compared with what we write
straight from the Hugging Face folder: names, shapes, types, bytes and metadata, at every level, with and without an
importance matrix, with each option that changes the mixture, and from a GGUF source. Shards must load.
"""

import re
import shutil

import gguf_file
import imatrix
import llama
from common import FLOAT_LEVELS, LEVELS, NEED_IMATRIX, Check, ToolError, float_level

# llama-quantize (the program) records the importance matrix in these keys; llama_model_quantize (the library) does not.
IMATRIX_KEYS = ("quantize.imatrix.",)

# label, level, our --set options, llama_model_quantize's arguments, with an importance matrix
VARIANTS = [
    ("pure", "Q4_K_M", ["pure=true"], {"pure": True}, False),
    ("pure", "Q4_0", ["pure=true"], {"pure": True}, False),
    ("pure", "Q3_K_L", ["pure=true"], {"pure": True}, True),
    ("output-tensor-type", "Q4_K_M", ["output-tensor-type=q8_0"], {"output_tensor_type": "Q8_0"}, False),
    ("output-tensor-type", "Q2_K", ["output-tensor-type=f16"], {"output_tensor_type": "F16"}, True),
    ("token-embedding-type", "Q4_K_M", ["token-embedding-type=q4_0"], {"token_embedding_type": "Q4_0"}, False),
    ("both types", "Q5_K_M", ["token-embedding-type=q8_0", "output-tensor-type=q6_k"],
     {"token_embedding_type": "Q8_0", "output_tensor_type": "Q6_K"}, False),
    ("tensor-type", "Q4_K_M", [r"tensor-type=blk\.[02]\.ffn_down=q8_0"],
     {"tensor_types": [(r"blk\.[02]\.ffn_down", "Q8_0")]}, False),
    ("two tensor-types", "Q3_K_M", ["tensor-type=attn_v=q6_k", r"tensor-type=blk\.\d+\.ffn_(up|gate)=q5_1"],
     {"tensor_types": [("attn_v", "Q6_K"), (r"blk\.\d+\.ffn_(up|gate)", "Q5_1")]}, True),
    ("pure", "MXFP4_MOE", ["pure=true"], {"pure": True}, False),
    ("pure", "IQ4_XS", ["pure=true"], {"pure": True}, True),
    ("types of other levels", "IQ4_NL",
     ["tensor-type=attn_k=mxfp4", "tensor-type=ffn_up=tq2_0", "tensor-type=ffn_gate=iq4_xs", "output-tensor-type=iq4_nl",
      "token-embedding-type=mxfp4"],
     {"tensor_types": [("attn_k", "MXFP4"), ("ffn_up", "TQ2_0"), ("ffn_gate", "IQ4_XS")], "output_tensor_type": "IQ4_NL",
      "token_embedding_type": "MXFP4"}, True),
    ("leave-output-tensor", "Q4_K_M", ["leave-output-tensor=true"], {"leave_output_tensor": True}, False),
]


class ModelRun:
    """The comparisons of one model."""

    def __init__(self, check, name, work):
        self.check, self.name, self.work = check, name, work / f"bytes-{name}"
        self.work.mkdir(exist_ok=True)
        self.source = check.model(name, work)
        level = float_level(self.source)
        self.base = check.quantize(self.source, level, self.work, name=f"base-{level}.gguf")
        sums = imatrix.synthetic(gguf_file.GgufFile(self.base).tensors)
        self.imatrix = self.work / "imatrix.gguf"
        self.legacy = self.work / "imatrix.dat"
        self.weights = imatrix.write_gguf(self.imatrix, sums)
        self.legacy_weights = imatrix.write_legacy(self.legacy, sums)
        print(f"{name}: source {self.source}, reference input {level}, importance of {len(sums)} tensors")

    def one(self, label, level, sets=(), reference=None, file=None, weights=None, source=None):
        """One output of ours against the library's."""
        label = f"{self.name} {level} {label}".rstrip()
        self.check.attempt(label, self._one, label, level, sets, reference or {}, file, weights, source)

    def _one(self, label, level, sets, reference, file, weights, source):
        theirs = self.work / "reference.gguf"
        ours = self.check.quantize(source or self.source, level, self.work / "ours", file, sets)
        llama.quantize(self.base, theirs, level, imatrix=weights, **reference)
        a, b = gguf_file.GgufFile(ours), gguf_file.GgufFile(theirs)
        problems = gguf_file.compare(a, b, IMATRIX_KEYS if file else ())
        if file:
            problems += self._imatrix_keys(a, weights)
        order = "" if list(a.tensors) == list(b.tensors) else ", tensors in another order"
        order += "" if list(k for k in a.kv if k in b.kv) == list(b.kv) else ", keys in another order"
        self.check.verdict(label, problems, f"{len(a.tensors)} tensors, {len(a.kv)} keys, {a.type_counts()}{order}")
        shutil.rmtree(self.work / "ours")
        theirs.unlink()

    def _refused(self, level):
        """Without an importance matrix both refuse, and name the same tensor."""
        theirs, ours = "", ""
        try:
            llama.quantize(self.base, self.work / "reference.gguf", level)
        except llama.LlamaError as error:
            theirs = str(error)
        try:
            self.check.quantize(self.source, level, self.work / "ours")
        except ToolError as error:
            ours = str(error)
        named = re.search(r"offending tensor: (\S+)", theirs)
        problems = [] if named else [f"libllama does not refuse: {theirs}"]
        if not named or named[1] not in ours or "needs an importance matrix" not in ours:
            problems.append(f"ours: {ours or 'no refusal'}")
        self.check.verdict(f"{self.name} {level} without an importance matrix", problems, f"refused for {named and named[1]}")

    @staticmethod
    def _imatrix_keys(file, weights):
        count = file.value("quantize.imatrix.entries_count")
        chunks = file.value("quantize.imatrix.chunks_count")
        wanted = (len(weights), imatrix.CHUNKS)
        return [] if (count, chunks) == wanted else [f"quantize.imatrix entries and chunks {(count, chunks)}, not {wanted}"]

    def levels(self, levels):
        for level in levels:
            if level in NEED_IMATRIX:
                self.check.attempt(f"{self.name} {level}", self._refused, level)
            else:
                self.one("", level)
            if level not in FLOAT_LEVELS:
                self.one("imatrix", level, file=self.imatrix, weights=self.weights)
        for level in ("Q4_K_M", "Q4_0"):
            if level in levels:
                self.one("older imatrix layout", level, file=self.legacy, weights=self.legacy_weights)

    def variants(self):
        for label, level, sets, reference, with_imatrix in VARIANTS:
            file, weights = (self.imatrix, self.weights) if with_imatrix else (None, None)
            self.one(label, level, sets, reference, file, weights)

    def from_gguf(self):
        self.one("from a GGUF source", "Q4_K_M", source=self.base)
        self.one("from a GGUF source, imatrix", "Q5_K_S", source=self.base, file=self.imatrix, weights=self.weights)
        self.check.attempt(f"{self.name} Q4_K_M from an F32 GGUF", self._from_f32)

    def _from_f32(self):
        full = self.check.quantize(self.source, "F32", self.work, name="full-F32.gguf")
        self.one("from an F32 GGUF source", "Q4_K_M", source=full)
        full.unlink()

    def shards(self):
        label = f"{self.name} Q4_K_M in shards"
        self.check.attempt(label, self._shards, label)

    def _shards(self, label):
        size = "1M" if self.name == "tiny" else "40M"
        out = self.work / "shards"
        self.check.quantize(self.source, "Q4_K_M", out, sets=[f"split-max-size={size}"])
        files = sorted(out.glob("*-of-*.gguf"))
        whole = gguf_file.GgufFile(self.check.quantize(self.source, "Q4_K_M", self.work / "whole"))
        problems = [] if len(files) > 1 else [f"expected several shards in {out}, found {[f.name for f in files]}"]
        parts = [gguf_file.GgufFile(f) for f in files]
        seen = {}
        for index, (path, part) in enumerate(zip(files, parts)):
            if not path.name.endswith(f"-{index + 1:05d}-of-{len(files):05d}.gguf"):
                problems.append(f"shard name {path.name}")
            split = tuple(part.kv.get(f"split.{k}") for k in ("no", "count", "tensors.count"))
            wanted = ((2, index.to_bytes(2, "little")), (2, len(files).to_bytes(2, "little")),
                      (5, len(whole.tensors).to_bytes(4, "little")))
            if split != wanted:
                problems.append(f"{path.name}: split keys {split}, not {wanted}")
            seen |= part.tensors
        if parts and {k: v for k, v in parts[0].kv.items() if not k.startswith("split.")} != whole.kv:
            problems.append("the first shard's metadata is not that of the unsplit file")
        if {n: (d, t, bytes(v)) for n, (d, t, v) in seen.items()} != {n: (d, t, bytes(v)) for n, (d, t, v) in whole.tensors.items()}:
            problems.append("the shards' tensors are not those of the unsplit file")
        if files:
            with llama.Model(files[0]) as model:
                if not model.logits(model.tokenize("It is"))[-1].any():
                    problems.append("logits are all zero")
        self.check.verdict(label, problems, f"{len(files)} shards of at most {size}, loaded by libllama")
        shutil.rmtree(out)
        shutil.rmtree(self.work / "whole")


def main():
    check = Check(__doc__.splitlines()[0], levels={"nargs": "+", "default": LEVELS},
                  parts={"nargs": "+", "default": ["levels", "variants", "source", "shards"]})
    with check.folder() as work:
        for name in check.args.models:
            run = check.attempt(f"{name} preparation", ModelRun, check, name, work)
            if run is None:
                continue
            if "levels" in check.args.parts:
                run.levels(check.args.levels)
            if "variants" in check.args.parts:
                run.variants()
            if "source" in check.args.parts:
                run.from_gguf()
            if "shards" in check.args.parts:
                run.shards()
    check.finish()


if __name__ == "__main__":
    main()
