"""What a model may say where it must be data: its files, each with one change."""

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx.helper
import pytest

import models
from headrace.signature import ParamSpec, Signature
from headrace_server.errors import LoadFailed
from headrace_server.librarian.formats import why_no_data
from headrace_server.librarian.mlmodel import Description
from headrace_server.librarian.safety import Rules, judge


def told(
    directory: Path,
    flavor: str,
    config: Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    params: tuple[str, ...] = (),
) -> str:
    """Why such a model is no data; empty where it is."""
    signature = Signature((), params=tuple(ParamSpec(p, "string", "", None) for p in params))
    pyfunc = {"loader_module": f"mlflow.{flavor}", "config": dict(options or {})}
    return why_no_data(Description(flavor, dict(config), pyfunc, signature, False, ""), directory)


# Onnx.


def graph(directory: Path, *, operator: str = "Relu", domain: str = "", **changes: Any) -> Path:
    """A model of one operator, over a constant that lies in a file beside it."""
    weights = onnx.TensorProto(name="w", data_type=1, dims=[2])
    weights.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": "weights.bin", "offset": "0", "length": "8", **changes}
    for key, value in entries.items():
        weights.external_data.add(key=key, value=value)
    node = onnx.helper.make_node(operator, ["w"], ["y"], domain=domain)
    y = onnx.helper.make_tensor_value_info("y", 1, [2])
    inner = onnx.helper.make_graph([node], "inner", [], [y], [weights])
    outer = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    c = onnx.helper.make_tensor_value_info("c", 9, [])
    model = onnx.helper.make_model(onnx.helper.make_graph([outer], "outer", [c], [y]))
    directory.mkdir(exist_ok=True)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    (directory / "weights.bin").write_bytes(bytes(8))
    return directory


ONNX = {"data": "model.onnx", "onnx_version": "1.23.2", "providers": ["CPUExecutionProvider"]}


def test_a_graph_with_tensors_beside_it_is_data(tmp_path: Path) -> None:
    options = {
        "intra_op_num_threads": 2,
        "execution_mode": "sequential",
        "graph_optimization_level": 99,
        "extra_session_config": {"session.intra_op.allow_spinning": "0"},
    }
    assert told(graph(tmp_path), "onnx", {**ONNX, "onnx_session_options": options}) == ""


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "link", "*/_ORT_MEM_ADDR_/*", "", "gone", "a\0b", "a" * 300],
)
def test_a_graph_names_no_file_but_its_own(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(8))
    model = graph(tmp_path / "model", location=location)
    (model / "link").symlink_to(tmp_path / "secret")
    assert f"its tensors lie in {location!r}" in told(model, "onnx", ONNX)


def test_the_last_of_several_locations_counts_and_so_does_the_first(tmp_path: Path) -> None:
    proto = onnx.load(str(graph(tmp_path) / "model.onnx"), load_external_data=False)
    (weights, *_) = proto.graph.node[0].attribute[0].g.initializer
    weights.external_data.add(key="location", value="../other")
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    assert "its tensors lie in '../other'" in told(tmp_path, "onnx", ONNX)


@pytest.mark.parametrize(
    ("operator", "domain", "is_data"),
    [
        ("FusedMatMul", "com.microsoft", True),
        ("TreeEnsemble", "ai.onnx.ml", True),
        ("EPContext", "com.microsoft", False),
        ("PythonOp", "com.microsoft", False),
        ("Own", "made.up", False),
        ("ATen", "org.pytorch.aten", False),
    ],
)
def test_operators_are_those_that_compute(
    tmp_path: Path, operator: str, domain: str, is_data: bool
) -> None:
    why = told(graph(tmp_path, operator=operator, domain=domain), "onnx", ONNX)
    assert (not why) == is_data
    assert is_data or f"its operator {operator!r} of {domain!r}" in why


