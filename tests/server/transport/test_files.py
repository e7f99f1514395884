"""Files that are replaced while the daemon runs."""

import os
import queue
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from headrace_server.errors import UsageError
from headrace_server.transport.files import FILE_BYTES_MAX, Contents, FileWatch, read_files

Watching = Callable[..., "queue.Queue[Contents]"]


@pytest.fixture
def watching() -> Iterator[Watching]:
    """Watch files; what was taken arrives in a queue. Contents with a "bad" in them are refused."""
    watches = []

    def start(*paths: Path) -> "queue.Queue[Contents]":
        taken: queue.Queue[Contents] = queue.Queue()

        def take(contents: Contents) -> Mapping[str, object]:
            taken.put(contents)
            if any(b"bad" in content for content in contents):
                raise UsageError("it is bad")
            return {"count": len(contents)}

        watch = FileWatch(look_s=0.01)
        names = list(map(str, paths))
        watch.add("letters", names, read_files(names), take)
        watch.start()
        watches.append(watch)
        return taken

    yield start
    for watch in watches:
        watch.close()


def test_files_are_taken_together_each_time_one_of_them_changes(
    watching: Watching, tmp_path: Path
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    taken = watching(first, second)

    put(second, b"3")
    assert taken.get(timeout=20) == (b"1", b"3")
    put(first, b"4")
    assert taken.get(timeout=20) == (b"4", b"3")
    # In place, of the same size, with the time it had.
    before = second.stat()
    with second.open("r+b") as file:
        file.write(b"5")
    os.utime(second, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert taken.get(timeout=20) == (b"4", b"5")
    assert taken.empty()


def test_what_cannot_be_taken_is_told_once_and_looked_at_again_when_it_changes(
    watching: Watching, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    with capture_logs() as lines:
        taken = watching(path)
        put(path, b"bad")
        assert taken.get(timeout=20) == (b"bad",)
        path.unlink()
        wait_for(lines, 2)
        put(path, b"good")
        assert taken.get(timeout=20) == (b"good",)
        wait_for(lines, 3)

    assert taken.empty()
    assert [line["event"] for line in lines] == ["reload_failed", "reload_failed", "reloaded"]
    assert lines[0]["why"] == "it is bad"
    assert lines[1]["why"] == f"cannot read {path}: No such file or directory"
    assert lines[2]["count"] == 1


def put(path: Path, content: bytes) -> None:
    """Replace a file as a whole, as a mounted secret is."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)


def wait_for(lines: list[Any], count: int) -> None:
    """Until there are that many log lines; the test's own time limit ends a wait in vain."""
    while len(lines) < count:
        os.sched_yield()


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(UsageError, match=f"/dev/zero: it is larger than {FILE_BYTES_MAX} bytes"):
        read_files(["/dev/zero"])
