"""A small binding of the prebuilt libllama and libggml (npm package @node-llama-cpp/linux-x64), by ctypes.

It covers what the checks need: quantize a file, quantize rows, load a model, tokenize, and compute logits. Everything
runs inside this process, on the CPU. The library's log is kept quiet; its last lines come with an error.

The structures follow llama.h of the pinned build. `_check_layout` compares the library's own defaults with the values
that the structures should then show, so another build is refused instead of misread.
"""

import ctypes as c
import os
import pathlib

import numpy as np

LIBRARY_FOLDER = "npm/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"

FTYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12,
    "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "Q2_K_S": 21,
    "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38,
}
TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
    "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39,
}
_TYPE_COUNT = 43  # GGML_TYPE_COUNT of the pinned build; as a parameter it means "not set"


class _QuantizeParams(c.Structure):
    _fields_ = [
        ("nthread", c.c_int32), ("ftype", c.c_int), ("output_tensor_type", c.c_int), ("token_embedding_type", c.c_int),
        ("allow_requantize", c.c_bool), ("quantize_output_tensor", c.c_bool), ("only_copy", c.c_bool),
        ("pure", c.c_bool), ("keep_split", c.c_bool), ("dry_run", c.c_bool),
        ("imatrix", c.c_void_p), ("kv_overrides", c.c_void_p), ("tt_overrides", c.c_void_p),
        ("prune_layers", c.c_void_p), ("max_buf_size", c.c_size_t),
    ]


class _ModelParams(c.Structure):
    _fields_ = [
        ("devices", c.c_void_p), ("tensor_buft_overrides", c.c_void_p), ("n_gpu_layers", c.c_int32),
        ("split_mode", c.c_int), ("load_mode", c.c_int), ("lazy_mode", c.c_int), ("main_gpu", c.c_int32),
        ("tensor_split", c.c_void_p), ("progress_callback", c.c_void_p), ("progress_callback_user_data", c.c_void_p),
        ("kv_overrides", c.c_void_p), ("vocab_only", c.c_bool), ("check_tensors", c.c_bool),
        ("use_extra_bufts", c.c_bool), ("no_host", c.c_bool), ("no_alloc", c.c_bool), ("load_mtp", c.c_bool),
    ]


class _ContextParams(c.Structure):
    _fields_ = [
        ("n_ctx", c.c_uint32), ("n_batch", c.c_uint32), ("n_ubatch", c.c_uint32), ("n_seq_max", c.c_uint32),
        ("n_rs_seq", c.c_uint32), ("n_outputs_max", c.c_uint32), ("n_outputs_max_per_seq", c.c_uint32),
        ("n_threads", c.c_int32), ("n_threads_batch", c.c_int32), ("ctx_type", c.c_int), ("rope_scaling_type", c.c_int),
        ("pooling_type", c.c_int), ("attention_type", c.c_int), ("flash_attn_type", c.c_int),
        ("rope_freq_base", c.c_float), ("rope_freq_scale", c.c_float), ("yarn_ext_factor", c.c_float),
        ("yarn_attn_factor", c.c_float), ("yarn_beta_fast", c.c_float), ("yarn_beta_slow", c.c_float),
        ("yarn_orig_ctx", c.c_uint32), ("defrag_thold", c.c_float), ("cb_eval", c.c_void_p),
        ("cb_eval_user_data", c.c_void_p), ("type_k", c.c_int), ("type_v", c.c_int), ("abort_callback", c.c_void_p),
        ("abort_callback_data", c.c_void_p), ("embeddings", c.c_bool), ("offload_kqv", c.c_bool),
        ("no_perf", c.c_bool), ("op_offload", c.c_bool), ("swa_full", c.c_bool), ("kv_unified", c.c_bool),
        ("samplers", c.c_void_p), ("n_samplers", c.c_size_t), ("ctx_other", c.c_void_p),
    ]


class _ImatrixEntry(c.Structure):
    _fields_ = [("name", c.c_char_p), ("data", c.c_void_p), ("size", c.c_size_t)]


class _TensorType(c.Structure):
    _fields_ = [("pattern", c.c_char_p), ("type", c.c_int)]


