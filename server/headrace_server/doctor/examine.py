"""Examine: all checks at once, each on a thread of its own, with a limit on its time."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping

from .accelerators import check_accelerators
from .finding import Finding, Setup, warning
from .memory import check_memory
from .network import check_network
from .registry import REGISTRY_S_MAX, check_registry
from .sandbox import check_sandbox
from .security import check_security
from .software import can_ask_about_serving, check_software
from .storage import check_storage

Check = Callable[[Setup], Iterator[Finding]]

# Long enough for nvidia-smi on a busy host and for a slow disk (seconds).
_CHECK_S_MAX = 20.0
# What the registry's own limit does not count: the end of its process.
_MORE_S = 10.0

# In the order of the report; those of the second part are about `headrace serve` alone.
_EVERYWHERE: Mapping[str, Check] = {
    "software": check_software,
    "accelerators": check_accelerators,
    "memory": check_memory,
}
_SERVING: Mapping[str, Check] = {
    "registry": check_registry,
    "network": check_network,
    "security": check_security,
    "sandbox": check_sandbox,
    "cache": check_storage,
}


def examine(setup: Setup) -> list[Finding]:
    """What all checks found, in their order."""
    if can_ask_about_serving():
        return run_all({**_EVERYWHERE, **_SERVING}, setup)
    return run_all(_EVERYWHERE, setup)


def run_all(
    checks: Mapping[str, Check], setup: Setup, *, check_s_max: float = _CHECK_S_MAX
) -> list[Finding]:
    """Run *checks* side by side.

    Args:
        checks: The checks, by name.
        setup: What they ask about.
        check_s_max: How long each may take; the registry has a limit of its own.
    """
    began = time.monotonic()
    running = [(name, _Running(check, setup)) for name, check in checks.items()]
    findings: list[Finding] = []
    for name, check in running:
        s_max = max(check_s_max, REGISTRY_S_MAX + _MORE_S) if name == "registry" else check_s_max
        findings += check.result(name, max(0.0, began + s_max - time.monotonic()))
    return findings


class _Running:
    """One check on its thread; nobody waits for a thread that hangs."""

    def __init__(self, check: Check, setup: Setup) -> None:
        self._found: list[Finding] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(check, setup), daemon=True)
        self._thread.start()

    def result(self, name: str, s_max: float) -> list[Finding]:
        """What it found within *s_max* seconds, and that it failed or hangs, if so."""
        self._thread.join(s_max)
        found = list(self._found)
        if self._thread.is_alive():
            found.append(warning(name, "the check does not end: the rest of it is not known"))
        elif self._error is not None:
            kind = type(self._error).__name__
            found.append(warning(name, f"the check itself failed: {kind}: {self._error}"))
        return found

    def _run(self, check: Check, setup: Setup) -> None:
        try:
            for finding in check(setup):
                self._found.append(finding)
        except Exception as error:  # noqa: BLE001 - a finding like the others.
            self._error = error
