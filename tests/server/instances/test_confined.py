"""Confined workers: what they are given, what they leave behind, that they serve all the same."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from headrace_server.instances.confined import Confinement
from headrace_server.wall import lacks
from house import House

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacks()), reason=f"this host lacks {', '.join(lacks())}"),
]


def prober(secret: Path, model: Path) -> object:
    """A model that does what its rows say; defined in a function, so that its pickle holds it."""

    class Prober:
        def predict(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            match x[0, 0]:
                case 1.0:  # Its folder, as a number.
                    open("left-behind", "w").close()
                    return x * 0 + os.stat(".").st_ino
                case 2.0:  # What it finds of our environment.
                    names = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MINE", "OMP_NUM_THREADS")
                    return x * 0 + sum(1 << i for i, name in enumerate(names) if name in os.environ)
                case 3.0:
                    secret.read_text()
                case 4.0:
                    model.read_bytes()
                case 5.0:
                    os._exit(3)
            return x

    return Prober()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders of confined workers are made."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


@pytest.fixture
def house(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MINE"):
        monkeypatch.setenv(name, "x")
    models = tmp_path / "models"
    models.mkdir()
    (tmp_path / "secret").write_text("secret")
    confinement = Confinement(str(models), variables=("MINE",), runs_code=True)
    house = House(models, confinement=confinement, trial=True)
    house.shelf.put(
        "models:/prober/1", "1", prober(tmp_path / "secret", models / "1" / "model.pkl")
    )
    house.load("prober", "models:/prober/1")
    yield house
    house.close()
    confinement.close()
    assert list(scratch.iterdir()) == []


def folders(scratch: Path) -> list[Path]:
    return list(scratch.glob("*/*"))


def test_a_confined_worker_serves_from_a_folder_of_its_own(house: House, scratch: Path) -> None:
    assert house.ask("prober", 0.0, 7.0) == (0.0, 7.0)
    (folder,) = folders(scratch)
    assert house.ask("prober", 1.0, 0.0)[0] == folder.stat().st_ino
    assert folder.stat().st_mode & 0o777 == 0o700
    status = Path(f"/proc/{house.process().pid}/status").read_text()
    assert "NoNewPrivs:\t1\n" in status
    assert "Seccomp:\t2\n" in status


def test_it_is_given_how_to_compute_and_no_credentials(house: House) -> None:
    assert house.ask("prober", 2.0, 0.0)[0] == 0b1100
    environ = Path(f"/proc/{house.process().pid}/environ").read_bytes()
    assert b"HF_TOKEN" not in environ
    assert b"HF_HUB_OFFLINE=1" in environ


def test_its_model_is_read_and_nothing_else(house: House) -> None:
    assert house.ask("prober", 4.0, 7.0) == (4.0, 7.0)
    with pytest.raises(AssertionError, match="PermissionError"):
        house.ask("prober", 3.0, 0.0)


def test_one_that_is_replaced_leaves_nothing_behind(house: House, scratch: Path) -> None:
    house.ask("prober", 1.0, 0.0)
    (first,) = folders(scratch)
    house.reply.wait_for(house.submit("prober", 5.0, 0.0))

    second = house.ask("prober", 1.0, 0.0)[0]
    (folder,) = folders(scratch)
    assert folder.stat().st_ino == second
    assert not (first.exists() and first != folder)


def test_what_a_daemon_that_was_killed_left_is_removed_and_no_other(scratch: Path) -> None:
    for name in ("headrace-scratch-left", "headrace-scratch-held", "of-others"):
        (scratch / name / "worker").mkdir(parents=True)
    (scratch / "headrace-scratch-link").symlink_to(scratch / "of-others")
    held = os.open(scratch / "headrace-scratch-held", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)

    Confinement(str(scratch)).close()

    os.close(held)
    assert sorted(path.name for path in scratch.iterdir()) == [
        *("headrace-scratch-held", "headrace-scratch-link", "of-others"),
    ]
    assert (scratch / "of-others" / "worker").is_dir()
