"""Sentences: models of sentence_transformers, built of modules that modules.json names."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..mlmodel import Description
from .common import (
    Refused,
    check_choice,
    check_entry,
    check_keys,
    check_plain,
    named,
    read_json,
    read_table,
)
from .hubkeys import CONFIG
from .huggingface import DTYPES, Reader, check_files, check_options, reader_of, unread

_FOLDER: Final = "model.sentence_transformer"
_ENTRY: Final = frozenset(
    {
        "sentence_transformers_version",
        "code",
        "pipeline_model_type",
        "source_model_name",
        "task",
        "data",
    }
)
_OPTIONS: Final = frozenset(
    {
        *("prompt_name", "prompt", "batch_size", "output_value", "precision", "convert_to_numpy"),
        *("convert_to_tensor", "normalize_embeddings", "truncate_dim", "show_progress_bar"),
    }
)

# Where its classes lie in the versions of the library.
_TYPE: Final = re.compile(
    r"sentence_transformers\.(models|base\.modules|sentence_transformer\.modules)(\.\w+)?\.(\w+)",
    re.ASCII,
)
_TOKENIZERS: Final = re.compile(
    r"sentence_transformers\.(models|sentence_transformer\.modules)\.tokenizer(\.\w+)?"
    r"\.(Whitespace|Phrase)Tokenizer",
    re.ASCII,
)
_ACTIVATION: Final = re.compile(r"torch\.nn\.modules\.(activation|linear)\.[A-Z]\w*", re.ASCII)
# What the configuration of each module may say; all of it numbers and plain names.
_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    "Transformer": frozenset(
        {
            *("max_seq_length", "do_lower_case", "transformer_task", "modality_config"),
            *(
                "module_output_name",
                "module_input_name",
                "model_args",
                "model_kwargs",
                "config_args",
            ),
            *("config_kwargs", "tokenizer_args", "processor_kwargs", "unpad_inputs"),
            *("query_length", "document_length"),
        }
    ),
    "Pooling": frozenset(
        {
            *("word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt"),
            *("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens"),
            *("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens"),
            "pooling_mode_lasttoken",
        }
    ),
    "Normalize": frozenset({"module_input_name", "module_output_name"}),
    "Dense": frozenset(
        {
            *("in_features", "out_features", "bias", "activation_function", "use_residual"),
            *("module_input_name", "module_output_name"),
        }
    ),
    "Dropout": frozenset({"dropout"}),
    "LayerNorm": frozenset({"dimension"}),
    "WeightedLayerPooling": frozenset(
        {"word_embedding_dimension", "embedding_dimension", "layer_start", "num_hidden_layers"}
    ),
    "CNN": frozenset(
        {
            *("in_word_embedding_dimension", "in_embedding_dimension", "out_channels"),
            *("kernel_sizes", "stride_sizes"),
        }
    ),
    "LSTM": frozenset(
        {
            *("word_embedding_dimension", "embedding_dimension", "hidden_dim", "num_layers"),
            *("dropout", "bidirectional"),
        }
    ),
    "WordEmbeddings": frozenset(
        {
            *("tokenizer_class", "update_embeddings", "max_seq_length"),
            # Of its tokenizer, whose own file lies beside.
            *("vocab", "stop_words", "do_lower_case", "phrase_separator", "ngram_separator"),
            "max_ngram_length",
        }
    ),
    "BoW": frozenset({"vocab", "word_weights", "unknown_word_weight", "cumulative_term_frequency"}),
    "WordWeights": frozenset({"vocab", "word_weights", "unknown_word_weight"}),
    "StaticEmbedding": frozenset(),
}
# Words, whatever they are.
_WORDS: Final = frozenset({"vocab", "stop_words", "word_weights"})
_OF_MODALITIES: Final = frozenset({"text", "method", "method_output_name", "format"})
# Arguments of from_pretrained.
_ARGUMENTS: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("model_args", "model_kwargs"), frozenset({"torch_dtype", "dtype"})),
    **dict.fromkeys(("config_args", "config_kwargs"), CONFIG),
    **dict.fromkeys(
        ("tokenizer_args", "processor_kwargs"),
        frozenset({"model_max_length", "padding_side", "truncation_side", "do_lower_case"}),
    ),
}


def check_sentence_transformers(model: Description, directory: Path) -> None:
    """Refuse all but the library's own modules, with safetensors weights and known entries."""
    check_entry(model.config, _ENTRY)
    check_choice(model.config.get("data"), (None, _FOLDER), "its entry 'data'")
    check_options(model.pyfunc.get("config") or {}, _OPTIONS)
    if model.signature is not None:
        for param in model.signature.params:
            if param.name not in _OPTIONS:
                raise Refused(f"its parameter {param.name!r} is not known to be inert")
    home = named({"data": _FOLDER}, "data", directory)
    kinds = {home: "Transformer"}
    file = home / "modules.json"
    if file.exists():
        name = file.relative_to(directory).as_posix()
        modules = read_json(file.read_bytes(), name)
        for module in modules if isinstance(modules, list) else [modules]:
            kind = _kind(module, name)
            folder = named(module, "path", home, may_be_home=True)
            if kinds.setdefault(folder, kind) != kind and folder == home:
                kinds[home] = kind

    def reader(path: Path) -> Reader | None:
        kind = kinds.get(path.parent)
        if path.parent == home and path.name in (
            "modules.json",
            "config_sentence_transformers.json",
        ):
            return unread if path == file else _check_overall
        is_of_transformers = kind == "Transformer" and not path.name.startswith("sentence_")
        if kind is None or is_of_transformers or not path.name.endswith("config.json"):
            return reader_of(path)
        return partial(_check_module, kind)

    check_files(home, directory, reader)


def _kind(module: Any, name: str) -> str:
    """What kind of module an entry of modules.json is."""
    told = module.get("type") if isinstance(module, Mapping) else None
    found = _TYPE.fullmatch(told) if isinstance(told, str) else None
    if found is None or found[3] not in _KNOWN:
        raise Refused(f"{name!r} names a module {told!r} that is none of those known to be inert")
    return found[3]


def _check_module(kind: str, content: bytes, name: str) -> None:
    for key, value in read_table(content, name).items():
        where = f"{key!r} in {name!r}"
        check_keys({key: value}, _KNOWN[kind], repr(name))
        if key == "tokenizer_class":
            _check_name(value, _TOKENIZERS, where)
        elif key == "activation_function":
            _check_name(value, _ACTIVATION, where)
        elif key in _ARGUMENTS:
            if not isinstance(value, Mapping):
                raise Refused(f"{where} is no table")
            check_keys(value, _ARGUMENTS[key], where)
            for argument, item in value.items():
                if argument in ("torch_dtype", "dtype"):
                    check_choice(item, DTYPES | {None}, f"{argument!r} of {where}")
                check_plain(item, (), where)
        elif key not in _WORDS:
            check_plain(value, _OF_MODALITIES, where)


def _check_overall(content: bytes, name: str) -> None:
    config = read_table(content, name)
    known = ("__version__", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    check_keys(config, (*known, "model_type"), repr(name))
    kind = config.get("model_type")
    check_choice(kind, (None, "SentenceTransformer"), f"'model_type' in {name!r}")
    check_plain(config.get("similarity_fn_name"), (), f"'similarity_fn_name' in {name!r}")


def _check_name(value: Any, pattern: re.Pattern[str], where: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Refused(f"{where} is {value!r}, which is none of the library's own")
