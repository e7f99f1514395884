"""Every flavor's models load and answer behind a wall as they do without one."""

import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import deep_models
import models
from headrace_server.adapters import adapter_of
from headrace_server.devices import open_device
from headrace_server.wall import Wall, lacks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacks()), reason=f"this host lacks {', '.join(lacks())}"),
]

# As a worker does it: the wall first, then numpy; each model in a thread held to its folder.
SCRIPT = """
import sys
from headrace_server.wall import Wall, raise_wall, stay_within
raise_wall(Wall.from_json(sys.argv[1]))

import os, pickle, threading, traceback, warnings
from pathlib import Path
import numpy as np
from headrace_server.adapters import adapter_of
from headrace_server.devices import open_device

warnings.simplefilter("ignore")

def same(one, other):
    if one.dtype.kind == "f":
        return np.allclose(one, other.astype(float), rtol=1e-4, atol=1e-6)
    return one.astype(str).tolist() == other.astype(str).tolist()

def serve(name, flavor, artifact, rows, expected):
    stay_within(artifact.path.parent)
    try:
        answer = adapter_of(flavor)(artifact, open_device("cpu")).predict(rows)
        assert answer and all(map(same, map(np.asarray, answer.values()), expected)), answer
    except BaseException:
        print(name, traceback.format_exc())

for told in pickle.loads(Path(sys.argv[2]).read_bytes()):
    thread = threading.Thread(target=serve, args=told)
    thread.start()
    thread.join()
print("done")
sys.stdout.flush()
os._exit(0)
"""

DATA = ("onnx_named", "torch_pt2", "xgb_classifier", "lgb_booster", "cat_mixed")
CODE = (
    "iris_forest",
    "mixed_columns",
    "torch_pickle",
    "torch_script",
    "lgb_categories",
    "ols_formula",
)
DEEP = tuple(
    name for name in deep_models.NAMES if not name.startswith("tf_") and find_spec("keras")
)


@pytest.mark.parametrize(
    ("names", "runs_code"),
    [
        (DATA, False),
        pytest.param(DEEP, False, marks=pytest.mark.long),
        pytest.param((*CODE, *DATA), True, marks=pytest.mark.long),
    ],
)
def test_models_answer_behind_a_wall_as_without_one(
    tmp_path: Path, names: tuple[str, ...], runs_code: bool
) -> None:
    told = []
    for name in names:
        model = models.model(name)
        rows = model.rows(3)
        free = adapter_of(model.flavor)(model.artifact, open_device("cpu"))
        told.append((name, model.flavor, model.artifact, rows, list(free.predict(rows).values())))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "told").write_bytes(pickle.dumps(told))
    home = str(models.model(names[0]).path.parent)
    wall = Wall(str(tmp_path / "scratch"), home, (str(tmp_path / "told"),), runs_code=runs_code)
    ran = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, wall.to_json(), str(tmp_path / "told")],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.stdout == "done\n", ran.stdout + ran.stderr
