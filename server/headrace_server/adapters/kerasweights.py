"""Kerasweights: the weights of a .keras file, held to be all in it.

HDF5 can say of a group or an array that it lies in another file, by any path; whoever reads it then
reads that file.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

from .base import LoadError

_WEIGHTS = "model.weights.h5"


def check_weights(file: Path) -> None:
    """Refuse weights that lie, or are said to lie, in another file than *file*.

    Raises:
        LoadError: Some do, or it is no .keras file.
    """
    import h5py  # type: ignore[import-untyped]

    if not zipfile.is_zipfile(file):
        raise LoadError(f"{file.name!r} is no .keras file")
    with (
        zipfile.ZipFile(file) as archive,
        archive.open(_WEIGHTS) as member,
        h5py.File(io.BytesIO(member.read()), "r") as weights,
    ):
        _check_group(weights, h5py)


def _check_group(group: Any, h5py: Any) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise LoadError(f"its weights {name!r} are a link to elsewhere")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_group(item, h5py)
        elif not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
            raise LoadError(f"its weights {name!r} lie in another file")
