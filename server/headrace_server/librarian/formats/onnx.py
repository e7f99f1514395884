"""Onnx: a graph may name files with its tensors, operators, and options of its session.

The file is read as far as it can name anything: its messages are walked through, tensors' own bytes
are passed over. Numbers of fields are those of onnx.proto.
"""

import mmap
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..inside import is_within
from ..mlmodel import Description
from .common import Refused, check_choice, check_entry, check_keys, named

_ENTRY = frozenset({"onnx_version", "data", "providers", "onnx_session_options", "code"})
_THREADS_MAX = 1024
_OPTIONS: Final = frozenset(
    {
        *("intra_op_num_threads", "inter_op_num_threads", "execution_mode"),
        *("graph_optimization_level", "extra_session_config"),
    }
)
# How a session computes. The others name files that it reads or writes, or what it loads.
_SESSION_CONFIG: Final = frozenset(
    {
        *("session.disable_prepacking", "session.prepack.enable_parallel"),
        *("session.use_env_allocators", "session.use_device_allocator_for_initializers"),
        *("session.enable_cpu_mem_arena", "session.enable_mem_pattern"),
        *("session.set_denormal_as_zero", "session.use_deterministic_compute"),
        *("session.disable_quant_qdq", "session.disable_double_qdq_remover"),
        *("session.enable_quant_qdq_cleanup", "session.qdqisint8allowed"),
        *("session.disable_qdq_constant_folding", "session.enable_dq_matmulnbits_fusion"),
        *("session.qdq_matmulnbits_accuracy_level", "session.qdq_matmulnbits_block_size"),
        *("session.x64quantprecision", "session.dynamic_block_base"),
        *("session.force_spinning_stop", "session.strict_shape_type_inference"),
        *("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"),
        *("session.intra_op.spin_duration_us", "session.inter_op.spin_duration_us"),
        *("session.intra_op.spin_backoff_max", "session.inter_op.spin_backoff_max"),
        *("session.graph_optimizations_loop_level", "session.disable_aot_function_inlining"),
        *("session.disable_cpu_ep_fallback", "session.allow_released_opsets_only"),
        *("optimization.enable_gelu_approximation", "optimization.enable_cast_chain_elimination"),
        *("mlas.enable_gemm_fastmath_arm64_bfloat16", "mlas.disable_kleidiai"),
        *("mlas.use_lut_gemm", "mlas.qnbit.force_fp32"),
    }
)
_NUMBER: Final = re.compile(r"\d{1,9}")
# Operators that compute from their inputs alone. Those of an engine, of Python and of other
# runtimes are of the same domain as many that do.
_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
_OPERATORS_OF_OTHERS: Final = frozenset(
    {"EPContext", "Snpe", "PythonOp", "PythonOpGrad", "ATen", "ATenGrad", "TritonOp", "OpenVINO"}
)
# What a graph may be made of, so that looking through it ends.
_FIELDS_MAX: Final = 20_000_000
_DEPTH_MAX: Final = 64

# Of each message the fields that hold messages which may name something.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING = range(8)
_WITHIN: Final[Mapping[int, Mapping[int, int]]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _TENSOR: {},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
}
_EXTERNAL_DATA, _DOMAIN, _OP_TYPE, _FUNCTION_DOMAIN = 13, 7, 4, 10


