"""Where a model may come from: patterns of sources, and links that lead elsewhere."""

import os
from pathlib import Path

import pytest

from headrace_server.errors import LoadFailed
from headrace_server.librarian.places import is_allowed, links_out


@pytest.mark.parametrize(
    ("place", "pattern"),
    [
        ("models:/iris/3", "models:/"),
        ("models:/iris/3", "models:/iris"),
        ("models:/iris@champion", "models:/iris"),
        ("models:/iris@champion", "models:/iris@champion"),
        ("models:/iris@champion", "models:/ir*"),
        ("MODELS:/iris/3", "models:/iris"),
        ("runs:/ab12/model", "runs:/"),
        ("s3://bucket/a/b", "s3://bucket"),
        ("s3://bucket/a/b", "s3://bucket/a/"),
        ("s3://Bucket/a/b", "s3://*/a"),
        ("mlflow-artifacts:/0/models/m-1/artifacts", "mlflow-artifacts:/*/models"),
        ("/models", "/models"),
        ("/models/iris", "/models/"),
        ("/models/iris", "/"),
        ("/models/a/../iris", "/models/iris"),
        ("file:///models/iris", "/models"),
        ("/models/iris", "file:///models"),
        ("/models/team-a/iris", "/models/team-*/iris"),
    ],
)
def test_a_place_within_a_pattern_is_allowed(place: str, pattern: str) -> None:
    assert is_allowed(place, ["gs://other", pattern])


@pytest.mark.parametrize(
    ("place", "pattern"),
    [
        ("models:/irises/3", "models:/iris"),
        ("models:/iris@canary", "models:/iris@champion"),
        ("models:/iris/3", "models:/iris@*"),
        ("runs:/ab12/model", "models:/"),
        ("/models-evil/iris", "/models"),
        ("/models/../etc", "/models"),
        ("file:///models/%2e%2e/etc", "/models"),
        ("/a/b/iris", "/*/iris"),
        ("s3://bucket-evil/a", "s3://bucket"),
        ("s3://bucket@evil/a", "s3://bucket"),
        ("s3:/bucket/a", "s3://bucket"),
        ("s3://bucket/a/../b", "s3://bucket/a"),
        ("s3://bucket/a/%2e%2e/b", "s3://bucket/a"),
        ("s3://bucket/a/%252e%252e/b", "s3://bucket/a"),
        ("s3://bucket/a%2f../b", "s3://bucket/a*"),
        ("https://evil?x/a", "https://*/a"),
        ("https://evil\\@good/a", "https://*/a"),
        ("file://models/iris", "/models"),
    ],
)
def test_a_place_that_only_looks_alike_is_not(place: str, pattern: str) -> None:
    assert not is_allowed(place, [pattern])


def test_without_patterns_every_place_is_allowed() -> None:
    assert is_allowed("s3://anywhere/../x", [])


def test_a_directory_is_where_its_links_lead(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "alias").symlink_to(tmp_path / "models")

    assert not is_allowed(str(tmp_path / "models" / "link"), [str(tmp_path / "models")])
    assert is_allowed(str(tmp_path / "models" / "link"), [str(tmp_path / "elsewhere")])
    assert is_allowed(str(tmp_path / "models"), [str(tmp_path / "alias")])


def test_only_links_that_lead_out_are_told(tmp_path: Path) -> None:
    model, outside = tmp_path / "model", tmp_path / "model-2"
    (model / "data").mkdir(parents=True)
    outside.write_text("")
    (model / "data" / "file").write_text("")
    (model / "inner").symlink_to("data/file")
    (model / "data" / "outer").symlink_to(outside)

    assert links_out(str(model), "it") == {"data/outer": str(outside)}


def test_what_cannot_be_copied_is_told_by_name(tmp_path: Path) -> None:
    def told(name: str) -> str:
        with pytest.raises(LoadFailed) as failure:
            links_out(str(tmp_path), "it")
        (tmp_path / name).unlink()
        return str(failure.value)

    (tmp_path / "up").symlink_to(tmp_path)
    assert told("up") == "it holds a link that leads back to itself: 'up'"
    (tmp_path / "self").symlink_to("self")
    assert told("self").startswith("it cannot be read: 'self'")
    (tmp_path / "gone").symlink_to("nowhere")
    assert told("gone") == "it holds 'gone', which is a link that leads nowhere"
    os.mkfifo(tmp_path / "pipe")
    assert told("pipe") == "it holds 'pipe', which is no regular file"
