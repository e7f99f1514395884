"""How Keras' models are opened, called and answered, on the backend that KERAS_BACKEND names."""

import functools
import gc
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deep_models
import models
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import Artifact, LoadError
from headrace_server.adapters.keras import KerasAdapter
from headrace_server.devices import open_device

keras: Any = pytest.importorskip("keras", reason="needs Keras")
h5py: Any = pytest.importorskip("h5py", reason="needs h5py, as Keras does")

# Keras' torch backend turns tensors into arrays in a way that numpy 2 advises against.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Opener = Callable[..., KerasAdapter]
ON_TORCH = keras.backend.backend() == "torch"
ROWS: models.Tensors = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}


@functools.cache
def opened(name: str) -> KerasAdapter:
    return KerasAdapter(models.model(name).artifact, open_device("cpu"))


@pytest.fixture(name="open_model")
def _open_model(tmp_path: Path) -> Opener:
    def open_model(model: Any, signature: Signature | None = None, **fields: Any) -> KerasAdapter:
        (tmp_path / "data").mkdir()
        model.save(tmp_path / "data" / "model.keras")
        config = {"data": "data", "keras_backend": keras.backend.backend()}
        return KerasAdapter(Artifact(tmp_path, config, {}, signature, **fields), open_device("cpu"))

    return open_model


def doubling(dtype: str = "float32") -> Any:
    given = keras.Input((2,), name="x", dtype=dtype)
    return keras.Model(given, given * 2)


@keras.saving.register_keras_serializable("headrace")
class Asking(keras.Model):  # type: ignore[misc]
    """Says what predicting is, and whether it was called as in training."""

    def call(self, given: Any, training: bool = True) -> Any:
        return given * (2.0 if training else 3.0)


@keras.saving.register_keras_serializable("headrace")
class Predicting(Asking):
    def predict_step(self, data: Any) -> Any:
        return self(data, training=False) + 1.0


def test_without_a_signature_the_model_tells_its_own_inputs() -> None:
    assert opened("keras_unsigned").signature == Signature((TensorSpec("words", "INT64", (-1, 5)),))


def test_several_outputs_without_declared_names_have_those_of_their_layers() -> None:
    answer = opened("keras_unsigned").predict(models.model("keras_unsigned").rows(2))

    assert {name: array.shape for name, array in answer.items()} == {
        "logits": (2, 2),
        "memory": (2, 3),
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a", "b"), [1.0 - 2.0]),
        (("b", "a"), [1.0 - 2.0]),
        # Names that the model does not know: by position.
        (("input-0", "input-1"), [1.0 - 2.0]),
    ],
)
@pytest.mark.parametrize("structure", [list, dict])
def test_inputs_are_fed_by_name_else_by_position(
    structure: type, names: tuple[str, str], expected: list[float], open_model: Opener
) -> None:
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    inputs = [a, b] if structure is list else {"a": a, "b": b}
    signature = Signature(tuple(TensorSpec(name, "FP32", (-1, 1)) for name in names))
    adapter = open_model(keras.Model(inputs, a - b), signature)
    values = {"a": 1.0, "b": 2.0, "input-0": 1.0, "input-1": 2.0}

    answer = adapter.predict({name: np.array([[values[name]]], np.float32) for name in names})

    assert answer["output-0"].ravel().tolist() == expected


def test_a_signature_of_more_inputs_than_the_model_has_is_an_error_of_loading(
    open_model: Opener,
) -> None:
    signature = Signature(tuple(TensorSpec(name, "FP32", (-1, 2)) for name in "xy"))

    with pytest.raises(LoadError, match=r"the signature's inputs \['x', 'y'\] do not match the "):
        open_model(doubling(), signature)


def test_a_model_that_takes_a_dict_of_one_gets_it(open_model: Opener) -> None:
    given = keras.Input((2,), name="x")
    adapter = open_model(keras.Model({"x": given}, given * 2))

    assert adapter.predict(ROWS)["output-0"].tolist() == (ROWS["x"] * 2).tolist()


def test_a_name_that_the_model_has_for_another_input_is_an_error_of_loading(
    open_model: Opener,
) -> None:
    """By position "a" would be fed to "b"."""
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    signature = Signature(tuple(TensorSpec(name, "FP32", (-1, 1)) for name in ("c", "a")))

    with pytest.raises(LoadError, match=r"the signature's inputs \['c', 'a'\] do not match the "):
        open_model(keras.Model([a, b], a - b), signature)


