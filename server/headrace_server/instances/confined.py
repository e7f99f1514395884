"""Confined: what a worker process gets to live with behind a wall.

Each has a folder of its own to write to, which goes when it does, and of our environment only what
says how to compute: no credentials, and no address. A daemon that was killed leaves its folders
behind; the next one removes them.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..wall import Wall

_PREFIX: Final = "headrace-scratch-"
_KEPT: Final = frozenset(
    {
        *("HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LD_PRELOAD", "LOGNAME", "PATH"),
        *("PYTHONPATH", "PYTHONHOME", "TZ", "USER", "VIRTUAL_ENV", "CONDA_PREFIX"),
        *("CUDA_HOME", "CUDA_PATH", "GLIBC_TUNABLES", "DO_NOT_TRACK"),
        *("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_LOGGING_LEVEL"),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION",
    }
)
# How libraries compute, and how they tell of it.
_KEPT_PREFIXES: Final = (
    *("LC_", "PYTHON", "MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_"),
    *("NUMEXPR_", "CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "TORCH_", "PYTORCH_", "TORCHINDUCTOR_"),
    *("TRITON_", "ATEN_", "TF_", "XLA_", "JAX_", "KERAS_", "ORT_", "TOKENIZERS_", "TRANSFORMERS_"),
    *("HF_HUB_", "SKLEARN_", "SCIPY_", "JOBLIB_", "_HEADRACE_"),
)
# What a name must not speak of, whatever it begins with.
_PRIVATE: Final = (
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "KEY",
    "CREDENTIAL",
    "HOME",
    "CACHE",
    "DIR",
    "PATH",
)


class Confinement:
    """Where the confined workers of one daemon live."""

    def __init__(
        self,
        models: str,
        *,
        read: Iterable[str] = (),
        variables: Iterable[str] = (),
        runs_code: bool = False,
    ) -> None:
        """Make room for them.

        Args:
            models: The folder that holds all models.
            read: Further folders and files that they may read.
            variables: Further environment variables that they are given.
            runs_code: Whether models may bring code, which is then confined by the wall alone.

        Raises:
            OSError: There is no place for temporary files.
        """
        self._models = models
        self._read = tuple(read)
        self._variables = frozenset(variables)
        self._runs_code = runs_code
        _sweep()
        self._home, self._lock = _locked_home()

    def keeps(self, variable: str) -> bool:
        """Whether a confined process is given that variable of our environment."""
        is_known = variable.startswith(_KEPT_PREFIXES) and not any(
            word in variable for word in _PRIVATE
        )
        return is_known or variable in _KEPT or variable in self._variables

    def admit(self) -> "Cell":
        """Room for one more process.

        Raises:
            OSError: There is none.
        """
        scratch = tempfile.mkdtemp(dir=self._home)
        return Cell(Wall(scratch, self._models, self._read, runs_code=self._runs_code))

    def close(self) -> None:
        """Remove what is left, once all processes have ended."""
        _remove(self._home)
        os.close(self._lock)


class Cell:
    """Where one confined process lives.

    Attributes:
        wall: What it may touch.
    """

    def __init__(self, wall: Wall) -> None:
        self.wall = wall

    def close(self) -> None:
        """Remove its folder, once the process has ended."""
        _remove(self.wall.scratch)


def _locked_home() -> tuple[str, int]:
    """A fresh folder, and a descriptor that keeps other daemons from removing it."""
    while True:
        home = tempfile.mkdtemp(prefix=_PREFIX)
        lock = os.open(home, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another daemon may have taken it for one that was left behind, just before.
        if os.path.isdir(home):
            return home, lock
        os.close(lock)


def _sweep() -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if left.lstat().st_uid != os.getuid():
                continue
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(left)
            finally:
                os.close(lock)


def _remove(folder: str | Path) -> None:
    # Of folders within folders within folders there may be more than Python goes down into.
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