def test_operators_that_the_file_defines_are_made_of_others(tmp_path: Path) -> None:
    proto = onnx.load(
        str(graph(tmp_path, operator="Own", domain="made.up") / "model.onnx"),
        load_external_data=False,
    )
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    opset = [onnx.helper.make_opsetid("", 18)]
    proto.functions.append(onnx.helper.make_function("made.up", "Own", ["x"], ["y"], [node], opset))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    assert told(tmp_path, "onnx", ONNX) == ""

    proto.functions[0].node[0].domain = "hidden"
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    assert "of 'hidden'" in told(tmp_path, "onnx", ONNX)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {
                "extra_session_config": {
                    "session.model_external_initializers_file_folder_path": "/etc"
                }
            },
            "'session.model_external_initializers_file_folder_path'",
        ),
        ({"extra_session_config": {"ep.context_enable": "1"}}, "'ep.context_enable'"),
        (
            {"extra_session_config": {"session.optimized_model_filepath": "/x"}},
            "'session.optimized_model_filepath'",
        ),
        ({"extra_session_config": {"session.enable_profiling": "1"}}, "'session.enable_profiling'"),
        (
            {"extra_session_config": {"session.intra_op.allow_spinning": "/x"}},
            "'session.intra_op.allow_spinning'",
        ),
        ({"extra_session_config": ["a"]}, "is no table"),
        ({"execution_mode": "__class__"}, "'execution_mode'"),
        ({"graph_optimization_level": [1]}, "'graph_optimization_level'"),
        ({"intra_op_num_threads": 100_000}, "'intra_op_num_threads'"),
        ({"custom_ops": "x.so"}, "'custom_ops'"),
        ("all", "are no table"),
    ],
)
def test_options_of_a_session_say_how_it_computes(tmp_path: Path, options: Any, named: str) -> None:
    assert named in told(graph(tmp_path), "onnx", {**ONNX, "onnx_session_options": options})


def test_what_is_no_graph_is_not_handed_on(tmp_path: Path) -> None:
    graph(tmp_path)
    whole = (tmp_path / "model.onnx").read_bytes()
    for broken in (b"", whole[:-3], b"\xff" * 40, b"\x3a\xff\xff\xff\x0f", b"\x0b" + whole):
        (tmp_path / "model.onnx").write_bytes(broken)
        assert told(tmp_path, "onnx", ONNX)
    shutil.move(tmp_path / "model.onnx", tmp_path / "model.ort")
    assert "no file of ONNX" in told(tmp_path, "onnx", {**ONNX, "data": "model.ort"})


def test_an_unknown_entry_of_the_flavor_is_refused(tmp_path: Path) -> None:
    assert "'custom' in its MLmodel file" in told(graph(tmp_path), "onnx", {**ONNX, "custom": 1})


# Pytorch.

PT2 = {"model_data": "data", "pytorch_version": "2.13"}
PROGRAM = "model/models/model.json"


