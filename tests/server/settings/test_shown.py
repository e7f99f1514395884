"""What `headrace config` prints: all that holds and where it was said, and no secret."""

import json
import tomllib
from pathlib import Path

import pytest

from headrace_server.settings import Settings, read_settings
from headrace_server.settings.shown import Known, as_json, as_toml
from headrace_server.settings.tables import TABLES, ModelSettings

FILE = """
[server]
models = ["net=models:/net/1", "models:/graph/2"]
host = "0.0.0.0"

[models."my iris"]
uri = "models:/iris@champion"
rows_max = 8
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    Path("headrace.toml").write_text(FILE)
    return read_settings(
        environ={
            "HEADRACE_SERVER__PORT": "9000",
            "HEADRACE_MODELS__GRAPH__SLOTS": "3",
            "MLFLOW_TRACKING_URI": "https://me:secret@mlflow.example",
        },
        flags={"device": "cpu", "models": None},
        sets=["my iris.rows_max=16", "server.drain_s=5"],
    )


def line(text: str, start: str, table: str = "") -> str:
    """The first line of *text* that starts so, below the header of *table*."""
    lines = text.splitlines()
    below = lines[lines.index(f"[{table}]") :] if table else lines
    return next(line for line in below if line.startswith(start))


def test_each_value_is_shown_with_where_it_was_said(settings: Settings) -> None:
    text = as_toml(settings, "headrace.toml", None)

    assert line(text, "host").split(" # ")[1].strip() == "headrace.toml:4"
    assert line(text, "port").endswith("# HEADRACE_SERVER__PORT")
    assert line(text, "device").endswith("# --device")
    assert line(text, "drain_s").endswith("# --set server.drain_s")
    assert line(text, "message_bytes_max").endswith("# default")
    assert line(text, "tracking_uri").endswith("# MLFLOW_TRACKING_URI")
    assert line(text, "rows_max", 'models."my iris"').endswith("# --set my iris.rows_max")
    assert line(text, "uri", 'models."my iris"').endswith("# headrace.toml:7")
    assert line(text, "slots", "models.graph").endswith("# HEADRACE_MODELS__GRAPH__SLOTS")
    assert line(text, "rows_max", "models.net").endswith("# default")
    assert "tags of model versions are not known" in text


def test_what_is_shown_is_a_settings_file_that_says_the_same(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "shown.toml").write_text(as_toml(settings, None, None))

    again = read_settings(config="shown.toml", environ={})

    assert again.server.model_copy(update={"tracking_uri": settings.server.tracking_uri}) == (
        settings.server
    )
    assert again.tls == settings.tls
    assert again.served == settings.served
    for name in ("net", "my iris", "graph"):
        assert again.for_model(name) == settings.for_model(name)


def test_every_setting_is_shown(settings: Settings) -> None:
    shown = tomllib.loads(as_toml(settings, None, None))
    plain = json.loads(as_json(settings, None, None))

    for table in ("server", "tls", "auth", "sandbox"):
        assert list(shown[table]) == list(plain[table]) == list(TABLES[table].model_fields)
    assert list(shown["models"]["net"]) == list(ModelSettings.model_fields)
    assert set(plain["models"]) == {"net", "my iris", "graph"}


def test_json_holds_values_as_they_are(settings: Settings) -> None:
    shown = json.loads(as_json(settings, "headrace.toml", None))

    assert shown["file"] == "headrace.toml"
    assert shown["registry"] is False
    assert shown["server"]["port"] == {"value": 9000, "from": "HEADRACE_SERVER__PORT"}
    assert shown["server"]["models"]["value"] == ["net=models:/net/1", "models:/graph/2"]
    assert shown["models"]["my iris"]["rows_max"] == {"value": 16, "from": "--set my iris.rows_max"}


def test_no_secret_is_shown(settings: Settings) -> None:
    for text in (as_toml(settings, None, None), as_json(settings, None, None)):
        assert "secret" not in text
        assert "https://***@mlflow.example" in text


def test_the_registrys_tags_are_shown_and_those_that_are_ignored(settings: Settings) -> None:
    known = [
        Known("net", "1", {"headrace.rows_max": "4", "headrace.device": "cuda\nx"}),
        Known("graph", "2", {"headrace.slots\n": "9"}),
        Known("my iris", "7", {"headrace.rows_max": "99"}),
    ]

    text = as_toml(settings, None, known)

    lines = text.splitlines()
    net = lines[lines.index("[models.net]  # version 1") :]
    assert next(row for row in net if row.startswith("rows_max")).endswith(
        "# tag headrace.rows_max"
    )
    assert "# tag headrace.device is ignored: the operator alone may set it" in net
    assert "# tag headrace.slots? is ignored: there is no such setting" in lines
    shown = tomllib.loads(text)["models"]
    assert shown["net"]["rows_max"] == 4
    assert shown["my iris"]["rows_max"] == 16
    plain = json.loads(as_json(settings, None, known))
    assert plain["models"]["net"]["rows_max"]["from"] == "tag headrace.rows_max"
    assert plain["ignored_tags"]["net"] == {"headrace.device": "the operator alone may set it"}