def test_outputs_take_the_declared_names_where_their_numbers_agree(open_model: Opener) -> None:
    given = keras.Input((2,), name="x")
    inputs = (TensorSpec("x", "FP32", (-1, 2)),)
    outputs = tuple(TensorSpec(name, "FP32", (-1, 2)) for name in ("double", "triple"))

    answer = open_model(
        keras.Model(given, [given * 2, given * 3]), Signature(inputs, outputs)
    ).predict(ROWS)

    assert answer["double"].tolist() == (ROWS["x"] * 2).tolist()
    assert answer["triple"].tolist() == (ROWS["x"] * 3).tolist()


def test_a_model_is_never_called_as_in_training(open_model: Opener) -> None:
    model = Asking()
    model(ROWS["x"])
    inputs = Signature((TensorSpec("x", "FP32", (-1, 2)),))

    assert open_model(model, inputs).predict(ROWS)["output-0"].tolist() == (ROWS["x"] * 3).tolist()


@keras.saving.register_keras_serializable("headrace")
class Centring(keras.Model):  # type: ignore[misc]
    """Its answer to a row depends on those beside it."""

    def call(self, given: Any) -> Any:
        return given - keras.ops.mean(given, axis=0, keepdims=True)


def test_a_model_of_whole_batches_is_asked_in_those_of_predict(open_model: Opener) -> None:
    """They have 32 rows, and so MLflow's answer to more is not that of one call."""
    rows = np.arange(80, dtype=np.float32).reshape(40, 2) ** 2
    model = Centring()
    expected = model.predict(rows, verbose=0)
    inputs = Signature((TensorSpec("x", "FP32", (-1, 2)),))

    answer = open_model(model, inputs).predict({"x": rows})["output-0"]

    assert answer.tolist() == expected.tolist()
    assert np.abs(expected - np.asarray(rows - rows.mean(axis=0))).max() > 1


def test_a_model_that_is_shown_to_answer_alike_is_called_as_a_function(open_model: Opener) -> None:
    adapter = open_model(doubling(), Signature((TensorSpec("x", "FP32", (-1, 2)),)))

    assert adapter._is_quick


def test_a_model_that_answers_all_rows_alike_is_asked_by_predict(open_model: Opener) -> None:
    given = keras.Input((2,), name="x")
    adapter = open_model(keras.Model(given, given * 0.0))

    assert not adapter._is_quick
    assert adapter.predict(ROWS)["output-0"].tolist() == [[0.0, 0.0]] * 3


def test_a_model_that_says_what_predicting_is_is_asked_so(open_model: Opener) -> None:
    model = Predicting()
    model(ROWS["x"])
    expected = model.predict(ROWS["x"], verbose=0)
    inputs = Signature((TensorSpec("x", "FP32", (-1, 2)),))

    answer = open_model(model, inputs).predict(ROWS)["output-0"]

    assert answer.tolist() == expected.tolist() == (ROWS["x"] * 3 + 1).tolist()


