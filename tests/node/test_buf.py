"""A client in Go that has nothing but reflection and JSON: `buf curl`, as `grpcurl` would ask."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import models
from foreign import IRIS, KINDS_SEEN, check_kinds_seen
from headrace.typed.description import service_name
from headrace_client import Client
from serving import Daemon

BUF = Path(__file__).parent / "node_modules" / ".bin" / "buf"
REFLECTION = ("grpc-v1", "grpc-v1alpha")
MOMENT = "2024-05-06T07:08:09.500Z"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BUF.exists(), reason="buf is there after `make test-node` alone"),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No files of buf's own beside the test's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def curl(daemon: Daemon, path: str, *options: str) -> subprocess.CompletedProcess[str]:
    """How `buf curl` of *path* ended."""
    url = f"http://{daemon.address}{path}"
    common = ("--protocol", "grpc", "--http2-prior-knowledge", "--timeout", "60s")
    return subprocess.run(
        [str(BUF), "curl", *common, *options, url],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def call(
    daemon: Daemon, model: str, method: str, request: Any, *options: str
) -> subprocess.CompletedProcess[str]:
    path = f"/{service_name(model)}/{method}"
    return curl(daemon, path, "--data", json.dumps(request), *options)


def ask(daemon: Daemon, model: str, method: str, request: Any, *options: str) -> Any:
    """The answer to *request*."""
    ran = call(daemon, model, method, request, *options)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer.pop("model_version") == "1"
    return answer


@pytest.mark.parametrize("version", REFLECTION)
def test_services_and_methods_are_listed(daemon: Daemon, version: str) -> None:
    services = curl(daemon, "", "--list-services", "--reflect-protocol", version)
    methods = curl(daemon, "", "--list-methods", "--reflect-protocol", version)

    assert services.returncode == methods.returncode == 0, services.stderr + methods.stderr
    # One that was named at start and one that came later.
    for model in ("iris", "late"):
        assert service_name(model) in services.stdout.split()
        expected = {f"{service_name(model)}/{method}" for method in ("Predict", "PredictRow")}
        assert expected <= set(methods.stdout.split())
    assert "inference.GRPCInferenceService/ModelInfer" in methods.stdout.split()


@pytest.mark.parametrize("version", REFLECTION)
def test_named_columns_are_asked_by_row_and_by_batch(daemon: Daemon, version: str) -> None:
    rows = {name: [value, value + 3] for name, value in IRIS.items()}
    option = ("--reflect-protocol", version)

    row = ask(daemon, "iris", "PredictRow", IRIS, *option)
    batch = ask(daemon, "iris", "Predict", rows, *option)

    with Client(daemon.address) as client:
        expected = [str(label) for label in client.predict("iris", rows).array.tolist()]
    assert row == {"output-0": expected[0]}
    assert batch == {"output-0": expected}


def test_a_model_that_came_later_is_asked_alike(daemon: Daemon) -> None:
    rows = {name: [value, value + 3] for name, value in IRIS.items()}

    row = ask(daemon, "late", "PredictRow", IRIS)
    batch = ask(daemon, "late", "Predict", rows)

    with Client(daemon.address) as client:
        expected = client.predict("late", rows).array
    assert row["y"]["values"] == pytest.approx(expected[0].tolist())
    assert batch["y"]["shape"] == ["2", "3"]
    assert batch["y"]["values"] == pytest.approx(expected.ravel().tolist())


def test_text_and_numbers_stand_in_one_request(daemon: Daemon) -> None:
    rows = models.model("mixed_columns").rows(4)

    batch = ask(daemon, "mixed", "Predict", {name: rows[name].tolist() for name in rows})

    with Client(daemon.address) as client:
        expected = client.predict("mixed", rows).array.ravel().tolist()
    assert list(batch.values()) == [pytest.approx(expected)]


def test_optional_columns_may_be_left_out_and_a_null_array_is_none(daemon: Daemon) -> None:
    row = ask(daemon, "notes", "PredictRow", {"size": 1.5})
    paths = [{"values": [1, 2.5]}, {"is_null": True}]
    batch = ask(daemon, "notes", "Predict", {"size": [1.5, 2], "path": paths})

    assert row == {"output-0": "size=1.5"}
    assert batch == {"output-0": ["size=1.5,path=[1.0, 2.5]", "size=2.0,path=None"]}


def test_parameters_and_instants_in_them_are_json(daemon: Daemon) -> None:
    params = {"scale": 10, "tags": ["x", "y"], "since": MOMENT}
    row = {"length": 1, "count": "3"}

    plain = ask(daemon, "weigher", "PredictRow", row)
    given = ask(daemon, "weigher", "PredictRow", {**row, "params": params})

    assert plain == {"total": 5.25, "label": "pa/b2024-01-02"}
    assert given == {"total": 13.25, "label": "px/y2024-05-06T07:08:09.500000"}


def test_instants_bytes_arrays_objects_and_maps_are_json(daemon: Daemon) -> None:
    row = {
        "at": MOMENT,
        "raw": base64.b64encode(b"\x00\xff").decode(),
        "small": 1.5,
        "path": {"values": [1.5, -2]},
        "owner": KINDS_SEEN["owner"],
        "flags": KINDS_SEEN["flags"],
    }

    told = ask(daemon, "kinds", "PredictRow", row)
    both = ask(daemon, "kinds", "Predict", {name: [value] * 2 for name, value in row.items()})

    check_kinds_seen(told["output-0"])
    assert both["output-0"] == [told["output-0"]] * 2


def test_tensors_have_a_shape_and_values(daemon: Daemon) -> None:
    rows = models.model("two_towers").rows(2)
    tensors = {
        name: {"shape": list(rows[name].shape), "values": rows[name].ravel().tolist()}
        for name in rows
    }
    # Without the axis of rows, and without a shape, which the model's says.
    single = {name: {"values": rows[name][0].tolist()} for name in rows}

    batch = ask(daemon, "towers", "Predict", tensors)
    row = ask(daemon, "towers", "PredictRow", single)

    with Client(daemon.address) as client:
        expected = client.predict("towers", rows)
    assert batch["score"] == pytest.approx(expected["score"].tolist(), rel=1e-5)
    assert batch["hidden"]["shape"] == ["2", "3"]
    assert batch["hidden"]["values"] == pytest.approx(expected["hidden"].ravel().tolist(), rel=1e-5)
    assert row["score"] == pytest.approx(expected["score"][0], rel=1e-5)
    assert row["hidden"]["values"] == pytest.approx(expected["hidden"][0].tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({**IRIS, "color": 3.5}, 'unknown field "color"'),
        ({**IRIS, "petal_width": "wide"}, "invalid value for double field petal_width"),
    ],
)
def test_the_client_itself_refuses_what_the_service_does_not_have(
    daemon: Daemon, request_: Any, said: str
) -> None:
    ran = call(daemon, "iris", "PredictRow", request_)

    assert ran.returncode == 1
    assert said in ran.stderr


@pytest.mark.parametrize(
    ("model", "method", "request_", "said"),
    [
        ("iris", "PredictRow", {"sepal_length": 5.1}, "missing input 'sepal_width'"),
        ("late", "Predict", {"sepal_length": [5.1]}, "missing input 'sepal_width'"),
        (
            "iris",
            "Predict",
            {**{name: [1] for name in IRIS}, "petal_width": [1, 2]},
            "'petal_width' has 2 rows, but 'sepal_length' has 1",
        ),
        ("net", "Predict", {"input-0": {"shape": [2, 4], "values": [1]}}, "'input-0'"),
    ],
)
def test_the_server_says_what_is_wrong(
    daemon: Daemon, model: str, method: str, request_: Any, said: str
) -> None:
    ran = call(daemon, model, method, request_)

    # buf ends with the status, three bits to the left.
    assert ran.returncode == 3 << 3, ran.stderr
    told = json.loads(ran.stderr)
    assert told["code"] == "invalid_argument"
    assert said in told["message"]


def test_json_of_another_type_is_named_by_its_place(daemon: Daemon) -> None:
    row = {
        "at": MOMENT,
        "raw": "AA==",
        "small": 1,
        "path": {"values": []},
        "owner": {"id": 1.5, "seen": MOMENT},
        "flags": {},
    }

    ran = call(daemon, "kinds", "PredictRow", row)

    assert ran.returncode == 3 << 3, ran.stderr
    assert "input 'owner': row 0: expected long at '.id'" in json.loads(ran.stderr)["message"]


def test_what_there_is_not_is_not_found_by_reflection(daemon: Daemon) -> None:
    ran = call(daemon, "nobody", "PredictRow", IRIS)

    assert ran.returncode == 1
    assert f'failed to find service named "{service_name("nobody")}"' in ran.stderr
