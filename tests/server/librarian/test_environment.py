"""Environment: made by pip from wheels in a directory, without a network."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headrace_server.errors import LoadFailed
from headrace_server.librarian.environment import Environment, Environments
from wheels import make_wheel

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a package, and what stands for numpy, which every environment gets."""
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "numpy", "9.0")
    make_wheel(folder, "tiny", "1.0")
    make_wheel(folder, "tiny", "2.0")
    return folder


class Maker:
    """Makes environments of models that need what a test says."""

    def __init__(self, folder: Path, wheels: Path, place: Path) -> None:
        self.environments = Environments(place)
        self.said: list[str] = []
        self._folder = folder
        self._wheels = wheels

    def model(self, name: str, requirements: str, python: str = "") -> Path:
        path = self._folder / name
        path.mkdir()
        text = f"--no-index\n--find-links {self._wheels}\n{requirements}\n"
        (path / "requirements.txt").write_text(text)
        if python:
            (path / "python_env.yaml").write_text(f"python: {python}\n")
        return path

    def make(self, model: Path, installer: str = "pip", s_max: float = 100.0) -> Environment:
        return self.environments.of(model, self.said.append, installer=installer, s_max=s_max)


@pytest.fixture
def maker(tmp_path: Path, wheels: Path) -> Maker:
    return Maker(tmp_path, wheels, tmp_path / "environments")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the environments lie that several tests ask for; making one takes seconds."""
    return tmp_path_factory.mktemp("environments")


@pytest.fixture
def thrifty(tmp_path: Path, wheels: Path, place: Path) -> Maker:
    return Maker(tmp_path, wheels, place)


def run(environment: Environment, code: str) -> str:
    ran = subprocess.run(
        [environment.python, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def test_models_that_need_different_versions_get_different_environments(thrifty: Maker) -> None:
    one = thrifty.make(thrifty.model("one", "tiny==1.0"))
    thrifty.said.clear()
    two = thrifty.make(thrifty.model("two", "tiny==2.0"))

    assert run(one, "import tiny, numpy; print(tiny.__version__)") == "1.0"
    assert run(two, "import tiny; print(tiny.__version__)") == "2.0"
    assert any("tiny" in line for line in thrifty.said)


def test_models_that_need_the_same_share_one_that_is_made_once(thrifty: Maker) -> None:
    one = thrifty.make(thrifty.model("one", "tiny==1.0"))
    thrifty.said.clear()

    two = thrifty.make(thrifty.model("two", "tiny==1.0"))

    assert two == one
    assert thrifty.said == []


def test_two_that_ask_for_the_same_at_once_get_it_once(maker: Maker) -> None:
    models = [maker.model(name, "tiny==1.0") for name in ("one", "two")]
    made: list[Environment] = []
    threads = [threading.Thread(target=lambda m=m: made.append(maker.make(m))) for m in models]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)

    assert made[0] == made[1]
    # venv says nothing; pip says that once for each time it installs.
    assert sum(line.startswith("Successfully installed") for line in maker.said) == 1


def test_one_that_was_not_finished_is_made_anew(thrifty: Maker) -> None:
    model = thrifty.model("one", "tiny==1.0")
    made = thrifty.make(model)
    place = Path(made.python).parents[1]
    (place / "complete").unlink()
    (place / "bin" / "python").unlink()

    assert thrifty.make(model) == made
    assert run(made, "import tiny; print(tiny.__version__)") == "1.0"


def test_a_package_that_is_not_to_be_had_fails_and_leaves_nothing(
    maker: Maker, tmp_path: Path
) -> None:
    with pytest.raises(LoadFailed, match=r"cannot be made from its requirements: .*tiny==3.0"):
        maker.make(maker.model("one", "tiny==3.0"))

    left = os.listdir(tmp_path / "environments")
    assert [name for name in left if not name.endswith(".lock")] == []


def test_one_that_takes_too_long_is_given_up(maker: Maker) -> None:
    with pytest.raises(LoadFailed, match=r"not made within environment_s_max = 0\.01 "):
        maker.make(maker.model("one", "tiny==1.0"), s_max=0.01)


def test_a_python_that_is_not_installed_is_told(maker: Maker) -> None:
    here = ".".join(map(str, sys.version_info[:2]))

    with pytest.raises(LoadFailed) as raised:
        maker.make(maker.model("one", "tiny==1.0", python="3.99.1"))

    assert str(raised.value) == (
        "it was logged with Python 3.99, which is not installed here: there is no python3.99 on "
        f"the path; the daemon runs on {here}"
    )


def test_a_python_too_old_for_a_worker_is_told(maker: Maker) -> None:
    with pytest.raises(LoadFailed, match=r"Python 3.8, but workers need Python 3.10 or newer"):
        maker.make(maker.model("one", "tiny==1.0", python="3.8.10"))


def test_uv_is_asked_for_in_vain_where_it_is_not(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(LoadFailed, match="there is no uv on the path"):
        maker.make(maker.model("one", "tiny==1.0"), installer="uv")
