"""Requirements: what a model says it needs, held against what is installed here.

MLflow writes requirements.txt, and the Python that a model was logged with into python_env.yaml.
"""

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml
from packaging.requirements import InvalidRequirement, Requirement

from ..errors import LoadFailed
from .inside import is_within

_FILE = "requirements.txt"
# Files that a requirements file may refer to: their content is part of what it says.
_REFERS = re.compile(r"(?:-r|--requirement|-c|--constraint)[ =]*(\S+)")
_PYTHON = re.compile(r"(?:python\s*=+\s*)?(\d+\.\d+)(?:\.\d+)?")
# What brings a module by another name: the daemon needs no more of MLflow than this.
_STANDS_FOR = {"mlflow": "mlflow-skinny"}


@dataclass(frozen=True, slots=True)
class Requirements:
    """What one model needs.

    Attributes:
        file: Its requirements file; None where it has none.
        python: The Python that it was logged with, such as "3.11"; empty where it does not say.
    """

    file: Path | None
    python: str

    @classmethod
    def of(cls, model: Path) -> "Requirements":
        """Those of the model in the directory *model*."""
        file = model / _FILE
        return cls(file if file.is_file() else None, _python(model))

    @property
    def content(self) -> bytes:
        """All that the requirements file says, with the files that it refers to.

        Raises:
            LoadFailed: One of these lies outside of the model.
        """
        return b"\0".join(path.read_bytes() for path in self._files())

    def mismatches(self) -> list[str]:
        """Each requirement that this environment does not meet, with what is here."""
        found = []
        here = ".".join(platform.python_version_tuple()[:2])
        if self.python and self.python != here:
            found.append(f"python {self.python} (here {here})")
        for requirement in self._requirements():
            installed = _version(requirement.name)
            if installed is None:
                found.append(f"{requirement} (not here)")
            elif not requirement.specifier.contains(installed, prereleases=True):
                found.append(f"{requirement} (here {installed})")
        return found

    def _requirements(self) -> Iterator[Requirement]:
        """Those that name a package; addresses and options say nothing that could be compared."""
        if self.file is None:
            return
        text = self.file.read_text(errors="replace").replace("\\\n", " ")
        for line in text.splitlines():
            bare = re.split(r"(?:^|\s)#|\s--hash", line, maxsplit=1)[0].strip()
            try:
                requirement = Requirement(bare)
            except InvalidRequirement:
                continue
            if requirement.url is None and (
                requirement.marker is None or requirement.marker.evaluate()
            ):
                yield requirement

    def _files(self) -> list[Path]:
        """The requirements file and all that it refers to, each once.

        Raises:
            LoadFailed: One of them lies outside of the model.
        """
        if self.file is None:
            return []
        files = [self.file]
        for file in files:
            for name in _REFERS.findall(file.read_text(errors="replace")):
                path = file.parent / name
                if not is_within(path, self.file.parent):
                    raise LoadFailed(f"its {file.name} refers to {name!r}, outside of the model")
                if path.is_file() and path not in files:
                    files.append(path)
        return files


def _python(model: Path) -> str:
    for name, key in (("python_env.yaml", "python"), ("conda.yaml", "dependencies")):
        try:
            said = yaml.safe_load((model / name).read_text())[key]
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
            continue
        for item in said if isinstance(said, list) else [said]:
            if match := _PYTHON.fullmatch(str(item).strip()):
                return match[1]
    return ""


def _version(name: str) -> str | None:
    for each in (name, _STANDS_FOR.get(name, name)):
        try:
            return version(each)
        except PackageNotFoundError:
            pass
    return None
