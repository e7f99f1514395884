"""headrace.toml: a wrong one is answered with the place and what was expected."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.errors import UsageError
from saying import read, refusal

FILES = {
    "[server]\nprt = 1": (
        "headrace.toml:2: there is no setting 'prt' in [server]; did you mean 'port'?"
    ),
    "[models.iris]\n\nrow_max = 1": (
        "headrace.toml:3: there is no setting 'row_max' in [models.iris]; did you mean 'rows_max'?"
    ),
    "[tls]\nxyzzy = 1": (
        "headrace.toml:2: there is no setting 'xyzzy' in [tls]; known are cert, key, client_ca"
    ),
    "# mine\n[sever]": "headrace.toml:2: there is no table 'sever'; did you mean 'server'?",
    "[iris]\nrows_max = 1": (
        "headrace.toml:1: there is no table 'iris'; the settings of a model stand in [models.iris]"
    ),
    "[xyzzy]": (
        "headrace.toml:1: there is no table 'xyzzy'; known are server, tls, auth, sandbox, models"
    ),
    "port = 1": "headrace.toml:1: 'port' stands in a table: [server]",
    "queue_bytes_max = 1": (
        "headrace.toml:1: 'queue_bytes_max' stands in a table: [server] or [models.NAME]"
    ),
    "server = 1": "headrace.toml:1: expected a table [server], got a value",
    "[models]\nrows_max = 1": "headrace.toml:2: expected a table [models.NAME] for each model",
    '[models.""]\nrows_max = 1': ("headrace.toml:1: expected a table [models.NAME] for each model"),
    "[server]\nport = 70000": (
        "headrace.toml:2: server.port=70000: expected a whole number from 0 to 65535"
    ),
    '[server]\nport = "80"': (
        'headrace.toml:2: server.port="80": expected a whole number from 0 to 65535'
    ),
    "[server]\nport = true": (
        "headrace.toml:2: server.port=true: expected a whole number from 0 to 65535"
    ),
    "[server]\ndrain_s = nan": (
        "headrace.toml:2: server.drain_s=nan: expected a number from 0 to 86400"
    ),
    '[server]\nmodels = "models:/a/1"': (
        'headrace.toml:2: server.models="models:/a/1": expected a list of [NAME=]URI'
    ),
    "[server]\nstrict_readiness = 1": (
        "headrace.toml:2: server.strict_readiness=1: expected true or false"
    ),
    '[models.iris]\nworker = "mine"': (
        'headrace.toml:2: models.iris.worker="mine": expected shared or own'
    ),
    "[models]\niris = {slots = 17}": (
        "headrace.toml:2: models.iris.slots=17: expected a whole number from 1 to 16"
    ),
    "[server]\nhost = 2020-02-02": (
        "headrace.toml:2: server.host=2020-02-02: expected an address, a host's name, or "
        "unix:PATH without , % ? #"
    ),
    "[server]\nport = \n": "headrace.toml:2: it is no TOML: Invalid value in column 8",
    "[server": "headrace.toml: it is no TOML: ",
}


@pytest.mark.parametrize("text", FILES)
def test_a_wrong_file_is_answered_with_the_place_and_what_was_expected(text: str) -> None:
    sentence = refusal(text)

    assert sentence.startswith(FILES[text])
    assert "\n" not in sentence


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_bytes(b"\xff\xfe\0")

    assert refusal() == "headrace.toml: it is no text in UTF-8"


def test_a_directory_is_no_settings_file() -> None:
    assert refusal(environ={"HEADRACE_CONFIG": "/"}) == "/: Is a directory"


@given(st.text(max_size=60))
def test_whatever_the_file_holds_is_read_or_answered_with_a_sentence(text: str) -> None:
    with contextlib.suppress(UsageError):
        read("#\n" + text.encode(errors="ignore").decode())
