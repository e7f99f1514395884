"""`headrace doctor` as a whole: nothing takes the rest along, and the exit status tells."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import models
from headrace_server.doctor.doctor import setup_of
from headrace_server.doctor.examine import run_all
from headrace_server.doctor.finding import Finding, Setup, Status, ok, problem, warning
from headrace_server.doctor.report import as_json, print_table

FINDINGS = [ok("a", "fine"), warning("b", "odd"), problem("c", "bad [x]", "mend it")]


def test_a_check_that_fails_or_hangs_takes_no_other_along() -> None:
    gate = threading.Event()

    def fails(_setup: Setup) -> Iterator[Finding]:
        yield ok("first", "said before it failed")
        raise ValueError("no such thing")

    def hangs(_setup: Setup) -> Iterator[Finding]:
        yield ok("second", "said before it hung")
        gate.wait()

    def works(_setup: Setup) -> Iterator[Finding]:
        yield ok("third", "fine")

    found = run_all({"fails": fails, "hangs": hangs, "works": works}, Setup(), check_s_max=0.2)
    gate.set()

    assert [(each.name, each.status) for each in found] == [
        ("first", Status.OK),
        ("fails", Status.WARNING),
        ("second", Status.OK),
        ("hangs", Status.WARNING),
        ("third", Status.OK),
    ]
    assert "ValueError: no such thing" in found[1].text
    assert "does not end" in found[3].text


def test_the_table_has_remedies_below_and_a_sum() -> None:
    out = io.StringIO()

    print_table(FINDINGS, out)

    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[2].split() == ["problem", "c", "bad", "[x]"]
    assert lines[3].strip() == "remedy: mend it"
    assert lines[-1] == "1 problem, 1 warning"


def test_json_holds_the_same() -> None:
    assert json.loads(as_json(FINDINGS)) == [
        {"name": "a", "status": "ok", "text": "fine", "remedy": ""},
        {"name": "b", "status": "warning", "text": "odd", "remedy": ""},
        {"name": "c", "status": "problem", "text": "bad [x]", "remedy": "mend it"},
    ]


def test_settings_that_cannot_be_used_are_a_problem_and_defaults_are_looked_at(
    tmp_path: Path,
) -> None:
    (tmp_path / "headrace.toml").write_text("[server]\nprt = 1\n")

    setup, (found,) = setup_of(str(tmp_path / "headrace.toml"), {}, ())

    assert found.status is Status.PROBLEM
    assert "'prt'" in found.text
    assert setup.port == 8001


def test_settings_of_the_file_and_the_flags_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(
        '[server]\nport = 9100\ntransport = "grpcio"\n[tls]\ncert = "c.pem"\nkey = "k.pem"\n'
    )

    setup, (found,) = setup_of(
        str(tmp_path / "headrace.toml"), {"metrics_port": "9101"}, ["server.arena_bytes_max=65536"]
    )

    assert found.status is Status.OK
    assert (setup.port, setup.metrics_port, setup.transport) == (9100, 9101, "grpcio")
    assert (setup.has_tls, setup.arena_bytes_max) == (True, 65536)


def doctor(
    cwd: Path, *arguments: str, **environment: str
) -> tuple[int, dict[str, dict[str, str]], str]:
    """Run the real command; exit status, findings by name, standard error."""
    command = [sys.executable, "-m", "headrace_server.cli", "doctor", "--json", *arguments]
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(cwd),
        "MLFLOW_TRACKING_URI": "",
        **environment,
    }
    ran = subprocess.run(
        [*command, "--port", "0", "--metrics-port", "0"],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    findings: list[dict[str, Any]] = json.loads(ran.stdout)
    return ran.returncode, {each["name"]: each for each in findings}, ran.stderr


@pytest.mark.slow
def test_a_machine_that_can_serve_has_no_problem(tmp_path: Path) -> None:
    models.log("iris_pipeline", tmp_path, "iris")

    status, findings, told = doctor(tmp_path, "--tracking-uri", models.tracking_uri(tmp_path))

    assert (status, told) == (0, "")
    assert findings["registry"]["text"].endswith("answers and holds 1 model")


@pytest.mark.slow
def test_an_empty_registry_is_a_warning(tmp_path: Path) -> None:
    uri = models.tracking_uri(tmp_path)
    MlflowClient(uri).search_registered_models()

    status, findings, _ = doctor(tmp_path, "--tracking-uri", uri)

    assert status == 0
    assert findings["registry"]["status"] == "warning"


@pytest.mark.slow
def test_a_registry_that_is_not_there_is_a_problem_and_is_not_made(tmp_path: Path) -> None:
    status, findings, told = doctor(tmp_path)

    assert (status, told) == (1, "")
    assert findings["registry"]["status"] == "problem"
    assert "--tracking-uri" in findings["registry"]["remedy"]
    assert findings["python"]["status"] == "ok"
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_a_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        uri = f"http://somebody:secret@127.0.0.1:{mute.getsockname()[1]}"
        status, findings, _ = doctor(
            tmp_path, "--tracking-uri", uri,
            MLFLOW_HTTP_REQUEST_TIMEOUT="1", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
        )  # fmt: skip

    assert status == 1
    assert findings["registry"]["status"] == "problem"
    assert "secret" not in json.dumps(findings)