def check_onnx(model: Description, directory: Path) -> None:
    """Refuse a graph that names more than files of its own, and operators that compute."""
    check_entry(model.config, _ENTRY)
    _check_options(model.config.get("onnx_session_options") or {})
    file = named(model.config, "data", directory)
    if file.suffix == ".ort" or not file.is_file():
        raise Refused(f"{file.name!r} is no file of ONNX")
    with file.open("rb") as opened:
        if not file.stat().st_size:
            raise Refused(f"{file.name!r} is empty")
        with (
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            walk = _Walk(content, file.name)
            try:
                walk.message(_MODEL, 0, len(view), 0)
            except (IndexError, UnicodeDecodeError) as error:
                raise Refused(f"{file.name!r} is no graph that can be looked through") from error
    for location in walk.locations:
        _check_location(location, file.parent, directory)
    for domain, operator in sorted(walk.operators):
        is_known = domain in _DOMAINS or domain in walk.domains
        if not is_known or operator in _OPERATORS_OF_OTHERS:
            raise Refused(f"its operator {operator!r} of {domain!r} is not known to be inert")


def _check_location(location: str, folder: Path, directory: Path) -> None:
    """Where tensors lie, by a name in the *folder* of their graph."""
    place = folder / location
    if not location or not is_within(place, directory) or not os.path.isfile(place):
        raise Refused(f"its tensors lie in {location!r}, which is no file of its own")


def _check_options(options: Any) -> None:
    where = "its onnx_session_options"
    if not isinstance(options, Mapping):
        raise Refused(f"{where} are no table")
    check_keys(options, _OPTIONS, where)
    for key in ("intra_op_num_threads", "inter_op_num_threads"):
        check_choice(options.get(key), (None, *range(_THREADS_MAX + 1)), f"{key!r} in {where}")
    mode = options.get("execution_mode")
    check_choice(mode, (None, "sequential", "parallel"), f"'execution_mode' in {where}")
    level = options.get("graph_optimization_level")
    check_choice(level, (None, 0, 1, 2, 3, 99), f"'graph_optimization_level' in {where}")
    extra = options.get("extra_session_config") or {}
    if not isinstance(extra, Mapping):
        raise Refused(f"'extra_session_config' in {where} is no table")
    check_keys(extra, _SESSION_CONFIG, f"extra_session_config of {where}")
    for key, value in extra.items():
        if not _NUMBER.fullmatch(str(value)):
            raise Refused(f"{key!r} in {where} is {value!r}, which is not known to be inert")


class _Walk:
    """What the messages of one file name.

    Attributes:
        locations: Files with tensors.
        operators: Domain and name of each operator.
        domains: Of operators that the file itself defines.
    """

    def __init__(self, content: mmap.mmap, name: str) -> None:
        self.locations: set[str] = set()
        self.operators: set[tuple[str, str]] = set()
        self.domains: set[str] = set()
        self._content = content
        self._name = name
        self._left = _FIELDS_MAX

    def message(self, kind: int, start: int, end: int, depth: int) -> None:
        """Look through the message of that *kind* from *start* to *end*."""
        if depth > _DEPTH_MAX:
            raise Refused(f"{self._name!r} is nested too deeply to be looked through")
        within = _WITHIN[kind]
        # A text that comes several times counts as the last, or so a reader may think.
        domains, names = [""], [""]
        for field, at, until in self._fields(start, end):
            if field in within:
                self.message(within[field], at, until, depth + 1)
            elif kind == _TENSOR and field == _EXTERNAL_DATA:
                self._entry(at, until)
            elif kind == _NODE and field == _DOMAIN:
                domains.append(self._text(at, until))
            elif kind == _NODE and field == _OP_TYPE:
                names.append(self._text(at, until))
            elif kind == _FUNCTION and field == _FUNCTION_DOMAIN:
                self.domains.add(self._text(at, until))
        if kind == _NODE:
            self.operators |= {
                (domain, name) for domain in domains[1:] or domains for name in names[1:] or names
            }

    def _entry(self, start: int, end: int) -> None:
        """A key and a value that say where a tensor lies."""
        keys: list[str] = []
        values: list[str] = []
        for field, at, until in self._fields(start, end):
            (keys if field == 1 else values).append(self._text(at, until))
        if keys not in (["offset"], ["length"], ["checksum"]):
            self.locations.update(values or [""])

    def _text(self, start: int, end: int) -> str:
        return self._content[start:end].decode()

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Number, start and end of each field that has a length."""
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise Refused(f"{self._name!r} has too many parts to be looked through")
            tag, at = self._varint(at)
            match tag & 7:
                case 0:
                    _, at = self._varint(at)
                case 1:
                    at += 8
                case 5:
                    at += 4
                case 2:
                    length, at = self._varint(at)
                    if at + length > end:
                        raise IndexError
                    yield tag >> 3, at, at + length
                    at += length
                case _:
                    raise IndexError
        if at != end:
            raise IndexError

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self._content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise IndexError
