"""Our BF16 GGUF of SmolLM2 carries the metadata and tensor table that llama.cpp's own converter writes.

The converter's answer is fixtures/smollm2-gguf-expected.json; it keeps the first and last entries of long arrays only,
so whole vocabulary arrays are compared with those in the GGUF that SmolLM2 came in. Reading is done by gguf-py.
"""

import hashlib
import json

import gguf

from common import FIXTURES, Check, smollm_gguf

# Differences that are meant: the name, our value, and the reason. Anything else fails.
ALLOWED = {
    "tokenizer.ggml.add_space_prefix": (
        {"type": ["BOOL"], "value": False},
        "the folder that `convert` makes keeps the source GGUF's value as add_prefix_space in tokenizer_config.json, and "
        "llama.cpp's converter writes this key for such a folder; the reference's folder had lost it"),
}
# SHA-256 of what convert_hf_to_gguf.py (llama.cpp 0c1e570, --outtype bf16) writes for the folder that `convert` makes:
# same keys, same order, same alignment, same bytes. A change to `convert`'s folder needs a new run of that script.
CONVERTER_SHA256 = "82364ff64b7f1548dff39bd6b18d2793e67d5f48be6688824523899f4fa8c9a5"
# Everything that decides which ids a text becomes, compared in full with the source GGUF.
TOKENIZER_KEYS = ["model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "unknown_token_id",
                  "padding_token_id", "add_bos_token"]


def describe(field):
    """A field in the JSON's form: type names, and the value, long arrays as length, first and last twenty."""
    value = field.contents()
    if isinstance(value, list) and len(value) > 40:
        value = {"length": len(value), "first": value[:20], "last": value[-20:]}
    return {"type": [t.name for t in field.types], "value": value}


def short(value):
    text = "missing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."


class Differences:
    def __init__(self):
        self.unknown, self.known = [], []

    def add(self, name, ours, expected):
        if ours == expected:
            return
        line = f"{name}: ours {short(ours)}, expected {short(expected)}"
        if name in ALLOWED and ours == ALLOWED[name][0]:
            self.known.append(f"{line} [{ALLOWED[name][1]}]")
        else:
            self.unknown.append(line)


def compare_keys(reader, expected):
    """The reader's view of every key, against the JSON's."""
    found = Differences()
    ours = {name: describe(field) for name, field in reader.fields.items()}
    # The count of keys follows from the keys, which are compared one by one.
    for name in sorted((ours.keys() | expected.keys()) - {"GGUF.kv_count"}):
        found.add(name, ours.get(name), expected.get(name))
    own_count = len([k for k in ours if not k.startswith("GGUF.")])
    found.add("number of keys written", ours["GGUF.kv_count"]["value"], own_count)
    return found, len(ours)


def compare_tensors(reader, expected):
    found = Differences()
    ours = [[t.name, [int(d) for d in t.shape], t.tensor_type.name] for t in reader.tensors]
    by_name = {t[0]: t[1:] for t in ours}
    wanted = {t[0]: t[1:] for t in expected}
    for name in sorted(by_name.keys() | wanted.keys()):
        found.add(f"tensor {name}", by_name.get(name), wanted.get(name))
    found.add("tensor order", [t[0] for t in ours], [t[0] for t in expected])
    return found, len(ours)


def compare_vocabulary(reader, source):
    found = Differences()
    for key in TOKENIZER_KEYS + ["chat_template"]:
        name = "tokenizer.chat_template" if key == "chat_template" else "tokenizer.ggml." + key
        ours, theirs = reader.get_field(name), source.get_field(name)
        found.add(name, ours and ours.contents(), theirs and theirs.contents())
    return found, len(TOKENIZER_KEYS) + 1


def main():
    check = Check(__doc__.splitlines()[0])
    expected = json.loads((FIXTURES / "smollm2-gguf-expected.json").read_text(encoding="utf-8"))
    with check.folder() as work:
        check.attempt("SmolLM2 BF16", compare_all, check, expected, work)
    check.finish()


def compare_all(check, expected, work):
    folder = check.smollm_folder(work)
    path = check.quantize(folder, "BF16", work / "metadata")
    print(f"reference: {expected['from']}")
    reader = gguf.GGUFReader(path)
    source = gguf.GGUFReader(smollm_gguf())
    for label, (found, count) in (
        ("keys and values", compare_keys(reader, expected["kv"])),
        ("tensor names, shapes, types", compare_tensors(reader, expected["tensors"])),
        ("whole vocabulary against the source GGUF", compare_vocabulary(reader, source)),
    ):
        for line in found.known:
            print(f"known {line}")
        check.verdict(f"SmolLM2 BF16 {label}", found.unknown, f"{count} compared, {len(found.known)} known differences")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    check.verdict("SmolLM2 BF16 is the converter's file, byte for byte",
                  [] if digest == CONVERTER_SHA256 else [f"SHA-256 {digest}"], f"{path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
