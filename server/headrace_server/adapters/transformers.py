"""Transformers: pipelines that MLflow's transformers flavor saved.

Texts go through the pipeline as one batch where padding is shown to change no answer, else one by
one, as MLflow has it. Its answers become what MLflow makes of them, one value per text; tasks that
are not in ANSWERS are answered by MLflow's own wrapper, past its checks.
Nothing is fetched from the Hugging Face Hub unless the operator sets HF_HUB_OFFLINE=0.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any, Final

import numpy as np

from headrace.datatypes import BYTES
from headrace.jsontext import write_json
from headrace.signature import Signature, TensorSpec

from ..devices import Device
from .base import (
    NO_PARAMS,
    Adapter,
    Array,
    Artifact,
    LoadError,
    Params,
    Tensors,
    all_required,
    default_params,
    is_unpickling_allowed,
    loading,
    name_outputs,
)
from .outputs import named_outputs
from .quickways import Yardstick
from .tables import frame_of

# What MLflow gives a model without a signature, where it knows the task.
ONE_TEXT = Signature((TensorSpec("input-0", BYTES.name, (-1,), "string"),))


# With what padding is tried: texts of several lengths, all labels of each, and the few words that
# are the likeliest behind it. In half precision an answer may be a little off.
_TEXTS: Final = ("x", "a red house by the sea", "yes and no", "it was the end of a day at last")
_TRIED_WITH: Final[Mapping[str, Params]] = {
    "TextGenerationPipeline": {"do_sample": False, "max_new_tokens": 8, "return_full_text": False},
    "TextClassificationPipeline": {"top_k": None},
}
_ROWS: Final = 4
_TOLERANCE: Final = 1e-3
_SLOW_S: Final = 20.0


class TransformersAdapter(Adapter):
    """A pipeline on its device."""

    is_accelerated = True
    takes_params = True

    def __init__(self, artifact: Artifact, device: Device) -> None:
        super().__init__(artifact, device)
        if artifact.method:
            raise LoadError(f"a pipeline has no methods, so {artifact.method!r} cannot be called")
        self._signature = all_required(artifact.signature or ONE_TEXT)
        with loading("transformers", ("transformers", "torch")):
            prepare_hub(device)
            self._pipeline = _open(artifact, device)
            self._template = _prompt_template(artifact.path)
        self._config = dict(artifact.pyfunc.get("config") or {})
        specs = self._signature.inputs
        self._answer = _answer_of(self._pipeline, artifact.config, specs)
        self._by_mlflow: Any = None
        if self._answer is None:
            with loading("server", ("mlflow", "pandas")):
                self._by_mlflow = _mlflow_wrapper(artifact, self._pipeline, self._template)
        kind = type(self._pipeline).__name__
        # This one pipeline answers a list of one as it does the one.
        self._is_unwrapped = kind == "FillMaskPipeline"
        # A batch needs something to fill up shorter texts with, which no answer may show.
        tokenizer = getattr(self._pipeline, "tokenizer", None)
        may_pad = getattr(tokenizer, "pad_token_id", None) is not None
        self._is_padded = False
        if may_pad and kind != "FeatureExtractionPipeline" and self._answer is not None:
            self._is_padded = self._is_shown_padded()

    @property
    def signature(self) -> Signature:
        """The artifact's, else one text per row."""
        return self._signature

    def _is_shown_padded(self) -> bool:
        """Whether texts of several lengths have the answers as one batch that each has alone."""
        kind = type(self._pipeline).__name__
        params = {**default_params(self._signature), **_TRIED_WITH.get(kind, {})}

        def ask(rows: Tensors, *, is_padded: bool) -> Tensors:
            self._is_padded = is_padded
            raw = self._raw(self.stage(rows), params)
            # Behind labels there are numbers, which tell more.
            is_text = kind == "TextGenerationPipeline"
            return {"texts": _generated(raw)} if is_text else {"scores": _scores(raw)}

        yardstick = Yardstick(
            partial(ask, is_padded=False),
            self._signature,
            self.artifact.example,
            rows=_ROWS,
            choices=self._texts(),
            tolerance=_TOLERANCE,
            slow_s=_SLOW_S,
        )
        return yardstick.allows(partial(ask, is_padded=True))

    def _texts(self) -> dict[str, Array]:
        """Texts to try where there is no example: what is to be filled in needs a mask."""
        if self.artifact.example is not None:
            return {}
        mask = getattr(getattr(self._pipeline, "tokenizer", None), "mask_token", None)
        end = f" {mask}" if self._is_unwrapped and mask else ""
        words = np.array([f"{text}{end}" for text in _TEXTS], object)
        return {spec.name: words for spec in self._signature.inputs}

    def stage(self, tensors: Tensors) -> Any:
        """The texts, as MLflow's prompt template has them; pairs of texts as dicts."""
        if self._by_mlflow is not None:
            return frame_of(tensors, self._signature.inputs)
        columns = [column.tolist() for column in tensors.values()]
        if len(columns) > 1:
            return [dict(zip(tensors, row, strict=True)) for row in zip(*columns, strict=True)]
        if self._template is None:
            return columns[0]
        return [self._template.format(prompt=text) for text in columns[0]]

    def launch(self, staged: Any, params: Params = NO_PARAMS) -> Any:
        """Call the pipeline with all texts at once, and make MLflow's answer of what it says."""
        if self._answer is None:
            return self._by_mlflow.predict(staged, dict(params) or None)
        is_collapsed = {**self._config, **params}.get("collapse_whitespace", False)
        answer = self._answer(self._raw(staged, params))
        return _collapsed(answer) if is_collapsed else answer

    def _raw(self, texts: list[Any], params: Params) -> list[Any]:
        """What the pipeline says of each of *texts*."""
        options = {**self._config, **params}
        # Two of MLflow's own; the first is for a pipeline that is not served here.
        options.pop("include_prompt", None)
        options.pop("collapse_whitespace", None)
        batch_size = len(texts) if self._is_padded else 1
        raw: list[Any] = self._pipeline(texts, **{"batch_size": batch_size, **options})
        return [raw] if self._is_unwrapped and len(texts) == 1 else raw

    def finish(self, launched: Any) -> Tensors:
        """Name the outputs."""
        if self._answer is None:
            return named_outputs(launched, self._signature)
        return launched if isinstance(launched, dict) else name_outputs(launched, self._signature)

    def close(self) -> None:
        """Let go of the pipeline."""
        del self._pipeline, self._by_mlflow


