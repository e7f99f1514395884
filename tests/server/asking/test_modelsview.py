"""What `headrace models`, `load` and `unload` ask and print, against a double of the server."""

import fcntl
import io
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

import oip_double
from headrace_server.asking.connecting import Connection
from headrace_server.asking.modelsview import load_model, show_models, unload_model
from headrace_server.errors import UsageError
from oip_double import Double

INTERVAL_S = 0.05


@pytest.fixture
def double() -> Iterator[Double]:
    counted = replace(oip_double.iris(), rows=100, device="cpu", workers=("cpu-1", "cpu-2"))
    with oip_double.serving({"iris": counted, "other": oip_double.doubler()}) as double:
        yield double


class Printed(io.StringIO):
    """What is printed; each look of a watch is told to a test, which may end it."""

    def __init__(self, on_look: Callable[[str], None]) -> None:
        super().__init__()
        self._on_look = on_look

    def flush(self) -> None:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        if text:
            self._on_look(text)


def test_models_are_a_table_with_the_rate_between_two_looks(double: Double) -> None:
    out = io.StringIO()

    show_models(Connection(server=double.target), interval_s=INTERVAL_S, out=out)

    header, iris, other, broken, below = out.getvalue().splitlines()
    assert header.split() == ["name", "version", "state", "device", "worker", "rows/s", "reason"]
    assert iris.split() == ["iris", "1", "READY", "cpu", "cpu-1,", "cpu-2", "0"]
    assert other.split() == ["other", "1", "READY"]
    assert broken.split() == ["broken", "1", "UNAVAILABLE", "no", "such", "file"]
    assert below.startswith("rows/s over 0.")


def test_a_model_that_does_not_batch_is_told_with_the_reason(double: Double) -> None:
    why = "rows differ with their neighbours: 'y', 0.31 against -1"
    double.models["iris"] = replace(
        double.models["iris"], batching="whole", batching_reason=why, workers=("cpu-1",)
    )
    table, listed = io.StringIO(), io.StringIO()

    show_models(Connection(server=double.target), interval_s=INTERVAL_S, out=table)
    show_models(Connection(server=double.target), as_json=True, interval_s=INTERVAL_S, out=listed)

    words = table.getvalue().replace("\n", " ").split()
    assert {"whole:", "neighbours:", "-1"} <= set(words)
    iris, *_ = json.loads(listed.getvalue())
    assert (iris["batching"], iris["batching_reason"]) == ("whole", why)


def test_a_server_that_counts_nothing_is_looked_at_once(double: Double) -> None:
    del double.models["iris"]
    out = io.StringIO()

    show_models(Connection(server=double.target), interval_s=3600.0, out=out)

    assert "rows/s over" not in out.getvalue()


def test_json_holds_every_field_and_the_rate(double: Double) -> None:
    out = io.StringIO()

    show_models(Connection(server=double.target), as_json=True, interval_s=INTERVAL_S, out=out)

    iris, other, _ = json.loads(out.getvalue())
    assert iris == {
        "name": "iris",
        "version": "1",
        "state": "READY",
        "reason": "",
        "device": "cpu",
        "workers": ["cpu-1", "cpu-2"],
        "rows": 100,
        "rows_per_s": 0.0,
        "batching": "",
        "batching_reason": "",
    }
    assert (other["rows"], other["rows_per_s"]) == (None, None)


def test_while_watching_each_look_is_compared_with_the_one_before(double: Double) -> None:
    rates: list[float | None] = []

    def on_look(text: str) -> None:
        rates.append(json.loads(text)[0]["rows_per_s"])
        model = double.models["iris"]
        # The fourth look finds a model that was loaded anew.
        rows = 5 if len(rates) == 3 else (model.rows or 0) + 1000
        double.models["iris"] = replace(model, rows=rows)
        if len(rates) == 5:
            raise KeyboardInterrupt

    show_models(
        Connection(server=double.target),
        watch=True,
        as_json=True,
        interval_s=INTERVAL_S,
        out=Printed(on_look),
    )

    first, *rest = rates
    assert first == 0.0
    # At most 1000 rows in one interval; a busy machine makes it longer, never shorter.
    known = [rate for rate in rest if rate is not None]
    assert [rate is None for rate in rest] == [False, False, True, False]
    assert all(0 < rate <= 1000 / INTERVAL_S for rate in known)


