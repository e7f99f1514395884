"""What a daemon refuses to load, and what it cannot: told in the index, and the rest is served."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import models
from headrace_client import Client, FailedPrecondition, InvalidArgument
from headrace_server.wall import lacks
from serving import Daemon

pytestmark = pytest.mark.slow

CRAFTED = """
flavors:
  python_function: {loader_module: pwn_mod, code: code, data: data}
"""
BESIDE_ONNX = """
flavors:
  onnx: {data: model.onnx, onnx_version: 1.0.0}
  python_function: {loader_module: pwn_mod, code: code}
"""


READS = """
flavors:
  onnx:
    data: model.onnx
    onnx_session_options:
      extra_session_config:
        session.model_external_initializers_file_folder_path: FOLDER
"""
RUNS = """
flavors:
  sentence_transformers: {sentence_transformers_version: 6.2.0}
"""


def written(directory: Path, mlmodel: str) -> Path:
    directory.mkdir()
    (directory / "MLmodel").write_text(mlmodel)
    return directory


def crafted(directory: Path, mlmodel: str, mark: Path) -> Path:
    """A model whose MLmodel file asks for a module that it ships, which makes the file *mark*."""
    written(directory, mlmodel)
    (directory / "code").mkdir()
    (directory / "data").mkdir()
    (directory / "code" / "pwn_mod.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    shutil.copy(models.model("onnx_named").path / "model.onnx", directory)
    return directory


def reasons(client: Client) -> dict[str, str]:
    return {model.name: model.reason for model in client.models() if model.state == "UNAVAILABLE"}


def assert_graph_answers(client: Client) -> None:
    rows = models.model("onnx_named").rows(3)
    expected = models.model("onnx_named").expected(rows)
    answer = client.infer("graph", rows)
    np.testing.assert_allclose(answer.array, next(iter(expected.values())), rtol=1e-5)


def test_without_pickle_only_data_is_loaded_and_the_rest_refused_by_name(
    serve: Callable[..., Daemon], tmp_path: Path
) -> None:
    alone = crafted(tmp_path / "alone", CRAFTED, mark := tmp_path / "mark")
    beside = crafted(tmp_path / "beside", BESIDE_ONNX, mark)
    running = serve(
        *("--set", "server.allow_pickle=false"),
        *("graph=models:/graph/1", "net=models:/net/1", "iris=models:/iris@champion"),
        *(f"alone={alone}", f"beside={beside}"),
    )
    running.wait("ready")
    with Client(running.address) as client:
        assert_graph_answers(client)
        assert client.ready("net")
        told = reasons(client)
        assert sorted(told) == ["alone", "beside", "iris"]
        assert "flavor 'sklearn' can execute code; accepted are onnx," in told["iris"]
        assert "it ships code of its own" in told["alone"]
        assert "it ships code of its own" in told["beside"]
        assert all("allow_pickle = false" in reason for reason in told.values())
        with pytest.raises(FailedPrecondition, match="allow_pickle = false"):
            client.infer("iris", models.model("iris_pipeline").rows(1))
        with pytest.raises(FailedPrecondition, match="flavor 'sklearn' can execute code"):
            client.load("graph", "models:/labels/1")
        assert_graph_answers(client)
    assert not mark.exists()


def test_a_model_of_data_reads_no_file_of_the_host_and_runs_none(
    serve: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(bytes(48))
    reads = written(tmp_path / "reads", READS)
    (reads / "MLmodel").write_text(READS.replace("FOLDER", str(tmp_path)))
    shutil.copy(models.model("onnx_named").path / "model.onnx", reads)
    runs = written(tmp_path / "runs", RUNS) / "model.sentence_transformer"
    (runs / "0").mkdir(parents=True)
    words = [{"path": "0", "type": "sentence_transformers.models.WordEmbeddings"}]
    (runs / "modules.json").write_text(json.dumps(words))
    (runs / "0" / "model.safetensors").write_text("")
    (runs / "0" / "wordembedding_config.json").write_text(
        json.dumps({"tokenizer_class": f"{tmp_path}--mod.Cls"})
    )
    (tmp_path / "mod.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    running = serve(
        *("--set", "server.allow_pickle=false", "--set", "graph.trial=false"),
        *("graph=models:/graph/1", f"reads={reads}", f"runs={tmp_path / 'runs'}"),
    )
    running.wait("ready")
    with Client(running.address) as client:
        assert_graph_answers(client)
        told = reasons(client)
    assert "'session.model_external_initializers_file_folder_path' in extra" in told["reads"]
    assert "'tokenizer_class' in 'model.sentence_transformer/0/wordembedding" in told["runs"]
    assert not (tmp_path / "mark").exists()


@pytest.mark.skipif(bool(lacks()), reason=f"this host lacks {', '.join(lacks())}")
@pytest.mark.parametrize(
    ("settings", "is_confined"),
    [
        (("server.allow_pickle=false",), True),
        (("sandbox.confine=all",), True),
        (("server.allow_pickle=false", "sandbox.confine=none"), False),
    ],
)
def test_workers_are_confined_as_the_sandbox_says(
    serve: Callable[..., Daemon], settings: tuple[str, ...], is_confined: bool
) -> None:
    running = serve(
        *(option for setting in settings for option in ("--set", setting)),
        *("--set", "graph.trial=false", "graph=models:/graph/1"),
    )
    running.wait("ready")
    workers = [
        child
        for child in psutil.Process(running.process.pid).children()
        if "headrace_server.worker" in child.cmdline()
    ]
    filters = {
        Path(f"/proc/{one.pid}/status").read_text().split("Seccomp:\t")[1][0] for one in workers
    }
    assert filters == {"2" if is_confined else "0"}
    with Client(running.address) as client:
        assert_graph_answers(client)
    assert running.stop() == 0
    assert running.events("sandbox_incomplete") == []


def test_only_allowed_flavors_and_sources_are_loaded(
    serve: Callable[..., Daemon], store: Path, tmp_path: Path
) -> None:
    shutil.copytree(models.model("onnx_named").path, tmp_path / "graph")
    running = serve(
        *("--set", "server.allow_flavors=onnx"),
        *("--set", f"server.allow_sources=models:/ {store}/artifacts"),
        *("graph=models:/graph/1", "net=models:/net/1"),
    )
    running.wait("ready")
    with Client(running.address) as client:
        assert_graph_answers(client)
        assert "it needs the flavor pytorch; allow_flavors has onnx" in reasons(client)["net"]
        with pytest.raises(InvalidArgument, match="is refused: allow_sources has models:/"):
            client.load("graph", str(tmp_path / "graph"))
        assert_graph_answers(client)


def test_a_start_up_source_that_is_not_allowed_ends_the_command(
    serve: Callable[..., Daemon],
) -> None:
    running = serve("--set", "server.allow_sources=s3://models", "graph=models:/graph/1")
    assert running.wait_exit() == 2
    assert "models:/graph/1 is refused: allow_sources has s3://models" in running.lines[-1]


def test_what_is_no_model_is_told_in_the_index_and_the_rest_is_served(
    serve: Callable[..., Daemon], tmp_path: Path
) -> None:
    onnx = "flavors: {onnx: {data: model.onnx}}"
    broken = {
        "empty": ("", "expected a mapping, got nothing"),
        "no-yaml": ("flavors: [", "cannot be read: ParserError"),
        "wrong-type": ("flavors: [onnx]", "expected a mapping 'flavors', got list"),
        "no-flavor": ("flavors: {}", "names no flavor"),
        "unknown": ("flavors: {made_up: {}}", "flavor 'made_up' has no adapter"),
        "no-file": (onnx, "lacks 'model.onnx', which its MLmodel file names"),
        "loop": (onnx, "holds a link that leads back to itself: 'up'"),
        "huge": ("#" * (9 << 20), "is larger than 8388608 bytes"),
    }
    paths = {name: written(tmp_path / name, text) for name, (text, _) in broken.items()}
    (paths["loop"] / "up").symlink_to(paths["loop"])
    # Nothing keeps its code from running here: what the tests above refuse is a danger.
    mark = tmp_path / "mark"
    paths["crafted"] = crafted(tmp_path / "crafted", CRAFTED, mark)
    broken["crafted"] = ("", "_load_pyfunc")
    named = [f"{name}={path}" for name, path in paths.items()]
    running = serve("graph=models:/graph/1", *named)
    running.wait("ready")
    with Client(running.address) as client:
        assert_graph_answers(client)
        told = reasons(client)
        assert sorted(told) == sorted(broken)
        for name, (_, why) in broken.items():
            assert why in told[name], name
    assert mark.exists()
