"""How SavedModels are opened, called and answered; `make test-flavors` has TensorFlow."""

import functools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from headrace.signature import Signature, TensorSpec
from headrace_server.adapters import Adapter, Artifact, LoadError
from headrace_server.adapters.tensorflow import TensorflowAdapter
from headrace_server.devices import open_device
from headrace_server.worker.loop import _references

tf: Any = pytest.importorskip("tensorflow", reason="needs TensorFlow: make test-flavors")

FLOATS = np.array([1.0, 2.0], np.float32)


@functools.cache
def opened(name: str, **fields: Any) -> Adapter:
    return TensorflowAdapter(replace(models.model(name).artifact, **fields), open_device("cpu"))


def test_without_a_signature_the_one_that_is_served_tells_its_inputs() -> None:
    signature = opened("tf_signatures").signature

    assert signature == Signature(
        (TensorSpec("left", "FP32", (-1,)), TensorSpec("right", "FP32", (-1,)))
    )


def test_another_signature_can_be_asked_for_as_a_method() -> None:
    adapter = opened("tf_signatures", method="double")

    assert adapter.signature == Signature((TensorSpec("left", "FP32", (-1,)),))
    assert adapter.predict({"left": FLOATS})["double"].tolist() == [2.0, 4.0]


def test_a_signature_that_the_savedmodel_lacks_is_an_error_of_loading() -> None:
    with pytest.raises(LoadError) as raised:
        opened("tf_signatures", method="triple")

    assert str(raised.value) == (
        "the SavedModel has no signature 'triple': expected one of ['double', 'serving_default']"
    )


@pytest.mark.parametrize(
    ("names", "difference"), [(("right", "left"), [9.0, 18.0]), (("a", "b"), [-9.0, -18.0])]
)
def test_inputs_are_fed_by_name_else_by_position(
    names: tuple[str, str], difference: list[float]
) -> None:
    """difference = left - right."""
    signature = Signature(tuple(TensorSpec(name, "FP32", (-1,)) for name in names))
    adapter = opened("tf_signatures", signature=signature)

    answer = adapter.predict(dict(zip(names, (FLOATS, FLOATS * 10), strict=True)))

    assert answer["difference"].tolist() == difference


def test_texts_come_out_as_bytes() -> None:
    (answer,) = opened("tf_texts").predict({"text": np.array(["Łódź", ""], object)}).values()

    assert answer.tolist() == ["ŁÓDŹ".encode(), b""]


def test_a_model_of_tensorflow_1_is_called_by_the_key_that_its_mlmodel_names(
    tmp_path: Path,
) -> None:
    """Such models are no longer logged; MLflow flattens outputs of one column."""

    class Column(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32)])  # type: ignore[untyped-decorator]
        def column(self, x: Any) -> Any:
            return {"y": tf.reshape(x, (-1, 1)) + 1}

    module = Column()
    tf.saved_model.save(module, str(tmp_path / "estimator"), signatures={"predict": module.column})
    config = {
        "saved_model_dir": "estimator",
        "meta_graph_tags": ["serve"],
        "signature_def_key": "predict",
    }

    adapter = TensorflowAdapter(Artifact(tmp_path, config, {}, None), open_device("cpu"))

    assert adapter.predict({"x": FLOATS})["y"].tolist() == [2.0, 3.0]


def test_classes_of_a_keras_model_are_unpickled_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cloudpickle
    import keras

    class Tripled(keras.layers.Layer):  # type: ignore[misc]
        def call(self, given: Any) -> Any:
            return given * 3

    given = keras.Input((2,), name="x")
    (tmp_path / "data").mkdir()
    keras.Model(given, Tripled()(given)).save(tmp_path / "data" / "model.keras")
    pickled = cloudpickle.dumps({"Tripled": Tripled})
    (tmp_path / "data" / "custom_objects.cloudpickle").write_bytes(pickled)
    artifact = Artifact(tmp_path, {"data": "data", "model_type": "keras"}, {}, None)

    adapter = TensorflowAdapter(artifact, open_device("cpu"))

    rows = np.ones((1, 2), np.float32)
    assert adapter.predict({"x": rows})["output-0"].tolist() == [[3.0, 3.0]]
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with pytest.raises(LoadError, match=r"^'custom_objects.cloudpickle' is a pickle, and MLFLOW"):
        TensorflowAdapter(artifact, open_device("cpu"))


def test_a_worker_sees_whether_the_model_behind_is_gone() -> None:
    adapter = TensorflowAdapter(models.model("tf_keras").artifact, open_device("cpu"))

    kinds = {type(reference()).__name__ for reference in _references(adapter)}

    assert "Sequential" in kinds


@pytest.mark.parametrize("folder", ["gone", ""])
def test_an_artifact_without_its_savedmodel_does_not_load(folder: str) -> None:
    artifact = models.model("tf_module").artifact
    config = {**artifact.config, "saved_model_dir": folder}

    with pytest.raises(LoadError, match=r"saved_model_dir|lacks 'gone'"):
        TensorflowAdapter(replace(artifact, config=config), open_device("cpu"))


def test_a_file_of_something_else_does_not_load(tmp_path: Path) -> None:
    artifact = models.model("tf_module").artifact
    (tmp_path / "tf2model").mkdir()
    (tmp_path / "tf2model" / "saved_model.pb").write_bytes(b"not a model\n" * 10)

    with pytest.raises(LoadError, match=r"^the model does not load: \w+: [^\n]*\Z"):
        TensorflowAdapter(replace(artifact, path=tmp_path), open_device("cpu"))


_LOAD = """
import sys
from pathlib import Path
from headrace_server.adapters import Artifact
from headrace_server.adapters.tensorflow import TensorflowAdapter
from headrace_server.devices import open_device
artifact = Artifact(Path(sys.argv[1]), {"saved_model_dir": "tf2model"}, {}, None)
TensorflowAdapter(artifact, open_device("cpu", threads=3))
import tensorflow as tf
print(tf.config.threading.get_intra_op_parallelism_threads())
"""


def test_a_process_of_its_own_computes_with_the_threads_of_its_device() -> None:
    path = models.model("tf_texts").path

    found = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path)], capture_output=True, check=True, text=True
    )

    assert found.stdout.strip() == "3"
