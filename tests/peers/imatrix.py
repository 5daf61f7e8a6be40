"""A deterministic importance matrix for the checks, in both of llama.cpp's layouts."""

import struct
import zlib

import gguf
import numpy as np

CHUNKS, CHUNK_SIZE = 7, 512
DATASET = "synthetic"


def synthetic(tensors):
    """{name: sums of squares} for every matrix of {name: (dims, …)}: positive, with a heavy tail like real ones.

    A stack of experts has a row of sums for each.
    """
    sums = {}
    for name, (dims, *_) in tensors.items():
        if len(dims) >= 2 and name.endswith(".weight"):
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            values = np.exp(rng.normal(0.0, 2.0, (*dims[2:], dims[0]))).astype(np.float32)
            sums[name] = values * np.float32(CHUNKS * CHUNK_SIZE)
    return sums


def write_gguf(path, sums):
    """The GGUF-based layout; returns the importances that a reader derives: sums / counts in float32."""
    count = np.float32(CHUNKS * CHUNK_SIZE)
    writer = gguf.GGUFWriter(path, arch="")
    # An importance matrix has no architecture; gguf-py adds the key by itself.
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [DATASET])
    writer.add_uint32("imatrix.chunk_count", CHUNKS)
    writer.add_uint32("imatrix.chunk_size", CHUNK_SIZE)
    for name, values in sorted(sums.items()):
        rows = np.atleast_2d(values)
        writer.add_tensor(name + ".in_sum2", rows)
        writer.add_tensor(name + ".counts", np.full((len(rows), 1), count, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: values / count for name, values in sums.items()}


def write_legacy(path, sums):
    """The older binary layout, as llama-imatrix writes it; without the embedding and output tensors, which it skips.

    Each value is mean * calls, and a reader divides by the calls again: returns that quotient.
    """
    kept = {n: v for n, v in sorted(sums.items()) if n not in ("output.weight", "token_embd.weight")}
    calls = np.float32(CHUNKS)
    importances = {}
    with open(path, "wb") as file:
        file.write(struct.pack("<i", len(kept)))
        for name, values in kept.items():
            stored = values / np.float32(CHUNKS * CHUNK_SIZE) * calls
            encoded = name.encode()
            file.write(struct.pack("<i", len(encoded)) + encoded)
            file.write(struct.pack("<ii", CHUNKS, len(stored)) + stored.astype("<f4").tobytes())
            importances[name] = stored / calls
        file.write(struct.pack("<i", CHUNKS))
        file.write(struct.pack("<i", len(DATASET)) + DATASET.encode())
    return importances
