"""Cache: directories of model files, each named by the SHA-256 of what it holds.

    DIGEST/model/        the files as they were fetched
    DIGEST/example.npz   the input example, where the model has one
    sources/KEY          the digest that a source was found to have
    incoming-*/          a download under way

An entry is complete from the moment it can be seen, and never changes. Several processes may use
one cache at once.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

# MLflow writes the name under which a model was last loaded into its directory.
_NO_PART_OF_THE_MODEL: Final = "registered_model_meta"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_INCOMING = "incoming-"


class Cache:
    """The entries below one directory, which is made when the first one comes."""

    def __init__(self, directory: str) -> None:
        self._root = Path(directory).absolute()

    def entry(self, digest: str) -> Path | None:
        """The entry of that digest, None where there is none."""
        path = self._root / digest
        return path if path.is_dir() else None

    def recall(self, source: str) -> Path | None:
        """The entry that *source* was fetched into, None where it was not or is gone."""
        try:
            digest = self._record(source).read_text()
        except FileNotFoundError:
            return None
        return self.entry(digest) if _DIGEST.fullmatch(digest) else None

    def remember(self, source: str, digest: str) -> None:
        """Note that *source* was fetched into the entry *digest*."""
        record = self._record(source)
        record.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=record.parent, delete=False) as file:
            file.write(digest)
        os.replace(file.name, record)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A fresh directory to fill; what was not published from it is removed.

        So is what a process that was killed left behind: a download in progress is locked, and
        the lock goes with its process.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with _locked(self._root):
            self._sweep()
            stage = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self._root))
            lock = os.open(stage, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield stage
        finally:
            os.close(lock)
            shutil.rmtree(stage, ignore_errors=True)

    def publish(self, stage: Path, digest: str) -> Path:
        """Make a filled staging directory the entry *digest*, unless another was first."""
        _write_through(stage)
        entry = self._root / digest
        try:
            os.rename(stage, entry)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        return entry

    def _record(self, source: str) -> Path:
        # A source may hold characters that a file name may not, and credentials.
        return self._root / "sources" / hashlib.sha256(source.encode()).hexdigest()

    def _sweep(self) -> None:
        for left in self._root.glob(f"{_INCOMING}*"):
            with suppress(BlockingIOError, FileNotFoundError), _locked(left, fcntl.LOCK_NB):
                shutil.rmtree(left, ignore_errors=True)


def digest_of(directory: Path) -> str:
    """SHA-256 over the names and contents of all files below *directory*."""
    total = hashlib.sha256()
    for path in sorted(_files(directory), key=os.fsencode):
        with (directory / path).open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        # A name cannot hold a zero byte, and a digest has one length: no two sets of files agree.
        total.update(os.fsencode(path) + b"\0" + content.digest())
    return total.hexdigest()


def bytes_in(directory: Path) -> int:
    """Size of all files below *directory*; those that come and go meanwhile may be left out."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total


def _files(directory: Path) -> Iterator[str]:
    """Relative names; links are followed, as copying does."""
    for folder, _, names in os.walk(directory, followlinks=True):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), directory)
            if path != _NO_PART_OF_THE_MODEL:
                yield path


@contextmanager
def _locked(directory: Path, flags: int = 0) -> Iterator[None]:
    """Hold the lock on *directory*; with LOCK_NB raise BlockingIOError where another has it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


def _write_through(directory: Path) -> None:
    """Put everything on disk: a crash of the host must not leave an entry that is not what it says.

    A rename may reach the disk before the contents of what was renamed.
    """
    for folder, _, names in os.walk(directory):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
