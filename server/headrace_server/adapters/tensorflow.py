"""Tensorflow: what MLflow's tensorflow flavor saved, a module as a SavedModel or a model of Keras'.

Models of Keras' are served as those of the keras flavor are.
"""

from dataclasses import replace
from typing import Any

from headrace.signature import Signature

from ..devices import Device
from .base import NO_PARAMS, Adapter, Artifact, Params, Tensors
from .keras import KerasAdapter
from .savedmodel import SavedModelAdapter


class TensorflowAdapter(Adapter):
    """A SavedModel, or a model of Keras'."""

    is_accelerated = True

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, device)
        self._served: Adapter
        if artifact.config.get("model_type") == "keras":
            config = {**artifact.config, "keras_backend": "tensorflow"}
            self._served = KerasAdapter(replace(artifact, config=config), device)
        else:
            self._served = SavedModelAdapter(artifact, device)

    @property
    def signature(self) -> Signature | None:
        """The artifact's, else the model's own."""
        return self._served.signature

    def stage(self, tensors: Tensors) -> Any:
        """As the format's adapter does."""
        return self._served.stage(tensors)

    def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
        """As the format's adapter does."""
        return self._served.launch(staged, params)

    def finish(self, launched: Any) -> Tensors:
        """As the format's adapter does."""
        return self._served.finish(launched)

    def close(self) -> None:
        """Let go of the model."""
        self._served.close()
        del self._served


ADAPTER = TensorflowAdapter
