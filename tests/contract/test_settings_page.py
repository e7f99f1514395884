"""docs/settings.md tells of every setting as it is, and of nothing else."""

import re
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest

from headrace_server.settings import read_settings
from headrace_server.settings.tables import TABLES
from headrace_server.settings.values import expected, is_taggable, toml_value

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()


def rows(table: str) -> dict[str, list[str]]:
    """Setting -> the other cells of its row."""
    heading = "## `[models.NAME]`" if table == "models" else f"## `[{table}]`"
    section = PAGE.split(f"{heading}\n")[1].split("\n## ")[0]
    cells = [line.strip("|").split(" | ") for line in section.splitlines() if line[:3] == "| `"]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in cells}


@pytest.mark.parametrize("table", TABLES)
def test_every_setting_is_there_with_its_default_and_range(table: str) -> None:
    fields = TABLES[table].model_fields

    assert {key: row[:2] for key, row in rows(table).items()} == {
        key: [f"`{toml_value(info.default)}`", expected(table, key)] for key, info in fields.items()
    }


def test_each_setting_of_a_model_says_whether_a_tag_may_set_it() -> None:
    assert {key: row[2] for key, row in rows("models").items()} == {
        key: "yes" if is_taggable(key) else "no" for key in TABLES["models"].model_fields
    }


def test_the_example_is_a_settings_file(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert set(tomllib.loads(example)) == set(TABLES)
    (tmp_path / "headrace.toml").write_text(example)

    settings = read_settings(config=str(tmp_path / "headrace.toml"), environ={})

    assert settings.served == (
        "models:/net/3",
        "graph=models:/graph@champion",
        "iris-v2=models:/iris@candidate",
    )
    settings.check_names(["net", "graph", "iris-v2"])


def test_the_flags_help_tells_the_defaults() -> None:
    from headrace_server.cli.serving import Said

    hints = get_type_hints(Said, include_extras=True)
    shown = {
        flag: option.show_default
        for flag in ("host", "port", "metrics_port", "device", "transport")
        for option in hints[flag].__metadata__
    }

    defaults = {key: str(TABLES["server"].model_fields[key].default) for key in shown}
    assert shown == defaults