class _Batch(c.Structure):
    _fields_ = [
        ("n_tokens", c.c_int32), ("token", c.POINTER(c.c_int32)), ("embd", c.c_void_p), ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)), ("seq_id", c.POINTER(c.POINTER(c.c_int32))), ("logits", c.POINTER(c.c_int8)),
    ]


class _Tensor(c.Structure):
    """The first members of ggml_tensor; the rest is reached through ggml's functions."""

    _fields_ = [
        ("type", c.c_int), ("buffer", c.c_void_p), ("ne", c.c_int64 * 4), ("nb", c.c_size_t * 4), ("op", c.c_int),
        ("op_params", c.c_int32 * 16), ("flags", c.c_int32), ("src", c.c_void_p * 10),
    ]


_LOG_CALLBACK = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
_EVAL_CALLBACK = c.CFUNCTYPE(c.c_bool, c.c_void_p, c.c_bool, c.c_void_p)


class LlamaError(RuntimeError):
    """A call into the library failed; the message ends with the library's last log lines."""


def cache_dir():
    """The folder that setup.sh filled."""
    base = os.environ.get("LLM_QUANTIZE_PEERS")
    if base:
        return pathlib.Path(base)
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "llm-quantize-peers"


class _Library:
    def __init__(self, folder):
        def load(stem):
            found = sorted(folder.glob(f"{stem}.so")) or sorted(folder.glob(f"{stem}.v*.so"))
            if not found:
                raise LlamaError(f"{stem} is not in {folder}: run tests/peers/setup.sh first")
            return c.CDLL(str(found[0]), mode=c.RTLD_GLOBAL)

        self.base, self.ggml, self.llama = load("libggml-base"), load("libggml"), load("libllama")
        self.log = []
        self._callback = _LOG_CALLBACK(self._on_log)  # kept: the library holds the pointer
        for lib, name in ((self.base, "ggml_log_set"), (self.llama, "llama_log_set")):
            self._declare(lib, name, None, _LOG_CALLBACK, c.c_void_p)(self._callback, None)
        self._declare_all()
        self.ggml.ggml_backend_load_all_from_path(os.fsencode(folder))
        self.llama.llama_backend_init()
        self._check_layout()

    def _on_log(self, _level, text, _data):
        self.log.append(text.decode(errors="replace"))
        del self.log[:-200]

    def tail(self):
        return "".join(self.log)[-1500:]

    @staticmethod
    def _declare(lib, name, result, *arguments):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, list(arguments)
        return function

    def _declare_all(self):
        p, i32, text = c.c_void_p, c.c_int32, c.c_char_p
        ids = c.POINTER(i32)
        self._declare(self.base, "ggml_row_size", c.c_size_t, c.c_int, c.c_int64)
        self._declare(self.base, "ggml_quantize_chunk", c.c_size_t, c.c_int, p, p, c.c_int64, c.c_int64, c.c_int64, p)
        self._declare(self.base, "ggml_get_name", text, p)
        self._declare(self.base, "ggml_op_desc", text, p)
        self._declare(self.base, "ggml_nelements", c.c_int64, p)
        self._declare(self.base, "ggml_nbytes", c.c_size_t, p)
        self._declare(self.base, "ggml_is_contiguous", c.c_bool, p)
        self._declare(self.base, "ggml_backend_tensor_get", None, p, p, c.c_size_t, c.c_size_t)
        self._declare(self.ggml, "ggml_backend_load_all_from_path", None, text)
        for name, result, arguments in (
            ("llama_backend_init", None, ()),
            ("llama_model_quantize_default_params", _QuantizeParams, ()),
            ("llama_model_default_params", _ModelParams, ()),
            ("llama_context_default_params", _ContextParams, ()),
            ("llama_model_quantize", c.c_uint32, (text, text, c.POINTER(_QuantizeParams))),
            ("llama_model_load_from_file", p, (text, _ModelParams)),
            ("llama_model_free", None, (p,)),
            ("llama_init_from_model", p, (p, _ContextParams)),
            ("llama_free", None, (p,)),
            ("llama_model_get_vocab", p, (p,)),
            ("llama_vocab_n_tokens", i32, (p,)),
            ("llama_vocab_bos", i32, (p,)),
            ("llama_vocab_eos", i32, (p,)),
            ("llama_model_n_ctx_train", i32, (p,)),
            ("llama_model_size", c.c_uint64, (p,)),
            ("llama_model_n_params", c.c_uint64, (p,)),
            ("llama_model_meta_count", i32, (p,)),
            ("llama_model_meta_key_by_index", i32, (p, i32, text, c.c_size_t)),
            ("llama_model_meta_val_str_by_index", i32, (p, i32, text, c.c_size_t)),
            ("llama_tokenize", i32, (p, text, i32, ids, i32, c.c_bool, c.c_bool)),
            ("llama_detokenize", i32, (p, ids, i32, text, i32, c.c_bool, c.c_bool)),
            ("llama_get_memory", p, (p,)),
            ("llama_memory_clear", None, (p, c.c_bool)),
            ("llama_batch_init", _Batch, (i32, i32, i32)),
            ("llama_batch_free", None, (_Batch,)),
            ("llama_decode", i32, (p, _Batch)),
            ("llama_get_logits", c.POINTER(c.c_float), (p,)),
        ):
            self._declare(self.llama, name, result, *arguments)

    def _check_layout(self):
        q = self.llama.llama_model_quantize_default_params()
        m = self.llama.llama_model_default_params()
        x = self.llama.llama_context_default_params()
        seen = {
            "quantize": (q.nthread, q.ftype, q.output_tensor_type, q.token_embedding_type, q.allow_requantize,
                         q.quantize_output_tensor, q.only_copy, q.pure, q.keep_split, q.dry_run, q.imatrix,
                         q.prune_layers, q.max_buf_size),
            "model": (m.devices, m.n_gpu_layers, m.split_mode, m.load_mode, m.lazy_mode, m.main_gpu, m.vocab_only,
                      m.check_tensors, m.use_extra_bufts, m.no_host, m.no_alloc, m.load_mtp),
            "context": (x.n_ctx, x.n_batch, x.n_ubatch, x.n_seq_max, x.rope_scaling_type, x.flash_attn_type,
                        x.yarn_ext_factor, x.yarn_orig_ctx, x.defrag_thold, x.type_k, x.type_v, x.embeddings,
                        x.offload_kqv, x.no_perf, x.op_offload, x.swa_full, x.kv_unified, x.n_samplers, x.ctx_other),
        }
        expected = {
            "quantize": (0, 7, _TYPE_COUNT, _TYPE_COUNT, False, True, False, False, False, False, None, None, 8 << 30),
            "model": (None, -1, 1, -1, 1, 0, False, False, True, False, False, False),
            "context": (512, 2048, 512, 1, -1, -1, -1.0, 0, -1.0, 1, 1, False, True, True, True, True, False, 0, None),
        }
        for name, values in expected.items():
            if seen[name] != values:
                raise LlamaError(f"libllama's {name} parameters differ from the pinned build's: {seen[name]} != {values}")