def program(
    directory: Path,
    edit: Callable[[dict[str, Any]], object] = lambda said: None,
    *,
    more: Mapping[str, bytes] = {},
    compression: int = zipfile.ZIP_STORED,
    tail: bytes = b"",
) -> Path:
    """torch_pt2 with what it says edited, and more files in its archive."""
    (directory / "data").mkdir()
    with (
        zipfile.ZipFile(models.model("torch_pt2").path / "data" / "model.pt2") as source,
        zipfile.ZipFile(directory / "data" / "model.pt2", "w", compression) as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name == PROGRAM:
                said = json.loads(content)
                edit(said)
                content = json.dumps(said).encode()
            target.writestr(name, content)
        for name, content in more.items():
            target.writestr(name, content)
    with (directory / "data" / "model.pt2").open("ab") as file:
        file.write(tail)
    return directory


def nodes(said: dict[str, Any]) -> Any:
    return said["graph_module"]["graph"]["nodes"]


def set_size(said: dict[str, Any], formula: str) -> None:
    said["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = formula


def test_an_exported_program_is_data(tmp_path: Path) -> None:
    def edit(said: dict[str, Any]) -> None:
        set_size(
            said, "Mul(Integer(2), Pow(Symbol('s77', positive=True, integer=True), Integer(2)))"
        )
        said["guards_code"] = [
            "L['x'].size()[0] == L['args'][0].size()[1]",
            "Mod(L['x'].size()[0], 4) == 0 and L['x'].shape[0] <= 10 // 2",
        ]
        nodes(said)[0]["target"] = "torch.ops.aten.sym_size.int"
        nodes(said)[1]["target"] = "_operator.mul"

    assert told(program(tmp_path), "pytorch", PT2) == ""
    (tmp_path / "more").mkdir()
    assert told(program(tmp_path / "more", edit), "pytorch", PT2) == ""


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').system('touch x')",
        "().__class__.__base__.__subclasses__()",
        "Symbol('s77').__class__",
        "open('/etc/passwd')",
        "eval('1')",
        "Symbol('x; import os')",
        "[a for a in (1,)]",
        "lambda: 1",
        "s1^9999999",
        "2**9999999",
        "Pow(Integer(9), Integer(9999999))",
        "(" * 500 + "s1" + ")" * 500,
        "s1\n",
        "",
    ],
)
def test_a_formula_that_torch_would_evaluate_is_one_of_sizes(tmp_path: Path, formula: str) -> None:
    why = told(program(tmp_path, lambda said: set_size(said, formula)), "pytorch", PT2)
    assert "the formula" in why


@pytest.mark.parametrize(
    "guard",
    [
        "__import__('os').system('true')",
        "L['x'].size()[0] == 1, __import__('os')",
        "L['x'].__class__ == 1",
        "L['x'].size(open('/etc/passwd'))[0] == 1",
        "L['x\")); import os #'].size()[0] == 1",
        "torch.load('/x')",
        "L.clear() == None",
        "Symbol('s1') == 1",
    ],
)
def test_a_guard_asks_for_sizes_of_inputs(tmp_path: Path, guard: str) -> None:
    why = told(program(tmp_path, lambda said: said.update(guards_code=[guard])), "pytorch", PT2)
    assert "the formula" in why


@pytest.mark.parametrize(
    "target",
    [
        *("torch.os.system", "torch.load", "torch.hub.load", "torch.ops.aten.from_file.default"),
        *("torch.ops.aten.save.default", "torch.ops.made_up.op.default", "#made_up:op"),
        *("_operator.attrgetter", "_operator.methodcaller", "math.__loader__.load_module"),
        *("torch.ops.higher_order.triton_kernel_wrapper_functional", "os.system", None),
        "torch.ops.load_library",
    ],
)
def test_an_operator_is_one_on_tensors_or_sizes(tmp_path: Path, target: str) -> None:
    why = told(program(tmp_path, lambda said: nodes(said)[0].update(target=target)), "pytorch", PT2)
    assert f"the operator {target!r}" in why


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda said: nodes(said)[0].update(name="x): import os"), "'x): import os'"),
        (lambda said: said["graph_module"].update(made_up=1), "'made_up'"),
        (
            lambda said: said["graph_module"]["graph"].update(
                custom_obj_values={"a": {"name": "a", "class_fqn": "x"}}
            ),
            "'custom_obj_values'",
        ),
        (
            lambda said: said["graph_module"]["module_call_graph"][0]["signature"].update(
                in_spec=json.dumps(
                    [
                        1,
                        {
                            "type": "collections.defaultdict",
                            "context": '{"default_factory_module": "os"}',
                            "children_spec": [],
                        },
                    ]
                )
            ),
            "the structure",
        ),
        (
            lambda said: said["graph_module"]["module_call_graph"][0]["signature"].update(
                out_spec=json.dumps(
                    [
                        1,
                        {
                            "type": "builtins.dict",
                            "context": '[{"__enum__": true, "fqn": "os:x", "name": "y"}]',
                            "children_spec": [],
                        },
                    ]
                )
            ),
            "the structure",
        ),
        (lambda said: nodes(said)[0]["metadata"].update(made_up="x"), "'made_up'"),
    ],
)
def test_a_program_says_what_torch_itself_writes(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], named: str
) -> None:
    assert named in told(program(tmp_path, edit), "pytorch", PT2)