# Loading.


def prepare_hub(device: Device) -> None:
    """Settle, before their import, what Hugging Face's libraries read at it, and torch's threads.

    They fetch nothing unless the operator says otherwise, draw no progress bars into the log, and
    do not split texts into tokens on threads of their own.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(device.threads)


def _open(artifact: Artifact, device: Device) -> Any:
    """The pipeline of the components that were saved."""
    import torch
    import transformers

    config = artifact.config
    _refuse_hub(config)
    is_plain = not {"peft_adaptor", "local_base_model_path", "processor_type"} & config.keys()
    weights = artifact.file("model_binary") if is_plain and not _is_offered_hub(config) else None
    model_type = getattr(transformers, str(config.get("pipeline_model_type")), None)
    names = config.get("components") or []
    types: dict[str, Any] = {
        name: getattr(transformers, str(config.get(f"{name}_type")), None) for name in names
    }
    if not is_unpickling_allowed():
        _refuse_others(weights, model_type, types.values())
    if weights is None or model_type is None or None in types.values():
        # Code that came with the model, adapters on top of it, and other ways to keep weights.
        import mlflow.transformers

        return mlflow.transformers.load_model(str(artifact.path), device=device.name)
    dtype = str(config.get("torch_dtype") or "").removeprefix("torch.")
    model = model_type.from_pretrained(str(weights), dtype=getattr(torch, dtype, None))
    components = {
        name: found.from_pretrained(str(artifact.path / "components" / name))
        for name, found in types.items()
    }
    return transformers.pipeline(config["task"], model=model, device=device.name, **components)


def _refuse_others(weights: Path | None, model_type: Any, components: Iterable[Any]) -> None:
    """Refuse what is not made of transformers' own models and tokenizers.

    Other classes there, of which some unpickle, have a from_pretrained too.
    """
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    is_own = weights is not None and _is_kind_of(model_type, PreTrainedModel)
    if not is_own or not all(_is_kind_of(one, PreTrainedTokenizerBase) for one in components):
        raise LoadError(
            "the pipeline is more than a model and a tokenizer of transformers' own, which "
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false forbids"
        )


def _is_kind_of(found: Any, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)


def _is_offered_hub(config: Mapping[str, Any]) -> bool:
    """Whether the weights are in the Hub: MLflow notes their revision only where it saved none."""
    return "source_model_revision" in config


def _refuse_hub(config: Mapping[str, Any]) -> None:
    is_offline = os.environ["HF_HUB_OFFLINE"].strip().upper() in {"1", "ON", "YES", "TRUE"}
    if _is_offered_hub(config) and is_offline:
        raise LoadError(
            f"the artifact holds no weights, only the name {config.get('source_model_name')!r} in "
            "the Hugging Face Hub, and nothing is fetched from there: log the model with "
            "save_pretrained=True, or set HF_HUB_OFFLINE=0"
        )


def _prompt_template(path: Path) -> str | None:
    """The template around each text, which stands in the metadata of the MLmodel file."""
    file = path / "MLmodel"
    if "prompt_template" not in file.read_text():
        return None
    from mlflow.models import Model

    template: str | None = (Model.load(str(file)).metadata or {}).get("prompt_template")
    if template is not None and not is_unpickling_allowed():
        for _, name, form, _ in Formatter().parse(template):
            if name not in (None, "prompt") or form:
                raise LoadError(f"its prompt_template asks for {name!r}: expected 'prompt' alone")
    return template


def _mlflow_wrapper(artifact: Artifact, pipeline: Any, template: str | None) -> Any:
    from mlflow.transformers import _TransformersWrapper

    config = dict(artifact.pyfunc.get("config") or {})
    return _TransformersWrapper(pipeline, dict(artifact.config), config, template)


# Answers, as MLflow makes them of a pipeline's.


def _classified(rows: list[Any]) -> Tensors:
    """The best label and its score; with top_k one output per place, a dict in each row."""
    if isinstance(rows[0], dict):
        labels = (row["label"] for row in rows)
        scores = np.fromiter((row["score"] for row in rows), np.float64, len(rows))
        return {"label": _objects(labels, len(rows)), "score": scores}
    places = zip(*rows, strict=True)
    return {str(place): _objects(found, len(rows)) for place, found in enumerate(places)}


def _scores(rows: Sequence[Any]) -> Array:
    """All scores that the pipeline gave for each text, one below the other."""
    found = [list(_scores_in(row)) for row in rows]
    table: Array = np.full((len(found), max(map(len, found))), -1.0)
    for row, scores in zip(table, found, strict=True):
        row[: len(scores)] = scores
    return table


def _scores_in(found: Any) -> Iterator[float]:
    if isinstance(found, Mapping):
        yield float(found["score"])
    else:
        for one in found:
            yield from _scores_in(one)


def _filled(rows: list[Any]) -> Array:
    """The likeliest token; in JSON a list of these where a text has several masks."""
    texts = (
        row[0]["token_str"].strip()
        if isinstance(row[0], dict)
        else write_json([mask[0]["token_str"].strip() for mask in row])
        for row in rows
    )
    return _objects(texts, len(rows))


def _generated(rows: list[Any]) -> Array:
    """The first continuation, with its prompt unless return_full_text is off."""
    return _objects((row[0]["generated_text"].strip() for row in rows), len(rows))


def _tagged(rows: list[Any]) -> Array:
    """The tags, joined by commas."""
    texts = (
        ",".join(token.get("entity_group", token.get("entity")) for token in row).strip()
        for row in rows
    )
    return _objects(texts, len(rows))


def _embedded(rows: list[Any]) -> Array:
    """Per text [tokens, features] in JSON, since the number of tokens differs.

    MLflow answers the first text alone, whatever follows it.
    """
    return _objects((write_json(row[0]) for row in rows), len(rows))


ANSWERS: Final[Mapping[str, Callable[[list[Any]], Any]]] = {
    "TextClassificationPipeline": _classified,
    "FillMaskPipeline": _filled,
    "TextGenerationPipeline": _generated,
    "TokenClassificationPipeline": _tagged,
    "FeatureExtractionPipeline": _embedded,
}


def _answer_of(
    pipeline: Any, config: Mapping[str, Any], specs: Sequence[TensorSpec]
) -> Callable[[list[Any]], Any] | None:
    """How to make MLflow's answer of the pipeline's; None where MLflow is to make it."""
    names = {spec.name for spec in specs}
    takes_texts = all(spec.datatype == BYTES.name and spec.kind != "json" for spec in specs)
    kind = type(pipeline).__name__
    is_pair = names == {"text", "text_pair"} and kind == "TextClassificationPipeline"
    if config.get("inference_task") or not takes_texts or (len(specs) != 1 and not is_pair):
        return None
    return ANSWERS.get(kind)


def _objects(values: Iterable[Any], count: int) -> Array:
    return np.fromiter(values, object, count)


def _collapsed(texts: Array) -> Array:
    return _objects((re.sub(r"\s+", " ", text).strip() for text in texts), len(texts))


ADAPTER = TransformersAdapter
