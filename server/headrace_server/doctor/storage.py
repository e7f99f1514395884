"""Storage: whether fetched models can be kept, and how much room there is for them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .finding import Finding, Setup, ok, problem, warning

_GIB = 1 << 30
_FREE_BYTES_GOOD, _FREE_BYTES_MIN = 2 * _GIB, 100 << 20

_SET_DIR = "--set server.cache_dir=DIRECTORY"


def check_storage(setup: Setup) -> Iterator[Finding]:
    """Yield one finding about the cache's directory."""
    path = Path(setup.cache_dir)
    there = next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
    if not there.is_dir():
        yield problem("cache", f"{there} is no directory", _SET_DIR)
        return
    if why := _why_not_written(there):
        yield problem("cache", f"{path} cannot be written: {why}", _SET_DIR)
        return
    free = shutil.disk_usage(there).free
    text = f"{path} can be written; {free / _GIB:.1f} GiB are free"
    if free < _FREE_BYTES_MIN:
        yield problem(
            "cache", f"{text}, too little for most models", f"{_SET_DIR} of a larger disk"
        )
    elif free < _FREE_BYTES_GOOD:
        yield warning("cache", text, f"empty it while no server runs, or {_SET_DIR}")
    else:
        yield ok("cache", text)


def _why_not_written(folder: Path) -> str:
    """The reason; empty where it can be written. Leaves nothing: the file has no name."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"headrace")
    except OSError as error:
        return error.strerror or str(error)
    return ""
