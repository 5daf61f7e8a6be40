"""A plain GGUF reader for comparing files: raw metadata bytes, tensor table and tensor bytes.

gguf-py's reader takes seconds for a vocabulary of 49152 entries; the checks open more than a hundred files. The one
difference is that values stay raw bytes, which is what an exact comparison needs.
"""

import mmap
import struct

SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
# type id: (name, elements in a block, bytes of a block)
BLOCKS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18), 23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}


class GgufFile:
    """`kv` maps a key to (type id, raw value bytes), `tensors` maps a name to (dims, type name, memoryview)."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            self.data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.at = 0
        magic, self.version, n_tensors, n_kv = self._take("<4sIQQ")
        if magic != b"GGUF" or self.version != 3:
            raise ValueError(f"{path}: not a GGUF file of version 3")
        self.kv, self.tensors = {}, {}
        for _ in range(n_kv):
            key = self._string().decode()
            (kind,) = self._take("<I")
            start = self.at
            self._skip(kind)
            if key in self.kv:
                raise ValueError(f"{path}: key {key} twice")
            self.kv[key] = (kind, bytes(self.data[start:self.at]))
        self._read_tensors(n_tensors)

    def _read_tensors(self, count):
        infos = []
        for _ in range(count):
            name = self._string().decode()
            (n_dims,) = self._take("<I")
            dims = self._take(f"<{n_dims}Q")
            kind, offset = self._take("<IQ")
            infos.append((name, dims, kind, offset))
        alignment = self.value("general.alignment") or 32
        base = -(-self.at // alignment) * alignment
        for name, dims, kind, offset in infos:
            type_name, per_block, block_bytes = BLOCKS[kind]
            elements = 1
            for d in dims:
                elements *= d
            start, size = base + offset, elements // per_block * block_bytes
            if offset % alignment or start + size > len(self.data) or elements % per_block or name in self.tensors:
                raise ValueError(f"{self.path}: bad tensor {name}")
            self.tensors[name] = (dims, type_name, self.data[start:start + size])

    def _take(self, layout):
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def _string(self):
        (size,) = self._take("<Q")
        self.at += size
        return bytes(self.data[self.at - size:self.at])

    def _skip(self, kind):
        if kind == STRING:
            self._string()
        elif kind == ARRAY:
            item, count = self._take("<IQ")
            if item in SCALAR_BYTES:
                self.at += SCALAR_BYTES[item] * count
            else:
                for _ in range(count):
                    self._skip(item)
        else:
            self.at += SCALAR_BYTES[kind]

    def value(self, key):
        """A scalar or string value, or None where the key is missing."""
        if key not in self.kv:
            return None
        kind, raw = self.kv[key]
        if kind == STRING:
            return raw[8:].decode()
        return struct.unpack("<" + "BbHhIif?"[kind] if kind < 8 else "<" + {10: "Q", 11: "q", 12: "d"}[kind], raw)[0]

    def type_counts(self):
        counts = {}
        for _, type_name, _ in self.tensors.values():
            counts[type_name] = counts.get(type_name, 0) + 1
        return " ".join(f"{name}:{n}" for name, n in sorted(counts.items()))


def compare(ours, reference, allowed_keys=()):
    """Differences between two files as a list of lines; keys that match a prefix of allowed_keys may differ."""
    found = []
    for key in sorted(ours.kv.keys() | reference.kv.keys()):
        if ours.kv.get(key) != reference.kv.get(key) and not key.startswith(tuple(allowed_keys)):
            found.append(f"metadata {key}: ours {_show(ours, key)}, reference {_show(reference, key)}")
    for name in sorted(ours.tensors.keys() ^ reference.tensors.keys()):
        found.append(f"tensor {name} only in {'ours' if name in ours.tensors else 'the reference'}")
    for name, (dims, kind, data) in ours.tensors.items():
        if name not in reference.tensors:
            continue
        other_dims, other_kind, other = reference.tensors[name]
        if (dims, kind) != (other_dims, other_kind):
            found.append(f"tensor {name}: ours {kind} {dims}, reference {other_kind} {other_dims}")
        elif data != other:
            found.append(f"tensor {name} ({kind} {dims}): {_first_difference(kind, data, other)}")
    return found


def _show(file, key):
    if key not in file.kv:
        return "missing"
    kind, raw = file.kv[key]
    if kind != ARRAY:
        return f"type {kind} {str(file.value(key))[:80]!r}"
    item, count = struct.unpack_from("<IQ", raw)
    return f"array of {count} of type {item}"


def _first_difference(kind, data, other):
    import numpy as np
    _, per_block, block_bytes = next(b for b in BLOCKS.values() if b[0] == kind)
    different = np.frombuffer(data, np.uint8) != np.frombuffer(other, np.uint8)
    blocks = np.flatnonzero(different.reshape(-1, block_bytes).any(axis=1))
    return f"{len(blocks)} of {len(different) // block_bytes} blocks differ, first at block {blocks[0]}"
