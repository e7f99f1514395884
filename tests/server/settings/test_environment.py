"""The environment: which variable speaks of which setting, and what is said of a wrong one."""

import pytest

from saying import read, refusal


def test_a_variable_reaches_a_model_whatever_signs_its_name_holds() -> None:
    settings = read(environ={"HEADRACE_MODELS__MY_NET_2__ROWS_MAX": "8"})

    for name in ("my-net.2", "My_Net-2", "MY NET 2"):
        assert settings.for_model(name).rows_max == 8
    assert settings.for_model("mynet2").rows_max == 128


def test_a_variable_may_hold_the_double_underscore_of_a_models_name() -> None:
    settings = read(environ={"HEADRACE_MODELS__A__B__ROWS_MAX": "8"})

    assert settings.for_model("a__b").rows_max == 8
    assert settings.for_model("b").rows_max == 128


def test_a_list_in_a_variable_is_written_as_on_a_command_line() -> None:
    environ = {"HEADRACE_SERVER__MODELS": "models:/a/1  'b=./my dir'"}

    assert read(environ=environ).served == ("models:/a/1", "b=./my dir")


VARIABLES = {
    "HEADRACE_SERVER__PRT": (
        "there is no variable HEADRACE_SERVER__PRT; did you mean HEADRACE_SERVER__PORT?"
    ),
    "HEADRACE_PORT": "there is no variable HEADRACE_PORT; did you mean HEADRACE_SERVER__PORT?",
    "HEADRACE_SERVER_PORT": (
        "there is no variable HEADRACE_SERVER_PORT; did you mean HEADRACE_SERVER__PORT?"
    ),
    "HEADRACE_SERVER__port": (
        "there is no variable HEADRACE_SERVER__port; did you mean HEADRACE_SERVER__PORT?"
    ),
    "HEADRACE_MODELS__iris__ROWS_MAX": (
        "there is no variable HEADRACE_MODELS__iris__ROWS_MAX; "
        "did you mean HEADRACE_MODELS__IRIS__ROWS_MAX?"
    ),
    "HEADRACE_MODELS__IRIS__ROW_MAX": (
        "there is no variable HEADRACE_MODELS__IRIS__ROW_MAX; "
        "did you mean HEADRACE_MODELS__IRIS__ROWS_MAX?"
    ),
    "HEADRACE_MODELS__ROWS_MAX": (
        "there is no variable HEADRACE_MODELS__ROWS_MAX; "
        "did you mean HEADRACE_MODELS__NAME__ROWS_MAX?"
    ),
    "HEADRACE_XYZZY": (
        "there is no variable HEADRACE_XYZZY: expected HEADRACE_TABLE__SETTING, as in "
        "HEADRACE_SERVER__PORT"
    ),
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_mistyped_variable_is_answered_with_the_one_that_was_meant(variable: str) -> None:
    assert refusal(environ={variable: "1"}) == VARIABLES[variable]


def test_a_variables_bad_value_is_named_with_its_range() -> None:
    assert refusal(environ={"HEADRACE_SERVER__PORT": "many"}) == (
        "HEADRACE_SERVER__PORT=many: expected a whole number from 0 to 65535"
    )


def test_variables_of_others_and_of_the_client_are_let_be() -> None:
    read(
        environ={
            "HEADRACE_TOKEN": "secret",
            "HEADRACES": "1",
            "PORT": "1",
            # What Kubernetes sets beside services named headrace and headrace-server.
            "HEADRACE_SERVICE_HOST": "10.0.0.1",
            "HEADRACE_SERVICE_PORT": "8001",
            "HEADRACE_SERVICE_PORT_GRPC": "8001",
            "HEADRACE_PORT": "tcp://10.0.0.1:8001",
            "HEADRACE_PORT_8001_TCP": "tcp://10.0.0.1:8001",
            "HEADRACE_PORT_8001_TCP_ADDR": "10.0.0.1",
            "HEADRACE_SERVER_SERVICE_HOST": "10.0.0.1",
            "HEADRACE_SERVER_PORT": "tcp://10.0.0.1:8001",
        }
    )
