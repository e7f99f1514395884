"""Effective settings: what a tag may do, and which models were meant."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from headrace_server.errors import UsageError
from headrace_server.settings import (
    BucketBy,
    ModelSettings,
    ServerSettings,
    Settings,
    read_settings,
)


def settings(*sets: str, **environ: str) -> Settings:
    return read_settings(config="/dev/null", environ=environ, sets=sets)


def test_inward_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        ModelSettings().rows_max = 8
    with pytest.raises(ValidationError):
        ServerSettings().port = 8


def test_an_unknown_setting_is_an_error_everywhere() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        ModelSettings.model_validate({"row_max": 8})


# Tags.

ALLOWED = {
    "rows_max": "8",
    "rows_allowed": "1 8 16",
    "bucket_by": '{"sizes": [16, 32], "mask": "real"}',
    "queue_delay_us_max": "500",
    "queue_rows_max": "100",
    "queue_bytes_max": "1000000",
    "method": "predict_proba",
    "deterministic": "false",
    "instances": "2",
    "policy": "adaptive",
    "rows_preferred": "4",
    "p99_ms_max": "20",
    "admission": "deadline",
    "priority_levels": "2",
    "priority_default": "1",
    "priority_queue_rows_max": "10 0",
    "priority_timeout_us": "0 50000",
    "priority_timeout_action": "reject delay",
    "batched": "true",
}


def test_a_tag_may_set_what_shapes_a_queue_or_a_call() -> None:
    tags = {f"headrace.{key}": value for key, value in ALLOWED.items()}

    effective = settings().for_model("iris", tags)

    assert effective == ModelSettings(
        rows_max=8,
        rows_allowed=(1, 8, 16),
        bucket_by=BucketBy(sizes=(16, 32), mask="real"),
        queue_delay_us_max=500,
        queue_rows_max=100,
        queue_bytes_max=1_000_000,
        method="predict_proba",
        deterministic=False,
        instances=2,
        policy="adaptive",
        rows_preferred=4,
        p99_ms_max=20.0,
        admission="deadline",
        priority_levels=2,
        priority_default=1,
        priority_queue_rows_max=(10, 0),
        priority_timeout_us=(0, 50_000),
        priority_timeout_action=("reject", "delay"),
        batched=True,
    )
    assert settings().ignored_tags("iris", tags) == {}


@pytest.mark.parametrize("key", [*sorted(set(ModelSettings.model_fields) - set(ALLOWED)), "uri"])
def test_the_rest_of_a_models_settings_is_the_operators(key: str) -> None:
    tags = {f"headrace.{key}": "1"}

    assert settings().for_model("iris", tags) == ModelSettings()
    assert settings().ignored_tags("iris", tags) == {
        f"headrace.{key}": "the operator alone may set it"
    }


def test_a_tag_of_no_setting_is_ignored_and_one_of_others_is_not_ours() -> None:
    tags = {"headrace.rows": "1", "owner": "me", "headrace": "1", "mlflow.x": "1"}

    assert settings().for_model("iris", tags) == ModelSettings()
    assert settings().ignored_tags("iris", tags) == {"headrace.rows": "there is no such setting"}


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("headrace.rows_max=0", "expected a whole number from 1 to 2147483647"),
        ("headrace.rows_max=many", "expected a whole number from 1 to 2147483647"),
        ("headrace.rows_max=" + "9" * 5000, "expected a whole number from 1 to 2147483647"),
        ("headrace.deterministic=perhaps", "expected true or false"),
        ("headrace.method=__class__", "expected the name of a method, or nothing"),
        ("headrace.method=a.b", "expected the name of a method, or nothing"),
        ("headrace.instances=9", "expected at most instances_max = 8"),
    ],
)
def test_a_tags_bad_value_is_ignored_with_the_reason(tag: str, why: str) -> None:
    """Whoever may write to the registry must not be able to keep the server from starting."""
    name, _, value = tag.partition("=")
    tags = {name: value, "headrace.queue_rows_max": "7"}

    assert settings().for_model("iris", tags) == ModelSettings(queue_rows_max=7)
    (told,) = settings().ignored_tags("iris", tags).items()
    assert told[0] == name
    assert told[1].endswith(why)
    assert len(told[1]) < 200


def test_the_operator_bounds_the_instances_that_a_tag_may_ask_for() -> None:
    tags = {"headrace.instances": "3"}
    bounded = settings("server.instances_max=2")

    assert bounded.for_model("iris", tags).instances == 1
    assert bounded.ignored_tags("iris", tags)
    assert settings("server.instances_max=3").for_model("iris", tags).instances == 3
    assert settings("server.instances_max=2", "iris.instances=3").for_model("iris").instances == 3


def test_tags_that_contradict_the_rest_are_ignored_all_together() -> None:
    tags = {"headrace.priority_levels": "3", "headrace.rows_max": "8"}
    told = settings("iris.priority_levels=2", "iris.priority_timeout_us=0 5")
    assert told.for_model("iris", tags).rows_max == 8

    tags["headrace.priority_queue_rows_max"] = "1 2 3"
    why = "priority_queue_rows_max: expected 2 entries, as priority_levels says, got 3"
    assert told.for_model("iris", tags).rows_max == 128
    assert told.ignored_tags("iris", tags) == dict.fromkeys(tags, why)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("iris.priority_default=2", "priority_default = 2 is above 1"),
        (
            "iris.priority_timeout_us=1 2",
            "priority_timeout_us: expected 1 entries, as priority_levels says, got 2",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(said: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(said).check_names(["iris"])

    assert str(caught.value) == f"[models.iris]: {why}"


# Names.


def test_what_is_said_of_a_model_that_is_not_served_is_told() -> None:
    with pytest.raises(UsageError) as caught:
        settings("irs.rows_max=8").check_names(["iris", "net"])

    assert str(caught.value) == (
        "--set irs.rows_max names the model 'irs', but served are iris, net; did you mean 'iris'?"
    )


def test_a_variable_that_means_no_served_model_is_told() -> None:
    with pytest.raises(UsageError, match=r"^HEADRACE_MODELS__X__SLOTS names the model 'x', but"):
        settings(HEADRACE_MODELS__X__SLOTS="1").check_names(["iris", "net"])


def test_a_variable_that_may_mean_two_models_is_told() -> None:
    said = settings(HEADRACE_MODELS__MY_NET__SLOTS="1")
    said.check_names(["my-net", "iris"])

    with pytest.raises(UsageError) as caught:
        said.check_names(["my-net", "My.Net"])

    assert str(caught.value) == (
        "HEADRACE_MODELS__MY_NET__SLOTS may mean 'my-net' or 'My.Net', which a variable's name "
        "cannot tell apart: set it in headrace.toml or by --set"
    )


def test_an_operator_who_contradicts_himself_is_told_so_wherever_it_is_looked_at() -> None:
    said = settings("iris.rows_allowed=4 8", "iris.rows_max=6")

    for look in (lambda: said.for_model("iris"), lambda: said.check_names(["iris"])):
        with pytest.raises(UsageError) as told:
            look()
        assert str(told.value) == ("[models.iris]: rows_max = 6 is not among rows_allowed = [4, 8]")


@pytest.mark.parametrize(
    ("sets", "is_confining"),
    [
        ((), False),
        (("server.allow_pickle=false",), True),
        (("sandbox.confine=all",), True),
        (("server.allow_pickle=false", "sandbox.confine=none"), False),
    ],
)
def test_workers_are_confined_where_no_code_may_come_or_as_the_operator_says(
    sets: tuple[str, ...], is_confining: bool
) -> None:
    assert read_settings(config="/dev/null", sets=sets, environ={}).is_confining is is_confining


def test_places_of_the_sandbox_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text('[sandbox]\nread = ["more", "/srv/x"]\n')
    settings = read_settings(config=str(tmp_path / "headrace.toml"), environ={})
    assert settings.sandbox.read == (str(tmp_path / "more"), "/srv/x")
