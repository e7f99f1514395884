"""Flags: settings as the command line says them."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.errors import UsageError
from headrace_server.settings import ModelSettings
from saying import read, refusal


def test_a_set_item_is_read_as_its_settings_type() -> None:
    settings = read(
        sets=("iris.rows_max=8", "iris.deterministic=false", "iris.worker=own", "server.drain_s=5")
    )

    assert settings.for_model("iris") == ModelSettings(
        rows_max=8, deterministic=False, worker="own"
    )
    assert settings.server.drain_s == 5.0


def test_a_models_name_may_hold_dots_or_be_that_of_a_table() -> None:
    settings = read(sets=("a.b.rows_max=8", "models.server.rows_max=4"))

    assert settings.for_model("a.b").rows_max == 8
    assert settings.for_model("server").rows_max == 4


def test_a_value_may_hold_an_equals_sign() -> None:
    assert read(sets=("server.cache_dir=/a=b",)).server.cache_dir == "/a=b"


SET_FORM = (
    "expected NAME.SETTING=VALUE, as in iris.rows_max=8, or server.SETTING=VALUE, as in "
    "server.drain_s=5"
)


@pytest.mark.parametrize(
    "item", ["", "iris", "iris.rows_max", "rows_max=8", ".rows_max=8", "iris.=8", "models..slots=1"]
)
def test_another_form_is_answered_with_the_right_one(item: str) -> None:
    assert refusal(sets=(item,)) == f"--set {item.partition('=')[0]}: {SET_FORM}"


SETS = {
    "iris.row_max=8": (
        "--set iris.row_max: there is no setting 'row_max' in [models.iris]; "
        "did you mean 'rows_max'?"
    ),
    "server.drain=8": (
        "--set server.drain: there is no setting 'drain' in [server]; did you mean 'drain_s'?"
    ),
    "iris.rows_max=0": ("--set iris.rows_max=0: expected a whole number from 1 to 2147483647"),
    "iris.slots=": "--set iris.slots=: expected a whole number from 1 to 16",
    "iris.deterministic=perhaps": ("--set iris.deterministic=perhaps: expected true or false"),
    "iris.worker=mine": "--set iris.worker=mine: expected shared or own",
    "iris.device=tpu": (
        "--set iris.device=tpu: expected auto, cpu, cuda or cuda:N, several cuda:N separated by "
        "commas, or nothing"
    ),
    "iris.method=__reduce__": (
        "--set iris.method=__reduce__: expected the name of a method, or nothing"
    ),
}


@pytest.mark.parametrize("item", SETS)
def test_a_wrong_set_item_is_answered_with_what_was_expected(item: str) -> None:
    assert refusal(sets=(item,)) == SETS[item]


def test_what_was_typed_for_an_unknown_setting_is_not_repeated() -> None:
    """It may be a password."""
    assert "secret" not in refusal(sets=("server.tracking_ur=http://me:secret@host",))


@pytest.mark.parametrize(
    ("flag", "text", "sentence"),
    [
        ("port", "65536", "--port=65536: expected a whole number from 0 to 65535"),
        ("metrics_port", "x", "--metrics-port=x: expected a whole number from 0 to 65535"),
        ("device", "tpu", "--device=tpu: expected auto, cpu, cuda or cuda:N"),
        ("transport", "http", "--transport=http: expected auto, native or grpcio"),
        ("host", "", "--host=: expected an address, a host's name, or unix:PATH without , % ? #"),
    ],
)
def test_a_flags_bad_value_is_named_with_its_range(flag: str, text: str, sentence: str) -> None:
    flags: dict[str, Any] = {flag: text}

    assert refusal(**flags) == sentence


@given(st.lists(st.text(max_size=30), max_size=3))
def test_whatever_is_typed_is_read_or_answered_with_a_sentence(items: list[str]) -> None:
    with contextlib.suppress(UsageError):
        read(sets=tuple(items))