@pytest.mark.parametrize(
    "name",
    [
        *("model/data/aotinductor/model/model.so", "model/data/constants/custom_obj_0"),
        *("model/models/other.json", "model/extra/x.py", "model/../x", "/x"),
    ],
)
def test_an_archive_holds_a_program_and_tensors(tmp_path: Path, name: str) -> None:
    why = told(program(tmp_path, more={name: b"{}"}), "pytorch", PT2)
    assert "its pt2 archive holds" in why


def test_weights_are_not_pickled(tmp_path: Path) -> None:
    payload = json.dumps({"config": {"w": {"path_name": "weight_0", "use_pickle": True}}})
    more = {"model/data/weights/model_weights_config.json": payload.encode()}
    with pytest.warns(UserWarning, match="Duplicate name"):
        model = program(tmp_path, more=more)
    # Each name once, whatever the letters.
    assert "can be read in several ways" in told(model, "pytorch", PT2)
    with zipfile.ZipFile(model / "data" / "model.pt2", "w") as archive:
        archive.writestr(next(iter(more)), payload)
    assert "'use_pickle'" in told(model, "pytorch", PT2)


def test_every_reader_of_an_archive_must_see_the_same(tmp_path: Path) -> None:
    ways: tuple[dict[str, Any], ...] = (
        {"compression": zipfile.ZIP_DEFLATED},
        {"tail": b"x"},
        {"more": {"MODEL/VERSION": b""}},
    )
    for index, how in enumerate(ways):
        (tmp_path / str(index)).mkdir()
        assert told(program(tmp_path / str(index), **how), "pytorch", PT2)
    file = tmp_path / "0" / "data" / "model.pt2"
    file.write_bytes(b"before" + (models.model("torch_pt2").path / "data/model.pt2").read_bytes())
    assert "no archive that can be looked through" in told(tmp_path / "0", "pytorch", PT2)


# Keras.

KERAS = {"data": "data", "keras_backend": "torch", "save_exported_model": False}