_loaded = None


def library():
    """The library, loaded at the first call."""
    global _loaded
    if _loaded is None:
        _loaded = _Library(cache_dir() / LIBRARY_FOLDER)
    return _loaded


def cores():
    return len(os.sched_getaffinity(0))


def quantize(source, target, ftype, nthread=0, imatrix=None, pure=False, output_tensor_type=None,
             token_embedding_type=None, tensor_types=(), allow_requantize=False, leave_output_tensor=False):
    """llama_model_quantize from file to file.

    ftype is a name of FTYPES, types are names of TYPES, tensor_types is a list of (pattern, type name), imatrix maps
    tensor names to float32 arrays of importances (already divided by the number of tokens).
    """
    lib = library()
    params = lib.llama.llama_model_quantize_default_params()
    params.nthread = nthread or cores()
    params.ftype = FTYPES[ftype]
    params.pure = pure
    params.allow_requantize = allow_requantize
    params.quantize_output_tensor = not leave_output_tensor
    if output_tensor_type:
        params.output_tensor_type = TYPES[output_tensor_type.upper()]
    if token_embedding_type:
        params.token_embedding_type = TYPES[token_embedding_type.upper()]
    keep = []  # what the structure points to must outlive the call
    if imatrix:
        arrays = {name: np.ascontiguousarray(values, np.float32) for name, values in imatrix.items()}
        entries = (_ImatrixEntry * (len(arrays) + 1))()
        for entry, (name, values) in zip(entries, arrays.items()):
            entry.name, entry.data, entry.size = name.encode(), values.ctypes.data, values.size
        keep += [arrays, entries]
        params.imatrix = c.addressof(entries)
    if tensor_types:
        overrides = (_TensorType * (len(tensor_types) + 1))()
        for slot, (pattern, name) in zip(overrides, tensor_types):
            slot.pattern, slot.type = pattern.encode(), TYPES[name.upper()]
        keep.append(overrides)
        params.tt_overrides = c.addressof(overrides)
    lib.log.clear()
    if lib.llama.llama_model_quantize(os.fsencode(source), os.fsencode(target), c.byref(params)) != 0:
        raise LlamaError(f"llama_model_quantize {source} to {ftype} failed:\n{lib.tail()}")