def test_a_server_that_is_away_for_a_while_is_told_and_watched_on(double: Double) -> None:
    looks: list[object] = []

    def on_look(text: str) -> None:
        looks.append(json.loads(text))
        if len(looks) == 1:
            double.repository_failures = [(grpc.StatusCode.UNAVAILABLE, "it starts again")]
        if len(looks) == 3:
            raise KeyboardInterrupt

    show_models(
        Connection(server=double.target),
        watch=True,
        as_json=True,
        interval_s=INTERVAL_S,
        out=Printed(on_look),
    )

    assert looks[1] == {"error": f"{double.target}: UNAVAILABLE: it starts again"}
    assert isinstance(looks[2], list)


def test_a_watch_on_a_terminal_replaces_its_table_and_ends_on_ctrl_c(double: Double) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    # Whoever runs the tests in the background has them ignore Ctrl-C, which children inherit.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "headrace_server.cli"]
    command += ["models", "--watch"]
    with subprocess.Popen(
        [*command, "--interval", "0.05", "--server", double.target],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
    ) as watching:
        os.close(theirs)
        seen = b""
        while seen.count(b"no such file") < 3:
            seen += os.read(ours, 4096)
        watching.send_signal(signal.SIGINT)
        # Read on, or it could not write its last words.
        reader = threading.Thread(target=_drain, args=(ours,))
        reader.start()
        assert watching.wait(30) == 0
        assert watching.stderr is not None
        assert watching.stderr.read() == b""
        reader.join()
    os.close(ours)
    assert b"\x1b[" in seen, "the table is drawn in place"


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except OSError:
        pass  # The other end is closed.


def test_a_load_says_what_is_served_then(
    double: Double, capsys: pytest.CaptureFixture[str]
) -> None:
    load_model(
        "iris", "models:/iris/3", connection=Connection(server=double.target), timeout_s=20.0
    )

    assert double.loads == [("iris", "models:/iris/3")]
    assert capsys.readouterr().out == "iris is ready: version 1\n"


def test_a_directory_here_is_named_in_full(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have been started in another one."""
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)

    load_model("iris", "./model", connection=Connection(server=double.target), timeout_s=20.0)
    load_model("iris", "./elsewhere", connection=Connection(server=double.target), timeout_s=20.0)

    assert double.loads == [("iris", str(tmp_path / "model")), ("iris", "./elsewhere")]


def test_an_unload_says_so(double: Double, capsys: pytest.CaptureFixture[str]) -> None:
    unload_model("iris", connection=Connection(server=double.target), timeout_s=20.0)

    assert double.unloads == ["iris"]
    assert capsys.readouterr().out == "iris is unloaded\n"


def test_what_a_person_can_mend_is_one_sentence(double: Double) -> None:
    failed = (grpc.StatusCode.FAILED_PRECONDITION, "it has no file model.pkl")
    double.repository_failures = [failed, failed, failed]
    with pytest.raises(UsageError, match=f"model iris at {double.target}: .* model.pkl"):
        load_model("iris", "", connection=Connection(server=double.target), timeout_s=20.0)
    with pytest.raises(UsageError, match="model iris at"):
        unload_model("iris", connection=Connection(server=double.target), timeout_s=20.0)
    with pytest.raises(UsageError, match="models at"):
        show_models(Connection(server=double.target))
    with pytest.raises(UsageError, match="cannot connect to 'no address'"):
        show_models(Connection(server="no address"))
    double.is_holding = True
    with pytest.raises(UsageError, match="no answer in time; what the server has begun goes on"):
        load_model("iris", "", connection=Connection(server=double.target), timeout_s=0.05)


def test_a_server_that_is_not_there_is_told() -> None:
    with oip_double.serving({}) as gone:
        connection = Connection(server=gone.target)

    with pytest.raises(UsageError, match="UNAVAILABLE"):
        show_models(connection)
    with pytest.raises(UsageError, match="UNAVAILABLE"):
        load_model("iris", "", connection=connection, timeout_s=20.0)
    with pytest.raises(UsageError, match="UNAVAILABLE"):
        unload_model("iris", connection=connection, timeout_s=20.0)
