"""Settings: what an operator may say, and what is said back."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace_server.errors import UsageError
from headrace_server.settings import (
    ModelSettings,
    ServerSettings,
    absolute_tracking_uri,
    check_device,
    default_cache_dir,
    parse_overrides,
)


def served(*overrides: str, name: str = "iris") -> ModelSettings:
    return ServerSettings(overrides=parse_overrides(overrides)).for_model(name)


def test_defaults_hold_where_nothing_is_said() -> None:
    assert served() == ModelSettings()
    assert ModelSettings().rows_max == 64
    assert ModelSettings().queue_delay_us_max == 0


def test_an_override_is_read_as_its_settings_type() -> None:
    settings = served(
        "iris.rows_max=8",
        "iris.deterministic=false",
        "iris.worker=own",
        "iris.method=predict_proba",
    )

    assert settings.rows_max == 8
    assert settings.deterministic is False
    assert settings.worker == "own"
    assert settings.method == "predict_proba"


def test_an_override_is_for_the_model_it_names() -> None:
    assert served("other.rows_max=8").rows_max == 64


def test_a_models_name_may_hold_dots() -> None:
    assert parse_overrides(["a.b.rows_max=8"]) == (("a.b", "rows_max", "8"),)
    assert served("a.b.rows_max=8", name="a.b").rows_max == 8


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_overrides(["iris.method=a=b"]) == (("iris", "method", "a=b"),)


def test_the_last_word_counts() -> None:
    assert served("iris.rows_max=8", "iris.rows_max=16").rows_max == 16


@pytest.mark.parametrize(
    "item", ["", "iris", "iris.rows_max", "rows_max=8", ".rows_max=8", "iris.=8"]
)
def test_another_form_is_answered_with_the_right_one(item: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_overrides([item])

    assert str(caught.value) == (
        f"--set {item}: expected NAME.SETTING=VALUE, as in iris.rows_max=8"
    )


def test_a_mistyped_setting_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(UsageError, match=r"no setting 'row_max'; did you mean 'rows_max'\?"):
        parse_overrides(["iris.row_max=8"])


def test_a_setting_that_resembles_none_is_answered_with_all() -> None:
    with pytest.raises(UsageError) as caught:
        parse_overrides(["iris.xyzzy=8"])

    assert all(name in str(caught.value) for name in ModelSettings.model_fields)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("rows_max=0", "greater than or equal to 1"),
        ("rows_max=many", "valid integer"),
        ("rows_max=", "valid integer"),
        ("slots=17", "less than or equal to 16"),
        ("instances=0", "greater than or equal to 1"),
        ("queue_delay_us_max=-1", "greater than or equal to 0"),
        ("queue_delay_us_max=60000001", "less than or equal to 60000000"),
        ("worker=mine", "'shared' or 'own'"),
        ("deterministic=perhaps", "valid boolean"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_setting(override: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        served(f"iris.{override}")

    assert str(caught.value).startswith(f"--set iris.{override}: ")
    assert why in str(caught.value)


@given(st.lists(st.text(max_size=30), max_size=3))
def test_whatever_is_typed_is_read_or_answered_with_a_sentence(items: list[str]) -> None:
    with contextlib.suppress(UsageError):
        overrides = parse_overrides(items)
        for name, _, _ in overrides:
            ServerSettings(overrides=overrides).for_model(name)


def test_inward_settings_do_not_change() -> None:
    settings = ModelSettings()

    with pytest.raises(ValidationError):
        settings.rows_max = 8


def test_an_unknown_setting_is_an_error_everywhere() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        ModelSettings.model_validate({"row_max": 8})


def test_a_relative_registry_is_made_absolute_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Child processes may run elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    assert absolute_tracking_uri("") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute_tracking_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert absolute_tracking_uri("./mlruns") == f"{tmp_path}/mlruns"


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////var/mlflow.db",
        "http://localhost:5000",
        "https://mlflow.example",
        "databricks",
        "databricks://profile",
        "file:///var/mlruns",
        "postgresql://user@host/db",
        "/var/mlruns",
    ],
)
def test_any_other_registry_is_left_as_it_was_given(uri: str) -> None:
    assert absolute_tracking_uri(uri) == uri


def test_the_environment_names_the_registry_unless_the_command_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment")

    assert absolute_tracking_uri("") == "http://from-environment"
    assert absolute_tracking_uri("http://given") == "http://given"


def test_models_are_kept_where_the_desktop_standard_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == str(tmp_path / "headrace")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == str(tmp_path / ".cache" / "headrace")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_a_device_is_taken(device: str) -> None:
    assert check_device(device) == device


@pytest.mark.parametrize(
    "device", ["", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda:1 ", "CUDA", "cpu\n"]
)
def test_anything_else_is_no_device(device: str) -> None:
    with pytest.raises(UsageError, match="expected auto, cpu, cuda or cuda:N"):
        check_device(device)