def quantize_chunk(type_name, values, imatrix=None):
    """ggml_quantize_chunk of a 2-D float array (rows, row length); returns uint8 (rows, bytes per row)."""
    lib = library()
    values = np.ascontiguousarray(values, np.float32)
    rows, width = values.shape
    kind = TYPES[type_name.upper()]
    out = np.zeros((rows, lib.base.ggml_row_size(kind, width)), np.uint8)
    weights = None if imatrix is None else np.ascontiguousarray(imatrix, np.float32)
    size = lib.base.ggml_quantize_chunk(kind, values.ctypes.data, out.ctypes.data, 0, rows, width,
                                        None if weights is None else weights.ctypes.data)
    if size != out.size:
        raise LlamaError(f"ggml_quantize_chunk wrote {size} bytes instead of {out.size}")
    return out


class SquareSums:
    """What llama-imatrix collects while a model runs: the squares of the inputs of each block's linear layers.

    `sums` maps a tensor's name to float64 sums for each column, `counts` to the number of rows. An exception in the
    callback cannot cross the library, so it is kept for `check`.
    """

    def __init__(self):
        self.lib, self.sums, self.counts, self.error = library(), {}, {}, None
        self.callback = _EVAL_CALLBACK(self._on_node)

    def _on_node(self, node, ask, _data):
        try:
            base = self.lib.base
            if base.ggml_op_desc(node) != b"MUL_MAT":
                return False
            weight, inputs = _Tensor.from_address(node).src[:2]
            name = base.ggml_get_name(weight).decode()
            if not name.startswith("blk."):
                return False
            if not ask:
                self._add(name, inputs)
            return True
        except Exception as error:  # noqa: BLE001
            self.error = self.error or error
            return False

    def _add(self, name, inputs):
        base, tensor = self.lib.base, _Tensor.from_address(inputs)
        elements = base.ggml_nelements(inputs)
        if tensor.type != TYPES["F32"] or not base.ggml_is_contiguous(inputs) or np.prod(tensor.ne) != elements:
            raise LlamaError(f"the inputs of {name} are not rows of float32, or ggml_tensor has another layout")
        values = np.empty((elements // tensor.ne[0], tensor.ne[0]), np.float32)
        base.ggml_backend_tensor_get(inputs, values.ctypes.data, 0, base.ggml_nbytes(inputs))
        squares = np.square(values.astype(np.float64)).sum(axis=0)
        self.sums[name] = self.sums.get(name, 0.0) + squares
        self.counts[name] = self.counts.get(name, 0) + len(values)

    def check(self):
        if self.error:
            raise LlamaError(f"collecting squares failed: {self.error}") from self.error


class Model:
    """A model file loaded by libllama; the file may be the first of several shards.

    The context keeps keys and values in float32 and runs plain attention, to stay close to a float32 reference.
    A collector of SquareSums sees every product.
    """

    def __init__(self, path, n_ctx=1024, nthread=0, collector=None):
        self.lib, self.n_ctx, self.context, self.collector = library(), n_ctx, None, collector
        api = self.lib.llama
        self.lib.log.clear()
        params = api.llama_model_default_params()
        params.check_tensors = True  # every block's bytes are validated
        params.use_extra_bufts = False  # no repacked weights: the file's own blocks are computed with
        self.model = api.llama_model_load_from_file(os.fsencode(path), params)
        if not self.model:
            raise LlamaError(f"libllama cannot load {path}:\n{self.lib.tail()}")
        self.vocab = api.llama_model_get_vocab(self.model)
        self.n_vocab = api.llama_vocab_n_tokens(self.vocab)
        self.nthread = nthread or cores()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.context:
            self.lib.llama.llama_free(self.context)
        if self.model:
            self.lib.llama.llama_model_free(self.model)
        self.context = self.model = None

    @property
    def size(self):
        """Bytes of all tensors."""
        return self.lib.llama.llama_model_size(self.model)

    @property
    def n_params(self):
        return self.lib.llama.llama_model_n_params(self.model)

    def meta(self):
        """The file's scalar metadata as text."""
        api, out = self.lib.llama, {}
        buffer = c.create_string_buffer(1 << 16)
        for index in range(api.llama_model_meta_count(self.model)):
            pair = []
            for read in (api.llama_model_meta_key_by_index, api.llama_model_meta_val_str_by_index):
                read(self.model, index, buffer, len(buffer))
                pair.append(buffer.value.decode(errors="replace"))
            out[pair[0]] = pair[1]
        return out

    def tokenize(self, text, add_special=False, parse_special=False):
        data = text.encode() if isinstance(text, str) else text
        room = len(data) + 16
        ids = (c.c_int32 * room)()
        n = self.lib.llama.llama_tokenize(self.vocab, data, len(data), ids, room, add_special, parse_special)
        if n < 0:
            raise LlamaError(f"llama_tokenize: {n}")
        return ids[:n]

    def detokenize(self, ids, special=True):
        """The bytes that the ids stand for."""
        tokens = (c.c_int32 * len(ids))(*ids)
        room = 64 * len(ids) + 256
        buffer = c.create_string_buffer(room)
        n = self.lib.llama.llama_detokenize(self.vocab, tokens, len(ids), buffer, room, False, special)
        if n < 0:
            raise LlamaError(f"llama_detokenize: {n}")
        return buffer.raw[:n]

    def logits(self, ids):
        """float32 (len(ids), n_vocab): the logits after every position of one sequence."""
        api = self.lib.llama
        if len(ids) > self.n_ctx:
            raise LlamaError(f"{len(ids)} tokens do not fit the context of {self.n_ctx}")
        if not self.context:
            self._open_context()
        api.llama_memory_clear(api.llama_get_memory(self.context), True)
        batch = api.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
                batch.seq_id[i][0] = 0
            status = api.llama_decode(self.context, batch)
        finally:
            api.llama_batch_free(batch)
        if status != 0:
            raise LlamaError(f"llama_decode: {status}\n{self.lib.tail()}")
        return np.ctypeslib.as_array(api.llama_get_logits(self.context), (len(ids), self.n_vocab)).copy()

    def _open_context(self):
        params = self.lib.llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self.n_ctx
        params.n_outputs_max = params.n_outputs_max_per_seq = self.n_ctx
        params.n_threads = params.n_threads_batch = self.nthread
        params.flash_attn_type = 0
        params.type_k = params.type_v = TYPES["F32"]
        if self.collector:
            params.cb_eval = c.cast(self.collector.callback, c.c_void_p)
        self.context = self.lib.llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise LlamaError(f"llama_init_from_model failed:\n{self.lib.tail()}")

    def greedy(self, ids, count):
        """`count` tokens, each the likeliest after what came before."""
        ids = list(ids)
        for _ in range(count):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[-count:]


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def perplexity(model, ids, ctx, windows):
    """exp of the mean negative log-likelihood over `windows` non-overlapping windows of ctx tokens.

    The first token of a window is not scored.
    """
    total = 0.0
    for w in range(windows):
        window = ids[w * ctx:(w + 1) * ctx]
        scores = log_softmax(model.logits(window)[:-1])
        total -= scores[np.arange(ctx - 1), window[1:]].sum()
    return float(np.exp(total / (windows * (ctx - 1))))
