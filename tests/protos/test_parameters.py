"""What requests give for the parameters of a signature."""

import json
import math
from typing import Any

import pytest

from headrace.parameters import Given, fill_parameters
from headrace.signature import ParamSpec, SignatureMismatch

SPECS = (
    ParamSpec("flag", "boolean", False),
    ParamSpec("count", "integer", 3),
    ParamSpec("big", "long", 2**40),
    ParamSpec("scale", "double", 0.5),
    ParamSpec("name", "string", None),
    ParamSpec("since", "datetime", "2024-01-02"),
    ParamSpec("sizes", "double", [1.0], (-1,)),
    ParamSpec("options", "object", {"deep": True}),
)


def filled(**given: Given) -> dict[str, Any]:
    return fill_parameters(SPECS, given)


def test_what_is_not_given_has_its_default() -> None:
    assert filled() == {spec.name: spec.default for spec in SPECS}
    assert list(filled(scale=2.0, flag=True)) == [spec.name for spec in SPECS]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("flag", True, True),
        ("count", -(2**31), -(2**31)),
        ("big", 2**63 - 1, 2**63 - 1),
        ("scale", 2, 2.0),
        ("scale", math.inf, math.inf),
        ("name", "", ""),
        ("since", "2024-01-02T03:04:05.678", "2024-01-02T03:04:05.678"),
        ("sizes", "[1, 2.5]", [1.0, 2.5]),
        ("sizes", '["Infinity", "-Infinity"]', [math.inf, -math.inf]),
        ("sizes", "[]", []),
        ("options", '{"deep": false}', {"deep": False}),
    ],
)
def test_values_of_the_parameters_kind_are_taken(name: str, given: Given, expected: Any) -> None:
    assert filled(**{name: given})[name] == expected


def test_equal_values_are_equal_as_json_whether_given_as_integers_or_not() -> None:
    assert json.dumps(filled(scale=1)) == json.dumps(filled(scale=1.0))
    assert json.dumps(filled(sizes="[1]")) == json.dumps(filled())


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("flag", 1, "expected boolean, got int"),
        ("count", True, "expected integer, got bool"),
        ("count", 1.0, "expected integer, got float"),
        ("count", 2**31, "expected integer, an integer of 32 bits, got 2147483648"),
        ("big", 2**63, "expected long, an integer of 64 bits, got 9223372036854775808"),
        ("scale", "2", "expected double, got str"),
        ("scale", "[1.0]", "expected double, got a JSON list"),
        ("scale", '{"a": 1}', "expected double, got a JSON object"),
        ("name", 2, "expected string, got int"),
        ("since", 0, "expected datetime, got int"),
        ("since", "now", "expected datetime in ISO 8601 without a time zone, got other text"),
        ("since", "NaT", "expected datetime in ISO 8601 without a time zone, got other text"),
        ("since", "2024-01-02T03:04:05Z", "expected datetime in ISO 8601 without a time zone, "),
        ("sizes", "[NaN]", "expected a JSON list of double as text, got bare NaN: JSON has it as"),
        ("sizes", '["nan"]', "expected double, got str"),
        ("sizes", 1.0, "expected a JSON list of double as text, got float"),
        ("sizes", "1, 2", "expected a JSON list of double as text, got text that is no JSON"),
        ("sizes", "{}", "expected a JSON list of double, got a JSON dict"),
        ("sizes", "[null]", "expected double, got NoneType"),
        ("sizes", "[1" + "0" * 400 + "]", "expected double, got an integer beyond its range"),
        ("options", "[]", "expected a JSON object, got a JSON list"),
    ],
)
def test_other_values_are_refused_by_name(name: str, given: Given, why: str) -> None:
    with pytest.raises(SignatureMismatch) as raised:
        filled(**{name: given})

    assert str(raised.value).startswith(f"parameter {name!r}: {why}")