def test_predict_itself_can_be_asked_for(
    open_model: Opener, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = open_model(doubling(), method="predict")

    assert adapter.predict(ROWS)["output-0"].tolist() == (ROWS["x"] * 2).tolist()
    assert capsys.readouterr().out == "", "a progress bar is drawn"


def test_a_method_that_the_model_lacks_is_an_error_of_loading(open_model: Opener) -> None:
    with pytest.raises(LoadError, match=r"^Functional has no method 'tripled'$"):
        open_model(doubling(), method="tripled")


def test_doubles_are_cast_as_predict_casts_them(open_model: Opener) -> None:
    signature = Signature((TensorSpec("x", "FP64", (-1, 2)),))

    answer = open_model(doubling(), signature).predict({"x": ROWS["x"].astype(np.float64)})

    assert answer["output-0"].dtype == np.float32


def test_half_precision_of_brains_comes_back_as_float32(open_model: Opener) -> None:
    adapter = open_model(doubling("bfloat16"))

    assert adapter.signature == Signature((TensorSpec("x", "FP32", (-1, 2)),))
    answer = adapter.predict(ROWS)["output-0"]
    assert answer.dtype == np.float32
    assert answer.tolist() == (ROWS["x"] * 2).tolist()


@pytest.mark.skipif(not ON_TORCH, reason="the other backends take strings")
def test_torch_is_given_no_strings(open_model: Opener) -> None:
    with pytest.raises(LoadError, match=r"^torch takes no strings, but input 'x' is BYTES$"):
        open_model(doubling(), Signature((TensorSpec("x", "BYTES", (-1, 2)),)))


def shifted() -> Any:
    """A model with a Lambda layer, whose code is in its file."""
    given = keras.Input((2,), name="x")
    return keras.Model(given, keras.layers.Lambda(lambda x: x + 1, output_shape=(2,))(given))


@pytest.mark.parametrize("switch", [None, "false"])
def test_code_in_a_model_is_not_run_unless_the_operator_says_so(
    switch: str | None, open_model: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", raising=False)
    if switch is not None:
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", switch)

    with pytest.raises(LoadError, match="set MLFLOW_ALLOW_PICKLE_DESERIALIZATION=true"):
        open_model(shifted())


def test_code_in_a_model_is_run_where_the_operator_says_so(
    open_model: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")

    answer = open_model(shifted()).predict(ROWS)

    assert answer["output-0"].tolist() == (ROWS["x"] + 1).tolist()


def test_a_folder_without_a_model_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    with pytest.raises(LoadError, match=r"^'data' holds neither 'model.keras' nor 'model.h5'$"):
        KerasAdapter(Artifact(tmp_path, {"data": "data"}, {}, None), open_device("cpu"))


def test_a_closed_adapter_lets_go_of_the_model() -> None:
    def count() -> int:
        return sum(type(item).__name__ == "Dense" for item in gc.get_objects())

    models.model("keras_dense")
    gc.collect()
    gc.freeze()  # Counting then passes over all that was there before.
    try:
        adapter = KerasAdapter(models.model("keras_dense").artifact, open_device("cpu"))
        adapter.predict(models.model("keras_dense").rows(2))
        while_open = count()
        adapter.close()
        # Layers refer to each other in circles; a worker collects such models when it unloads.
        gc.collect()
        afterwards = count()
    finally:
        gc.unfreeze()

    assert while_open == 2
    assert afterwards == 0


_LOAD = """
import sys
from pathlib import Path
from headrace_server.adapters import Artifact
from headrace_server.adapters.keras import KerasAdapter
from headrace_server.devices import open_device
config = {"data": "data", "keras_backend": sys.argv[2]}
KerasAdapter(Artifact(Path(sys.argv[1]), config, {}, None), open_device("cpu"))
import keras
print(keras.backend.backend())
"""


@pytest.mark.skipif(not ON_TORCH, reason="one environment shows it")
def test_a_model_of_a_backend_that_is_not_installed_is_served_on_one_that_is() -> None:
    path = models.model("keras_unsigned").path
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}

    found = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path), "jax"],
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )

    assert found.stdout.strip() == "torch"
    assert "keras_unsigned" in deep_models.NAMES


@pytest.mark.parametrize("way", ["external", "virtual", "link", "no file"])
def test_weights_that_lie_in_another_file_are_refused_where_code_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """HDF5 can say so; what the other file holds would come back in the model's answers."""
    (tmp_path / "secret").write_bytes(bytes(32))
    with h5py.File(tmp_path / "model.weights.h5", "w") as weights:
        if way == "external":
            weights.create_dataset("w", (4,), "f8", external=[(str(tmp_path / "secret"), 0, 32)])
        elif way == "virtual":
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret"), "w", (4,))
            weights.create_virtual_dataset("w", layout)
        elif way == "link":
            weights.create_group("layers")["w"] = h5py.ExternalLink(str(tmp_path / "secret"), "/")
    given = keras.Input((2,), name="x")
    keras.Model(given, keras.layers.Dense(1)(given)).save(tmp_path / "saved.keras")
    (tmp_path / "data").mkdir()
    with (
        zipfile.ZipFile(tmp_path / "saved.keras") as source,
        zipfile.ZipFile(tmp_path / "data" / "model.keras", "w") as target,
    ):
        for name in ("config.json", "metadata.json"):
            target.writestr(name, source.read(name))
        target.write(tmp_path / "model.weights.h5", "model.weights.h5")
    if way == "no file":
        (tmp_path / "data" / "model.keras").write_bytes(b"x")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    artifact = Artifact(tmp_path, {"data": "data"}, {}, None)
    with pytest.raises(LoadError, match=r"lie in another file|a link to elsewhere|no .keras file"):
        KerasAdapter(artifact, open_device("cpu"))


def test_weights_that_are_all_there_are_loaded_where_code_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    assert KerasAdapter(models.model("keras_dense").artifact, open_device("cpu"))
