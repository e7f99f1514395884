"""The command line: a person's mistake is one sentence and a non-zero exit, never a traceback."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

import models
from serving import Daemon

pytestmark = pytest.mark.slow

Serve = Callable[..., Daemon]


def headrace(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "headrace_server.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["models:/nobody@champion"], "nobody"),
        (["models:/iris@nobody"], "champion"),
        (["models:/iris/99"], "99"),
        (["models:/iris"], "models:/"),
        (["runs:/0123/none"], "0123"),
        (["./nowhere"], "nowhere"),
        (["models:/iris/1", "models:/iris/2"], "'iris'"),
        (["models:/iris/1", "--set", "iris.rows_mx=3"], "did you mean 'rows_max'"),
        (["models:/iris/1", "--set", "iris.rows_max=0"], "rows_max=0"),
        (["models:/iris/1", "--set", "irs.rows_max=3"], "'irs'"),
        (["models:/iris/1", "--set", "rows_max=3"], "NAME.SETTING=VALUE"),
        (["models:/iris/1", "--device", "tpu"], "cuda:N"),
        (["models:/iris/1", "--host", "256.1.1.1"], "256.1.1.1"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(
    serve: Serve, arguments: list[str], sentence: str
) -> None:
    running = serve(*arguments)

    assert running.wait_exit() == 2

    told = [line for line in running.lines if not line.startswith("{")]
    assert len(told) == 1
    assert told[0].startswith("headrace: ")
    assert sentence in told[0]


def test_an_empty_registry_is_told(tmp_path: Path, cache: Path) -> None:
    uri = models.tracking_uri(tmp_path)
    MlflowClient(uri).search_registered_models()

    running = Daemon("--tracking-uri", uri, cwd=tmp_path, cache=cache)

    assert running.wait_exit() == 2
    assert "holds no model version" in running.lines[-1]


def test_a_port_that_is_taken_is_told(daemon: Daemon, store: Path, cache: Path) -> None:
    port = daemon.wait("listening")["port"]

    ran = headrace(
        "serve", "--tracking-uri", models.tracking_uri(store), "--port", str(port),
        "--metrics-port", "0", "models:/iris/1",
    )  # fmt: skip

    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert "port" in ran.stderr.splitlines()[-1]


def test_a_model_that_cannot_be_loaded_leaves_the_others_serving(
    serve: Serve, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    source = models.model("iris_forest").path
    (broken / "MLmodel").write_text((source / "MLmodel").read_text())

    running = serve("models:/graph/1", f"broken={broken}")
    line = running.wait("ready")

    assert line["models"] == ["graph"]
    assert line["failed"] == ["broken"]
    told = running.wait("model_failed")["why"]
    assert str(tmp_path) not in told


def test_version_and_help_are_printed() -> None:
    assert headrace("--version").stdout.startswith("headrace 0.")
    helped = headrace("serve", "--help")
    assert helped.returncode == 0
    assert "models:/iris@champion" in helped.stdout


def test_predict_prints_a_table(daemon: Daemon, tmp_path: Path) -> None:
    rows = models.model("iris_pipeline").rows(4)
    table = [",".join(rows)] + [",".join(map(str, row)) for row in zip(*rows.values(), strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(table) + "\n")

    ran = headrace(
        "predict", "iris", "--input", str(tmp_path / "rows.csv"), "--server", daemon.address
    )

    assert ran.returncode == 0, ran.stderr
    assert "output-0" in ran.stdout
    assert "sepal_length" in ran.stdout


def test_health_tells_probes_whether_the_server_and_a_model_serve(daemon: Daemon) -> None:
    asked = [headrace("health", *model, "--server", daemon.address) for model in ((), ("iris",))]
    unknown = headrace("health", "nobody", "--server", daemon.address)

    assert [(ran.returncode, ran.stdout) for ran in asked] == [(0, "SERVING\n")] * 2
    assert (unknown.returncode, unknown.stderr) == (1, "")
    assert unknown.stdout.startswith("NOT_FOUND: ")


@pytest.mark.parametrize("command", [["health"], ["load", "iris"], ["unload", "iris"]])
@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf"])
def test_a_command_never_waits_for_ever(command: list[str], given: str) -> None:
    ran = headrace(*command, "--server", "127.0.0.1:1", f"--timeout={given}")

    assert (ran.returncode, ran.stdout) == (2, "")
    said = f"expected a number of seconds above 0, at most a year, got {float(given)!r}"
    assert ran.stderr == f"headrace: --timeout: {said}\n"


def test_a_server_that_is_not_there_is_not_healthy(tmp_path: Path) -> None:
    ran = headrace("health", "--server", f"unix:{tmp_path}/nobody", "--timeout", "5")

    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout.startswith("UNAVAILABLE: ")
