"""Modules that `headrace stub` writes: what they say, and that every signature gives one."""

import ast
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings

import made_models
from headrace.signature import ParamSpec, Signature, TensorSpec
from headrace.typed import describe
from headrace_server.librarian.mlmodel import signature_of
from headrace_server.stubs import module_of
from strategies import mlflow_signatures

GOLDEN = Path(__file__).with_name("iris_client.txt")
IRIS = Signature(
    tuple(
        TensorSpec(name, "FP64", (-1,), "double")
        for name in ("sepal_length", "sepal_width", "petal_length", "petal_width")
    ),
    (TensorSpec("output-0", "INT64", (-1,), "long"),),
)
OWNER = {
    "type": "object",
    "properties": {
        "id": {"type": "long", "required": True},
        "seen": {"type": "datetime", "required": True},
        "a b": {"type": "array", "items": {"type": "string"}, "required": False},
    },
}
FLAGS = {
    "type": "map",
    "values": {
        "type": "array",
        "items": {"type": "object", "properties": {"x": {"type": "double", "required": True}}},
    },
}
EVERYTHING = Signature(
    (
        TensorSpec("flag", "BOOL", (-1,), "boolean"),
        TensorSpec("class", "INT32", (-1,), "integer"),
        TensorSpec("count", "INT64", (-1,), "long", optional=True),
        TensorSpec("float", "FP32", (-1,), "float", optional=True),
        TensorSpec("size", "FP64", (-1,), "double"),
        TensorSpec("Note (de)", "BYTES", (-1,), "string", optional=True),
        TensorSpec("raw", "BYTES", (-1,), "binary"),
        TensorSpec("timeout", "INT64", (-1,), "datetime"),
        TensorSpec("owner", "BYTES", (-1,), "json", schema=json.dumps(OWNER)),
        TensorSpec("flags", "BYTES", (-1,), "json", optional=True, schema=json.dumps(FLAGS)),
        TensorSpec("what", "BYTES", (-1,), "json"),
    ),
    (
        TensorSpec("float", "FP64", (-1,), "double"),
        TensorSpec("owner", "BYTES", (-1,), "json", schema=json.dumps(OWNER)),
        TensorSpec("at", "INT64", (-1,), "datetime"),
    ),
    (
        ParamSpec("scale", "double", 2.0),
        ParamSpec("tags", "string", ["a", "b"], (-1,)),
        ParamSpec("since", "datetime", "2024-01-02"),
        ParamSpec("raw", "object", {"a": 1}),
        ParamSpec("rounds", "long", None),
    ),
)
TENSORS = Signature(
    (
        TensorSpec("image", "UINT8", (-1, 3, 32, 32)),
        TensorSpec("weight", "FP32", (-1,)),
        TensorSpec("label", "BYTES", (-1,)),
    ),
    (TensorSpec("scores", "FP16", (-1, 10)), TensorSpec("best", "INT64", (-1,))),
)
SEVERAL = {
    "iris": IRIS,
    "everything": EVERYTHING,
    "tensors": TENSORS,
    "open": Signature(TENSORS.inputs),
    "nullable": Signature(
        (
            TensorSpec("note", "BYTES", (-1,), "string", optional=True),
            TensorSpec("name", "BYTES", (-1,), "string"),
            TensorSpec("is_new", "BOOL", (-1,), "boolean"),
            TensorSpec("raw", "BYTES", (-1,), "binary"),
            TensorSpec("word", "BYTES", (-1,), "string", optional=True, no_nulls=True),
        ),
        (TensorSpec("y", "FP64", (-1,), "double"),),
    ),
    "fixed": Signature((TensorSpec("x", "FP32", (2, 3)),), (TensorSpec("y", "FP32", (2, 1)),)),
    "wide": Signature(
        tuple(TensorSpec(f"column {number}", "FP64", (-1,), "double") for number in range(300)),
        (TensorSpec("y", "FP64", (-1,), "double"),),
    ),
}

# Signatures whose modules are checked at once.
MADE = 40
CHECKERS = {
    "mypy": ["--strict", "--no-incremental", "."],
    "pyright": ["--pythonpath", sys.executable],
}


