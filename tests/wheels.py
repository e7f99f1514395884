"""Wheels: packages of one empty module, for tests that install something without a network."""

import zipfile
from pathlib import Path


def make_wheel(folder: Path, name: str, version: str, source: str = "") -> Path:
    """A wheel of the module *name* with that *source*, in *folder*."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source or f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return wheel
