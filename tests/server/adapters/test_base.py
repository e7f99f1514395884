"""What adapters share: naming outputs, stacking columns, one sentence per failed load."""

from pathlib import Path

import numpy as np
import pytest

from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import Artifact, LoadError, adapter_of
from headrace_server.adapters.base import (
    CAUSE_CHARS_MAX,
    is_unpickling_allowed,
    loading,
    name_outputs,
    spec_of,
    stack_columns,
)

X = TensorSpec("x", "FP64", (-1,), "double")


def outputs_named(*names: str, kind: str = "tensor") -> Signature:
    return Signature((X,), tuple(TensorSpec(name, "FP64", (-1,), kind) for name in names))


def test_a_dict_gives_its_keys_as_names() -> None:
    named = name_outputs({"a": [1.0], 2: [2.0]}, outputs_named("b", "c"))

    assert {name: array.tolist() for name, array in named.items()} == {"a": [1.0], "2": [2.0]}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (np.zeros((2, 3)), {"output-0": (2, 3)}),
        ((np.zeros(2), np.zeros((2, 1))), {"output-0": (2,), "output-1": (2, 1)}),
        ([np.zeros(2), np.zeros((2, 1))], {"output-0": (2,), "output-1": (2, 1)}),
        ([1.0, 2.0, 3.0], {"output-0": (3,)}),
        (["a", "b"], {"output-0": (2,)}),
        # Rows of their own, which are typed once all is known.
        ([[1, 2], [3, 4], [5, 6]], {"output-0": (3,)}),
        ([], {"output-0": (0,)}),
    ],
)
def test_undeclared_outputs_are_numbered(
    result: object, expected: dict[str, tuple[int, ...]]
) -> None:
    named = name_outputs(result, None)

    assert {name: array.shape for name, array in named.items()} == expected


def test_declared_names_are_used_where_their_number_is_right() -> None:
    pair = (np.zeros(2), np.ones(2))

    assert list(name_outputs(pair, outputs_named("a", "b"))) == ["a", "b"]
    assert list(name_outputs(pair, outputs_named("a"))) == ["output-0", "output-1"]


def test_a_table_is_taken_apart_into_declared_columns() -> None:
    table = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    named = name_outputs(table, outputs_named("a", "b", kind="double"))

    assert {k: v.tolist() for k, v in named.items()} == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}


def test_a_tensor_as_wide_as_there_are_declared_tensors_stays_whole() -> None:
    assert list(name_outputs(np.zeros((3, 2)), outputs_named("a", "b"))) == ["output-0"]


def test_the_spec_of_an_output_leaves_the_rows_open() -> None:
    assert spec_of("a", np.zeros((5, 3), np.int32)) == TensorSpec("a", "INT32", (-1, 3))


def test_columns_are_stacked_row_by_row_in_their_order() -> None:
    columns = [np.array([1, 2], np.int64), np.array([0.5, 1.5])]

    table = stack_columns(columns, np.float32)

    assert table.tolist() == [[1.0, 0.5], [2.0, 1.5]]
    assert table.dtype == np.float32
    assert table.flags.c_contiguous


def test_a_failed_load_is_told_in_one_bounded_line() -> None:
    with pytest.raises(LoadError) as raised, loading("sklearn", ("sklearn",)):
        raise ValueError("first " + "x" * 1000 + "\nsecond line")

    message = str(raised.value)
    assert message.startswith("the model does not load: ValueError: first xxx")
    assert "\n" not in message
    assert len(message) < CAUSE_CHARS_MAX + 50
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_load_error_passes_through_as_it_is() -> None:
    with pytest.raises(LoadError, match=r"^as it is$"), loading("sklearn", ()):
        raise LoadError("as it is")


def test_a_module_of_the_models_own_is_named_without_a_pip_line() -> None:
    with (
        pytest.raises(LoadError, match=r"^the model needs the module 'their\.code', which is not"),
        loading("sklearn", ("sklearn",)),
    ):
        raise ModuleNotFoundError("No module named 'their.code'", name="their.code")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("1", True), ("false", False), ("False", False), ("0", False)],
)
def test_mlflows_switch_forbids_unpickling(
    value: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", value)

    assert is_unpickling_allowed() is expected


def test_unpickling_is_allowed_where_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", raising=False)

    assert is_unpickling_allowed()


def test_an_artifact_knows_the_files_its_flavor_names(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    artifact = Artifact(tmp_path, {"data": "model.bin"}, {}, None)

    assert artifact.file("data") == tmp_path / "model.bin"


@pytest.mark.parametrize("flavor", ["prophet", "base", "../sklearn", ""])
def test_a_flavor_without_an_adapter_is_an_error(flavor: str) -> None:
    with pytest.raises(LoadError, match=f"^the flavor {flavor!r} has no adapter, "):
        adapter_of(flavor)