def text_of(signature: Signature, model: str = "iris") -> str:
    return module_of(describe(model, signature), signature, version="3")


def module(signature: Signature, model: str = "iris") -> Any:
    """The module, imported."""
    made = types.ModuleType("made")
    sys.modules["made"] = made
    exec(compile(text_of(signature, model), "made.py", "exec"), made.__dict__)  # noqa: S102
    return made


def arguments_of(text: str, method: str = "predict") -> list[str]:
    """The arguments of a method, in the first class that has it."""
    found = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == method
    ]
    return [argument.arg for argument in found[0].args.kwonlyargs]


def formatted(text: str) -> str:
    """*text* as ruff lays it out by default, whatever settings lie about."""
    ran = subprocess.run(
        [Path(sys.executable).with_name("ruff"), "format", "--isolated", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return ran.stdout


def test_the_module_of_iris_is_what_a_person_would_write() -> None:
    assert text_of(IRIS) == GOLDEN.read_text()


@given(mlflow_signatures())
def test_every_signature_gives_a_module_that_can_be_imported(signature: Signature) -> None:
    made = module(signature)

    assert made.CONTRACT.inputs == signature.inputs
    assert made.CONTRACT.outputs == signature.outputs
    assert made.IrisClient.contract is made.CONTRACT
    assert made.AsyncIrisClient.contract is made.CONTRACT


@given(mlflow_signatures())
def test_arguments_are_all_different_and_as_many_as_the_signature_has(signature: Signature) -> None:
    text = text_of(signature)

    for method in ("predict", "predict_batch"):
        arguments = arguments_of(text, method)
        assert len(set(arguments)) == len(arguments)
        assert len(arguments) == len(signature.inputs) + len(signature.params) + 1


@given(mlflow_signatures())
def test_equal_signatures_give_equal_modules(signature: Signature) -> None:
    again = Signature.from_json(json.loads(json.dumps(signature.to_json())))

    assert text_of(again) == text_of(signature)


@pytest.mark.slow
@settings(max_examples=25)
@given(mlflow_signatures())
def test_a_module_is_laid_out_as_ruff_would(signature: Signature) -> None:
    pytest.importorskip("ruff")
    text = text_of(signature)
    # Of letters beyond these ruff has its own opinion on how wide they are.
    assume(all(letter < "\u0180" and letter != "\xad" for letter in text))

    assert formatted(text) == text


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_known_modules_are_laid_out_as_ruff_would(name: str) -> None:
    pytest.importorskip("ruff")
    text = text_of(SEVERAL[name], name)

    assert formatted(text) == text


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_strict_type_checkers_find_in_modules_only_what_a_caller_does_wrong(
    checker: str, tmp_path: Path
) -> None:
    pytest.importorskip(checker)
    for name, signature in SEVERAL.items():
        (tmp_path / f"{name}_client.py").write_text(text_of(signature, name))
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')

    lines = enumerate(USE.splitlines(), 1)
    wrong = {("use.py", str(number)) for number, line in lines if "# wrong" in line}
    told = checked(checker, tmp_path)
    assert set(re.findall(r"(\w+\.py):(\d+):.*error", told)) == wrong, told


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_strict_type_checkers_find_nothing_in_the_module_of_any_signature(
    checker: str, tmp_path: Path
) -> None:
    pytest.importorskip(checker)
    made = [*made_models.drawn(mlflow_signatures(), MADE)]
    for signatures in made_models.SIGNATURES.values():
        found = map(signature_of, made_models.drawn(signatures, MADE // 10))
        made += [signature for signature in found if signature is not None]
    for number, signature in enumerate(made):
        (tmp_path / f"made{number}_client.py").write_text(text_of(signature, f"made{number}"))
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')

    told = checked(checker, tmp_path)
    assert not re.findall(r"(\w+\.py):(\d+):.*error", told), told


def checked(checker: str, folder: Path) -> str:
    """What a type checker says of the modules in *folder*."""
    ran = subprocess.run(
        [sys.executable, "-m", checker, *CHECKERS[checker]],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=folder,
    )
    return ran.stdout + ran.stderr


# What a type checker lets pass, and what it finds.
USE = """
import numpy as np
from typing import assert_type
from iris_client import IrisClient, AsyncIrisClient, IrisPrediction, IrisPredictions
from everything_client import EverythingClient
from nullable_client import NullableClient
from tensors_client import TensorsClient
from headrace_client import Client

iris = IrisClient(Client("127.0.0.1:8001"))
row = iris.predict(sepal_length=1.0, sepal_width=2, petal_length=np.float32(3), petal_width=4.0)
assert_type(row, IrisPrediction)
assert_type(row.output_0, int)
rows = iris.predict_batch(
    sepal_length=np.zeros(2), sepal_width=[1, 2], petal_length=[1.0, 2.0], petal_width=np.ones(2)
)
assert_type(rows, IrisPredictions)
iris.predict(sepal_length="a", sepal_width=2, petal_length=3, petal_width=4.0)  # wrong
iris.predict(sepal_length=1.0)  # wrong
print(row.output_1)  # wrong
TensorsClient().predict(image=np.zeros((3, 32, 32)), weight=1.0, label="a").scores


async def main() -> None:
    async with AsyncIrisClient() as client:
        again = await client.predict(
            sepal_length=1.0, sepal_width=2, petal_length=3, petal_width=4.0
        )
        assert_type(again, IrisPrediction)


everything = EverythingClient()
answer = everything.predict(
    flag=True,
    class_=1,
    size=1.0,
    raw=b"",
    timeout_="2024-01-02",
    owner={"id": 1, "seen": "2024-01-02"},
    what=None,
    tags=["x"],
)
assert_type(answer.owner["id"], int)
nullable = NullableClient()
nullable.predict(note="a", name="a", is_new=True, raw=b"")
nullable.predict(name="a", is_new=True, raw=b"", note=None)
nullable.predict(name=None, is_new=True, raw=b"")  # wrong
nullable.predict_batch(
    note=["a", None], name=[None, "b"], is_new=[True, None], raw=[b"", None]
)
texts: list[str] = ["a", "b"]
nullable.predict_batch(name=texts, is_new=np.ones(2, bool), raw=[b"", b""], note=np.array(texts))
nullable.predict_batch(name=["a"], is_new=[1.5], raw=[b""])  # wrong
nullable.predict_batch(name=[b"a"], is_new=[None], raw=[b""])  # wrong
"""


def test_names_that_python_or_the_module_has_taken_get_an_underscore() -> None:
    names = ("class", "self", "timeout", "np", "float", "IrisPrediction", "sepal width", "values")
    signature = Signature(tuple(TensorSpec(name, "FP64", (-1,), "double") for name in names))

    assert arguments_of(text_of(signature)) == [
        *("class_", "self_", "timeout_", "np_", "float_", "IrisPrediction_", "sepal_width"),
        *("values_", "timeout"),
    ]


def test_a_parameter_called_like_an_input_is_told_from_it() -> None:
    names = ("scale", "scale_param", "timeout")
    signature = Signature(
        tuple(TensorSpec(name, "FP64", (-1,), "double") for name in names),
        (),
        tuple(ParamSpec(name, "double", 1.0) for name in ("scale", "timeout", "x")),
    )

    *inputs, scale, timeout, other, _ = arguments_of(text_of(signature))
    assert inputs == ["scale", "scale_param", "timeout_"]
    assert scale.startswith("scale_param_x")
    assert (timeout, other) == ("timeout_param", "x")


def test_a_later_column_renames_none_that_was_there() -> None:
    before = Signature((TensorSpec("a b", "FP64", (-1,), "double"),))
    after = Signature((*before.inputs, TensorSpec("a_b", "FP64", (-1,), "double")))

    first, second, _ = arguments_of(text_of(after))
    assert [first] == arguments_of(text_of(before))[:1]
    assert second.startswith("a_b_x")


def test_a_model_that_takes_no_single_row_has_no_method_for_one() -> None:
    made = module(SEVERAL["fixed"], "fixed")

    assert hasattr(made.FixedClient, "predict_batch")
    assert not hasattr(made.FixedClient, "predict")
