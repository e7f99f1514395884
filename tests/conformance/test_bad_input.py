"""Wrong requests, over both transports: the same status and the same words, and nothing is lost.

Each is sent beside a good one that is in flight, and another good one follows it.
"""

import re
from typing import Any

import numpy as np
import pytest

import models
import puppet
from calling import (
    Caller,
    Ending,
    answers,
    chain,
    ending,
    message,
    typed,
)
from headrace.datatypes import DATATYPES
from headrace.oip.open_inference_pb2 import ModelInferRequest

pytestmark = pytest.mark.slow

X = np.zeros((1, 4), np.float32)
Wrong = ModelInferRequest | bytes

# What an answer must never show of the host.
HOST = re.compile(
    r"Traceback|File \"|\.py|site-packages|/tmp|/usr|/home|/root|/etc|/work|0x[0-9a-f]{6}"
)


def told(callers: dict[str, Caller], wrong: Wrong) -> Ending:
    """How *wrong* ends, the same over both transports."""
    endings = []
    for caller in callers.values():
        beside = [caller.submit(message("graph", {"x": X + k})) for k in range(3)]
        got = caller.ask(wrong)
        assert not HOST.search(got.details)
        assert len(got.details.encode()) <= 1000
        for call in [*beside, caller.submit(message("graph", {"x": X}))]:
            assert answers(ending(call).response)["y"].shape == (1, 3)
        endings.append(Ending(got.code, re.sub("error id [0-9a-f]+", "error id", got.details)))
    assert endings[0] == endings[1]
    return endings[0]


def graph(**changes: Any) -> ModelInferRequest:
    """A request to `graph` with something about its one input changed."""
    request = message("graph", {"x": X})
    for name, value in changes.items():
        if name == "shape":
            request.inputs[0].shape[:] = value
        elif name == "raw":
            request.raw_input_contents[0] = value
        else:
            setattr(request.inputs[0], name, value)
    return request


def iris(rows: tuple[int, ...] = (1, 1, 1, 1), count: int = 4) -> ModelInferRequest:
    columns = zip(models.IRIS_COLUMNS, rows, strict=True)
    return message("iris", dict([(name, np.zeros(n)) for name, n in columns][:count]))


def echo(array: Any, raw: bytes) -> ModelInferRequest:
    request = message("echo", {"x": array})
    request.raw_input_contents[0] = raw
    return request


def twice() -> ModelInferRequest:
    request = graph()
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])
    return request


def with_parameter(where: str, name: str, **value: Any) -> ModelInferRequest:
    request = message("graph", {"x": X}, outputs=["y"])
    place: Any = {"request": request, "input": request.inputs[0], "output": request.outputs[0]}[
        where
    ]
    for kind, said in value.items():
        setattr(place.parameters[name], kind, said)
    return request


def contents(**fields: Any) -> ModelInferRequest:
    """Typed contents of `graph`'s input, instead of raw ones."""
    request = graph()
    del request.raw_input_contents[:]
    for name, elements in fields.items():
        getattr(request.inputs[0].contents, name).extend(elements)
    return request


def raw_beside_contents(*, is_empty: bool) -> ModelInferRequest:
    request = graph()
    request.inputs[0].contents.SetInParent()
    if not is_empty:
        request.inputs[0].contents.fp32_contents.extend([0, 0, 0, 0])
    return request


def odd_bool() -> ModelInferRequest:
    return echo(np.zeros((1, 3), bool), b"\0\1\2")


def without_raws() -> ModelInferRequest:
    request = graph()
    del request.raw_input_contents[:]
    return request


def more_raws() -> ModelInferRequest:
    request = graph()
    request.raw_input_contents.append(b"")
    return request


def text(raw: bytes, count: int = 1) -> ModelInferRequest:
    return echo(chain(*[b""] * count).reshape(count, 1), raw)


def many_texts() -> ModelInferRequest:
    request = text(b"\0\0\0\0")
    request.inputs[0].shape[:] = [(1 << 31) - 1]
    return request


def renamed(model: str = "graph", version: str = "") -> ModelInferRequest:
    return message(model, {"x": X}, model_version=version)


