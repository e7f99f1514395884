"""Software: Python, what the kernel offers, our packages in their ranges, and the frameworks."""

import os
import platform
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from .. import VERSION
from .finding import Finding, Setup, ok, problem, warning

_PYTHON_MIN = (3, 11)
_PACKAGE = "headrace"
# MLflow flavor or purpose -> the distributions that bring it, any one of them.
_FRAMEWORKS = {
    "sklearn": ("scikit-learn",),
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "xgboost": ("xgboost",),
    "lightgbm": ("lightgbm",),
    "catboost": ("catboost",),
    "keras": ("keras",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "mlflow": ("mlflow",),
}


def check_software(_setup: Setup) -> Iterator[Finding]:
    """Yield findings about Python, the platform, packages and frameworks."""
    yield _python()
    yield _platform()
    yield ok("headrace", VERSION)
    yield from _packages()
    yield from _frameworks()


def can_ask_about_serving() -> bool:
    """Whether the server's settings and processes can be imported to be asked about."""
    return all(find_spec(module) is not None for module in ("pydantic", "structlog"))


def version_of(distribution: str) -> str | None:
    """The installed version; None for what is not installed. Imports nothing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    text = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if sys.version_info < _PYTHON_MIN:
        wanted = ".".join(map(str, _PYTHON_MIN))
        return problem(
            "python", f"{text} is older than {wanted}", f"install Python {wanted} or newer"
        )
    return ok("python", text)


def _platform() -> Finding:
    """Linux, and the three things that ours needs of it."""
    text = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if sys.platform != "linux":
        return problem("platform", f"{text}: the server runs on Linux alone", "use a Linux host")
    try:
        os.close(os.memfd_create("headrace-doctor", os.MFD_CLOEXEC))
        os.close(os.pidfd_open(os.getpid()))
        for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
            end.close()
    except OSError as error:
        return problem(
            "platform",
            f"{text} refuses what processes of headrace talk by: {error}",
            "use Linux 5.3 or newer, and a container whose seccomp profile allows memfd_create, "
            "pidfd_open and SOCK_SEQPACKET",
        )
    return ok("platform", f"{text}, with memfd, pidfd and SEQPACKET sockets")


def _packages() -> Iterator[Finding]:
    if version_of(_PACKAGE) is None:
        yield warning(
            "packages",
            "headrace runs from its source, so the ranges of its packages are not known",
            "pip install --editable .",
        )
        return
    for need in _needs(""):
        yield _package(need, "headrace")
    server = _needs("server")
    missing = [need.name for need in server if version_of(need.name) is None]
    for need in server:
        if need.name not in missing:
            yield _package(need, "headrace[server]")
    if missing:
        yield problem(
            "server",
            f"headrace serve needs packages that are not installed: {', '.join(missing)}; "
            "registry, ports and cache are not looked at",
            'pip install "headrace[server]"',
        )


def _package(need: Requirement, of: str) -> Finding:
    found = version_of(need.name)
    if found is None:
        return problem(
            need.name, f"it is not installed, though {of} needs it", f'pip install "{need}"'
        )
    return _in_range(need.name, found, need)


def _in_range(name: str, found: str, need: Requirement) -> Finding:
    # From the lower bound to the upper one.
    span = ",".join(sorted(map(str, need.specifier), reverse=True))
    try:
        is_within = need.specifier.contains(Version(found), prereleases=True)
    except InvalidVersion:
        return warning(name, f"{found} is no version that can be compared with {span}")
    if is_within:
        return ok(name, f"{found}, within {span}")
    return problem(name, f"{found} is outside of {span}", f'pip install "{need.name}{span}"')


def _frameworks() -> Iterator[Finding]:
    ranges = {need.name: need for extra in ("sklearn", "torch", "onnx") for need in _needs(extra)}
    for name, distributions in _FRAMEWORKS.items():
        found = {each: version for each in distributions if (version := version_of(each))}
        if not found:
            yield ok(name, "not installed; only models of that framework need it")
        elif len(found) > 1:
            yield problem(
                name,
                f"{' and '.join(found)} are both installed and overwrite each other's files",
                f"pip uninstall {' '.join(found)}, then install one of them",
            )
        else:
            ((distribution, version),) = found.items()
            need = ranges.get(distribution)
            if need is None:
                yield ok(name, version)
            else:
                yield _in_range(name, version, need)


def _needs(extra: str) -> list[Requirement]:
    """What the package needs, for an extra or, for "", always; as pip understands it here."""
    try:
        listed = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    needs = [Requirement(line) for line in listed]
    if not extra:
        return [
            need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})
        ]
    return [
        Requirement(f"{need.name}{need.specifier}")
        for need in needs
        if need.marker is not None
        and need.marker.evaluate({"extra": extra})
        and not need.marker.evaluate({"extra": ""})
    ]