def layer(name: str, module: str = "keras.layers", /, **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def sequential(directory: Path, *layers: Mapping[str, Any], **files: bytes) -> Path:
    """A .keras file of *layers*, and more files in it."""
    (directory / "data").mkdir(exist_ok=True)
    said = layer("Sequential", "keras", name="s", layers=list(layers))
    held = {"metadata.json": b"{}", "config.json": json.dumps(said).encode(), **files}
    with zipfile.ZipFile(directory / "data" / "model.keras", "w") as archive:
        for name, content in {"model.weights.h5": b"", **held}.items():
            archive.writestr(name, content)
    (directory / "data" / "keras_module.txt").write_text("keras")
    return directory


RELU = {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "relu"}


def test_keras_own_layers_are_data(tmp_path: Path) -> None:
    zeros = layer("Zeros", "keras.initializers")
    model = sequential(
        tmp_path,
        layer("Dense", units=3, kernel_initializer=zeros, dtype=layer("DTypePolicy", "keras")),
        layer("Activation", activation=RELU),
        layer("StringLookup", vocabulary=["a"], idf_weights=None),
        layer("Multiply", "keras.src.ops.numpy"),
        **{"assets/layers/string_lookup/vocabulary.txt": b"a"},
    )
    assert told(model, "keras", KERAS) == ""


@pytest.mark.parametrize(
    ("made_of", "named"),
    [
        (layer("Lambda"), "'keras.layers.Lambda'"),
        (layer("TorchModuleWrapper"), "'keras.layers.TorchModuleWrapper'"),
        (layer("TFSMLayer", filepath="/x"), "'keras.layers.TFSMLayer'"),
        (layer("Popen", "subprocess"), "'subprocess.Popen'"),
        (layer("Dense", "keras.src.utils"), "'keras.src.utils.Dense'"),
        (layer("Dense", units={"class_name": "__lambda__", "config": {}}), "'None.__lambda__'"),
        (layer("Dense", units={"class_name": "__typespec__", "config": []}), "'None.__typespec__'"),
        ({**layer("Dense"), "registered_name": "pkg>Dense"}, "'keras.layers.Dense'"),
        ({**RELU, "config": "get_file", "module": "keras.utils"}, "'keras.utils.get_file'"),
        ({**RELU, "config": "get_file"}, "'builtins.get_file'"),
        (layer("StringLookup", vocabulary="/etc/passwd"), "'vocabulary' in 'config.json'"),
        (layer("TextVectorization", idf_weights="/x"), "'idf_weights' in 'config.json'"),
        ({**layer("Sequential", "keras"), "compile_config": {}}, "'compile_config'"),
    ],
)
def test_other_classes_and_functions_are_refused(
    tmp_path: Path, made_of: Mapping[str, Any], named: str
) -> None:
    assert named in told(sequential(tmp_path, made_of), "keras", KERAS)


@pytest.mark.parametrize("name", ["assets/../../x", "assets/x.py", "/etc/x", "other.h5"])
def test_a_keras_file_holds_what_keras_writes(tmp_path: Path, name: str) -> None:
    assert "its .keras file holds" in told(sequential(tmp_path, **{name: b""}), "keras", KERAS)


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    text = b'{"class_name": "Sequential", "class_name": "Lambda", "module": "keras", "config": {}}'
    model = sequential(tmp_path, **{"config.json": text})
    assert "is no JSON" in told(model, "keras", KERAS)


# Transformers.

HF = {
    "task": "text-classification",
    "instance_type": "TextClassificationPipeline",
    "pipeline_model_type": "BertForSequenceClassification",
    "model_binary": "model",
    "components": ["tokenizer"],
    "tokenizer_type": "BertTokenizerFast",
    "torch_dtype": "torch.float32",
    "source_model_name": "/home/me/any where",
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "_name_or_path": "google-bert/bert-base-uncased",
    "hidden_size": 16,
    "hidden_act": "gelu",
    "id2label": {"0": "not/so good"},
    "label2id": {"not/so good": 0},
    "torch_dtype": "float32",
    "task_specific_params": {"summarization": {"prefix": "in a word: ", "max_length": 9}},
}
TOKENIZER = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "cls_token": "[CLS]",
    "vocab_file": None,
    "added_tokens_decoder": {"0": {"content": "[PAD]", "special": True}},
    "chat_template": "{% for m in messages %}{{ m }}{% endfor %}",
}


def pipeline(directory: Path, **files: Any) -> Path:
    """A pipeline's files, in JSON where they are not bytes."""
    held = {
        "model/config.json": BERT,
        "model/model.safetensors": b"",
        "model/generation_config.json": {"max_new_tokens": 4, "stop_strings": ["a/b"]},
        "components/tokenizer/tokenizer_config.json": TOKENIZER,
        "components/tokenizer/tokenizer.json": {"model": {"type": "WordPiece"}},
        "components/tokenizer/special_tokens_map.json": {"cls_token": {"content": "[CLS]"}},
        **files,
    }
    for name, content in held.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return directory


