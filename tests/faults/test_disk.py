"""A disk that is full: the model that does not fit is told, and what is there goes on."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import faulty
from headrace_client import Client, FailedPrecondition
from serving import Daemon

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_during_a_download_costs_that_model_alone(
    tmp_path: Path, small_disk: Path
) -> None:
    fits, large = faulty.save(tmp_path / "fits"), faulty.save(tmp_path / "large")
    (large / "padding").write_bytes(os.urandom(1 << 20))

    daemon = Daemon(str(fits), cwd=tmp_path, cache=small_disk)
    try:
        daemon.wait("ready")
        with Client(daemon.address, timeout_s=30) as client:
            with pytest.raises(FailedPrecondition, match="No space left on device"):
                client.load("large", str(large))
            with pytest.raises(FailedPrecondition, match="No space left on device") as told:
                client.predict("large", np.ones((1, 2)))
            assert client.predict("fits", np.ones((1, 2))).array.tolist() == [[1, 1]]
    finally:
        assert daemon.stop() == 0

    assert str(tmp_path) not in told.value.message
    assert list(small_disk.rglob("incoming-*")) == []
    assert list(small_disk.rglob("padding")) == []
