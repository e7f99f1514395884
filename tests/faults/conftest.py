"""What the fault tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache directory of all daemons of the run."""
    return tmp_path_factory.mktemp("cache")
