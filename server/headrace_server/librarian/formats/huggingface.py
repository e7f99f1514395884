"""Huggingface: models of transformers, and what those of sentence_transformers are built on.

Their libraries take a class, a file, a place in the Hub or a way to compile from many an entry of
their configurations. So all entries must be known, and what is a text must be a plain name, but
where it is shown or tokenized.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ..mlmodel import Description
from .common import (
    JSON_BYTES_MAX,
    Refused,
    check_choice,
    check_entry,
    check_keys,
    check_plain,
    files_in,
    named,
    read_table,
)
from .hubkeys import CONFIG, GENERATION, MODEL_TYPES, TOKENIZER

# Checks what a file of that name holds.
Reader = Callable[[bytes, str], None]

# Weights, what tells how to build the model and its tokenizer, and what is not read.
_SUFFIXES: Final = frozenset(
    {".safetensors", ".json", ".txt", ".model", ".tiktoken", ".jinja", ".md", ".yaml"}
)
_NAMES: Final = frozenset(
    {"MLmodel", "registered_model_meta", "LICENSE", "NOTICE", ".gitattributes"}
)

_ENTRY: Final = frozenset(
    {
        *("transformers_version", "code", "task", "instance_type", "framework", "torch_dtype"),
        *("pipeline_model_type", "source_model_name", "model_binary", "components"),
        *("tokenizer_type", "tokenizer_name", "inference_task"),
    }
)
_TASKS: Final = frozenset(
    {
        *("text-classification", "sentiment-analysis", "zero-shot-classification"),
        *("token-classification", "ner", "fill-mask", "feature-extraction", "question-answering"),
        *("text-generation", "text2text-generation", "summarization", "translation"),
    }
)
_TASK_OF_LANGUAGES: Final = re.compile(r"translation_[a-z]{2,3}_to_[a-z]{2,3}")
_CLASS: Final = re.compile(r"[A-Z]\w{0,99}", re.ASCII)
_TOKENIZER_CLASS: Final = re.compile(r"([A-Z]\w{0,80})?Tokenizer(Fast|sBackend)?", re.ASCII)
DTYPES: Final = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "torch.")
    for name in ("float32", "float16", "bfloat16", "float64", "auto")
)
_ATTENTION: Final = frozenset({None, "eager", "sdpa", "flash_attention_2", "flex_attention"})
# What of a pipeline's and of a model's options is inert, whoever sets it.
_OPTIONS: Final = GENERATION | {
    *("top_k", "batch_size", "return_all_scores", "function_to_apply", "aggregation_strategy"),
    *(
        "ignore_labels",
        "stride",
        "targets",
        "truncation",
        "padding",
        "max_length",
        "add_special_tokens",
    ),
    *("candidate_labels", "hypothesis_template", "multi_label", "return_full_text", "return_text"),
    *("return_tensors", "clean_up_tokenization_spaces", "prefix", "src_lang", "tgt_lang"),
    *(
        "doc_stride",
        "max_answer_len",
        "max_seq_len",
        "max_question_len",
        "handle_impossible_answer",
    ),
    *("collapse_whitespace", "include_prompt", "stop_sequence"),
}
_OF_MODELS: Final = CONFIG | GENERATION


def check_transformers(model: Description, directory: Path) -> None:
    """Refuse all but a pipeline for texts with safetensors weights, and entries that are known."""
    config = model.config
    if "model_binary" not in config:
        raise Refused("its weights are not saved with it")
    check_entry(config, _ENTRY)
    task = config.get("task")
    if task not in _TASKS and not _TASK_OF_LANGUAGES.fullmatch(str(task)):
        raise Refused(f"its task {task!r} is none for texts alone")
    if not _CLASS.fullmatch(str(config.get("pipeline_model_type"))):
        raise Refused(f"its pipeline_model_type {config.get('pipeline_model_type')!r} is no class")
    if config.get("components") not in (None, [], ["tokenizer"]):
        raise Refused(f"its components {config['components']!r} are more than a tokenizer")
    check_tokenizer_class(config.get("tokenizer_type"), "its tokenizer_type")
    check_choice(config.get("torch_dtype"), DTYPES | {None}, "its torch_dtype")
    check_options(model.pyfunc.get("config") or {}, _OPTIONS)
    if model.signature is not None:
        for param in model.signature.params:
            if param.name not in _OPTIONS:
                raise Refused(f"its parameter {param.name!r} is not known to be inert")
    check_files(named(config, "model_binary", directory), directory, reader_of)


def check_options(options: Any, known: frozenset[str]) -> None:
    """Refuse options of calls that are not among the *known*."""
    where = "its python_function's config"
    if not isinstance(options, Mapping):
        raise Refused(f"{where} is no table")
    check_keys(options, known | {"device", "model_config"}, where)
    if options.get("device") or options.get("model_config"):
        raise Refused(f"{where} names a device, or another configuration")


def check_files(weights: Path, directory: Path, reader_of: Callable[[Path], Reader | None]) -> None:
    """Hold all files of a model that from_pretrained opens against what is known.

    Args:
        weights: The folder of the model proper.
        directory: The folder of the whole.
        reader_of: Gives what checks a JSON file; None for one that is not known.
    """
    has_weights = False
    for path in files_in(directory):
        name = path.relative_to(directory).as_posix()
        if path.suffix not in _SUFFIXES and path.name not in _NAMES:
            raise Refused(f"it holds {name!r}: weights must be safetensors, and there be no code")
        has_weights |= path.suffix == ".safetensors" and path.is_relative_to(weights)
        if path.suffix != ".json" or path.parent == directory:
            continue  # At the top lie MLflow's own files, of which the libraries read none.
        check = reader_of(path)
        if check is None:
            raise Refused(f"it holds {name!r}, which is not known to be inert")
        if check is unread:
            continue
        if path.stat().st_size > JSON_BYTES_MAX:
            raise Refused(f"{name!r} is too large to be looked through")
        check(path.read_bytes(), name)
    if not has_weights:
        raise Refused("it holds no safetensors weights")


def check_tokenizer_class(name: Any, what: str) -> None:
    """Refuse what is not called like a tokenizer of transformers'."""
    if name is not None and not (isinstance(name, str) and _TOKENIZER_CLASS.fullmatch(name)):
        raise Refused(f"{what} {name!r} is no tokenizer of transformers'")


