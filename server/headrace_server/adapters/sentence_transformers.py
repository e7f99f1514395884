"""Sentence_transformers: models that turn texts into vectors.

`encode` is called with all texts of a batch, in runs of 32 unless more are shown to be answered
alike. It answers what MLflow's pyfunc answers but for one
form: the body of an embeddings API, which MLflow makes where a model was logged for such a task and
its input is a dict. Nothing is fetched from the Hugging Face Hub, as with transformers.
"""

from functools import partial
from typing import Any

from headrace.datatypes import BYTES
from headrace.signature import Signature

from ..devices import Device
from .base import (
    NO_PARAMS,
    Adapter,
    Artifact,
    LoadError,
    Params,
    Tensors,
    all_required,
    is_unpickling_allowed,
    loading,
    name_outputs,
)
from .quickways import Yardstick
from .raw import mapped, raw_array
from .transformers import ONE_TEXT, prepare_hub

# Where MLflow keeps the model, which its MLmodel file does not tell.
FOLDER = "model.sentence_transformer"
# More texts than `encode` takes at once by itself, and how far apart two vectors may lie.
_ROWS = 40
_TOLERANCE = 1e-3


class SentenceTransformersAdapter(Adapter):
    """A SentenceTransformer on its device."""

    is_accelerated = True
    takes_params = True

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, device)
        self._signature = all_required(artifact.signature or ONE_TEXT)
        specs = self._signature.inputs
        if len(specs) != 1 or specs[0].datatype != BYTES.name:
            shown = [f"{spec.name} {spec.datatype}" for spec in specs]
            raise LoadError(f"a model of sentences takes one input of texts, not {shown}")
        folder = artifact.path / FOLDER
        if not folder.is_dir():
            raise LoadError(f"the artifact lacks {FOLDER!r}")
        with loading("sentence-transformers", ("sentence_transformers", "transformers", "torch")):
            prepare_hub(device)
            import sentence_transformers

            # As MLflow does: code in the artifact is a part of the model, where it may have any.
            self._model = sentence_transformers.SentenceTransformer(
                str(folder), device=device.name, trust_remote_code=is_unpickling_allowed()
            )
        method = getattr(self._model, artifact.method or "encode", None)
        if not callable(method):
            raise LoadError(f"a SentenceTransformer has no method {artifact.method!r}")
        self._encode = method
        # Of how many texts at once it takes any number; else as many as its own default has it.
        self._is_unbounded = False
        if not artifact.method:
            self._is_unbounded = self._is_shown_unbounded()

    @property
    def signature(self) -> Signature:
        """The artifact's, else one text per row."""
        return self._signature

    def _is_shown_unbounded(self) -> bool:
        """Whether more texts at once than `encode` takes by itself have the same vectors."""

        def ask(rows: Tensors, *, is_unbounded: bool) -> Tensors:
            self._is_unbounded = is_unbounded
            return self.predict(rows)

        yardstick = Yardstick(
            partial(ask, is_unbounded=False),
            self._signature,
            self.artifact.example,
            rows=_ROWS,
            tolerance=_TOLERANCE,
        )
        return yardstick.allows(partial(ask, is_unbounded=True))

    def stage(self, tensors: Tensors) -> list[str]:
        """The texts."""
        (column,) = tensors.values()
        texts: list[str] = column.tolist()
        return texts

    def launch(self, staged: list[str], params: Params = NO_PARAMS) -> Any:
        """Encode all texts at once, with *params* as options of `encode`."""
        options = {"batch_size": len(staged)} if self._is_unbounded else {}
        return self._encode(staged, **{**options, "show_progress_bar": False, **params})

    def finish(self, launched: Any) -> Tensors:
        """Name the vectors, [rows, features]; a list has a row per text, whatever that is."""
        found = mapped(lambda one: self.device.finish(one) if _is_tensor(one) else one, launched)
        return name_outputs(raw_array(found), self._signature)

    def close(self) -> None:
        """Let go of the model."""
        # Its card refers back to it: the weights would wait for the collector.
        self._model.model_card_data = None
        del self._encode, self._model


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach")


ADAPTER = SentenceTransformersAdapter