def test_a_pipeline_for_texts_is_data(tmp_path: Path) -> None:
    sharded = {"weight_map": {"w": "model-00001-of-00002.safetensors"}, "metadata": {}}
    model = pipeline(tmp_path, **{"model/model.safetensors.index.json": sharded})
    why = told(model, "transformers", HF, options={"top_k": 2}, params=("temperature",))
    assert why == ""


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"task": "image-classification"}, "'image-classification' is none for texts"),
        ({"task": None}, "its task None"),
        ({"pipeline_model_type": "x.Y"}, "its pipeline_model_type 'x.Y'"),
        ({"tokenizer_type": "RagRetriever"}, "'RagRetriever' is no tokenizer"),
        ({"components": ["tokenizer", "retriever"]}, "are more than a tokenizer"),
        ({"torch_dtype": "load"}, "its torch_dtype is 'load'"),
        ({"peft_adaptor": "peft"}, "'peft_adaptor'"),
        ({"processor_type": "X"}, "'processor_type'"),
    ],
)
def test_a_pipeline_is_a_model_and_a_tokenizer(
    tmp_path: Path, config: Mapping[str, Any], named: str
) -> None:
    assert named in told(pipeline(tmp_path), "transformers", {**HF, **config})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "'auto_map'"),
        ({"trust_remote_code": True}, "'trust_remote_code'"),
        ({"custom_pipelines": {}}, "'custom_pipelines'"),
        ({"quantization_config": {"quant_method": "x"}}, "'quantization_config'"),
        ({"transformers_weights": "../x.safetensors"}, "'transformers_weights'"),
        ({"_attn_implementation": "kernels-community/flash"}, "'_attn_implementation'"),
        ({"index_path": "/x"}, "'index_path'"),
        ({"model_type": "rag"}, "'model_type'"),
        ({"model_type": ["bert"]}, "'model_type'"),
        ({"hidden_act": "../x"}, "'../x'"),
        ({"hidden_act": "a/b"}, "'a/b'"),
        ({"dtype": "torch.os"}, "'dtype'"),
        ({"rope_scaling": {"type": "linear", "made_up": "x"}}, "'made_up'"),
        ({"task_specific_params": {"x": {"auto_map": 1}}}, "'auto_map'"),
        ({"tokenizer_class": "/dir--mod.Cls"}, "'/dir--mod.Cls'"),
    ],
)
def test_a_configuration_says_how_a_known_model_is_built(
    tmp_path: Path, change: Mapping[str, Any], named: str
) -> None:
    model = pipeline(tmp_path, **{"model/config.json": {**BERT, **change}})
    assert named in told(model, "transformers", HF)


