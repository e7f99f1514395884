"""Download: a model's files from wherever MLflow keeps them into a directory of ours."""

import os
import posixpath
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.artifacts

from .cache import bytes_in

# Called with the bytes that are here and the bytes there will be, None where that is unknown. Calls
# come from two threads, never at the same time.
Progress = Callable[[int, int | None], None]

_REPORT_S = 0.5


def silent(done: int, total: int | None) -> None:
    """Progress that no one asked for."""


def download(location: str, into: Path, tracking_uri: str, progress: Progress) -> Path:
    """Copy the directory *location* below *into*; where it lies now.

    Never links to *location* and never writes there, also where that is a directory of this host.
    """
    total = _bytes_of(location, tracking_uri)
    progress(0, total)
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_REPORT_S):
            progress(bytes_in(into), total)

    watcher = threading.Thread(target=watch, name="librarian-progress", daemon=True)
    watcher.start()
    try:
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=location, dst_path=os.fspath(into), tracking_uri=tracking_uri
        )
    finally:
        is_over.set()
        watcher.join()
    progress(bytes_in(into), total)
    return Path(path)


def download_file(location: str, into: Path, tracking_uri: str) -> Path:
    """Copy the file *location* below *into*; where it lies now."""
    path = mlflow.artifacts.download_artifacts(
        artifact_uri=location, dst_path=os.fspath(into), tracking_uri=tracking_uri
    )
    return Path(path)


def listing(location: str, tracking_uri: str) -> list[Any]:
    """MLflow's FileInfo of what lies directly in *location*."""
    found: list[Any] = mlflow.artifacts.list_artifacts(
        artifact_uri=location, tracking_uri=tracking_uri
    )
    return found


def _bytes_of(location: str, tracking_uri: str) -> int | None:
    total = 0
    for info in listing(location, tracking_uri):
        if info.is_dir:
            size = _bytes_of(f"{location}/{posixpath.basename(info.path)}", tracking_uri)
        else:
            size = info.file_size
        if size is None:
            return None
        total += size
    return total