# By the names of files.


def check_config(content: bytes, name: str) -> None:
    """config.json: a known kind of model, and what such are made with."""
    config = read_table(content, name)
    check_choice(config.get("model_type"), MODEL_TYPES, f"'model_type' in {name!r}")
    for key, value in config.items():
        where = f"{key!r} in {name!r}"
        match key:
            case (
                "model_type" | "_name_or_path" | "name_or_path" | "id2label" | "label2id" | "prefix"
            ):
                pass  # Shown, or put before a text.
            case "torch_dtype" | "dtype":
                check_choice(value, DTYPES | {None}, where)
            case "_attn_implementation" | "attn_implementation" | "_attn_implementation_internal":
                check_choice(value, _ATTENTION, where)
            case "architectures":
                check_plain(value, (), where)
            case "tokenizer_class":
                check_tokenizer_class(value, where)
            case "task_specific_params":
                _check_tasks(value, where)
            case "reference_compile" | "cache_implementation" | "is_folding_model":
                check_choice(value, (None, False, "hybrid"), where)
            case _:
                check_keys({key: value}, _OF_MODELS, repr(name))
                check_plain(value, _OF_MODELS, where)


def _check_tasks(tasks: Any, where: str) -> None:
    """What a pipeline sets for its task."""
    for options in (tasks or {}).values() if isinstance(tasks, Mapping | None) else [tasks]:
        if not isinstance(options, Mapping):
            raise Refused(f"{where} holds no tables")
        check_keys(options, _OF_MODELS | {"prefix"}, where)
        check_plain({k: v for k, v in options.items() if k != "prefix"}, _OF_MODELS, where)


def _check_generation(content: bytes, name: str) -> None:
    config = read_table(content, name)
    for key, value in config.items():
        where = f"{key!r} in {name!r}"
        if key in ("cache_implementation", "cache_config", "compile_config", "watermarking_config"):
            check_choice(value, (None, "dynamic", "hybrid"), where)
        elif key not in GENERATION | {"_commit_hash"}:
            raise Refused(f"{where} is not known to be inert")
        elif key != "stop_strings":
            check_plain(value, (), where)


def _check_tokenizer(content: bytes, name: str) -> None:
    config = read_table(content, name)
    for key, value in config.items():
        where = f"{key!r} in {name!r}"
        if value is None or key.endswith("_token"):
            continue
        check_keys({key: value}, TOKENIZER, repr(name))
        if key == "tokenizer_class":
            check_tokenizer_class(value, where)
        elif key == "backend":
            check_choice(value, ("tokenizers", "sentencepiece"), where)
        elif key == "sp_model_kwargs":
            known = ("enable_sampling", "nbest_size", "alpha", "add_bos", "add_eos", "reverse")
            check_plain(value, known, where)


def _check_special_tokens(content: bytes, name: str) -> None:
    for key in read_table(content, name):
        if not key.endswith(("_token", "_special_tokens")):
            raise Refused(f"{key!r} in {name!r} is not known to be inert")


def _check_index(content: bytes, name: str) -> None:
    """Which of the files beside it holds which weight."""
    index = read_table(content, name)
    check_keys(index, ("metadata", "weight_map"), repr(name))
    files = index.get("weight_map")
    if not isinstance(files, Mapping):
        raise Refused(f"'weight_map' in {name!r} is no table")
    for file in files.values():
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", str(file)):
            raise Refused(f"'weight_map' in {name!r} names {file!r}, which is no file beside it")


def unread(_content: bytes, _name: str) -> None:
    """Nothing to check: tokens and numbers are read of such a file, whatever it holds."""


_READERS: Final[Mapping[str, Reader]] = {
    "config.json": check_config,
    "generation_config.json": _check_generation,
    "tokenizer_config.json": _check_tokenizer,
    "special_tokens_map.json": _check_special_tokens,
    "model.safetensors.index.json": _check_index,
    "added_tokens.json": unread,
    "tokenizer.json": unread,
    "vocab.json": unread,
}


def reader_of(path: Path) -> Reader | None:
    """What checks a JSON file of a model of transformers'; None for one that is not known."""
    return _READERS.get(path.name)