@pytest.mark.parametrize(
    ("file", "said", "named"),
    [
        ("tokenizer/tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "'vocab_file'"),
        ("tokenizer/tokenizer_config.json", {"tokenizer_file": "../x"}, "'tokenizer_file'"),
        ("tokenizer/tokenizer_config.json", {"auto_map": {}}, "'auto_map'"),
        ("tokenizer/tokenizer_config.json", {"init_inputs": ["/x"]}, "'init_inputs'"),
        ("tokenizer/tokenizer_config.json", {"gguf_file": "/x"}, "'gguf_file'"),
        (
            "tokenizer/tokenizer_config.json",
            {"sp_model_kwargs": {"model_file": "/x"}},
            "'model_file'",
        ),
        ("tokenizer/special_tokens_map.json", {"vocab_file": "/x"}, "'vocab_file'"),
        ("tokenizer/adapter_config.json", {}, "adapter_config.json"),
        ("tokenizer/tool.py", b"", "tool.py"),
    ],
)
def test_a_tokenizer_names_no_file(tmp_path: Path, file: str, said: Any, named: str) -> None:
    model = pipeline(tmp_path, **{f"components/{file}": said})
    assert named in told(model, "transformers", HF)


@pytest.mark.parametrize(
    ("file", "said", "named"),
    [
        ("generation_config.json", {"custom_generate": "x"}, "'custom_generate'"),
        ("generation_config.json", {"compile_config": {}}, "'compile_config'"),
        ("generation_config.json", {"cache_implementation": "quantized"}, "'cache_implementation'"),
        ("adapter_config.json", {"base_model_name_or_path": "/x"}, "adapter_config.json"),
        ("custom_generate/generate.py", b"", "generate.py"),
        ("pytorch_model.bin", b"", "pytorch_model.bin"),
        (
            "model.safetensors.index.json",
            {"weight_map": {"w": "../other.safetensors"}},
            "'../other.safetensors'",
        ),
        ("model.safetensors.index.json", {"weight_map": {"w": "x.bin"}}, "'x.bin'"),
    ],
)
def test_a_models_other_files_name_nothing(
    tmp_path: Path, file: str, said: Any, named: str
) -> None:
    assert named in told(pipeline(tmp_path, **{f"model/{file}": said}), "transformers", HF)


@pytest.mark.parametrize(
    "name", ["custom_generate", "trust_remote_code", "assistant_model", "device"]
)
def test_options_that_load_something_are_refused_whoever_would_set_them(
    tmp_path: Path, name: str
) -> None:
    model = pipeline(tmp_path)
    assert told(model, "transformers", HF, options={name: "x"})
    assert f"its parameter {name!r}" in told(model, "transformers", HF, params=(name,))


# Sentence_transformers.

ST = {"pipeline_model_type": "BertModel", "source_model_name": "x/y"}


def sentences(directory: Path, *modules: Mapping[str, Any], **files: Any) -> Path:
    """A transformer, and more modules."""
    first = {"path": "", "type": "sentence_transformers.models.Transformer"}
    held = {
        "modules.json": [first, *modules],
        "config.json": BERT,
        "model.safetensors": b"",
        "tokenizer_config.json": TOKENIZER,
        "sentence_bert_config.json": {
            "max_seq_length": 32,
            "do_lower_case": False,
            "modality_config": {"text": {"method": "forward"}},
        },
        "config_sentence_transformers.json": {
            "__version__": {"transformers": "5.24.0"},
            "prompts": {"query": "ask: http://x"},
            "similarity_fn_name": "cosine",
        },
        **files,
    }
    return pipeline(directory, **{f"model.sentence_transformer/{k}": v for k, v in held.items()})


def module(name: str, path: str = "1") -> dict[str, str]:
    return {"path": path, "type": f"sentence_transformers.models.{name}"}


def test_modules_of_the_library_are_data(tmp_path: Path) -> None:
    dense = {
        "in_features": 2,
        "out_features": 2,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    words = {
        "tokenizer_class": "sentence_transformers.models.tokenizer.WhitespaceTokenizer.Whitespace"
        "Tokenizer",
        "max_seq_length": 9,
    }
    model = sentences(
        tmp_path,
        module("Pooling"),
        module("Dense", "2"),
        module("Normalize", "3"),
        module("WordEmbeddings", "4"),
        {
            "path": "5",
            "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
        },
        **{
            "1/config.json": {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True},
            "2/config.json": dense,
            "3/README.md": b"",
            "4/wordembedding_config.json": words,
            "4/whitespacetokenizer_config.json": {"vocab": ["a/b"], "stop_words": ["../x"]},
            "5/config.json": {"embedding_dimension": 16, "pooling_mode": "mean"},
        },
    )
    assert told(model, "sentence_transformers", ST, params=("normalize_embeddings",)) == ""


@pytest.mark.parametrize(
    ("kind", "file", "said", "named"),
    [
        ("WordEmbeddings", "wordembedding_config.json", "/some/dir--mod.Cls", "/some/dir--mod.Cls"),
        ("WordEmbeddings", "wordembedding_config.json", "os.path.join", "os.path.join"),
        (
            "WordEmbeddings",
            "wordembedding_config.json",
            "sentence_transformers.util.import_from_string",
            "import_from_string",
        ),
    ],
)
def test_a_tokenizer_of_words_is_one_of_the_librarys(
    tmp_path: Path, kind: str, file: str, said: str, named: str
) -> None:
    model = sentences(tmp_path, module(kind), **{f"1/{file}": {"tokenizer_class": said}})
    why = told(model, "sentence_transformers", ST)
    assert "'tokenizer_class'" in why
    assert named in why


@pytest.mark.parametrize(
    "kind",
    [
        "os.X",
        "sentence_transformers.util.misc.os",
        "sentence_transformers.models.Router",
        "/d--m.C",
    ],
)
def test_a_module_is_one_of_those_that_were_looked_at(tmp_path: Path, kind: str) -> None:
    model = sentences(tmp_path, {"path": "1", "type": kind}, **{"1/README.md": b""})
    assert f"a module {kind!r} that is none" in told(model, "sentence_transformers", ST)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"model_args": {"trust_remote_code": True}}, "'trust_remote_code'"),
        ({"model_args": {"offload_folder": "/x"}}, "'offload_folder'"),
        ({"tokenizer_args": {"vocab_file": "/x"}}, "'vocab_file'"),
        ({"tokenizer_name_or_path": "/x"}, "'tokenizer_name_or_path'"),
        ({"model_args": {"torch_dtype": "load"}}, "'torch_dtype'"),
        ({"modality_config": {"text": {"method": "../x"}}}, "'../x'"),
    ],
)
def test_a_transformer_within_is_loaded_as_it_lies(
    tmp_path: Path, said: Mapping[str, Any], named: str
) -> None:
    model = sentences(tmp_path, **{"sentence_bert_config.json": said})
    assert named in told(model, "sentence_transformers", ST)


