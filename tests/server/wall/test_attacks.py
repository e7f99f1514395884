"""Attacks by models that are data, with all checks of what a model says taken out: the loaders of
their libraries are called as they are. Each succeeds without a wall, and fails behind one.
"""

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest

import models
from headrace_server.wall import Wall, lacks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacks()), reason=f"this host lacks {', '.join(lacks())}"),
]

BEHIND_A_WALL = """
import sys
from pathlib import Path
from headrace_server.wall import Wall, raise_wall, stay_within

wall = Wall.from_json(sys.argv[1])
raise_wall(wall)
stay_within(Path(wall.models, "attack"))
"""


@pytest.fixture
def wall(tmp_path: Path) -> Wall:
    for name in ("scratch", "models/attack", "models/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret").write_bytes(np.array([17, 4], np.float32).tobytes())
    return Wall(str(tmp_path / "scratch"), str(tmp_path / "models"))


def outcome(wall: Wall, load: str, *, is_confined: bool) -> str:
    """What *load*, a script, printed in the end."""
    script = BEHIND_A_WALL if is_confined else "import sys\n"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", script + load, wall.to_json()],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"},
    )
    return ran.stdout + ran.stderr


def test_options_of_a_session_read_no_file_of_the_host(wall: Wall, tmp_path: Path) -> None:
    weights = onnx.TensorProto(name="w", data_type=1, dims=[2])
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "secret", "offset": "0", "length": "8"}.items():
        weights.external_data.add(key=key, value=value)
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    y = onnx.helper.make_tensor_value_info("y", 1, [2])
    graph = onnx.helper.make_graph([node], "g", [], [y], [weights])
    # Of a version that every onnxruntime reads.
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    file = tmp_path / "models" / "attack" / "model.onnx"
    file.write_bytes(model.SerializeToString())
    load = f"""
import onnxruntime
options = onnxruntime.SessionOptions()
options.add_session_config_entry(
    "session.model_external_initializers_file_folder_path", {str(tmp_path)!r})
content = open({str(file)!r}, "rb").read()
session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
print(session.run(None, {{}})[0].tolist())
"""
    assert "[17.0, 4.0]" in outcome(wall, load, is_confined=False)
    assert "[17.0, 4.0]" not in outcome(wall, load, is_confined=True)


# Without a wall: that the attack is one, which takes a framework's import more.
BOTH = [True, pytest.param(False, marks=pytest.mark.long)]


@pytest.mark.skipif(not find_spec("sentence_transformers"), reason="needs sentence-transformers")
@pytest.mark.parametrize("is_confined", BOTH)
def test_the_name_of_a_tokenizer_runs_no_file_of_the_host(
    wall: Wall, tmp_path: Path, is_confined: bool
) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mod.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nclass Cls: pass\n"
    )
    model = tmp_path / "models" / "attack"
    (model / "0").mkdir()
    modules = [
        {"idx": 0, "name": "0", "path": "0", "type": "sentence_transformers.models.WordEmbeddings"}
    ]
    said = {"tokenizer_class": f"{tmp_path}/elsewhere--mod.Cls", "max_seq_length": 9}
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "0" / "wordembedding_config.json").write_text(json.dumps(said))
    load = f"""
import sentence_transformers
sentence_transformers.SentenceTransformer({str(model)!r}, trust_remote_code=True, device="cpu")
"""
    said_in_the_end = outcome(wall, load, is_confined=is_confined)
    assert mark.exists() is not is_confined, said_in_the_end
    assert "elsewhere--mod" in said_in_the_end or not is_confined


@pytest.mark.parametrize("is_confined", BOTH)
def test_a_formula_of_a_program_reaches_nothing(
    wall: Wall, tmp_path: Path, is_confined: bool
) -> None:
    """It runs; but it writes to its own folder alone, reads no secret and starts nothing."""
    acts = (
        f"open('{tmp_path}/mark', 'w')",
        f"print('secret', open('{tmp_path}/secret', 'rb').read())",
        f"print('other', __import__('os').listdir('{tmp_path}/models/other'))",
        "print('ran', __import__('subprocess').run('true'))",
        "print('connects', __import__('socket').socket())",
    )
    does = "__import__('builtins').exec"
    tried = "\\n".join(
        f"try: {act}\\nexcept PermissionError: print({index})" for index, act in enumerate(acts)
    )
    formula = f'{does}("""{tried}""")'
    file = tmp_path / "models" / "attack" / "model.pt2"
    with (
        zipfile.ZipFile(models.model("torch_pt2").path / "data" / "model.pt2") as source,
        zipfile.ZipFile(file, "w") as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("models/model.json"):
                said = json.loads(content)
                sizes = said["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
                sizes[0]["as_expr"]["expr_str"] = formula
                content = json.dumps(said).encode()
            target.writestr(name, content)
    load = f"import torch\ntorch.export.load({str(file)!r})"

    printed = outcome(wall, load, is_confined=is_confined)
    if is_confined:
        assert all(f"{index}\n" in printed for index in range(len(acts))), printed
    else:
        assert all(word in printed for word in ("secret", "other", "ran", "connects")), printed
    assert (tmp_path / "mark").exists() is not is_confined