def not_utf8(where: bytes) -> bytes:
    """`graph`'s request with a string in it that is none."""
    marked = message("graph", {"x": X}, id="iiii", outputs=["oooo"], model_version="vvvv")
    return marked.SerializeToString().replace(where, b"\xff\xfe\xfd\xfc")


LONG = "n" * 10_000
INT64_MAX = 2**63 - 1

INVALID, NOT_FOUND = "INVALID_ARGUMENT", "NOT_FOUND"
WRONG: dict[str, tuple[Wrong, str, str]] = {
    # The message.
    "no message": (b"\xff", INVALID, "^the message is not a ModelInferRequest: it ends"),
    "an empty message": (b"", NOT_FOUND, "^model '' is not served"),
    "a field that ends beyond": (b"\x0a\x40abc", INVALID, "is not a ModelInferRequest"),
    "all bytes": (bytes(range(256)), INVALID, "is not a ModelInferRequest"),
    "a group": (b"\x0b", INVALID, "is not a ModelInferRequest: unknown wire type at byte 0"),
    "an input that is no message": (b"\x0a\x05graph\x2a\x01\x0a", INVALID, "is not a Model"),
    # The model.
    "an unknown model": (renamed("nothing"), NOT_FOUND, "^model 'nothing' is not served"),
    "an unknown version": (renamed(version="77"), NOT_FOUND, "version '77'.*served are: 1"),
    "an unknown alias": (renamed(version="@nobody"), NOT_FOUND, "version '@nobody'"),
    "a malformed version": (renamed(version="abc"), INVALID, "'abc'.*expected a number, @alias"),
    "a negative version": (renamed(version="-1"), INVALID, "'-1'.*expected a number, @alias"),
    "a version beyond int64": (renamed(version="9" * 30), INVALID, "'999.*expected a number"),
    "a model that failed": (renamed("broken"), "FAILED_PRECONDITION", "^model 'broken'.*failed"),
    # Names.
    "a model with NUL": (renamed("gr\0ph"), NOT_FOUND, r"model 'gr\\x00ph' is not served"),
    "a model with dots": (renamed("../graph"), NOT_FOUND, "model '../graph' is not served"),
    "a model of 10 kB": (renamed(LONG), NOT_FOUND, "^model 'nnn.*is not served"),
    "a version with NUL": (renamed(version="1\0"), INVALID, r"version '1\\x00' of model 'graph'"),
    "a version with dots": (renamed(version=".."), INVALID, r"version '\.\.' of model 'graph'"),
    "a version of 10 kB": (renamed(version=LONG), INVALID, "^version 'nnn.*expected a number"),
    "an alias of 10 kB": (renamed(version="@" + LONG), INVALID, "^version '@nnn.*expected a"),
    "an input with NUL": (graph(name="x\0"), INVALID, r"unknown input 'x\\x00': expected \['x'\]"),
    "an input with dots": (graph(name="../x"), INVALID, "unknown input '../x'"),
    "an input of 10 kB": (graph(name=LONG), INVALID, "tensor name 'nnn.*longer than 1024 bytes"),
    "an output with NUL": (
        message("graph", {"x": X}, outputs=["y\0"]), INVALID, r"unknown output 'y\\x00'",
    ),
    "an output with dots": (
        message("graph", {"x": X}, outputs=["../y"]), INVALID, "unknown output '../y'",
    ),
    "an output of 10 kB": (
        message("graph", {"x": X}, outputs=[LONG]), INVALID, "name 'nnn.*longer than 1024 bytes",
    ),
    "a model that is no text": (not_utf8(b"raph"), INVALID, "is not a ModelInferRequest"),
    "a version that is no text": (not_utf8(b"vvvv"), INVALID, "is not a ModelInferRequest"),
    "an id that is no text": (not_utf8(b"iiii"), INVALID, r"^id: expected UTF-8, got b'\\xff"),
    "an output that is no text": (not_utf8(b"oooo"), INVALID, "is not a ModelInferRequest"),
    # Which tensors.
    "no input": (ModelInferRequest(model_name="graph"), INVALID, "missing input 'x'"),
    "an unknown input": (graph(name="z"), INVALID, r"unknown input 'z': expected \['x'\]"),
    "a missing input": (iris(count=3), INVALID, "missing input 'petal_width'.*got"),
    "an input twice": (twice(), INVALID, "input 'x' is given twice"),
    "an unknown output": (
        message("graph", {"x": X}, outputs=["z"]), INVALID, r"unknown output 'z', expected \['y'\]",
    ),
    "an output twice": (
        message("graph", {"x": X}, outputs=["y", "y"]), INVALID, "output 'y' is asked for twice",
    ),
    "different rows": (iris((1, 2, 2, 2)), INVALID, "'sepal_width' has 2 rows.*_length' has 1"),
    # Datatypes and shapes.
    "a wrong datatype": (graph(datatype="FP64"), INVALID, "input 'x': expected FP32, got FP64"),
    "an unknown datatype": (
        graph(datatype="FP99"), INVALID, "input 'x': unknown datatype 'FP99', expected one of BOOL",
    ),
    "no datatype": (graph(datatype=""), INVALID, "input 'x': unknown datatype ''"),
    "a wrong shape": (
        graph(shape=[1, 5]), INVALID, r"input 'x': expected shape \[-1, 4\], got \[1, 5\]",
    ),
    "no shape": (graph(shape=[]), INVALID, r"input 'x': expected shape \[-1, 4\], got \[\]"),
    "too many axes": (graph(shape=[1] * 33), INVALID, "'x': expected at most 32 axes, got 33"),
    "a negative shape": (
        graph(shape=[-1, 4]), INVALID, r"input 'x': shape \[-1, 4\] has a negative size",
    ),
    "the most negative shape": (
        graph(shape=[-(2**63), 4]), INVALID, r"input 'x': shape \[-9223372036854775808, 4\] has",
    ),
    "a shape near 2**63": (
        graph(shape=[INT64_MAX, 4]), INVALID, r"'x': shape \[9223372036854775807, 4\] has more",
    ),
    "a shape that overflows to 0": (
        graph(shape=[1 << 32, 1 << 32]), INVALID, "input 'x': shape .* has more than 2147483647",
    ),
    "a shape that overflows to its size": (
        graph(shape=[(1 << 62) + 1, 4]), INVALID, "input 'x': shape .* has more than 2147483647",
    ),
    "2**31 rows": (graph(shape=[1 << 31, 4]), INVALID, "input 'x': shape .* has more than"),
    "2**31 rows of nothing": (
        message("echo", {"x": np.empty((1 << 31, 0))}), INVALID, "'x': shape .* has more than",
    ),
    "2**31 - 1 rows of nothing": (
        message("echo", {"x": np.empty(((1 << 31) - 1, 0))}),
        "RESOURCE_EXHAUSTED",
        "2147483647 rows, queue_rows_max is 16384",
    ),
    "2**31 - 1 texts": (
        many_texts(), INVALID, "input 'x': expected 2147483647 BYTES elements, got 4 bytes",
    ),
    # Bytes.
    "too few bytes": (graph(raw=bytes(12)), INVALID, "input 'x': expected 16 bytes.*got 12"),
    "too many bytes": (graph(raw=bytes(20)), INVALID, "input 'x': expected 16 bytes.*got 20"),
    "no bytes": (graph(raw=b""), INVALID, "input 'x': expected 16 bytes.*got 0"),
    "fewer raws than inputs": (without_raws(), INVALID, "input 'x': expected 16 bytes.*got 0"),
    "more raws than inputs": (more_raws(), INVALID, "raw_input_contents: expected 1 .*got 2"),
    "a text that ends beyond": (
        text(b"\x09\0\0\0abc"), INVALID, "input 'x': BYTES element 0 of 1 says it ends at byte 13",
    ),
    "a text of 4 GiB": (
        text(b"\xff\xff\xff\xffabc"), INVALID, "input 'x': BYTES element 0 of 1 says it ends",
    ),
    "half a length": (text(b"\x01\0"), INVALID, "'x': expected 1 BYTES elements, got 2 bytes"),
    "fewer texts": (
        text(b"\x01\0\0\0a", 2), INVALID, "input 'x': expected 2 BYTES elements, got 5 bytes",
    ),
    "more texts": (
        text(b"\x01\0\0\0a\0\0\0\0"), INVALID, "'x': expected 1 BYTES elements, got 4 bytes more",
    ),
    "a BOOL of 2": (odd_bool(), INVALID, "input 'x': expected BOOL elements of 0 or 1, got 2"),
    # Contents.
    "raw and contents": (
        raw_beside_contents(is_empty=False), INVALID, "'x': contents and raw_input_contents excl",
    ),
    "raw and empty contents": (
        raw_beside_contents(is_empty=True), INVALID, "'x': contents and raw_input_contents exclude",
    ),
    "contents of another datatype": (
        contents(fp64_contents=[0.0] * 4), INVALID, "'x': FP32 belongs in fp32_contents, got fp64",
    ),
    "contents of two datatypes": (
        contents(fp32_contents=[0.0] * 4, int_contents=[1]), INVALID, "'x': FP32 belongs in fp32",
    ),
    "too few elements": (
        contents(fp32_contents=[0.0] * 3), INVALID, "input 'x': expected 16 bytes.*got 12",
    ),
    "an element beyond its datatype": (
        typed("echo", "x", DATATYPES["INT8"], np.array([[300]])), INVALID, "'x': INT8 holds -128 ",
    ),
    # Parameters.
    "an unknown parameter": (
        with_parameter("request", "colour", string_param="red"),
        INVALID,
        "'colour': expected one of .'priority', 'timeout'.",
    ),
    "an unknown parameter of an input": (
        with_parameter("input", "shared_memory_region", string_param="r"), INVALID, "^input 'x': ",
    ),
    "an unknown parameter of an output": (
        with_parameter("output", "classification", int64_param=2), INVALID, "^output 'y': unknown",
    ),
    "a timeout of nothing": (
        with_parameter("request", "timeout", int64_param=0), INVALID, "'timeout': expected micro",
    ),
    "a timeout in words": (
        with_parameter("request", "timeout", string_param="soon"), INVALID, "'timeout': expected",
    ),
    "a priority that is no level": (
        with_parameter("request", "priority", int64_param=2),
        INVALID,
        "^model 'graph': parameter 'priority': expected a whole number from 0 to 1, .* got 2$",
    ),
    "a negative priority": (
        with_parameter("request", "priority", int64_param=-1), INVALID, "from 0 to 1, .* got -1$",
    ),
    "a priority in words": (
        with_parameter("request", "priority", string_param="1"), INVALID, "from 0 to 1, .*got '1'",
    ),
    # The model itself.
    "what the model raises": (
        message("puppet", {"input-0": np.array([[puppet.RAISE, 0.0]])}),
        "INTERNAL",
        r"^ValueError: a row said so, in <path> \(error id\)$",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "request_",
    [
        # Of a model that batches by the operator's word.
        message("puppet", {"input-0": np.array([[puppet.TOO_FEW_ROWS, 0.0]])}),
        # Of a model of which nothing is known.
        message("echo", {"x": np.empty((0, 2))}),
    ],
    ids=["puppet", "echo"],
)
def test_an_answer_of_other_rows_than_the_request_is_the_models_own(
    callers: dict[str, Caller], request_: ModelInferRequest
) -> None:
    for caller in callers.values():
        beside = [caller.submit(message("graph", {"x": X + k})) for k in range(3)]
        got = caller.ask(request_)
        assert got.code == "OK", got.details
        assert answers(got.response)["output-0"].shape == (0, 2)
        for call in beside:
            assert answers(ending(call).response)["y"].shape == (1, 3)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_told_why_and_nothing_is_lost(
    callers: dict[str, Caller], case: str
) -> None:
    wrong, code, words = WRONG[case]

    got = told(callers, wrong)

    assert got.code == code, got
    assert re.search(words, got.details), got.details
