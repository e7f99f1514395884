"""Requirements: what a model needs, against what is here."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from headrace_server.errors import LoadFailed
from headrace_server.librarian.requirements import Requirements

HERE = ".".join(map(str, sys.version_info[:2]))


def saved(folder: Path, requirements: str, **files: str) -> Requirements:
    (folder / "requirements.txt").write_text(requirements)
    for name, text in files.items():
        (folder / name.replace("_yaml", ".yaml").replace("_txt", ".txt")).write_text(text)
    return Requirements.of(folder)


def test_what_is_met_is_not_told(tmp_path: Path) -> None:
    installed = version("numpy")
    text = f"numpy=={installed}\nnumpy>=1 ; python_version < '3'\nmlflow\n# pandas==0.1\n\n"

    assert saved(tmp_path, text).mismatches() == []


def test_another_version_and_a_package_that_is_not_here_are_told(tmp_path: Path) -> None:
    found = saved(tmp_path, "numpy==1.20  # old\nno-such-package>=2\n").mismatches()

    assert found == [f"numpy==1.20 (here {version('numpy')})", "no-such-package>=2 (not here)"]


def test_the_build_of_a_version_does_not_matter(tmp_path: Path) -> None:
    plain = version("torch").partition("+")[0]

    assert saved(tmp_path, f"torch=={plain}\n").mismatches() == []


def test_options_addresses_and_hashes_are_no_requirements(tmp_path: Path) -> None:
    installed = version("numpy")
    text = (
        "--index-url https://example.org/simple\n-c constraints.txt\n-e ./here\n"
        "tiny @ https://example.org/tiny-1.0-py3-none-any.whl\n"
        f"numpy=={installed} \\\n    --hash=sha256:00\n"
    )

    assert saved(tmp_path, text).mismatches() == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"python_env_yaml": "python: 3.8.10\ndependencies: [-r requirements.txt]\n"}, "3.8"),
        ({"python_env_yaml": "python: '3.10'\n"}, "3.10"),
        ({"conda_yaml": "dependencies:\n- python=3.9.1\n- pip:\n  - numpy\n"}, "3.9"),
        ({"conda_yaml": "dependencies: [pip]\n"}, ""),
        ({"python_env_yaml": ": [ not yaml"}, ""),
        ({"python_env_yaml": "just text"}, ""),
        ({}, ""),
    ],
)
def test_the_python_is_read_from_what_mlflow_wrote(
    files: dict[str, str], expected: str, tmp_path: Path
) -> None:
    assert saved(tmp_path, "", **files).python == expected


def test_another_python_is_told(tmp_path: Path) -> None:
    found = saved(tmp_path, "", python_env_yaml="python: 3.8.10\n").mismatches()

    assert found == [f"python 3.8 (here {HERE})"]


def test_a_model_without_requirements_needs_nothing(tmp_path: Path) -> None:
    found = Requirements.of(tmp_path)

    assert found.mismatches() == []
    assert found.content == b""


def test_files_that_are_referred_to_are_part_of_the_content(tmp_path: Path) -> None:
    first = saved(tmp_path, "-c constraints.txt\n", constraints_txt="numpy==1.26.4\n").content
    second = saved(tmp_path, "-c constraints.txt\n", constraints_txt="numpy==2.0.0\n").content

    assert first != second
    assert b"numpy==1.26.4" in first


def test_files_outside_of_the_model_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("numpy==1.26.4\n")
    model = tmp_path / "model"
    model.mkdir()
    for name in ("../secret", str(tmp_path / "secret")):
        with pytest.raises(LoadFailed, match=r"refers to .*secret', outside of the model"):
            _ = saved(model, f"-r {name}\n").content