# Whatever the flavor, and whether or not code may come along.


@pytest.mark.parametrize(
    ("config", "pyfunc", "named"),
    [
        ({"pickled_model": "../other/model.pkl"}, {}, "'pickled_model' names '../other/model.pkl'"),
        ({"pickled_model": "/etc/passwd"}, {}, "'pickled_model' names '/etc/passwd'"),
        ({"pickled_model": "link"}, {}, "'pickled_model' names 'link'"),
        ({"pickled_model": "folder/../../x"}, {}, "'pickled_model' names"),
        ({"code": "../code"}, {}, "'code' names '../code'"),
        ({"code": "a\0b"}, {}, "'code' names"),
        ({}, {"code": "/srv/code"}, "'code' names '/srv/code'"),
        ({}, {"data": "../data"}, "'data' names '../data'"),
        ({}, {"env": "/x/conda.yaml"}, "'env' names"),
        ({}, {"env": {"virtualenv": "../python_env.yaml"}}, "'env.virtualenv' names"),
        ({}, {"artifacts": {"a": {"path": "../a", "uri": "/a"}}}, "'artifacts.path' names '../a'"),
        ({"extra_files": [{"path": "/x"}]}, {}, "'extra_files.path' names '/x'"),
        ({}, {"loader_module": "../x"}, "loader_module '../x' is no module's name"),
        ({}, {"loader_module": ["os"]}, "is no module's name"),
    ],
)
def test_what_an_mlmodel_file_names_lies_inside(
    tmp_path: Path, config: Mapping[str, Any], pyfunc: Mapping[str, Any], named: str
) -> None:
    model = tmp_path / "model"
    (model / "folder").mkdir(parents=True)
    (model / "link").symlink_to(tmp_path)
    described = Description("sklearn", dict(config), dict(pyfunc), None, False, "")
    with pytest.raises(LoadFailed, match="it is refused: ") as refused:
        judge(Rules(), described, model, "it")
    assert named in str(refused.value)


def test_what_lies_inside_or_was_only_noted_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "inner").symlink_to("folder")
    config = {"pickled_model": "folder/../model.pkl", "code": None, "data": "inner/x"}
    pyfunc = {
        "artifacts": {"a": {"path": "artifacts/a", "uri": "/home/me/a"}},
        "model_code_path": "/home/me/model.py",
        "loader_module": "mlflow.pyfunc.model",
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
    }
    judge(Rules(), Description("sklearn", config, pyfunc, None, False, ""), tmp_path, "it")
