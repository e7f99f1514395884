"""Environments from PyPI: models side by side that cannot live in one environment.

`make test-environments` runs these; they install scikit-learn twice, and take minutes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_client import Client
from headrace_server.librarian.environment import Environments
from models import model as model_of
from serving import Daemon

pytestmark = [pytest.mark.environments, pytest.mark.timeout(1800)]

OLD = "1.5.2"
REQUIREMENTS = [f"scikit-learn=={OLD}", "numpy==1.26.4", "pandas==2.2.3", "cloudpickle"]

# Trains what MLflow calls a model, in whatever environment it runs.
TRAIN = """
import sys
import cloudpickle, mlflow.models, mlflow.sklearn, numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression

class Teller(BaseEstimator):
    def fit(self, x, y):
        self.inner_ = LogisticRegression().fit(x, y)
        return self
    def predict(self, x):
        import sklearn
        return np.array([f"{sklearn.__version__} {label}" for label in self.inner_.predict(x)])

x, y = np.array([[0.0, 0.0], [9.0, 9.0]]), np.array([0, 1])
fitted = Teller().fit(x, y)
mlflow.sklearn.save_model(
    fitted, sys.argv[1], serialization_format="cloudpickle", pip_requirements=sys.argv[2:],
    signature=mlflow.models.infer_signature(x, fitted.predict(x)),
)
class Whole(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        import sklearn
        return [sklearn.__version__] * len(model_input)
mlflow.pyfunc.save_model(
    sys.argv[1] + "-pyfunc", python_model=Whole(),
    pip_requirements=[*sys.argv[2:], "mlflow-skinny"],
    signature=mlflow.models.infer_signature(x, ["text"]),
)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A model that was trained, and can only be loaded, with an older scikit-learn."""
    folder = tmp_path_factory.mktemp("old")
    (folder / "requirements.txt").write_text("\n".join([*REQUIREMENTS, "mlflow-skinny"]))
    environments = Environments(cache / "headrace" / "environments")
    made = environments.of(folder, print, installer="pip", s_max=1500)
    subprocess.run(
        [made.python, "-I", "-c", TRAIN, str(folder / "model"), *REQUIREMENTS],
        check=True,
        env={"MLFLOW_DISABLE_TELEMETRY": "true", "HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    return folder / "model"


@pytest.fixture(scope="module")
def daemon(old: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    new = model_of("string_labels").path
    running = Daemon(
        f"old={old}",
        f"whole={old}-pyfunc",
        f"stray={old}",
        f"new={new}",
        "--set=old.environment=model",
        "--set=whole.environment=model",
        "--set=old.load_s_max=120",
        "--set=whole.environment_installer=pip",
        "--set=old.environment_installer=pip",
        cwd=tmp_path_factory.mktemp("cwd"),
        cache=cache,
    )
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    daemon.wait("environment_ready", count=2)
    daemon.wait("ready")
    with Client(daemon.address, timeout_s=60) as opened:
        yield opened


def test_two_versions_of_a_framework_are_served_side_by_side(client: Client) -> None:
    import sklearn

    assert sklearn.__version__ != OLD

    new = model_of("string_labels")
    answer = client.predict("old", {"input-0": [[9.0, 9.0], [0.0, 0.0]]})
    labels = client.predict("new", new.rows(2))

    assert next(iter(answer.values())).tolist() == [f"{OLD} 1".encode(), f"{OLD} 0".encode()]
    expected = new.expected(new.rows(2))
    assert next(iter(labels.values())).astype(str).tolist() == (
        next(iter(expected.values())).tolist()
    )


def test_a_python_model_runs_with_what_it_was_logged_with(client: Client) -> None:
    answer = client.predict("whole", {"input-0": [[1.0, 1.0]]})

    assert next(iter(answer.values())).tolist() == [OLD.encode()]


def test_each_environment_has_a_worker_of_its_own(client: Client, daemon: Daemon) -> None:
    ready = {line["model"]: line["workers"] for line in daemon.events("model_ready")}

    assert len({*ready["old"], *ready["whole"], *ready["new"]}) == 3


def test_in_the_daemons_environment_the_mismatch_is_told_once(
    client: Client, daemon: Daemon
) -> None:
    import numpy as np
    import sklearn

    (told,) = daemon.events("requirements_mismatch")

    assert told["model"] == "stray"
    assert f"scikit-learn=={OLD} (here {sklearn.__version__})" in told["mismatches"]
    assert f"numpy==1.26.4 (here {np.__version__})" in told["mismatches"]
    assert "environment" in told["remedy"]


def test_the_second_time_nothing_is_made(
    client: Client, old: Path, cache: Path, tmp_path: Path
) -> None:
    running = Daemon(f"old={old}", "--set=old.environment=model", cwd=tmp_path, cache=cache)
    try:
        made = running.wait("environment_ready")
        running.wait("ready")
    finally:
        assert running.stop() == 0

    assert made["seconds"] < 5


def test_requirements_that_cannot_be_had_fail_the_model_alone(
    client: Client, old: Path, cache: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", str(old), str(broken)], check=True)
    (broken / "requirements.txt").write_text("scikit-learn==0.0.1\n")
    running = Daemon(
        f"old={old}",
        f"broken={broken}",
        "--set=old.environment=model",
        "--set=broken.environment=model",
        cwd=tmp_path,
        cache=cache,
    )
    try:
        failed = running.wait("model_failed")
        running.wait("model_ready")
        with Client(running.address, timeout_s=60) as second:
            answer = second.predict("old", {"input-0": [[9.0, 9.0]]})
    finally:
        assert running.stop() == 0

    assert failed["model"] == "broken"
    assert "cannot be made from its requirements" in failed["why"]
    assert "scikit-learn==0.0.1" in failed["why"]
    assert next(iter(answer.values())).tolist() == [f"{OLD} 1".encode()]


def test_uv_makes_the_same(old: Path, tmp_path: Path) -> None:
    """Only where pip can install uv."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "uv")], check=True)
    subprocess.run([str(tmp_path / "uv/bin/pip"), "install", "-q", "uv"], check=True)
    code = (
        "import json, sys; from pathlib import Path\n"
        "from headrace_server.librarian.environment import Environments\n"
        "found = Environments(Path(sys.argv[2])).of(Path(sys.argv[1]), print, installer='uv',"
        " s_max=1000)\n"
        "print(json.dumps(found.python))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(old), str(tmp_path / "environments")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}/uv/bin:/usr/bin:/bin"},
    )
    python = json.loads(ran.stdout.splitlines()[-1])

    told = subprocess.run(
        [python, "-I", "-c", "import sklearn; print(sklearn.__version__)"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == OLD
